"""`ovseg export`: what is exported gives the maps of the model, whole or not at all, whatever the words."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from ovseg_ros.core import self_check
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.agreement import Agreement
from ovseg_ros.core.engine.manifest import FILE_NAME, damage, fits, read_manifest
from ovseg_ros.core.engine.onnx_runs import load_runs
from ovseg_ros.core.engine.options import REPRODUCIBLE, EngineOptions
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.self_check import frames
from ovseg_ros.core.vocabulary import Vocabulary, parse_vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.tools import export as tool

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PRESET = "tabletop"
VOCABULARIES = ("table", "mug, table", "red cube, blue ball, table", "tabletop", "indoor_robot")
"""Five, from a single word on."""


def export(*arguments: object) -> int:
    return main(["export", PRESET, "--size", "320x240", "--device", "cpu", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "tabletop"
    assert export("--format", "onnx", "--output", folder) == 0
    return folder


@pytest.fixture(scope="module")
def segmenter() -> PanopticSegmenter:
    return build_segmenter(PRESET, "cpu", REPRODUCIBLE)


@pytest.fixture
def other(folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to spoil."""
    shutil.copytree(folder, tmp_path / "export")
    yield tmp_path / "export"
    assert [path.name for path in tmp_path.iterdir()] == ["export"], "nothing half-written stays beside"


def test_the_folder_says_what_it_holds(folder: Path, segmenter: PanopticSegmenter) -> None:
    manifest = read_manifest(folder)
    assert {part.name for part in manifest.parts} == {part.name for part in segmenter.model.parts}
    assert {path.name for path in folder.iterdir()} == {FILE_NAME, *(part.file for part in manifest.parts)}
    assert (damage(manifest, folder), fits(manifest, PRESET)) == (None, None)
    assert (manifest.kind, manifest.precision, manifest.sizes) == ("onnx", "float32", ((320, 240),))
    assert manifest.check is not None
    assert manifest.check.equal_pixels >= 0.9999
    assert manifest.versions.opset == 18
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@torch.inference_mode()
def test_five_vocabularies_through_the_same_sessions(folder: Path, segmenter: PanopticSegmenter) -> None:
    parts = segmenter.model.parts
    runs = load_runs(folder, parts, torch.device("cpu"), tensorrt=False)
    image = frames()[0]
    for words in VOCABULARIES:
        prompt = segmenter.prepare(Vocabulary.build(parse_vocabulary(words)))
        wanted = segmenter.segment(image, prompt)
        for part in parts:
            part.run = runs[part.name]
        found = segmenter.segment(image, prompt)
        batch = segmenter.segment_batch([image, image[:, ::-1]], prompt)
        for part in parts:
            part.run = part.module
        assert np.mean(found.category_ids == wanted.category_ids) >= 0.9999
        assert np.abs(found.confidence.astype(int) - wanted.confidence).max() <= 1
        assert np.mean(batch[0].category_ids == wanted.category_ids) >= 0.9999


def test_under_auto_other_sizes_are_run_without_it_and_by_name_they_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    segmenter = build_segmenter(PRESET, "cpu", EngineOptions(folder=folder), told.append)
    assert (segmenter.engine.engine, segmenter.engine.size, told) == ("onnx", (320, 240), [])
    prompt = segmenter.prepare(Vocabulary.build(parse_vocabulary("mug")))
    wide = np.zeros((90, 160, 3), np.uint8)
    for image in (wide, frames()[0], wide):
        segmenter.segment(image, prompt)
    assert len(told) == 1, "and the exported size is run by it as before"
    picture = tmp_path / "wide.png"
    assert cv2.imwrite(str(picture), wide)
    arguments = [str(picture), "--vocabulary", "mug", "--out", str(tmp_path / "out"), "--engine", "onnx"]
    assert main(["segment", *arguments, "--engine-folder", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "wide, 160x90: the export in" in error
    assert "export tabletop --format onnx --precision float32 --size 320x240 WxH --overwrite" in error


def test_an_export_is_replaced_only_if_that_is_asked_for(
    other: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (other / FILE_NAME).read_bytes()
    assert export("--format", "onnx", "--output", other) == 2
    assert (
        "already holds an export (engine.json); choose another --output or add --overwrite" in capsys.readouterr().err
    )
    # Nor does a check that fails leave anything behind, or take anything away.
    monkeypatch.setattr(tool, "agreement", lambda *_: Agreement(True, 0.9, 0.0))
    monkeypatch.setattr(tool, "_VOCABULARIES", ("table",))
    one = frames()[:1]
    monkeypatch.setattr(self_check, "frames", lambda: one)
    assert export("--format", "pt2", "--output", other, "--overwrite") == 2
    error = capsys.readouterr().err
    assert re.search(r"run by PyTorch, .* too far from the model in float32: 90.00 % equal; 99.5% of the pixels", error)
    assert (other / FILE_NAME).read_bytes() == before


def test_a_folder_with_other_files_is_never_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    assert export("--format", "onnx", "--output", tmp_path, "--overwrite") == 2
    assert "holds other files and no export (engine.json)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_cannot_be_done_here_is_said_first(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "build_segmenter", None)  # before anything is built
    for arguments, message in (
        (("--format", "tensorrt"), "TensorRT needs an NVIDIA GPU, and the device is cpu"),
        (("--format", "onnx", "--precision", "bfloat16"), "ONNX Runtime computes bfloat16 on a GPU only"),
    ):
        assert export(*arguments, "--output", tmp_path / "new") == 2
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert export("--format", "onnx", "--output", tmp_path / "new") == 2
    assert "pip install onnx onnxscript" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_engines_are_built_only_of_an_export_that_fits(
    other: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool, "_device", lambda options: torch.device("cpu"))
    # Everything but TensorRT: the copied files are run as they are, and nothing is exported.
    monkeypatch.setattr(tool, "export_onnx", None)
    monkeypatch.setattr(tool, "require_provider", lambda *_, **__: "TensorrtExecutionProvider")
    monkeypatch.setattr(tool, "load_runs", lambda *told, tensorrt: load_runs(*told, tensorrt=not tensorrt))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Orin")
    copied = read_manifest(other)
    assert export("--format", "tensorrt", "--output", other) == 0
    built = read_manifest(other)
    assert (built.kind, built.gpu, built.parts) == ("tensorrt", "Orin", copied.parts)
    assert built.check is not None
    assert "TensorrtExecutionProvider" in built.check.by
    monkeypatch.setattr(tool, "build_segmenter", None)
    assert export("--format", "tensorrt", "--output", other, "--precision", "float16") == 2
    assert (
        "holds an export of kind tensorrt in float32 for cameras of 320x240; give the same" in capsys.readouterr().err
    )
    content = json.loads((other / FILE_NAME).read_text())
    (other / FILE_NAME).write_text(json.dumps(content | {"version": "0.0.1"}))
    assert export("--format", "tensorrt", "--output", other) == 2
    assert "the export is of version 0.0.1 of this package" in capsys.readouterr().err
