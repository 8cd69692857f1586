"""A node whose model reads image and words together: what it makes of words, and what it says of them.

What the node publishes is compared with what the same preset makes of the same image and words in this process.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ros_support import Camera, Peer, Processes, TestProcess, picture, pixels_of, request_of, stamp_of
from sensor_msgs.msg import Image
from tiny_omtseg import TINY, write_tiny_omtseg

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.region import Region
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import Category, PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query, SetVocabulary

FIRST = ("red cup", "table", "zebra")
PICTURES = {"front": picture(48, 64), "left": picture(90, 70, seed=1)}
REGIONS = {"front": Region(0, 0, 0, 0), "left": Region(10, 20, 50, 60)}
LONG = [f"{color} {noun}" for color in ("red", "green", "blue") for noun in ("ball", "cube", "cup", "ring")]
LENGTH = 2 + 4 * len(LONG)
"""Tokens: start and end; a mark, two words and a separator for each name."""


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_omtseg(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def segmenter(preset: Path) -> PanopticSegmenter:
    return build_segmenter(str(preset), "cpu")


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, preset: Path) -> Iterator[TestProcess]:
    process = processes.start(
        "segment_node",
        preset=str(preset),
        vocabulary=list(FIRST),
        cameras=list(PICTURES),
        **{"left.roi": [10, 20, 50, 60]},
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def cameras(node: TestProcess, peer: Peer) -> dict[str, Camera]:
    return {name: Camera(peer, f"/{name}/image") for name in PICTURES}


@pytest.fixture
def set_words(node: TestProcess, peer: Peer) -> Callable[..., SetVocabulary.Response]:
    def set_vocabulary(*names: str | Category) -> SetVocabulary.Response:
        return peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of(*names))

    return set_vocabulary


def made_of(segmenter: PanopticSegmenter, names: Sequence[str], camera: str) -> tuple[np.ndarray, list[str]]:
    """Segment ids and labels of a camera's picture."""
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec(name) for name in names]))
    image, region = PICTURES[camera], REGIONS[camera]
    result = region.place(segmenter.segment(region.crop(image), prompt), image.shape[:2])
    return result.segment_ids, [segment.label for segment in result.segments]


def test_the_first_words_are_judged_in_the_log(node: TestProcess) -> None:
    assert node.output.count("this preset does not know all of 'zebra'; use other words") == 1


