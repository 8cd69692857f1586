"""The scripts that people copy, and the lines in README.md, run on a rendered picture with the bundled preset."""

import re
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ovseg_ros import api
from ovseg_ros.core.errors import ImageError
from ovseg_ros.sim.motion import moving_frames
from ovseg_ros.sim.simulator import TabletopSimulator

ROOT = Path(__file__).parents[2]
SEED = 7


@pytest.fixture(scope="module")
def frames():
    """Four frames of a simulated take, uint8 RGB."""
    with TabletopSimulator(SEED, split="test") as simulator:
        return [frame.image for _, frame in moving_frames(simulator, seconds=0.4, rate=10, seed=SEED)]


@pytest.fixture
def photo(tmp_path, monkeypatch, frames):
    monkeypatch.chdir(tmp_path)
    api.write_image("photo.jpg", frames[0])
    return "photo.jpg"


@pytest.fixture
def run(monkeypatch, capsys):
    def run_script(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
        return capsys.readouterr().out

    return run_script


def test_the_lines_in_the_readme(photo, capsys):
    section = (ROOT / "README.md").read_text().partition("\n## In Python\n")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 8
    exec(compile(code, "README.md", "exec"), {})
    assert "table" in capsys.readouterr().out
    assert api.read_image("overlay.png").shape == api.read_image(photo).shape


def test_an_image(photo, run):
    out = run("segment_image.py", photo, "red ball, green cube, table, wall", "overlay.png")
    assert "table" in out and "pixels" in out
    assert (api.read_image("overlay.png") != api.read_image(photo)).any()


def test_a_video_is_followed(tmp_path, monkeypatch, run, frames):
    monkeypatch.chdir(tmp_path)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 10, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1].copy())
    writer.release()
    assert "4 frames written to followed.mp4" in run("segment_video.py", "clip.avi", "tabletop.yaml", "followed.mp4")
    capture = cv2.VideoCapture("followed.mp4")
    read, picture = capture.read()
    assert read and picture.shape == (height, width, 3)
    assert "nothing.mp4 gave no frame" in run("segment_video.py", "nothing.mp4", "cup", "none.mp4")


def test_changing_words_and_a_phrase(photo, run):
    out = run("change_words.py", photo, "pictures", "table", "tabletop.yaml", "table, wall")
    assert "table, wall: " in out and "table: score" in out
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["best.png", "words_1.png", "words_2.png"]
    picture, original = api.read_image("pictures/best.png"), api.read_image(photo)
    kept = (picture == original).all(axis=-1)
    assert 0.1 < kept.mean() < 0.9


def test_a_picture_in_a_format_that_is_not_known(tmp_path):
    with pytest.raises(ImageError, match=r"format '\.photo'.*use \.png or \.jpg"):
        api.write_image(tmp_path / "a.photo", np.zeros((2, 2, 3), np.uint8))
