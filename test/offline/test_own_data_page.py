"""docs/own_data.md leads from a folder of labelled images to a preset: its own file and commands, on drawn streets."""

import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.vocabulary import Vocabulary, load_vocabulary_file
from ovseg_ros.offline.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs/own_data.md").read_text(encoding="utf-8")
IN_LITTLE_TIME = {
    "train": ["loop.steps=3", "loop.batch_size=2", "validation.images=2"],
    "evaluate": ["--images", "2"],
}
"""What is added to the page's commands."""
COLORS = {0: (200, 160, 90), 1: (90, 90, 140), 3: (80, 80, 80), 5: (40, 130, 40), 8: (30, 30, 200), 11: (0, 0, 0)}


def draw_street(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A photograph, uint8 BGR (120, 160, 3), and its label map, with a margin of 11 as CamVid's void."""
    labels = np.zeros((120, 160), np.uint8)
    horizon = int(rng.integers(40, 60))
    labels[horizon:] = 3
    labels[15:horizon, : int(rng.integers(30, 70))] = 1
    cv2.circle(labels, (int(rng.integers(100, 150)), horizon - 10), 14, 5, -1)
    for left in (20, 90):
        labels[horizon + 15 : horizon + 35, left : left + int(rng.integers(25, 40))] = 8
    labels[:, -2:] = 11
    picture = np.array([COLORS.get(value, (0, 0, 0)) for value in range(12)], np.int16)[labels]
    return (picture + rng.integers(-12, 12, picture.shape)).clip(0, 255).astype(np.uint8), labels


def commands() -> list[list[str]]:
    """The page's commands of `ovseg`, but for those that need a download."""
    lines = re.findall(r"^    ovseg (.*)$", PAGE, re.MULTILINE)
    return [shlex.split(line) for line in lines if not re.search(r"download|street_(s|fisa|pmp)\b|photos", line)]


def test_the_page_leads_to_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            for folder, content in zip((split, f"{split}annot"), draw_street(rng), strict=True):
                path = tmp_path / "street" / folder / f"{number:04d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), content)
    [described] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    Path("street.yaml").write_text(described, encoding="utf-8")

    told = commands()
    assert [words[0] for words in told] == ["check-dataset", "train", "evaluate", "segment"]
    for words in told:
        assert main([*words, *IN_LITTLE_TIME.get(words[0], [])]) == 0, words

    output = capsys.readouterr().out
    assert "5 car" not in output and re.search(r"8 car +thing +4 +8 ", output)  # each car by itself
    assert re.search(r"best score [\d.]+ at step 3", output)
    assert len(list(Path("out/street_val/overlay").glob("*.png"))) == 2
    assert "report.html" in {path.name for path in Path("out/street").iterdir()}

    segmenter = build_segmenter("runs/street", "cpu")
    words_of_run = load_vocabulary_file(Path("runs/street/vocabulary.yaml"))
    assert [(one.name, one.is_thing) for one in words_of_run][-1] == ("car", True)
    result = segmenter.segment(draw_street(rng)[0], segmenter.prepare(Vocabulary.build(words_of_run)))
    assert result.segment_ids.shape == (120, 160)


def test_the_masks_of_a_run_take_any_words(tmp_path: Path) -> None:
    """As the page's last section has it, with what is bundled in place of what has to be fetched."""
    root = Path(__file__).parents[2]
    tabletop = yaml.safe_load((root / "config/models/tabletop.yaml").read_text(encoding="utf-8"))
    own = tabletop["model"]["proposer"] | {"classes": ["thing", "stuff"]}
    tabletop["model"]["proposer"] = own
    (tmp_path / "open.yaml").write_text(yaml.safe_dump(tabletop), encoding="utf-8")
    assert build_segmenter(str(tmp_path / "open.yaml"), "cpu").model.parts
