"""Which engine and precision are taken: by name or by trial, with one line that says so."""

import gc
import re
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy_parts import ToyModel, toy_segmenter, vocabulary

from ovseg_ros.core import self_check, start
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import Engine, EngineOptions
from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import to_tensor
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.self_check import frames, look

CUDA = torch.device("cuda")
Change = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


class OnGpu(PanopticSegmenter):
    """Says that it is on a GPU, and is not."""

    def __init__(self) -> None:
        super().__init__(ToyModel(), MergeConfig(min_area=1, overlap_threshold=0.1), torch.device("cpu"))
        self.device = CUDA

    def to_pixels(self, images):  # type: ignore[no-untyped-def]
        return torch.cat([to_tensor(image, torch.device("cpu")) for image in images])


def changed(change: Change) -> Callable[..., Run]:
    """In the place of an engine: the part's module, and a change of its outputs."""

    def engine(made_of: object) -> Run:
        module = made_of.module if isinstance(made_of, Part) else made_of

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            return change(module(*tensors))  # type: ignore[operator]

        return run

    return engine


def same(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs


def fails(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    raise RuntimeError("no such kernel")


def spoils(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(output * torch.nan for output in outputs)


def errs(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(output + torch.linspace(-9, 9, output.shape[-1]) for output in outputs)


def errs_in_half(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return errs(outputs) if outputs[0].dtype == torch.float16 else outputs


def on_gpu(
    monkeypatch: pytest.MonkeyPatch, compile_: Change = same, graph: Change = same, lacking: str = ""
) -> Callable[..., tuple[PanopticSegmenter, list[str]]]:
    """Starts with options; the machine pretends to have a GPU with these engines."""
    monkeypatch.setattr(start, "compiled", changed(compile_))
    monkeypatch.setattr(start, "CudaGraphs", changed(graph))
    monkeypatch.setattr(start, "obstacle", lambda engine, device: lacking if engine == "compile" else "")

    def begin(*options: str) -> tuple[PanopticSegmenter, list[str]]:
        told: list[str] = []
        return start.started(OnGpu, "toy", EngineOptions(*options), told.append), told

    return begin


def test_the_fastest_that_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, told = on_gpu(monkeypatch)()
    assert (segmenter.engine.engine, segmenter.engine.precision, told) == ("compile", "float16", [])
    assert re.fullmatch(
        r"engine compile, float16: warm-up \d+\.\d s, check (99\.[5-9]\d|100\.00) % equal", segmenter.engine.line
    )
    assert {part.dtype for part in segmenter.model.parts} == {torch.float16}
    assert {weights.dtype for weights in segmenter.model.parameters()} == {torch.float16}


def test_the_next_best_where_something_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, told = on_gpu(monkeypatch, lacking="no Triton")()
    assert segmenter.engine.line.startswith("engine cuda_graph, float16 (no Triton): warm-up")
    assert told == []


@pytest.mark.parametrize("compile_", [fails, spoils])
def test_a_failing_engine_is_replaced_with_one_line_a_part(monkeypatch: pytest.MonkeyPatch, compile_: Change) -> None:
    segmenter, told = on_gpu(monkeypatch, compile_)()
    assert segmenter.engine.engine == "cuda_graph"
    assert segmenter.engine.precision == "float16"
    assert len(told) == 2
    assert all("is run by cuda_graph from now on" in line and "compile: " in line for line in told)


def test_a_precision_that_does_not_agree_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, _ = on_gpu(monkeypatch, errs_in_half)()
    assert segmenter.engine.precision == "bfloat16"
    assert re.match(r"engine compile, bfloat16 \(compile in float16: \d+\.\d\d % equal", segmenter.engine.line)
    # Built again for it: these weights were never float16.
    torch.manual_seed(3)
    expected = ToyModel().masks.patches.weight.to(torch.bfloat16)
    assert torch.equal(segmenter.model.masks.patches.weight, expected)


def test_where_nothing_agrees_it_is_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    segmenter, _ = on_gpu(monkeypatch, errs, errs)("auto", "float32")
    assert (segmenter.engine.engine, segmenter.engine.precision) == ("eager", "float32")
    assert segmenter.engine.line.endswith("the reference itself")
    assert all(part.run is part.module for part in segmenter.model.parts)


@pytest.mark.parametrize(
    ("options", "change", "says"),
    [
        (("compile",), fails, "no such kernel"),
        (("compile", "float32"), errs, r"compile in float32: \d+\.\d\d % equal"),
        (("cuda_graph", "float16"), spoils, "cuda_graph in float16: not finite"),
    ],
)
def test_what_is_asked_for_by_name_works_or_is_an_error(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], change: Change, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        on_gpu(monkeypatch, change, change)(*options)


def test_a_named_engine_that_fails_later_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[bool] = []

    def later(outputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return fails(outputs) if broken else outputs

    begin = on_gpu(monkeypatch, later)
    segmenters = [begin("compile")[0], begin()[0]]
    broken.append(True)
    prompt = segmenters[0].prepare(vocabulary(3))
    with pytest.raises(RuntimeError, match="no such kernel"):
        segmenters[0].segment(frames()[0], prompt)
    assert segmenters[1].segment(frames()[0], prompt).segments


@pytest.mark.parametrize(
    ("engine", "says"),
    [("cuda_graph", "cuda_graph cannot run on cpu: no CUDA device"), ("tensorrt", "CUDA"), ("onnx", "export")],
)
def test_engines_that_are_not_here(engine: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        start.started(toy_segmenter, "tabletop", EngineOptions(engine, folder=tmp_path / "none"), pytest.fail)


def test_on_a_cpu_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "look", pytest.fail)
    segmenter = start.started(toy_segmenter, "tabletop", EngineOptions(), pytest.fail)
    assert segmenter.engine == Engine("eager", "float32", "engine eager, float32: the reference itself")


def test_on_a_cpu_a_named_engine_is_in_float32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "compiled", changed(same))
    segmenter = start.started(toy_segmenter, "tabletop", EngineOptions("compile"), pytest.fail)
    assert (segmenter.engine.engine, segmenter.engine.precision) == ("compile", "float32")
    assert segmenter.engine.line.endswith("check 100.00 % equal")


def test_an_export_that_does_not_fit_is_told_and_passed_over(tmp_path: Path) -> None:
    told: list[str] = []
    for folder in (tmp_path, tmp_path / "misspelt"):
        segmenter = start.started(toy_segmenter, "tabletop", EngineOptions(folder=folder), told.append)
        assert segmenter.engine.engine == "eager"
        assert f"there is no export in {folder} " in told.pop()
    assert told == []


def test_frames_are_small_and_differ() -> None:
    images = frames()
    assert len(images) == 4
    assert {image.shape for image in images} == {(240, 320, 3)}
    assert len({image.tobytes() for image in images}) == 4
    assert look(toy_segmenter(), (64, 48))[0].categories.shape == (48, 64)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_on_a_cpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = frames()[:1]  # float16 is slow here
    monkeypatch.setattr(self_check, "frames", lambda: one)
    segmenter = build_segmenter("tabletop", "cpu", EngineOptions("eager", precision), pytest.fail)
    assert (segmenter.engine.engine, segmenter.engine.precision) == ("eager", precision)
    assert re.fullmatch(rf"engine eager, {precision}: warm-up .* s, check \d+\.\d\d % equal", segmenter.engine.line)
    tower = segmenter.model.text_encoder.tower
    assert {weights.dtype for weights in tower.parameters()} == {getattr(torch, precision)}
    assert segmenter.prepare(vocabulary(2)).classifier.vectors.dtype == torch.float32


def test_a_model_is_gone_before_it_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU may have no room for two."""
    on_gpu(monkeypatch, errs_in_half)
    alive: list[weakref.ref[torch.nn.Module]] = []

    def build() -> PanopticSegmenter:
        assert all(one() is None for one in alive)
        segmenter = OnGpu()
        alive.extend(weakref.ref(part.module) for part in segmenter.model.parts)
        return segmenter

    gc.disable()  # which would come sooner or later
    try:
        start.started(build, "toy", EngineOptions(), [].append)
    finally:
        gc.enable()
    assert len(alive) == 2 * len(ToyModel().parts)
