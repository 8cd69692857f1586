"""What may be chosen about how a model is run, and what was. Nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path

ENGINES = ("auto", "eager", "compile", "cuda_graph", "onnx", "tensorrt")
PRECISIONS = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How to run a model.

    Attributes:
        engine: one of `ENGINES`. "auto" takes the fastest that works here, and says which; one that is asked for by
            name works or is an error.
        precision: one of `PRECISIONS`, of weights and activations outside the float32 islands. "auto" is float32 on a
            CPU and elsewhere the first of float16, bfloat16 and float32 that agrees with float32.
        folder: what `ovseg export` wrote; None for its usual place.
        threads: of ONNX Runtime on a CPU; None for as many as PyTorch has when it starts.
    """

    engine: str = "auto"
    precision: str = "auto"
    folder: Path | None = None
    threads: int | None = None


AUTOMATIC = EngineOptions()
REPRODUCIBLE = EngineOptions("eager", "float32")


@dataclass(frozen=True, slots=True)
class Engine:
    """What runs a model.

    Attributes:
        engine: one of `ENGINES`, but not "auto".
        precision: one of `PRECISIONS`, but not "auto".
        line: both and why, for people: "engine cuda_graph, float16 (no Triton): warm-up 9.1 s, check 99.93 % equal".
        size: (width, height) of a camera that it was made for, pixels; None where it takes any.
    """

    engine: str
    precision: str
    line: str
    size: tuple[int, int] | None = None


REFERENCE = Engine("eager", "float32", "engine eager, float32")
"""What all others are checked against."""
