"""`ovseg segment` on files of every sort, with a tiny segmenter of random weights."""

import errno
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.coco_panoptic import rgb_to_ids
from ovseg_ros.offline.data.images import load_image
from ovseg_ros.offline.tools import segment


@pytest.fixture(autouse=True)
def tiny_preset(monkeypatch, tiny_segmenter):
    monkeypatch.setattr(segment, "build_segmenter", lambda *_: tiny_segmenter)


def save(path, shape):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


def run(*arguments):
    return main(["segment", *map(str, arguments)])


@pytest.mark.parametrize("shape", [(1, 1, 3), (37, 53, 3), (1, 90), (48, 64, 4)])
def test_one_image_gives_overlay_panoptic_png_and_index_that_agree(tmp_path, shape):
    out = tmp_path / "out"
    assert run(save(tmp_path / "cup.png", shape), "--vocabulary", "red cube, wall", "--out", out) == 0
    index = json.loads((out / "panoptic.json").read_text())
    assert [(c["id"], c["name"], c["isthing"]) for c in index["categories"]] == [(0, "red cube", 1), (1, "wall", 0)]
    assert index["images"] == [{"id": 1, "file_name": "cup", "width": shape[1], "height": shape[0]}]
    assert load_image(out / "overlay" / "cup.png").shape == (*shape[:2], 3)
    ids = rgb_to_ids(load_image(out / "panoptic" / index["annotations"][0]["file_name"]))
    assert ids.shape == shape[:2]
    areas = {info["id"]: info["area"] for info in index["annotations"][0]["segments_info"]}
    assert areas == {i: int((ids == i).sum()) for i in np.unique(ids).tolist() if i}
    for info in index["annotations"][0]["segments_info"]:
        assert 0 <= info["score"] <= 1 and info["label"] in ("red cube", "wall") and len(info["bbox"]) == 4


def test_engine_and_precision_are_asked_for_and_said(tmp_path, monkeypatch, tiny_segmenter, capsys):
    asked = []

    def build(preset, device, options, tell):
        asked.append(options)
        tell("masks is run by eager from now on")
        return tiny_segmenter

    monkeypatch.setattr(segment, "build_segmenter", build)
    image = save(tmp_path / "cup.png", (20, 30, 3))
    options = "--engine", "onnx", "--precision", "float16", "--engine-folder", tmp_path
    assert run(image, "--vocabulary", "cup", "--out", tmp_path / "a", *options) == 0
    assert run(image, "--vocabulary", "cup", "--out", tmp_path / "b") == 0
    assert asked == [EngineOptions("onnx", "float16", tmp_path), EngineOptions("auto", "auto")]
    errors = capsys.readouterr().err.splitlines()
    assert errors.count("ovseg: note: engine eager, float32") == 2
    assert errors.count("ovseg: note: masks is run by eager from now on") == 2
    for name, value in (("--engine", "fast"), ("--precision", "int8")):
        with pytest.raises(SystemExit):
            run(image, "--vocabulary", "cup", "--out", tmp_path / "c", name, value)
        assert f"argument {name}: invalid choice: '{value}'" in capsys.readouterr().err


def test_a_bad_image_is_named_and_skipped_and_the_rest_is_done(tmp_path, capsys):
    folder = tmp_path / "in"
    save(folder / "a.png", (20, 30, 3))
    save(folder / "sub" / "c.jpg", (30, 20, 3))
    (folder / "b.png").write_bytes(b"\x89PNG rubbish")
    assert run(folder, "--vocabulary", "cup", "--out", tmp_path / "out") == 1
    errors = capsys.readouterr().err
    assert "b.png" in errors and "1 images skipped" in errors
    index = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [entry["file_name"] for entry in index["annotations"]] == ["a.png", "sub/c.png"]
    assert [entry["name"] for entry in index["skipped"]] == ["b"]
    assert (tmp_path / "out" / "overlay" / "sub" / "c.png").is_file()


def test_results_are_not_overwritten_unless_asked_and_never_read_as_input(tmp_path, capsys):
    save(tmp_path / "a.png", (20, 30, 3))
    arguments = (tmp_path, "--vocabulary", "cup", "--out", tmp_path / "out")
    assert run(*arguments) == 0
    assert run(*arguments) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(*arguments, "--overwrite") == 0
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]) == 1


def test_video(tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 16))
    for level in (0, 100):
        writer.write(np.full((16, 32, 3), level, dtype=np.uint8))
    writer.release()
    assert run(tmp_path / "clip.avi", "--vocabulary", "cup", "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out" / "overlay").iterdir()) == [
        "clip_000000.png",
        "clip_000001.png",
    ]


