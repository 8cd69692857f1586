"""`engine.json`: what an export holds, of which preset and weights, and how well it agreed with what it was made of."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Literal, cast

import torch
from pydantic.dataclasses import dataclass

from ovseg_ros.core.command import ovseg_command
from ovseg_ros.core.config import STRICT, Share, from_mapping
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import checkpoint_paths, load_preset, preset_name
from ovseg_ros.core.version import VERSION
from ovseg_ros.core.weights.files import sha256_of

FILE_NAME = "engine.json"
FORMAT = 1
"""Counts up when an older reader would misread the file."""


@dataclass(frozen=True, slots=True, config=STRICT)
class TensorShape:
    """A tensor that goes into an exported part or comes out of one.

    Attributes:
        name: of its port.
        dtype: of PyTorch, such as "float16".
        shape: a length for each axis; of free axes, what there is one of for each place: "images", "words".
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class ExportedPart:
    """A part, exported for one size of what is not free.

    Attributes:
        name: of the part; there may be several of one name, for images of several sizes.
        file: what to open.
        sha256: of `file` and of all that it refers to, by name.
    """

    name: str
    file: str
    sha256: Mapping[str, str]
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]


@dataclass(frozen=True, slots=True, config=STRICT)
class WeightDigest:
    """A weight file that a preset is built from, wherever it lies."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True, config=STRICT)
class Versions:
    """What wrote an export. `opset`, `onnx` and `onnxruntime` are of ONNX alone."""

    torch: str
    onnx: str | None = None
    onnxruntime: str | None = None
    opset: int | None = None


@dataclass(frozen=True, slots=True, config=STRICT)
class CheckFigures:
    """What the exported parts made of the bundled images, beside the model in float32.

    Attributes:
        by: what ran them.
        images: how many, of all sizes and vocabularies together.
        equal_pixels: share of their pixels with the same category.
        logit_error: median difference of the logits of kept masks.
    """

    by: str
    images: int
    equal_pixels: Share
    logit_error: float


@dataclass(frozen=True, slots=True, config=STRICT)
class Manifest:
    """What `engine.json` holds.

    Attributes:
        preset: its name.
        preset_sha256: of all that it says of its model.
        version: of this package.
        weights: the files that the model was built from, in the order in which the preset names them.
        precision: of the parts' weights, but for their float32 islands.
        sizes: (width, height) of the cameras that it was exported for, pixels.
        check: None while it is being written.
        gpu: for which TensorRT built engines.
    """

    format: Literal[1]
    kind: Literal["onnx", "pt2", "tensorrt"]
    preset: str
    preset_sha256: str
    version: str
    weights: tuple[WeightDigest, ...]
    precision: Literal["float32", "float16", "bfloat16"]
    sizes: tuple[tuple[int, int], ...]
    parts: tuple[ExportedPart, ...]
    versions: Versions
    check: CheckFigures | None = None
    gpu: str | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of `precision`."""
        return cast(torch.dtype, getattr(torch, self.precision))

    @property
    def cameras(self) -> str:
        """The sizes, for sentences."""
        return ", ".join(f"{width}x{height}" for width, height in self.sizes)

    def again(self, preset: str, more_sizes: str = "") -> str:
        """What to do for such an export of a preset, in a sentence."""
        sizes = " ".join((*self.cameras.split(", "), *more_sizes.split()))
        command = f"{ovseg_command()} export {preset} --format {self.kind} --precision {self.precision}"
        return f"export it again with: {command} --size {sizes} --overwrite"


def usual_folder(preset: str) -> Path:
    """Where the export of a preset is, if nothing else is said: `ovseg_ros/engines/NAME` of the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    root = Path(cache) if cache and Path(cache).is_absolute() else Path.home() / ".cache"
    return root / "ovseg_ros" / "engines" / preset_name(preset)


def read_manifest(folder: Path, preset: str = "PRESET") -> Manifest:
    """What a preset's export says of itself; ConfigError if there is none, or it is damaged or of another format."""
    path = folder / FILE_NAME
    advice = f"{ovseg_command()} export {preset} --format onnx"
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no export in {folder} (no {FILE_NAME}); make one with: {advice}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; export again with: {advice}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}; export again with: {advice}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, not an object; export again with: {advice}")
    if (found := content.get("format")) != FORMAT:
        raise ConfigError(
            f"{path} is of format {found!r}, and this version reads {FORMAT}; export again with: {advice}"
        )
    return from_mapping(Manifest, content, str(path))


def manifest_text(manifest: Manifest) -> str:
    """As `read_manifest` reads it."""
    return json.dumps(asdict(manifest), indent=2) + "\n"


def fits(manifest: Manifest, preset: str) -> str | None:
    """Why an export is not of a preset as it is now, in a sentence; None if it is.

    Reads the weight files. ConfigError or CheckpointError if the preset or its weights are not there.
    """
    again = manifest.again(preset)
    if manifest.version != VERSION:
        return f"the export is of version {manifest.version} of this package, which is {VERSION} now; {again}"
    if manifest.preset_sha256 != preset_digest(preset):
        name = preset_name(preset)
        what = "which says something else of its model now" if manifest.preset == name else f"not of {name}"
        return f"the export is of the preset {manifest.preset}, {what}; {again}"
    now = weight_digests(preset)
    if other := [weights for weights in manifest.weights if weights not in now] or set(now) - set(manifest.weights):
        named = ", ".join(f"{weights.name} ({weights.sha256[:12]}...)" for weights in other)
        return f"the export is of other weights than the preset {preset} has now: they differ in {named}; {again}"
    return None


def damage(manifest: Manifest, folder: Path) -> str | None:
    """Which file of an export is not what it was, in a sentence; None if all are. Reads them."""
    for part in manifest.parts:
        for name, expected in part.sha256.items():
            path = folder / name
            if not path.is_file():
                return f"{path} is missing, which {FILE_NAME} names; copy or export all files again"
            if (found := sha256_of(path)) != expected:
                return (
                    f"{path} has sha256 {found[:12]}..., but {FILE_NAME} says {expected[:12]}...; it was cut off or "
                    "changed, copy or export all files again"
                )
    return None


def preset_digest(preset: str) -> str:
    """Of all that a preset says of its model, defaults too; its thresholds and comments do not count."""
    model = load_preset(preset).model
    return hashlib.sha256(json.dumps(asdict(model), sort_keys=True, default=str).encode()).hexdigest()


def weight_digests(preset: str) -> tuple[WeightDigest, ...]:
    """Of the files that a preset is built from, all shards; errors as of `presets.checkpoint_paths`."""
    return tuple(WeightDigest(path.name, sha256_of(path)) for path in checkpoint_paths(preset))
