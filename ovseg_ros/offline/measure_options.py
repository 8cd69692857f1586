"""What the commands that measure can be told: `ovseg bench` and `ovseg count`."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ovseg_ros.core.engine.options import ENGINES, PRECISIONS
from ovseg_ros.offline.option import Option, number, path, switch, width_by_height
from ovseg_ros.offline.options import PRESET, WORDS, Device, EngineFolder, Json, Precision, Preset, positive


def engines(text: str) -> tuple[str, ...]:
    """Names of engines, between commas; each may have a precision of its own, as in eager:float32."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        engine, separator, precision = name.partition(":")
        if engine not in ENGINES or (separator and precision not in PRECISIONS):
            raise argparse.ArgumentTypeError(
                f"{name[:40]!r} is not an engine; expected {', '.join(ENGINES)}, or one as in eager:float32"
            )
    return names


def picture(text: str) -> Path:
    """The path of a picture to draw."""
    file = path(text)
    if file.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise argparse.ArgumentTypeError(f"{file.name[:40]!r} does not end in .png, .pdf or .svg")
    return file


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchOptions:
    """Time the model call and the node's own cost over it."""

    preset: Preset = "tabletop"
    device: Device = "auto"
    engine: Annotated[
        tuple[str, ...],
        Option(
            f"what runs the model, of {', '.join(ENGINES)}; several, with commas, take turns",
            engines,
            "A,B",
        ),
    ] = ("auto",)
    precision: Precision = "auto"
    engine_folder: EngineFolder = None
    against: Annotated[
        str | None, Option(f"also time the model call of this preset, by turns: {PRESET}", metavar="PRESET")
    ] = None
    random_weights: Annotated[
        bool, switch("of a preset whose weights are not here: it finds noise, so it has as much to do as there can be")
    ] = False
    sweep: Annotated[
        bool, switch("also time a frame under 10 to 10,000 words, and the merge of 5 to 120 masks beside transformers'")
    ] = False
    peers: Annotated[
        bool, switch("also run EoMT and Mask2Former beside transformers', with the same random weights")
    ] = False
    plot: Annotated[
        Path | None, Option("draw the comparison here (.png, .pdf or .svg)", picture, "FILE", output="file")
    ] = None
    size: Annotated[tuple[int, int], Option("image size (default: 640x480)", width_by_height(1, 8192), "WxH")] = (
        640,
        480,
    )
    frames: Annotated[int, positive("timed frames (default: 60)", 100_000)] = 60
    warmup: Annotated[int, positive("untimed frames first (default: 5)", 100_000)] = 5
    vocabulary: Annotated[str | None, Option("words to look for (default: the whole tabletop)", metavar=WORDS)] = None
    threads: Annotated[int | None, positive("CPU threads for PyTorch (default: its own choice)", 1024)] = None
    cameras: Annotated[int, positive("cameras that share the model (default: 1)", 64)] = 1
    delivered: Annotated[
        bool, switch("instead, count the frames that arrive, with a stand-in for the model that returns at once")
    ] = False
    rate: Annotated[
        float, Option("of --delivered: frames per second (default: 30)", number(0, 1000, above=True), "HZ")
    ] = 30.0
    soak: Annotated[
        float | None,
        Option(
            "instead, watch the node's memory under a camera at ten times the model's rate",
            number(0, 10000, above=True),
            "MINUTES",
        ),
    ] = None
    json: Json = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CountOptions:
    """Count a preset's parameters and FLOPs, without its weights: of a frame, of masks, of words in them, of FISA."""

    preset: Annotated[str, Option(PRESET, by_place=True)]
    masks: Annotated[int, positive("masks in an image, for FISA (default: 100)", 65535)] = 100
    words: Annotated[int, positive("words of the vocabulary (default: 150)", 2000)] = 150
    size: Annotated[
        tuple[int, int], Option("of the camera's images (default: 640x480)", width_by_height(16, 8192), "WxH")
    ] = (640, 480)
    timing: Annotated[bool, switch("also time FISA at 10 and 1000 words, with random weights")] = False
    json: Json = None
