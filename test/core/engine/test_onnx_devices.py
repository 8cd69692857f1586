"""What ONNX Runtime is told on a GPU, without one: a stand-in notes it, and nobody waits for the device."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from waits import counted_waits

from ovseg_ros.core.engine import onnx_runs
from ovseg_ros.core.engine.exported_runs import Program
from ovseg_ros.core.engine.manifest import ExportedPart, TensorShape
from ovseg_ros.core.errors import ConfigError

CUDA, TENSORRT, CPU = onnx_runs.CUDA, onnx_runs.TENSORRT, onnx_runs.CPU
PART = ExportedPart(
    "reading",
    "reading.onnx",
    {},
    (TensorShape("images", "float16", ("images", 3, 4, 4)), TensorShape("words", "bfloat16", ("words", 8))),
    (TensorShape("logits", "float32", ("images", "words")),),
)


@dataclass
class StandIn:
    """In the place of the package onnxruntime."""

    available: Sequence[str] = (TENSORRT, CUDA, CPU)
    starts: Sequence[str] = (TENSORRT, CUDA, CPU)
    bound: list[tuple[Any, ...]] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    providers: list[Any] = field(default_factory=list)
    __version__ = "1.0"

    def get_available_providers(self) -> Sequence[str]:
        return self.available

    def SessionOptions(self) -> Any:
        return SimpleNamespace(add_session_config_entry=self.settings.__setitem__)

    def RunOptions(self) -> Any:
        return SimpleNamespace(add_run_config_entry=self.settings.__setitem__)

    def InferenceSession(self, path: Path, options: Any, providers: list[Any]) -> Any:
        self.providers = providers
        names = [provider if isinstance(provider, str) else provider[0] for provider in providers]
        return SimpleNamespace(
            get_providers=lambda: [name for name in names if name in self.starts],
            get_inputs=lambda: PART.inputs,
            get_outputs=lambda: PART.outputs,
            io_binding=lambda: SimpleNamespace(bind_input=self._bind, bind_output=self._bind),
            run_with_iobinding=lambda binding, options: self.bound.append(("run",)),
        )

    def _bind(self, *told: Any) -> None:
        self.bound.append(told[:-1])


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    runtime = StandIn()
    monkeypatch.setattr(onnx_runs, "_runtime", lambda: runtime)
    stream = SimpleNamespace(cuda_stream=77, wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    return runtime


def session(device: str, *, tensorrt: bool) -> onnx_runs._Session:
    return onnx_runs._Session(Path("/export"), PART, torch.device(device), tensorrt=tensorrt)


def test_tensors_stay_on_the_gpu_and_nobody_waits(runtime: StandIn) -> None:
    with counted_waits() as waits:
        run = onnx_runs._Session.__call__
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(cuda_stream=77, wait_stream=print))
            made = session("cuda:1", tensorrt=False)
        waits.found.clear()  # when it starts it may
        images = torch.zeros(2, 3, 4, 4, dtype=torch.float16, device="cuda")
        outputs = run(made, (images, torch.zeros(5, 8, dtype=torch.bfloat16, device="cuda")))
    assert not waits.found
    assert [tuple(output.shape) for output in outputs] == [(2, 5)]
    assert runtime.bound == [
        ("images", "cuda", 1, 10, [2, 3, 4, 4]),
        ("words", "cuda", 1, 16, [5, 8]),
        ("logits", "cuda", 1, 1, [2, 5]),
        ("run",),
    ]
    assert runtime.settings["disable_synchronize_execution_providers"] == "1"
    assert runtime.providers == [(CUDA, {"device_id": 1, "user_compute_stream": "77"}), CPU]


def test_tensorrt_keeps_the_types_of_the_file_and_its_engines_in_the_folder(runtime: StandIn) -> None:
    session("cuda", tensorrt=True)
    (name, told), (second, _), last = runtime.providers
    assert (name, second, last) == (TENSORRT, CUDA, CPU)
    assert told["trt_engine_cache_path"] == "/export/tensorrt"
    assert told["trt_engine_cache_enable"]
    assert not any("fp16" in option or "bf16" in option for option in told)


def test_a_provider_that_does_not_start_is_an_error(runtime: StandIn) -> None:
    runtime.starts = (CPU,)
    with pytest.raises(
        ConfigError, match=r"has CUDAExecutionProvider, but cannot start it .* use CPUExecutionProvider"
    ):
        session("cuda", tensorrt=False)


def test_tensorrt_builds_for_the_usual_lengths_the_longest_first() -> None:
    shapes: list[list[torch.Size]] = []

    def call(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        shapes.append([tensor.shape for tensor in tensors])
        return ()

    onnx_runs._build(Program(PART, call), torch.device("cpu"))
    assert shapes == [[(4, 3, 4, 4), (1024, 8)], [(1, 3, 4, 4), (2, 8)]]
