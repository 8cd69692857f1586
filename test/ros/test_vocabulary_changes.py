"""Vocabulary changes while frames flow, and a failing model, by a node whose segmenter waits and fails on demand."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ros_support import LATCHED, Camera, Peer, Processes, TestProcess, picture, pixels_of, request_of, stamp_of
from sensor_msgs.msg import Image

from ovseg_ros.msg import Category, PanopticSegmentation, Vocabulary
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query, SetVocabulary

SetNames = Callable[..., SetVocabulary.Response]


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, tiny_preset: Path) -> Iterator[TestProcess]:
    """The instrumented node; at the end it has to leave cleanly on Ctrl-C, which a launched process gets twice."""
    process = processes.start(
        Path(__file__).parent / "instrumented_node.py",
        preset=str(tiny_preset),
        vocabulary=["cup", "floor", "red ball"],
        max_categories=5,
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGINT, signal.SIGINT) == 0, process.output
    assert "Traceback" not in process.output


@pytest.fixture(scope="module")
def camera(node: TestProcess, peer: Peer) -> Camera:
    return Camera(peer)


@pytest.fixture
def set_names(node: TestProcess, peer: Peer) -> SetNames:
    def set_vocabulary(*names: str | Category) -> SetVocabulary.Response:
        return peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of(*names))

    return set_vocabulary


def test_changes_are_atomic_and_serial_while_frames_flow(
    peer: Peer, camera: Camera, node: TestProcess, processes: Processes
) -> None:
    before = peer.vocabulary().version
    with (
        peer.collect(PanopticSegmentation, "/ovseg/segments") as segments,
        peer.collect(Image, "/ovseg/label_image") as labels,
        peer.collect(Vocabulary, "/ovseg/vocabulary", LATCHED) as announced,
    ):
        camera.until(lambda: segments and announced, "segments and the latched vocabulary")
        first, first_done = peer.call_async(SetVocabulary, "/ovseg/set_vocabulary", request_of("slow mug", "floor"))
        camera.until(lambda: "encoding slow mug" in node.output, "encoding")
        second, second_done = peer.call_async(SetVocabulary, "/ovseg/set_vocabulary", request_of("bowl", "cup"))
        meanwhile = len(segments)
        camera.until(
            lambda: len(segments) >= meanwhile + 3, "frames under the old vocabulary while the new one is encoded"
        )
        assert {message.vocabulary_version for message in segments} == {before}
        assert not first.done() and not second.done()

        (processes.folder / "gate").touch()
        camera.until(lambda: first.done() and second.done(), "both answers")
        camera.until(lambda: segments[-1].vocabulary_version == before + 2, "frames under the new vocabulary")
        camera.until(lambda: stamp_of(segments[-1]) in map(stamp_of, labels), "the last frame's labels")
    first_done()
    second_done()
    assert [(answer.success, answer.version) for answer in (first.result(), second.result())] == [
        (True, before + 1),
        (True, before + 2),
    ]
    # Every output of a frame belongs to the version that the frame names, and that one was announced.
    versions = [message.vocabulary_version for message in segments]
    assert versions == sorted(versions)
    told = [vocabulary.version for vocabulary in announced]
    assert told in ([before, before + 1, before + 2], [before, before + 2])  # keeps the last only, as all outputs do
    names = {v.version: {category.id: category.name for category in v.categories} for v in announced}
    # A frame is published again, under its own header, when the vocabulary changes. An image that is replaced before it
    # was delivered is lost; then there is nothing to compare for that time.
    labelled, listed = Counter(map(stamp_of, labels)), Counter(map(stamp_of, segments))
    ids_of_stamp: dict[tuple[int, int], list[set[int]]] = {}
    for image in labels:
        ids_of_stamp.setdefault(stamp_of(image), []).append(set(pixels_of(image).ravel().tolist()) - {255})
    for message in segments:
        if message.vocabulary_version in names:
            known = names[message.vocabulary_version]
            assert all(known[segment.category_id] == segment.label for segment in message.segments)
        stamp = stamp_of(message)
        if labelled[stamp] == listed[stamp]:
            assert {segment.category_id for segment in message.segments} in ids_of_stamp[stamp]
    assert any(labelled[stamp] == count for stamp, count in listed.items())


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        pytest.param([], "no categories", id="empty"),
        pytest.param(["cup", "floor", " CUP "], "CUP", id="duplicate after normalising"),
        pytest.param(["cup", "x" * 101], "101 characters", id="over-long"),
        pytest.param(["cup", "bad\x07name"], "U+0007", id="control character"),
        pytest.param(["cup", "  "], "empty", id="blank"),
        pytest.param([f"name {index}" for index in range(6)], "at most 5", id="too many"),
        pytest.param([Category(name="cup", negative=True)], "negative", id="only negatives"),
        pytest.param([Category(name="cup", threshold=float("nan"))], "nan", id="threshold is not a number"),
    ],
)
def test_a_refused_vocabulary_changes_nothing(
    peer: Peer, set_names: SetNames, names: list[str | Category], reason: str
) -> None:
    before = peer.vocabulary()
    answer = set_names(*names)
    assert not answer.success and reason in answer.message
    assert (answer.version, list(answer.category_ids)) == (before.version, [])
    assert peer.vocabulary() == before


def test_ids_and_colours_stay(peer: Peer, set_names: SetNames) -> None:
    first = set_names("cup", "plate", "floor")
    original = {category.name: category for category in peer.vocabulary().categories}
    second = set_names("spoon", "plate")
    third = set_names("floor", "fork", "Cup")
    assert second.category_ids[1] == first.category_ids[1]
    assert [third.category_ids[2], third.category_ids[0]] == [first.category_ids[0], first.category_ids[2]]
    new = {second.category_ids[0], third.category_ids[1]}
    assert len(new) == 2 and not new & set(first.category_ids)
    again = {category.name: category for category in peer.vocabulary().categories}
    assert again["floor"] == original["floor"] and again["Cup"].color == original["cup"].color


def test_negatives_and_kinds_are_honoured(peer: Peer, camera: Camera, set_names: SetNames) -> None:
    answer = set_names(
        Category(name="cup", negative=True), Category(name="red ball", is_thing=False), Category(name="bowl")
    )
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: len([m for m in segments if m.vocabulary_version == answer.version]) >= 3, "segments")
    found = [s for m in segments if m.vocabulary_version == answer.version for s in m.segments]
    assert all(segment.label != "cup" for segment in found)
    assert all(segment.is_thing == (segment.label != "red ball") for segment in found)


@pytest.mark.parametrize(
    ("pixel", "message"),
    [
        ((255, 0, 255), "a frame was lost to RuntimeError: injected model fault"),
        ((255, 255, 0), "a frame was lost to MemoryError: injected host memory fault"),
        ((0, 255, 255), "a frame was lost to OutOfMemoryError: injected device memory fault"),
    ],
)
def test_a_failing_model_loses_one_frame(
    peer: Peer, camera: Camera, node: TestProcess, pixel: tuple[int, int, int], message: str
) -> None:
    poison = picture()
    poison[0, 0] = pixel
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: message in node.output, message, lambda: MESSAGES.image(poison, "rgb8", camera.header()))
        answer = peer.call(Query, "/ovseg/query", Query.Request(phrase="cup"))
        assert not answer.success and "injected" in answer.message
        segments.clear()
        camera.until(lambda: segments, "segments")


def test_without_subscribers_the_model_rests(peer: Peer, camera: Camera, node: TestProcess) -> None:
    headers = []

    def query() -> Query.Response:
        return peer.call(Query, "/ovseg/query", Query.Request(phrase="cup"))

    def newest_arrived() -> bool:
        return query().header in headers[-1:]

    def send() -> Image:
        headers.append(camera.header())
        return MESSAGES.image(picture(), "rgb8", headers[-1])

    queries_and_frames = []
    for _ in range(3):
        camera.send(send())
        before = node.output.count("segmenting")
        asked = 0
        while not newest_arrived():
            asked += 1
            camera.send(send())
        query()  # after this one, a frame that waited behind the first would have been segmented
        queries_and_frames.append(node.output.count("segmenting") - before - (asked + 2))
    # Only queries ran the model. The first round may still see a frame of the test before.
    assert queries_and_frames[1:] == [0, 0]