@pytest.mark.parametrize(
    ("source", "vocabulary", "out", "reason"),
    [
        ("nothing.png", "cup", "out", "nothing.png does not exist"),
        ("empty", "cup", "out", "has no image"),
        ("a.png", " , ", "out", "no names"),
        ("a.png", "missing.yaml", "out", "missing.yaml"),
        ("a.png", "indoor_robots", "out", "did you mean 'indoor_robot'?"),
        ("a.png", "cup; red, blue", "out", "has a comma and a semicolon"),
        ("a.png", "cup, Cup", "out", "already"),
        ("a.png", "cup", "a.png", "is a file"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, source, vocabulary, out, reason):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", (4, 4, 3))
    (tmp_path / "empty").mkdir()
    assert run(source, "--vocabulary", vocabulary, "--out", out) == 2
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1 and error.startswith("ovseg: error: ")
    assert not (tmp_path / "out").exists()


def test_what_may_not_be_meant_is_a_note(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", (20, 30, 3))
    for words, note in {
        "cup table wall": "'cup table wall' is one name of several words; several names are separated by commas",
        "street": "'street' is read as the bundled vocabulary street.yaml; for the word alone, write 'street,'",
    }.items():
        assert run("a.png", "--vocabulary", words, "--out", "out", "--overwrite") == 0
        assert f"ovseg: note: {note}\n" in capsys.readouterr().err


def test_what_a_folder_holds_besides_is_named_counted_and_listed(tmp_path, capsys):
    folder = tmp_path / "in"
    save(folder / "a.png", (20, 30, 3))
    for name in ("notes.txt", "._a.png", ".DS_Store", "Thumbs.db", ".git/b.png", "__MACOSX/a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert run(folder, "--vocabulary", "cup", "--out", tmp_path / "plain") == 0
    assert "left out: 1 .txt\n" in capsys.readouterr().err
    for name in ("b.heic", "c.HEIC", "d.mp4", "sub/e.mcap", "f.nef"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert run(folder, "--vocabulary", "cup", "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "5 files skipped" in error
    (line,) = [line for line in error.splitlines() if line.startswith("left out: ")]
    assert "2 .heic (Pillow cannot read them; convert them to PNG or JPEG, or install pillow-heif)" in line
    assert "1 .mp4 (a video: give it by itself)" in line and "1 .mcap (a bag: give it by itself)" in line
    index = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [entry["name"] for entry in index["skipped"]] == ["b.heic", "c.HEIC", "d.mp4", "f.nef", "sub/e.mcap"]
    assert [image["file_name"] for image in index["images"]] == ["a"]


def test_a_name_too_long_for_the_results_costs_only_itself(tmp_path, capsys):
    for name in ("a" * 251, "c"):
        save(tmp_path / "in" / f"{name}.bmp", (4, 6, 3))
    assert run(tmp_path / "in", "--vocabulary", "cup", "--out", tmp_path / "out") == 0
    Image.new("RGB", (4, 4)).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "in" / ("d" * 252 + ".im"))
    assert run(tmp_path / "in", "--vocabulary", "cup", "--out", tmp_path / "again") == 1
    assert "skipped: " in (error := capsys.readouterr().err) and "File name too long" in error
    index = json.loads((tmp_path / "again" / "panoptic.json").read_text())
    assert len(index["images"]) == 2 and index["skipped"][0]["name"] == "d" * 252


def test_a_video_whose_name_is_too_long_for_its_results_is_refused_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "build_segmenter", lambda *_: pytest.fail("too late"))
    path = tmp_path / ("v" * 245 + ".avi")
    writer = cv2.VideoWriter(str(tmp_path / "a.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (32, 16))
    writer.write(np.zeros((16, 32, 3), dtype=np.uint8))
    writer.release()
    (tmp_path / "a.avi").rename(path)
    assert run(path, "--vocabulary", "cup", "--out", tmp_path / "new" / "out") == 2
    error = capsys.readouterr().err
    assert "names of 256 bytes" in error and "rename the video" in error and error.count("\n") == 1


def test_of_an_animation_a_note_says_that_the_first_frame_counts(tmp_path, capsys):
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert run(tmp_path / "a.gif", "--vocabulary", "cup", "--out", tmp_path / "out") == 0
    assert (
        "note: of several frames or pages the first is segmented: 1 of 2 frames of a.gif\n" in capsys.readouterr().err
    )


def test_a_disk_that_fills_up_ends_in_one_line_and_leaves_whole_files(tmp_path, monkeypatch, capsys):
    for name in "abc":
        save(tmp_path / "in" / f"{name}.png", (4, 6, 3))
    write = Path.write_bytes

    def full(path, content):
        if (tmp_path / "out" / "overlay" / "a.png").exists():
            write(path, content[:5])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert run(tmp_path / "in", "--vocabulary", "cup", "--out", tmp_path / "out") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "No space left on device; free some space" in line
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["a.png", "a.png"]


def test_places_of_results_inside_the_folder_are_tried_before_the_model_is_built(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "build_segmenter", lambda *_: pytest.fail("too late"))
    save(tmp_path / "a.png", (4, 6, 3))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "overlay").write_text("x")
    assert run(tmp_path / "a.png", "--vocabulary", "cup", "--out", tmp_path / "out") == 2
    assert "overlay is a file; expected a folder" in capsys.readouterr().err


def test_ctrl_c_keeps_the_index_of_what_is_done(tmp_path, monkeypatch, tiny_segmenter):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, (20, 30, 3))
    calls = []

    class Interrupted:
        prepare, engine = tiny_segmenter.prepare, tiny_segmenter.engine

        def segment(self, image, text):
            calls.append(image)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return tiny_segmenter.segment(image, text)

    monkeypatch.setattr(segment, "build_segmenter", lambda *_: Interrupted())
    assert run(tmp_path, "--vocabulary", "cup", "--out", tmp_path / "out") == 130
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]) == 1
