"""What `ovseg export` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ovseg_ros.offline.option import Option, path, switch, width_by_height


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Export a preset's networks for other engines, words being an input, and check them against the model.

    See docs/engines.md.
    """

    preset: Annotated[
        str,
        Option(
            "name of a preset in config/models, or the path of a preset's YAML file", metavar="PRESET", by_place=True
        ),
    ]
    format: Annotated[
        Literal["onnx", "pt2", "tensorrt"],
        Option(
            "onnx: for ONNX Runtime; pt2: programs of PyTorch; tensorrt: onnx, and TensorRT's engines for this "
            "machine's GPU",
            choices=("onnx", "pt2", "tensorrt"),
        ),
    ]
    output: Annotated[
        Path | None,
        Option(
            "folder for the files (default: ovseg_ros/engines/PRESET in the user's cache)", path, "DIR", output="folder"
        ),
    ] = None
    precision: Annotated[
        Literal["float32", "float16", "bfloat16"],
        Option("of weights, but for what must be float32", choices=("float32", "float16", "bfloat16")),
    ] = "float32"
    size: Annotated[
        tuple[tuple[int, int], ...],
        Option(
            "size of the cameras' images, one or several (default: 640x480)",
            width_by_height(16, 8192),
            "WxH",
            nargs="+",
        ),
    ] = ((640, 480),)
    device: Annotated[
        str,
        Option("where the model and the check run: auto (the GPU if ONNX Runtime has it, too), cpu, cuda or cuda:N"),
    ] = "auto"
    overwrite: Annotated[bool, switch("replace the export that DIR already holds")] = False
