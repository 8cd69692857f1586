"""What an export says of itself is read strictly, and an export that does not belong to a preset is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ovseg_ros.core.engine.manifest import (
    FILE_NAME,
    CheckFigures,
    ExportedPart,
    Manifest,
    TensorShape,
    Versions,
    damage,
    fits,
    manifest_text,
    preset_digest,
    read_manifest,
    usual_folder,
    weight_digests,
)
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import preset_path
from ovseg_ros.core.resources import weights_dir
from ovseg_ros.core.version import VERSION
from ovseg_ros.core.weights.files import sha256_of

PRESET = "tabletop"


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    part = ExportedPart(
        "masks",
        "masks.onnx",
        {"masks.onnx": "0" * 64},
        (TensorShape("images", "float16", ("images", 3, 240, 320)),),
        (TensorShape("mask_logits", "float16", ("images", 40, 60, 80)),),
    )
    return Manifest(
        format=1,
        kind="onnx",
        preset=PRESET,
        preset_sha256=preset_digest(PRESET),
        version=VERSION,
        weights=weight_digests(PRESET),
        precision="float16",
        sizes=((320, 240), (640, 480)),
        parts=(part,),
        versions=Versions("2.9.1", "1.23.2", "1.32.0", 18),
        check=CheckFigures("ONNX Runtime", 8, 0.9998, 0.01),
    )


def test_what_is_written_is_read(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(manifest_text(manifest))
    assert read_manifest(tmp_path) == manifest
    assert (manifest.cameras, str(manifest.dtype)) == ("320x240, 640x480", "torch.float16")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"there is no export in .*; make one with: ovseg export PRESET --format onnx"),
        ("{", r"engine.json is not JSON"),
        ("[]", r"holds a list"),
        ({"format": 7}, r"is of format 7, and this version reads 1"),
        ({"precison": "float16"}, r"unknown key 'precison'; did you mean 'precision'"),
        ({"precision": "int8"}, r"unknown precision 'int8'"),
        ({"sizes": [["320", 240]]}, r"sizes\[0\]\[0\]: expected a whole number, got '320'"),
        ({"parts": [{"name": "masks"}]}, r"parts\[0\]: missing file"),
        ({"check": {"by": "x", "images": 1, "equal_pixels": 1.5, "logit_error": 0.0}}, r"check.equal_pixels"),
    ],
)
def test_what_is_wrong_in_it_is_named(content: object, message: str, manifest: Manifest, tmp_path: Path) -> None:
    if isinstance(content, dict):
        content = json.dumps(json.loads(manifest_text(manifest)) | content)
    if content is not None:
        (tmp_path / FILE_NAME).write_text(str(content))
    with pytest.raises(ConfigError, match=message):
        read_manifest(tmp_path)


def test_an_export_fits_its_preset(manifest: Manifest, tmp_path: Path) -> None:
    assert fits(manifest, PRESET) is None
    text = preset_path(PRESET).read_text()
    weights = weights_dir()
    for name in ("tabletop_eomt.safetensors", "tabletop_clip.safetensors"):
        text = text.replace(name, str(weights / name))
    moved = tmp_path / "moved.yaml"  # thresholds and comments are no part of what was exported, but paths are
    moved.write_text(f"# mine\n{text.replace('object_threshold: 0.5', 'object_threshold: 0.6')}")
    assert fits(replace(manifest, preset_sha256=preset_digest(str(moved))), str(moved)) is None


def test_what_does_not_fit_is_said(manifest: Manifest, tmp_path: Path) -> None:
    again = "ovseg export tabletop --format onnx --precision float16 --size 320x240 640x480 --overwrite"
    other = tmp_path / "tabletop.yaml"
    other.write_text(preset_path(PRESET).read_text().replace("patch_share: 0.4", "patch_share: 0.3"))
    changed = (replace(manifest.weights[0], sha256="f" * 64), *manifest.weights[1:])
    for reason, found in (
        (r"of version 0.0.1 of this package", fits(replace(manifest, version="0.0.1"), PRESET)),
        (r"of the preset tabletop, not of tabletop_fisa", fits(manifest, "tabletop_fisa")),
        (r"says something else of its model now", fits(manifest, str(other))),
        (r"other weights .* tabletop_eomt.safetensors \(f{12}", fits(replace(manifest, weights=changed), PRESET)),
        (r"other weights", fits(replace(manifest, weights=manifest.weights[:1]), PRESET)),
    ):
        assert found is not None
        with pytest.raises(ConfigError, match=reason):
            raise ConfigError(found)
        assert "export it again with: ovseg export" in found
    with pytest.raises(ConfigError, match=again):
        raise ConfigError(str(fits(replace(manifest, version="0.0.1"), PRESET)))


def test_a_file_that_is_cut_off_or_missing_is_named(manifest: Manifest, tmp_path: Path) -> None:
    file = tmp_path / "masks.onnx"
    assert "is missing" in str(damage(manifest, tmp_path))
    file.write_bytes(b"onnx")
    whole = replace(manifest, parts=(replace(manifest.parts[0], sha256={file.name: sha256_of(file)}),))
    assert damage(whole, tmp_path) is None
    file.write_bytes(b"onn")
    assert "cut off or changed" in str(damage(whole, tmp_path))


def test_the_usual_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert usual_folder(PRESET) == tmp_path / "ovseg_ros/engines/tabletop"
    assert usual_folder(str(preset_path(PRESET))) == usual_folder(PRESET)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert usual_folder(PRESET) == tmp_path / ".cache/ovseg_ros/engines/tabletop"
