"""Running exported parts by ONNX Runtime: on the CPU, by CUDA, or by TensorRT. Tensors go in and come out in place."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_ros.core.engine.exported_runs import ExportedRun, Program, free_lengths, sized
from ovseg_ros.core.engine.manifest import FILE_NAME, ExportedPart, Manifest, damage, read_manifest
from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.errors import ConfigError

TENSORRT_FOLDER = "tensorrt"
"""Of an export: the engines that TensorRT built of it, each for one kind of GPU and one version."""

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

# As ONNX numbers them; NumPy has no bfloat16.
_ELEMENT_TYPES = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.bfloat16: 16,
}

_RANGES = {"images": (1, 4), "crops": (2, 32), "masks": (2, 128), "words": (2, 1024), "tokens": (2, 512)}
"""The shortest and the longest free axes that TensorRT builds an engine for at once; for longer ones it builds anew."""


def load_runs(
    folder: Path, parts: Sequence[Part], device: torch.device, *, tensorrt: bool, threads: int | None = None
) -> dict[str, Run]:
    """What runs the parts of a model by what `ovseg export` made of them.

    Args:
        folder: holds the export; whether it is of this preset and its weights, `manifest.fits` says.
        parts: all that the model has.
        device: where tensors are.
        threads: on a CPU; None for as many as PyTorch has.
        tensorrt: by TensorRT, whose engines are built now if they are not in the folder, which takes minutes.

    Returns:
        By name of the part. A call raises ImageSizeError for images of a size that the export is not for.

    Raises:
        ConfigError: there is no export, it is damaged, of another format or other parts; or ONNX Runtime is not
            installed, or cannot use the device.
    """
    manifest = read_manifest(folder)
    if manifest.kind == "pt2":
        raise ConfigError(f"the export in {folder} is of the format pt2, which ONNX Runtime does not read; export onnx")
    if (fault := damage(manifest, folder)) is not None:
        raise ConfigError(fault)
    if tensorrt:
        (folder / TENSORRT_FOLDER).mkdir(exist_ok=True)
    runs: dict[str, Run] = {}
    for part in parts:
        programs = [
            Program(exported, _Session(folder, exported, device, tensorrt=tensorrt, threads=threads))
            for exported in manifest.parts
            if exported.name == part.name
        ]
        if not programs:
            raise ConfigError(
                f"the export in {folder} has no part {part.name} ({_known(manifest)}); export it again with --overwrite"
            )
        if tensorrt:
            for program in programs:
                _build(program, device)
        runs[part.name] = ExportedRun(part, programs, manifest, folder)
    return runs


def runtime_version() -> str:
    """ONNX Runtime's; ConfigError, with what to install, if it is not here."""
    return str(_runtime().__version__)


def require_provider(device: torch.device, *, tensorrt: bool) -> str:
    """The execution provider for a device; ConfigError, with what to install, if it is not here."""
    if tensorrt and device.type != "cuda":
        raise ConfigError(f"TensorRT needs an NVIDIA GPU, and the device is {device}; choose onnx, or a CUDA device")
    name = TENSORRT if tensorrt else {"cpu": CPU, "cuda": CUDA}[device.type]
    runtime = _runtime()
    available = runtime.get_available_providers()
    if name not in available:
        remedy = "pip install onnxruntime-gpu in its place"
        if tensorrt:
            remedy += ", and TensorRT 10 (pip install tensorrt-cu12; on a Jetson it is part of JetPack)"
        raise ConfigError(
            f"ONNX Runtime {runtime.__version__} is here without {name} (it has {', '.join(available)}); {remedy}: see "
            "docs/engines.md"
        )
    return name


