"""Bags in, bags out: every format read, every image answered under its own header, and runs that go on after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from bag_scenes import HEIGHT, STORE, STORE_1, WIDTH, image, jpeg, write_bag, write_bag_1
from pycocotools import mask
from rosbags.highlevel import AnyReader
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Segment
from ovseg_ros.offline.cli.main import main
from ovseg_ros.offline.data.bag_files import is_bag
from ovseg_ros.offline.data.bag_images import open_bag_images
from ovseg_ros.offline.data.files import OutputError
from ovseg_ros.offline.options import SegmentOptions
from ovseg_ros.offline.tools import segment_bag as module
from ovseg_ros.offline.tools.segment_bag import segment_bag


class LeftHalf(PanopticSegmenter):
    """Calls the left half of every picture by the first word; as a segmenter without a network."""

    def __init__(self) -> None:
        pass

    def prepare(self, vocabulary):
        return Prompt(vocabulary)

    def segment(self, image, prompt):
        height, width = image.shape[:2]
        ids = np.zeros((height, width), dtype=np.uint16)
        ids[:, : width // 2] = 1
        category = prompt.vocabulary.categories[0]
        segment = Segment(1, category.id, category.name, 0.5, True, int((ids == 1).sum()), (0, 0, width // 2, height))
        return PanopticResult(
            segment_ids=ids,
            category_ids=np.where(ids == 1, category.id, NO_CATEGORY).astype(np.uint16),
            confidence=(ids * 128).astype(np.uint8),
            segments=(segment,),
            vocabulary_version=prompt.vocabulary.version,
        )


@pytest.fixture(autouse=True)
def segmenter(monkeypatch):
    monkeypatch.setattr(module, "build_segmenter", lambda *_: LeftHalf())


def segmented(bag: Path, words: str, out: Path, **options) -> int:
    return segment_bag(SegmentOptions(input=bag, vocabulary=words, out=out, preset="any", **options))


def read(path: Path) -> dict:
    """topic -> (received, message)s of a bag, by a reader that only has what the bag itself says about its types."""
    found: dict = {}
    with AnyReader([path], default_typestore=STORE) as reader:
        for connection, received, raw in reader.messages():
            found.setdefault(connection.topic, []).append((received, reader.deserialize(raw, connection.msgtype)))
    return found


@pytest.mark.parametrize("plugin", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_every_image_is_answered_under_its_own_header_and_time(tmp_path, plugin):
    bag = write_bag(tmp_path / "in", {"/camera/image": [image(index) for index in range(5)]}, plugin=plugin)
    assert segmented(bag, "mug, red mug", tmp_path / "out") == 0
    found = read(tmp_path / "out")
    assert sorted(found) == [
        "/ovseg/confidence_image",
        "/ovseg/label_image",
        "/ovseg/overlay_image/compressed",
        "/ovseg/segment_image",
        "/ovseg/segments",
        "/ovseg/vocabulary",
    ]
    for topic in found.keys() - {"/ovseg/vocabulary"}:
        assert [received for received, _ in found[topic]] == [(index + 1) * 10**9 for index in range(5)]
        assert [message.header.stamp.sec for _, message in found[topic]] == [100, 101, 102, 103, 104]
        assert [message.header.frame_id for _, message in found[topic]] == [f"camera_{index}" for index in range(5)]
    label = found["/ovseg/label_image"][0][1]
    assert (label.encoding, label.step, label.height) == ("mono8", WIDTH, HEIGHT)
    assert label.data.reshape(HEIGHT, WIDTH)[0].tolist() == [0, 0, 0, 0, 255, 255, 255, 255]
    ids = found["/ovseg/segment_image"][0][1]
    assert ids.encoding == "16UC1"
    assert ids.data.view("<u2").reshape(HEIGHT, WIDTH)[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    segments = found["/ovseg/segments"][0][1]
    assert [(segment.id, segment.label, segment.area) for segment in segments.segments] == [(1, "mug", 24)]
    assert segments.segments[0].mask_rle == ""
    ((_, vocabulary),) = found["/ovseg/vocabulary"]
    assert [category.name for category in vocabulary.categories] == ["mug", "red mug"]
    assert vocabulary.version == segments.vocabulary_version


def test_masks_are_in_the_segments_where_asked_for(tmp_path):
    bag = write_bag(tmp_path / "in", {"/image": [image(0)]})
    assert segmented(bag, "mug", tmp_path / "out", mask_rle=True) == 0
    found = read(tmp_path / "out")
    ids = found["/ovseg/segment_image"][0][1].data.view("<u2").reshape(HEIGHT, WIDTH)
    (segment,) = found["/ovseg/segments"][0][1].segments
    code = {"size": [HEIGHT, WIDTH], "counts": segment.mask_rle.encode()}
    np.testing.assert_array_equal(mask.decode(code), ids == segment.id)
    with pytest.raises(ConfigError, match=r"mask_rle \(was True, now False\)"):
        segmented(bag, "mug", tmp_path / "out")


def test_files_and_ros_1_bags_are_read(tmp_path):
    folder = write_bag(tmp_path / "in", {"/image": [image(0)]})
    (file,) = folder.glob("*.mcap")
    assert is_bag(folder) and is_bag(file) and not is_bag(tmp_path)
    assert segmented(file, "mug", tmp_path / "from_file") == 0

    store = get_typestore(Stores.ROS1_NOETIC)
    with Writer1(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=store)
        writer.write(connection, 7, store.serialize_ros1(image(3, store), "sensor_msgs/msg/Image"))
    assert segmented(tmp_path / "old.bag", "mug", tmp_path / "from_ros1") == 0
    ((received, message),) = read(tmp_path / "from_ros1")["/ovseg/label_image"]
    assert (received, message.header.stamp.sec, message.header.frame_id) == (7, 103, "camera_3")


def test_topics_are_chosen_or_asked_for(tmp_path):
    cameras = {"/front/image": [image(0)], "/front/image/compressed": [jpeg(0)], "/depth/image": [image(1)]}
    one = write_bag(tmp_path / "one", cameras)
    with open_bag_images(one, []) as images:
        assert images.topics == ["/front/image"]
    two = write_bag(tmp_path / "two", {**cameras, "/left/image/compressed": [jpeg(0), jpeg(1)]})
    with pytest.raises(DatasetError, match=r"--topic \(repeat it for several\): .*/left/image/compressed"):
        segmented(two, "mug", tmp_path / "out")
    with pytest.raises(DatasetError, match="'/rear': no|no images on '/rear'; image topics: .*front"):
        segmented(two, "mug", tmp_path / "out", topic=("/rear",))
    chosen = ("/front/image", "/left/image/compressed")
    assert segmented(two, "mug", tmp_path / "out", topic=chosen, no_overlay=True) == 0
    found = read(tmp_path / "out")
    assert len(found["/ovseg/front/image/segments"]) == 1
    assert len(found["/ovseg/left/image/compressed/segments"]) == 2
    assert not any("overlay" in topic for topic in found)


def test_bags_without_images_or_with_none_in_them(tmp_path, capsys):
    text = STORE.types["std_msgs/msg/String"](data="hello")
    with pytest.raises(DatasetError, match="no image topic .*; its topics: /chatter"):
        segmented(write_bag(tmp_path / "text", {"/chatter": [text]}), "mug", tmp_path / "out")
    with Writer(tmp_path / "empty", version=8) as writer:
        writer.add_connection("/image", "sensor_msgs/msg/Image", typestore=STORE)
    for _ in range(2):  # also when the run is complete
        assert segmented(tmp_path / "empty", "mug", tmp_path / "out") == 0
        assert "note: /image holds no image: nothing was published on it" in capsys.readouterr().err
    assert read(tmp_path / "out") == {}


@pytest.mark.parametrize("name", ["bad.mcap", "bad.db3", "bad.bag"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100])
def test_a_file_that_is_no_bag_is_named(tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    arguments = ["segment", str(tmp_path / name), "--vocabulary", "mug", "--out", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_used_is_named_counted_and_passed_over(tmp_path, capsys):
    messages = [image(0), image(1, data_bytes=5), image(2)]
    bag = write_bag(tmp_path / "in", {"/image": messages})
    assert segmented(bag, "mug", tmp_path / "out") == 1
    assert "/image: data has 5 bytes" in capsys.readouterr().err
    assert [message.header.stamp.sec for _, message in read(tmp_path / "out")["/ovseg/segments"]] == [100, 102]


def test_one_reason_for_many_images_is_told_once(tmp_path, capsys):
    messages = [image(index) for index in range(5)]
    for message in messages:
        message.encoding = "16UC1"
    bag = write_bag(tmp_path / "in", {"/image": messages})
    assert segmented(bag, "mug", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("which holds depth") == 1 and "of a bag, give it by --topic" in error
    assert "skipped: and 4 more for the same reason\n" in error and "5 images skipped" in error


def test_folders_with_other_files_are_refused(tmp_path):
    bag = write_bag(tmp_path / "in", {"/image": [image(0)]})
    out = tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").write_text("x")
    (out / "out_0.mcap").write_text("left by a kill before its journal was written")
    (out / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(
            ConfigError, match=r"holds files that are no results of this command \(thesis.tex\); choose"
        ):
            segmented(bag, "mug", out, overwrite=overwrite)
    (out / "thesis.tex").unlink()
    assert segmented(bag, "mug", out) == 0


def test_what_changed_between_runs_is_told_for_people(tmp_path):
    bag = write_bag(tmp_path / "in", {"/image": [image(0)]})
    words = tmp_path / "words.yaml"
    words.write_text("categories: [{name: mug, synonyms: [beaker]}, cup]")
    assert segmented(bag, "mug, cup", tmp_path / "out") == 0
    with pytest.raises(ConfigError, match=r"vocabulary \(now in another order\)"):
        segmented(bag, "cup, mug", tmp_path / "out")
    with pytest.raises(ConfigError, match=r"vocabulary \(now with other synonyms, thresholds or kinds of 'mug'\)"):
        segmented(bag, str(words), tmp_path / "out")
    (bag / "notes.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"content \(the files of the bag have changed\)"):
        segmented(bag, "mug, cup", tmp_path / "out")


def test_a_damaged_bag_gives_what_was_read_and_says_so_each_time(tmp_path, capsys):
    file = write_bag_1(tmp_path / "in.bag", [image(index, STORE_1) for index in range(4)])
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"camera_2")])  # in the middle of the third message
    for _ in range(2):  # also when the run is complete
        assert segmented(file, "mug", tmp_path / "out") == 1
        error = capsys.readouterr().err
        assert "2 images segmented" in error
        (line,) = [line for line in error.splitlines() if line.startswith("not all was read: ")]
        assert line.startswith(f"not all was read: {file} is damaged: ")
    assert [message.header.stamp.sec for _, message in read(tmp_path / "out")["/ovseg/segments"]] == [100, 101]


def test_a_name_too_long_for_the_parts_is_refused_first(tmp_path):
    bag = write_bag(tmp_path / "in", {"/image": [image(0)]})
    with pytest.raises(OutputError, match="--out, for its parts, has a name of 260 bytes"):
        segmented(bag, "mug", tmp_path / ("o" * 250))
    assert segmented(bag, "mug", tmp_path / ("o" * 245)) == 0


def test_a_run_goes_on_after_its_last_part(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_IMAGES_IN_PART", 2)
    bag = write_bag(tmp_path / "in", {"/image": [image(index) for index in range(7)]})
    seen = []
    plain = LeftHalf.segment

    def segment(self, pixels, text):
        if len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(int(pixels[0, 0, 0]))
        return plain(self, pixels, text)

    with monkeypatch.context() as patch:
        patch.setattr(LeftHalf, "segment", segment)
        with pytest.raises(KeyboardInterrupt):
            segmented(bag, "mug", tmp_path / "out")
    assert len(read(tmp_path / "out")["/ovseg/segments"]) == 4  # whole parts can be played already
    with pytest.raises(ConfigError, match=r"vocabulary \(now without 'mug', with 'cup'\); use"):
        segmented(bag, "cup", tmp_path / "out")
    assert segmented(bag, "mug", tmp_path / "out") == 0
    found = read(tmp_path / "out")
    assert [message.header.stamp.sec for _, message in found["/ovseg/segments"]] == [100 + index for index in range(7)]
    assert len(found["/ovseg/vocabulary"]) == 1
    before = sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir())
    assert segmented(bag, "mug", tmp_path / "out") == 0  # nothing left to do
    assert before == sorted(path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir())
    assert segmented(bag, "cup", tmp_path / "out", overwrite=True) == 0
    assert {message.segments[0].label for _, message in read(tmp_path / "out")["/ovseg/segments"]} == {"cup"}


def test_other_peoples_bags_are_never_touched(tmp_path):
    bag = write_bag(tmp_path / "in", {"/image": [image(0)]})
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="did not write"):
            segmented(bag, "mug", bag, overwrite=overwrite)
    assert len(read(bag)["/image"]) == 1


SLOW_RUN = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[3], str(Path(sys.argv[3]).parent)]
import test_segment_bag as helpers
from ovseg_ros.offline.tools import segment_bag as module
class Slow(helpers.LeftHalf):
    def segment(self, image, prompt):
        time.sleep(0.05)
        return super().segment(image, prompt)
module.build_segmenter = lambda *_: Slow()
module._IMAGES_IN_PART = 2
helpers.segmented(Path(sys.argv[1]), "mug", Path(sys.argv[2]))
"""


def test_a_killed_process_leaves_a_bag_that_can_be_read_and_finished(tmp_path):
    bag = write_bag(tmp_path / "in", {"/image": [image(index) for index in range(200)]})
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", SLOW_RUN, str(bag), str(out), str(Path(__file__).parent)]
    process = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (out / "out_1.mcap").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = [message.header.stamp.sec for _, message in read(out)["/ovseg/segments"]]
    assert 2 <= len(begun) < 200
    assert begun == [100 + index for index in range(len(begun))]
    assert segmented(bag, "mug", out) == 0
    assert [message.header.stamp.sec for _, message in read(out)["/ovseg/segments"]] == [100 + i for i in range(200)]
