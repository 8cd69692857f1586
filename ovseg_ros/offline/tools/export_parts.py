"""A part as a file: PyTorch's exported program, or ONNX. Free axes stay free, words among them."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from ovseg_ros.core.engine.exported_runs import LEAST, ExportedRun, Program
from ovseg_ros.core.engine.free_axes import filled
from ovseg_ros.core.engine.manifest import ExportedPart, Manifest, TensorShape, Versions
from ovseg_ros.core.engine.onnx_runs import runtime_version
from ovseg_ros.core.engine.part import Part, Port, Run
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.weights.files import sha256_of

OPSET = 18
"""Of ONNX. It has no attention and no GELU, so both are written out, and no engine takes a fused kernel of its own for
them, of which some are wrong in float16. A normalisation is one operation, whose sums are float32.
"""


@dataclass(frozen=True, slots=True)
class Example:
    """What a part was given."""

    part: Part
    tensors: tuple[Tensor, ...]

    def is_like(self, other: "Example") -> bool:
        """Whether the same program is for both."""
        return self.part is other.part and self._static == other._static

    @property
    def _static(self) -> list[list[int]]:
        return [
            [-1 if place in port.free else length for place, length in enumerate(tensor.shape)]
            for port, tensor in zip(self.part.inputs, self.tensors, strict=True)
        ]

    def as_exported(self) -> tuple[Tensor, ...]:
        """In the part's precision, and long enough that tracing takes no free axis for one that never changes."""
        return tuple(
            # Tensors made in inference mode cannot be traced.
            filled(port, _in_precision(self.part, port, tensor), lambda _, length: max(length, LEAST)).clone()
            for port, tensor in zip(self.part.inputs, self.tensors, strict=True)
        )


def export_onnx(example: Example, folder: Path, stem: str) -> ExportedPart:
    """Writes `stem`.onnx, and beside it weights of more than 2 GB."""
    file, (program, outputs) = f"{stem}.onnx", _traced(example)
    inputs = [port.name for port in example.part.inputs]
    with _quiet():
        onnx = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=inputs,
            output_names=[port.name for port in example.part.outputs],
            dynamic_shapes=tuple(dict(port.free) for port in example.part.inputs),
            verbose=False,
        )
        assert onnx is not None
        onnx.save(folder / file)
    return _described(example, folder, file, outputs)


def export_pt2(example: Example, folder: Path, stem: str) -> ExportedPart:
    """Writes `stem`.pt2, for `torch.export.load`."""
    file, (program, outputs) = f"{stem}.pt2", _traced(example)
    torch.export.save(program, folder / file)
    return _described(example, folder, file, outputs)


def pt2_runs(manifest: Manifest, folder: Path, parts: Sequence[Part]) -> dict[str, Run]:
    """What runs parts by files of `export_pt2`, by name of the part."""

    def program(exported: ExportedPart) -> Program:
        with _quiet():
            module = torch.export.load(folder / exported.file).module()
        return Program(exported, lambda tensors: tuple(module(*tensors)))

    return {
        part.name: ExportedRun(
            part, [program(some) for some in manifest.parts if some.name == part.name], manifest, folder
        )
        for part in parts
    }


def require_exporter(kind: str) -> None:
    """ConfigError, before minutes of work, if something is missing that a format needs."""
    if kind == "pt2":
        return
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"exporting to ONNX needs the Python packages onnx and onnxscript ({error}); pip install onnx onnxscript"
        ) from error


def exporter_versions(kind: str) -> Versions:
    """Of what writes a format, and reads it here."""
    if kind == "pt2":
        return Versions(torch.__version__)
    return Versions(torch.__version__, version("onnx"), runtime_version(), OPSET)


def _traced(example: Example) -> tuple[torch.export.ExportedProgram, tuple[Tensor, ...]]:
    """The program of an example, and its outputs; ConfigError if a free axis is none."""
    part, tensors = example.part, example.as_exported()
    free = tuple(dict.fromkeys(port.free, torch.export.Dim.DYNAMIC) for port in part.inputs)
    try:
        with torch.no_grad():
            program = torch.export.export(_with_names(part), tensors, dynamic_shapes=free, strict=True)
            outputs = part.module(*tensors)
    except Exception as error:  # of PyTorch's many kinds
        first = str(error).strip().split("\n", maxsplit=1)[0]
        raise ConfigError(f"the part {part.name} cannot be exported: {type(error).__name__}: {first}") from error
    return program, outputs


def _with_names(part: Part) -> nn.Module:
    """The part's module, with an argument for each input, of its name.

    PyTorch 2.9 cannot lower a program whose module takes any number of arguments, if two of them share an axis.
    """
    graph = fx.Graph()
    inputs = tuple(graph.placeholder(port.name) for port in part.inputs)
    graph.output(graph.call_module("module", inputs))
    return fx.GraphModule({"module": part.module}, graph)


def _described(example: Example, folder: Path, file: str, outputs: Sequence[Tensor]) -> ExportedPart:
    part, tensors = example.part, example.as_exported()
    files = sorted(path.name for path in folder.glob(f"{file}*"))
    return ExportedPart(
        part.name,
        file,
        {name: sha256_of(folder / name) for name in files},
        tuple(map(_shape, part.inputs, tensors)),
        tuple(map(_shape, part.outputs, outputs)),
    )


def _shape(port: Port, tensor: Tensor) -> TensorShape:
    axes = tuple(port.free.get(place, length) for place, length in enumerate(tensor.shape))
    return TensorShape(port.name, str(tensor.dtype).removeprefix("torch."), axes)


def _in_precision(part: Part, port: Port, tensor: Tensor) -> Tensor:
    return tensor if port.keeps_type or not tensor.is_floating_point() else tensor.to(part.dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's remarks on operations that no part has, on equal names of axes, and on memory of files."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