def test_every_change_of_the_words_shows_the_newest_frames_anew(
    peer: Peer, node: TestProcess, cameras: dict[str, Camera], set_words: Callable, segmenter: PanopticSegmenter
) -> None:
    """Two cameras of different sizes, one with a region; another order of words is another text."""
    images = {name: MESSAGES.image(PICTURES[name], "rgb8", camera.header()) for name, camera in cameras.items()}
    seen: dict[tuple[str, int], tuple[np.ndarray, PanopticSegmentation]] = {}
    with (
        peer.collect(Image, "/ovseg/front/segment_image") as front_maps,
        peer.collect(Image, "/ovseg/left/segment_image") as left_maps,
        peer.collect(PanopticSegmentation, "/ovseg/front/segments") as front_lists,
        peer.collect(PanopticSegmentation, "/ovseg/left/segments") as left_lists,
    ):
        maps, lists = {"front": front_maps, "left": left_maps}, {"front": front_lists, "left": left_lists}

        def shown(version: int) -> bool:
            """Whether every camera's frame has come under a version: its list, and the map that belongs to the list."""
            for name in PICTURES:
                ids, segments = pixels_of(maps[name][-1]), lists[name][-1]
                areas = {int(id_): int((ids == id_).sum()) for id_ in np.unique(ids) if id_}
                if stamp_of(segments) == stamp_of(images[name]) and areas == {s.id: s.area for s in segments.segments}:
                    seen[name, segments.vocabulary_version] = ids, segments
            return all((name, version) in seen for name in PICTURES)

        for name, camera in cameras.items():
            camera.wait_for_subscriber()
            camera.until(lambda name=name: lists[name] and maps[name], "the frame", lambda name=name: images[name])
        peer.wait_until(lambda: shown(1), "the first version")
        words = (("table", "red cup"), ("red cup", "table"), ("green ball", "wall", "unknown"), ("unknown",))
        for version, names in enumerate(words, start=2):
            answer = set_words(*names)
            assert (answer.success, answer.version, answer.message) == (True, version, "")
            peer.wait_until(lambda version=version: shown(version), f"version {version}")
        query = peer.call(Query, "/ovseg/query", Query.Request(phrase="blue ball"))
        cameras["front"].until(lambda: len(lists["front"]) > len(words) + 2, "a frame after the query")

    for (name, version), (ids, segments) in seen.items():
        wanted, labels = made_of(segmenter, FIRST if version == 1 else words[version - 2], name)
        assert (ids == wanted).mean() > 0.99 and [s.label for s in segments.segments] == labels, (name, version)
        numbers = [segment.track_id for segment in segments.segments]
        assert len(set(numbers)) == len(numbers) > 0 and min(numbers) > 0
    for name in PICTURES:  # ... and the words do take part in the masks
        masks = [seen[name, version][0] > 0 for version in range(1, len(words) + 2)]
        assert all((one != other).any() for one, other in pairwise(masks)), name
    [camera] = [name for name, image in PICTURES.items() if image.shape[:2] == (query.mask.height, query.mask.width)]
    wanted, labels = made_of(segmenter, ["blue ball"], camera)
    assert query.success and query.message == "" and len(query.segments) == len(labels)
    assert (pixels_of(query.segment_image) == wanted).mean() > 0.99
    assert peer.vocabulary().version == len(words) + 1 == lists["front"][-1].vocabulary_version


def test_what_is_not_known_is_said_to_whoever_asks(peer: Peer, node: TestProcess, set_words: Callable) -> None:
    answer = set_words("red cup", "purple zebra", "red giraffe", Category(name="wall", negative=True), "red lion")
    assert answer.success
    unknown = "'purple zebra', 'red giraffe' and 'red lion'"
    assert f"this preset does not know all of {unknown}; use other words" in answer.message
    assert "cannot tell apart 'red giraffe' and 'red lion'" in answer.message
    before = node.output
    query = peer.call(Query, "/ovseg/query", Query.Request(phrase="red thing"))
    assert "this preset does not know all of 'red thing'" in query.message
    assert node.output == before  # the log is about the node's own vocabulary


def test_a_text_longer_than_the_trained_ones_works_and_is_said_once_a_vocabulary(
    peer: Peer, node: TestProcess, cameras: dict[str, Camera], set_words: Callable
) -> None:
    assert TINY.trained_words < LENGTH
    for count, names in enumerate((LONG, LONG[::-1]), start=1):
        answer = set_words(*names)
        assert answer.success and f"{LENGTH} tokens; positions are interpolated" in answer.message
        with (
            peer.collect(PanopticSegmentation, "/ovseg/front/segments") as front,
            peer.collect(PanopticSegmentation, "/ovseg/left/segments") as left,
        ):
            for camera, lists in zip(cameras.values(), (front, left), strict=True):
                camera.until(
                    lambda lists=lists, version=answer.version: (
                        len([m for m in lists if m.vocabulary_version == version]) >= 3
                    ),
                    "frames under many words",
                )
        assert all(message.segments for message in (front[-1], left[-1]))
        assert node.output.count("positions are interpolated") == count
    answer = set_words(*LONG[:9])  # 38 tokens
    assert answer.message == ""
    synonyms = [Category(name=name, synonyms=[f"{name} mat"]) for name in LONG[:5]]  # 22 tokens, 47 with synonyms
    answer = set_words(*synonyms)
    assert answer.success and "the 5 synonyms are left out" in answer.message and "interpolated" not in answer.message
