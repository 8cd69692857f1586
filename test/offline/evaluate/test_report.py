"""The page: pictures of the right images, legible and in place; names of strangers stay text."""

import base64
import html.parser
import re

import cv2
import numpy as np

from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.types import PanopticSample, SegmentLabel
from ovseg_ros.offline.evaluate.figures import figures_of, image_score
from ovseg_ros.offline.evaluate.pictures import comparison, worst_and_median
from ovseg_ros.offline.evaluate.plan import Plan
from ovseg_ros.offline.evaluate.record import ImageRecord
from ovseg_ros.offline.evaluate.report import Picture, html_report
from ovseg_ros.offline.evaluate.truth import truth_of

HOSTILE = ['<script>alert("1")</script>', "</table><h1>& 'quoted' \"too\"", "杯子 🙂", "javascript:x"]


def record(name, tp, fn):
    return ImageRecord(name, size=(4, 4), quality=((0, tp, 0, fn, float(tp)),))


def test_worst_and_median_by_score_then_name():
    records = [record(f"{n:02d}", tp=n, fn=11 - n) for n in range(12)]
    records += [ImageRecord("broken", fault="x"), ImageRecord("void", is_void=True), ImageRecord("unscored")]
    worst, median = worst_and_median(records[::-1], 3)
    assert [r.name for r in worst] == ["00", "01", "02"] and [r.name for r in median] == ["05", "06", "07"]
    assert image_score(worst[0]) == 0.0
    worst, median = worst_and_median(records, 100)
    assert [r.name for r in worst] == ["00", "01", "02", "03"] and [r.name for r in median] == ["04", "05", "06", "07"]
    assert worst_and_median(records[:1], 3) == (records[:1], [])
    assert worst_and_median([], 3) == ([], [])
    semantic = ImageRecord("s", size=(1, 2), pixels={3: (1, 1, 2)})
    assert image_score(semantic) == 50.0


def plan(names):
    return Plan("<script>", "d", "</title>", categories=tuple((name, index == 0) for index, name in enumerate(names)))


class Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text.append(data)


def test_names_of_strangers_stay_text():
    confused = ImageRecord(
        "<b>name</b>.jpg",
        size=(4, 4),
        quality=tuple((k, 1, 0, 1, 0.75) for k in range(4)),
        confusion=((0, 1, 2), (0, 0, 6), (2, 3, 1)),
    )
    broken = ImageRecord("<img src=x onerror=alert(1)>", fault="<i>reason</i>\udcff")
    made = plan(HOSTILE)
    figures = figures_of(made, [confused, broken])
    page = html_report(
        made, figures, [Picture("<svg onload=x>", 1.0, np.zeros((2, 2, 3), np.uint8))], [], {"command": HOSTILE[0]}
    )
    reader = Reader()
    reader.feed(page.encode("utf-8", "replace").decode())
    assert not reader.tags & {"script", "b", "i", "svg"} and page.count("<img ") == 1
    text = " ".join(reader.text)
    for name in (*HOSTILE, "<i>reason</i>", "<svg onload=x>"):
        assert name in text
    assert "25.0" in text  # 2 of 8 matched masks of the first category


def painted_sample(height, width):
    ids = np.zeros((height, width), np.int32)
    ids[: height // 2] = 16_000_000
    image = np.full((height, width, 3), 128, np.uint8)
    return PanopticSample(image, ids, (SegmentLabel(16_000_000, 0, True, False, 1, 1),), "a")


def test_pictures_are_three_panels_of_a_width_that_people_can_read(painted):
    from ovseg_ros.offline.evaluate.measure import Evaluator

    segmenter = painted.segmenter()
    text = segmenter.prepare(Vocabulary.build([CategorySpec(name) for name in [*HOSTILE, "e", "f"]]))
    evaluator = Evaluator(segmenter, text)
    for size in ((32, 48), (480, 640), (1024, 2048), (3, 1000), (1, 1)):
        truth = truth_of(painted_sample(*size))
        picture = comparison(truth, *evaluator.segments(truth), text.vocabulary)
        width = (picture.shape[1] - 12) // 3
        assert picture.dtype == np.uint8 and (400 <= width <= 640 or size == (1, 1))
        image, true, predicted = (picture[28:, start : start + width] for start in (0, width + 6, 2 * width + 12))
        assert (image == 128).all()
        # A pixel inside the segment, clear of rim and name, has the category's colour in the truth only.
        if min(size) >= 32:
            assert (true[image.shape[0] // 4, width // 50] != 128).any() and (true[-2, 2] == 128).all()
        assert predicted.shape == true.shape


def test_the_report_has_the_pictures_inside(painted, tmp_path):
    painted.use(painted.segmenter(mistakes={1: 2}))
    folder = painted.write_folder(tmp_path / "data", 7)
    options = ["--data", "tabletop", "--root", str(folder), "--split", "test", "--report", str(tmp_path / "out")]
    assert main(["evaluate", *options]) == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 4 and "Lowest PQ" in page and "Median PQ" in page
    for content in pictures:
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape[1] >= 1200
    assert "http" not in re.sub(r'http-equiv="[^"]*"', "", page).replace("base64", "")
    assert painted.names[1] in page
    for fact in ("version", "command", "date", "root"):
        assert f"<td class=text>{fact}</td>" in page
    files = re.findall(r'href="([^"]+)"', page)
    assert len(files) == 4 and all(file.startswith((folder / "images").as_uri()) for file in files)