class _Session:
    """One file in ONNX Runtime. Inputs and outputs stay where PyTorch has them; on a GPU nobody waits for anybody."""

    def __init__(
        self, folder: Path, part: ExportedPart, device: torch.device, *, tensorrt: bool, threads: int | None = None
    ) -> None:
        wanted = require_provider(device, tensorrt=tensorrt)
        runtime = _runtime()
        self._part, self._device = part, device
        self._index = (device.index or 0) if device.type == "cuda" else 0
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or torch.get_num_threads()
        for scope in ("intra_op", "inter_op"):  # helpers that spin take the cores of other processes
            options.add_session_config_entry(f"session.{scope}.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                folder / part.file, options, providers=self._providers(wanted, folder)
            )
        except Exception as error:  # ONNX Runtime's exceptions have no root of their own
            raise ConfigError(f"ONNX Runtime cannot load {folder / part.file}: {_first_line(error)}") from error
        used = self._session.get_providers()
        if used[0] != wanted:  # it goes on with another by itself
            raise ConfigError(
                f"ONNX Runtime {runtime.__version__} has {wanted}, but cannot start it here and would use {used[0]}: a "
                "library of CUDA, cuDNN or TensorRT is missing or of another version; its messages above name it"
            )
        found = [
            [tensor.name for tensor in tensors] for tensors in (self._session.get_inputs(), self._session.get_outputs())
        ]
        told = [[tensor.name for tensor in tensors] for tensors in (part.inputs, part.outputs)]
        if found != told:
            raise ConfigError(f"{folder / part.file} has inputs and outputs {found}, but {FILE_NAME} says {told}")
        self._options = runtime.RunOptions()
        if self._stream is not None:
            self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def _providers(self, wanted: str, folder: Path) -> list[Any]:
        if self._stream is None:
            return [CPU]
        cuda = {"device_id": self._index, "user_compute_stream": str(self._stream.cuda_stream)}
        if wanted == CUDA:
            return [(CUDA, cuda), CPU]
        # Without its flag for half precision the file's own types hold, so that float32 islands stay what they are.
        cache = str(folder / TENSORRT_FOLDER)
        built = {"trt_engine_cache_enable": True, "trt_engine_cache_path": cache}
        timed = {"trt_timing_cache_enable": True, "trt_timing_cache_path": cache}
        return [(TENSORRT, {**cuda, **built, **timed}), (CUDA, cuda), CPU]

    def __call__(self, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        lengths = free_lengths(self._part.inputs, tensors)
        binding = self._session.io_binding()
        given = [tensor.contiguous() for tensor in tensors]
        stream = self._stream
        with self._beside(given):
            outputs = [
                torch.empty(sized(shape, lengths), dtype=getattr(torch, shape.dtype), device=self._device)
                for shape in self._part.outputs
            ]
            for bind, shapes, bound in (
                (binding.bind_input, self._part.inputs, given),
                (binding.bind_output, self._part.outputs, outputs),
            ):
                for shape, tensor in zip(shapes, bound, strict=True):
                    self._bind(bind, shape.name, tensor)
            self._session.run_with_iobinding(binding, self._options)
        if stream is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_stream(stream)
            for tensor in outputs:
                tensor.record_stream(current)
        return outputs

    def _beside(self, given: Sequence[Tensor]) -> AbstractContextManager[Any]:
        """The session's own stream, which begins when what is queued for its inputs is done."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        for tensor in given:
            tensor.record_stream(self._stream)
        return torch.cuda.stream(self._stream)

    def _bind(self, bind: Callable[..., None], name: str, tensor: Tensor) -> None:
        bind(name, self._device.type, self._index, _ELEMENT_TYPES[tensor.dtype], list(tensor.shape), tensor.data_ptr())


def _build(program: Program, device: torch.device) -> None:
    """Has TensorRT build its engine for the usual range of lengths; quick if it lies in the folder.

    The longest come first: what an engine is tuned for are the lengths seen last.
    """
    for end in (1, 0):
        lengths = {
            axis: _RANGES.get(axis, (2, 64))[end]
            for tensor in program.shapes.inputs
            for axis in tensor.shape
            if isinstance(axis, str)
        }
        program.call(
            [
                torch.zeros(sized(shape, lengths), dtype=getattr(torch, shape.dtype), device=device)
                for shape in program.shapes.inputs
            ]
        )


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            f"running an export needs ONNX Runtime ({error}); on a CPU: pip install onnxruntime; on a GPU: pip install "
            "onnxruntime-gpu; on a Jetson, its wheel for JetPack: see docs/engines.md"
        ) from error
    return onnxruntime


def _known(manifest: Manifest) -> str:
    return f"it has {', '.join(sorted({part.name for part in manifest.parts})) or 'none'}"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", maxsplit=1)[0]
