"""The bundled preset whose masks words take part in: what a query and a change of the vocabulary make of the words.

The masks are compared with the simulator's truth; the node runs in a process of its own, with two cameras.
"""

import signal
from collections.abc import Iterator

import numpy as np
import pytest
from ros_support import Camera, Peer, Processes, TestProcess, pixels_of, request_of, stamp_of
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.query import phrase_vocabulary, query_response
from ovseg_ros.sim.categories import split_pair
from ovseg_ros.sim.simulator import Frame, TabletopSimulator
from ovseg_ros.srv import Query, SetVocabulary

PRESET = "tabletop_pmp"
SCENES = {"front": ("test", 168), "left": ("test", 78), "cones": ("val", 106)}
"""Split and seed. front, left: three red things each; cones: two green ones."""
CAMERAS = ("front", "left")


@pytest.fixture(scope="module")
def frames() -> dict[str, Frame]:
    def render(split: str, seed: int) -> Frame:
        with TabletopSimulator(seed, split=split) as simulator:
            return simulator.render()

    return {name: render(*scene) for name, scene in SCENES.items()}


def truth(frame: Frame, color: str = "", shape: str = "") -> list[np.ndarray]:
    """The masks of the things of a colour, a shape or both."""
    things = [(segment.id, *split_pair(segment.label)) for segment in frame.segments if segment.is_thing]
    return [frame.segment_ids == id_ for id_, c, s in things if color in ("", c) and shape in ("", s)]


def iou(mask: np.ndarray, other: np.ndarray) -> float:
    return float((mask & other).sum() / max((mask | other).sum(), 1))


def found_by(answer: Query.Response) -> list[np.ndarray]:
    """The masks of an answer, the best first."""
    assert answer.success, answer.message
    ids = pixels_of(answer.segment_image)
    masks = [ids == segment.id for segment in answer.segments]
    assert set(np.unique(ids)) <= {0} | {segment.id for segment in answer.segments}
    np.testing.assert_array_equal(pixels_of(answer.mask) > 0, masks[0])
    assert answer.score == max(segment.score for segment in answer.segments) == answer.segments[0].score
    assert answer.box == answer.segments[0].box
    return masks


# Without processes


@pytest.fixture(scope="module")
def segmenter() -> PanopticSegmenter:
    return build_segmenter(PRESET, "cpu")


@pytest.mark.parametrize(
    ("phrase", "scene", "color", "shape"),
    [
        ("red things", "front", "red", ""),
        ("the red things", "left", "red", ""),
        ("green cones", "cones", "green", "cone"),
    ],
)
def test_the_plural_finds_all_as_one(
    segmenter: PanopticSegmenter, frames: dict[str, Frame], phrase: str, scene: str, color: str, shape: str
) -> None:
    prompt = segmenter.prepare(phrase_vocabulary(phrase))
    answer = query_response(segmenter.segment(frames[scene].image, prompt), prompt, Header())
    group = np.any(truth(frames[scene], color, shape), axis=0)
    assert iou(found_by(answer)[0], group) > 0.5
    assert answer.message == "" and answer.segments[0].label == phrase


def test_the_singular_finds_them_one_by_one(segmenter: PanopticSegmenter, frames: dict[str, Frame]) -> None:
    prompt = segmenter.prepare(phrase_vocabulary("green cone"))
    masks = found_by(query_response(segmenter.segment(frames["cones"].image, prompt), prompt, Header()))
    cones = truth(frames["cones"], "green", "cone")
    best = [max(range(len(masks)), key=lambda index: iou(masks[index], cone)) for cone in cones]
    assert len(cones) == len(set(best)) == 2
    assert all(iou(masks[index], cone) > 0.5 for index, cone in zip(best, cones, strict=True))


# Over DDS


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer) -> Iterator[TestProcess]:
    process = processes.start(
        "segment_node", preset=PRESET, vocabulary=["blue egg", "white ball"], cameras=list(CAMERAS)
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output


def test_a_change_of_the_words_changes_masks_and_a_query_changes_nothing(
    peer: Peer, node: TestProcess, frames: dict[str, Frame]
) -> None:
    """Each camera shows its one frame again under every vocabulary: new masks, one version, old identities."""
    cameras = {name: Camera(peer, f"/{name}/image") for name in CAMERAS}
    images = {name: MESSAGES.image(frames["cones"].image, "rgb8", camera.header()) for name, camera in cameras.items()}
    seen: dict[tuple[str, int], tuple[np.ndarray, PanopticSegmentation]] = {}

    def shown(version: int) -> bool:
        """Whether every camera's frame has come under a version: its list, and the map that belongs to the list."""
        for name in CAMERAS:
            ids, segments = pixels_of(maps[name][-1]), lists[name][-1]
            areas = {int(id_): int((ids == id_).sum()) for id_ in np.unique(ids) if id_}
            if stamp_of(segments) == stamp_of(images[name]) and areas == {s.id: s.area for s in segments.segments}:
                seen[name, segments.vocabulary_version] = ids, segments
        return all((name, version) in seen for name in CAMERAS)

    with (
        peer.collect(Image, "/ovseg/front/segment_image") as front_maps,
        peer.collect(Image, "/ovseg/left/segment_image") as left_maps,
        peer.collect(PanopticSegmentation, "/ovseg/front/segments") as front_lists,
        peer.collect(PanopticSegmentation, "/ovseg/left/segments") as left_lists,
    ):
        maps, lists = {"front": front_maps, "left": left_maps}, {"front": front_lists, "left": left_lists}
        for name, camera in cameras.items():
            camera.wait_for_subscriber()
            camera.until(lambda name=name: lists[name] and maps[name], "the frame", lambda name=name: images[name])
        peer.wait_until(lambda: shown(1), "the first version")
        words = (["white ball", "blue egg", "green things"], ["egg", "ball", "table"])
        for version, names in enumerate(words, start=2):
            answer = peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of(text=", ".join(names)))
            assert (answer.success, answer.version) == (True, version), answer.message
            peer.wait_until(lambda version=version: shown(version), f"version {version}")
        query = peer.call(Query, "/ovseg/query", Query.Request(phrase="green cones"))
    assert peer.vocabulary().version == 3

    for (name, version), (_, segments) in seen.items():
        allowed = {*words[version - 2]} if version > 1 else {"blue egg", "white ball"}
        assert {segment.label for segment in segments.segments} <= allowed, (name, version)
    frame = frames["cones"]
    objects = [*truth(frame, "blue", "egg"), *truth(frame, "white", "ball")]

    def numbers(name: str, version: int) -> list[list[int]]:
        """Of each object, the track ids of the masks that are it."""
        ids, segments = seen[name, version]
        return [[s.track_id for s in segments.segments if iou(ids == s.id, mask) > 0.5] for mask in objects]

    for name in CAMERAS:
        first = numbers(name, 1)
        assert list(map(len, first)) == [1, 1] and first[0] != first[1], name
        assert numbers(name, 2) == numbers(name, 3) == first, name
        [cones] = [segment for segment in seen[name, 2][1].segments if segment.label == "green things"]
        assert [cones.track_id] not in first
    assert query.header in [image.header for image in images.values()]
    assert iou(found_by(query)[0], np.any(truth(frame, "green", "cone"), axis=0)) > 0.5
