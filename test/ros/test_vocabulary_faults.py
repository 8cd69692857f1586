"""Hostile vocabularies and queries, a thousand changes under load and a disk that fills up: the real node over DDS."""

import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rclpy.qos import QoSProfile, QoSReliabilityPolicy
from ros_support import (
    LATCHED,
    Camera,
    Peer,
    Processes,
    TestProcess,
    ovseg_vocabulary,
    picture,
    pixels_of,
    request_of,
    stamp_of,
)
from sensor_msgs.msg import Image

from ovseg_ros.core.errors import VocabularyError
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import MONO8_NO_CATEGORY, load_vocabulary_file, normalize_name
from ovseg_ros.msg import Category, PanopticSegmentation, Vocabulary
from ovseg_ros.offline.cli.main import main
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.ros.node.query import phrase_vocabulary
from ovseg_ros.srv import Query, SetVocabulary

UNLOST = QoSProfile(depth=2000, reliability=QoSReliabilityPolicy.RELIABLE)
"""However long this process is kept from reading, nothing that came is replaced by what comes next."""

SERVICE = "/ovseg/set_vocabulary"
HUGE = 10_000_000
LONGEST_ANSWER = 1000
"""Characters of a refusal; a person reads it, and a log keeps it."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabulary") / "words.yaml"


@pytest.fixture(scope="module")
def preset(tiny_preset: Path) -> Path:
    """The tiny preset, made to give every mask to some word, so that no frame is without a trace of its vocabulary."""
    contents = yaml.safe_load(tiny_preset.read_text())
    contents["model"]["classifier"]["none_logit"] = -100.0
    path = tiny_preset.with_name("every_mask_named.yaml")
    path.write_text(yaml.safe_dump(contents))
    return path


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, preset: Path, file: Path) -> Iterator[TestProcess]:
    """Takes the tests of this module one after the other, and has to be whole after them."""
    process = processes.start(
        Path(__file__).parent / "fast_text_node.py",
        preset=str(preset),
        vocabulary=["cup", "floor", "red ball"],
        vocabulary_file=str(file),
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output and "a frame was lost" not in process.output


@pytest.fixture(scope="module")
def camera(node: TestProcess, peer: Peer) -> Camera:
    return Camera(peer)


@pytest.fixture(scope="module")
def segments(camera: Camera, peer: Peer) -> Iterator[list[PanopticSegmentation]]:
    """What the node finds, and what keeps it working."""
    with peer.collect(PanopticSegmentation, "/ovseg/segments", UNLOST) as messages:
        yield messages


def ask(peer: Peer, *categories: str | Category, text: str = "") -> SetVocabulary.Response:
    return peer.call(SetVocabulary, SERVICE, request_of(*categories, text=text))


def frames_flow(camera: Camera, segments: list[PanopticSegmentation], version: int) -> None:
    """New frames come out under this version."""
    segments.clear()
    camera.until(lambda: segments, "segments")
    assert {message.vocabulary_version for message in segments} == {version}


# A thousand changes

CHANGES = 1000
REFUSED_EVERY = 25
QUERY_EVERY = 100
IN_FLIGHT = 4


@dataclass
class Changes:
    """Vocabularies of names that are used once, so that a category's id tells its version."""

    names: dict[int, dict[int, str]]
    """By version: name of every category id."""
    refusals: list[SetVocabulary.Response] = field(default_factory=list)

    def accept(self, request: SetVocabulary.Request, answer: SetVocabulary.Response) -> None:
        assert answer.success, answer.message
        assert answer.version not in self.names
        self.names[answer.version] = {
            id_: category.name for id_, category in zip(answer.category_ids, request.categories, strict=True)
        }

    def versions_with(self, ids: set[int]) -> list[int]:
        return [version for version, names in self.names.items() if ids <= names.keys()]


def test_a_thousand_changes_under_load(
    peer: Peer, camera: Camera, node: TestProcess, segments: list[PanopticSegmentation], file: Path
) -> None:
    first = peer.vocabulary()
    changes = Changes({first.version: {category.id: category.name for category in first.categories}})
    with (
        peer.collect(Image, "/ovseg/label_image", UNLOST) as labels,
        peer.collect(Image, "/ovseg/segment_image", UNLOST) as masks,
        peer.collect(Vocabulary, "/ovseg/vocabulary", LATCHED) as announced,
    ):
        camera.until(lambda: segments and labels and masks and announced, "every output")
        for start in range(0, CHANGES, QUERY_EVERY):
            change_often(peer, camera, changes, range(start, start + QUERY_EVERY))
            # However fast changes are: now and then a frame gets through under each hundred of them.
            last = max(changes.names)
            camera.until(lambda last=last: segments[-1].vocabulary_version == last, "a frame under the last version")
        peer.wait_until(lambda: announced[-1].version == last, "the last vocabulary")
        for images in (labels, masks):
            peer.wait_until(
                lambda images=images: stamp_of(segments[-1]) in map(stamp_of, images), "images of the last frame"
            )

    accepted = CHANGES - CHANGES // REFUSED_EVERY
    assert sorted(changes.names) == list(range(first.version, first.version + accepted + 1))
    assert len(changes.refusals) == CHANGES // REFUSED_EVERY
    assert all("already a name" in answer.message and not answer.category_ids for answer in changes.refusals)
    assert {category.id: category.name for category in peer.vocabulary().categories} == changes.names[last]
    assert [spec.name for spec in load_vocabulary_file(file)] == list(changes.names[last].values())

    check_announcements(announced, changes)
    check_segments(segments, changes)
    check_labels(labels, segments, changes)
    check_masks(masks, segments)


def change_often(peer: Peer, camera: Camera, changes: Changes, indices: range) -> None:
    """Keeps a few requests and a query on their way, and a frame for every message that comes in."""
    client = peer.node.create_client(SetVocabulary, SERVICE)
    peer.wait_until(client.service_is_ready, SERVICE)
    query, query_done = peer.call_async(Query, "/ovseg/query", Query.Request(phrase=f"phrase {indices.start}"))
    waiting: list[tuple[SetVocabulary.Request, Any]] = []
    todo = iter(indices)
    issued = 0

    def step() -> bool:
        nonlocal waiting, issued
        while len(waiting) < IN_FLIGHT and (index := next(todo, None)) is not None:
            issued += 1
            refused = index % REFUSED_EVERY == 0
            names = [f"same {index}", f"SAME  {index}"] if refused else [f"{kind} {index}" for kind in ("cup", "mat")]
            request = request_of(*names)
            waiting.append((request, client.call_async(request)))
        camera.send(MESSAGES.image(FRAME, "rgb8", camera.header()))
        for request, answer in waiting:
            if answer.done():
                if answer.result().success:
                    changes.accept(request, answer.result())
                else:
                    changes.refusals.append(answer.result())
        waiting = [(request, answer) for request, answer in waiting if not answer.done()]
        return issued == len(indices) and not waiting

    peer.wait_until(step, f"answers to {len(indices)} changes")
    peer.wait_until(query.done, "an answer of the query")
    assert query.result().success, query.result().message
    query_done()
    peer.node.destroy_client(client)


FRAME = picture()


def check_announcements(announced: list[Vocabulary], changes: Changes) -> None:
    versions = [message.version for message in announced]
    assert versions == sorted(set(versions)) and len(versions) > CHANGES // QUERY_EVERY
    for message in announced:
        assert {category.id: category.name for category in message.categories} == changes.names[message.version]


def check_segments(segments: list[PanopticSegmentation], changes: Changes) -> None:
    versions = [message.vocabulary_version for message in segments]
    assert versions == sorted(versions) and len(set(versions)) >= CHANGES // QUERY_EVERY
    published = [(stamp_of(message), message.vocabulary_version) for message in segments]
    assert len(published) == len(set(published))  # no frame twice under one version
    for message in segments:
        assert message.segments
        names = changes.names[message.vocabulary_version]
        assert all(names[segment.category_id] == segment.label for segment in message.segments)


def check_labels(labels: list[Image], segments: list[PanopticSegmentation], changes: Changes) -> None:
    found: dict[tuple[int, int], dict[int, set[int]]] = {}  # by stamp and version: category ids
    for message in segments:
        ids = {segment.category_id for segment in message.segments}
        found.setdefault(stamp_of(message), {})[message.vocabulary_version] = ids
    compared = 0
    for image in labels:
        ids = set(np.unique(pixels_of(image)).tolist()) - {NO_CATEGORY if image.encoding == "16UC1" else 255}
        assert ids
        (version,) = changes.versions_with(ids)  # one, and only one
        small = max(changes.names[version]) < MONO8_NO_CATEGORY
        assert image.encoding == ("mono8" if small else "16UC1")
        if found_under := found.get(stamp_of(image)):
            compared += 1
            assert found_under.get(version) == ids
    assert compared >= CHANGES // QUERY_EVERY
    assert {image.encoding for image in labels} == {"mono8", "16UC1"}


def check_masks(masks: list[Image], segments: list[PanopticSegmentation]) -> None:
    areas_of_stamp: dict[tuple[int, int], list[dict[int, int]]] = {}
    for message in segments:
        areas = {segment.id: segment.area for segment in message.segments}
        areas_of_stamp.setdefault(stamp_of(message), []).append(areas)
    compared = 0
    for image in masks:
        values, counts = np.unique(pixels_of(image), return_counts=True)
        areas = {value: count for value, count in zip(values.tolist(), counts.tolist(), strict=True) if value}
        if stamp_of(image) in areas_of_stamp:
            compared += 1
            assert areas in areas_of_stamp[stamp_of(image)]
    assert compared >= CHANGES // QUERY_EVERY


# Hostile words

LIGATURE = "\ufdfa"  # one character that NFKC makes 18 of
REFUSED_NAMES = [
    pytest.param(["x" * HUGE], "10000000 characters; at most 100", id="10 MB"),
    pytest.param(
        [LIGATURE * (HUGE // 3)], "3333333 characters; at most 100", id="10 MB that NFKC makes 18 times longer"
    ),
    pytest.param([Category(name="cup", synonyms=["x" * HUGE])], "10000000 characters", id="10 MB as a synonym"),
    pytest.param([f"word {index}" for index in range(10_000)], "10000 categories; at most 2000", id="10,000 words"),
    pytest.param(["\u200fكوب"], "U+200F at position 0", id="right-to-left mark"),
    pytest.param(["cup\u202epuc"], "U+202E at position 3", id="right-to-left override"),
    pytest.param(["\u2067cup\u2069"], "U+2067", id="direction isolate"),
    pytest.param(["cup\u200b"], "U+200B", id="zero-width space"),
    pytest.param(["cup\u2028mug"], "line separator U+2028", id="line separator"),
    pytest.param(["\x1b[31mcup"], "control character U+001B", id="terminal escape"),
    pytest.param(["\u3000\u00a0"], "empty", id="nothing but wide spaces"),
    pytest.param(["\u200d"], "empty", id="nothing but a joiner"),
    pytest.param(['"; rm -rf / #'], "semicolon", id="code"),
    pytest.param(["../../etc"], "looks like a file", id="path"),
    pytest.param(["traffic_light", "Traffic light"], "underscores are ignored", id="underscore"),
    pytest.param(["caf\u00e9", "cafe\u0301"], "already a name", id="composed and decomposed"),
    pytest.param(["cup", "\uff43\uff55\uff50"], "already a name", id="full width"),
    pytest.param(["fish", "\ufb01sh"], "already a name", id="ligature"),
    pytest.param(["stra\u00dfe", "STRASSE"], "already a name", id="sharp s"),
    pytest.param(["cup", Category(name="mug", synonyms=["c\u200cup"])], "already a name", id="joiner in a synonym"),
    pytest.param([Category(name="cup", synonyms=[f"cup {i}" for i in range(101)])], "101 synonyms", id="101 synonyms"),
]
REFUSED_TEXTS = [
    pytest.param("x" * HUGE, "10000000 characters", id="10 MB"),
    pytest.param(",".join(f"word {index}" for index in range(10_000)), "10000 categories", id="10,000 words"),
    pytest.param("x," * 500_000, "500000 categories; at most 2000", id="half a million words"),
    pytest.param("," * 1_000_000, "no names", id="a million commas"),
    pytest.param("cup, c\u202ep", "U+202E", id="right-to-left override"),
    pytest.param("caf\u00e9, CAFE\u0301", "already a name", id="composed and decomposed"),
]
ACCEPTED_NAMES = [
    pytest.param(["👩\u200d🚀", "🏳️\u200d🌈", "🇪🇺", "☕"], id="emoji, joined and flags"),
    pytest.param(["كوب أحمر", "שולחן", "پشم\u200cپشم"], id="right to left"),
    pytest.param([LIGATURE * 100, "a" + "\u0301" * 99, "\U0010fffd", "\uffff"], id="strange but printable"),
    pytest.param(["1 = 1 --", "%s%n", "$(reboot)", "& true"], id="code"),
    pytest.param([Category(name="cup", synonyms=[f"cup {i}" for i in range(100)])], id="100 synonyms"),
    pytest.param([f"{index}" + "☕" * 95 for index in range(2000)], id="2000 long names"),
]


@pytest.mark.parametrize(("names", "reason"), REFUSED_NAMES)
def test_hostile_categories_are_refused_and_change_nothing(
    peer: Peer, camera: Camera, segments: list[PanopticSegmentation], names: list[str | Category], reason: str
) -> None:
    before = peer.vocabulary()
    check_refusal(ask(peer, *names), reason, before)
    assert peer.vocabulary() == before
    frames_flow(camera, segments, before.version)


@pytest.mark.parametrize(("text", "reason"), REFUSED_TEXTS)
def test_hostile_texts_are_refused_and_change_nothing(
    peer: Peer, camera: Camera, segments: list[PanopticSegmentation], text: str, reason: str
) -> None:
    before = peer.vocabulary()
    check_refusal(ask(peer, text=text), reason, before)
    assert peer.vocabulary() == before
    frames_flow(camera, segments, before.version)


def check_refusal(answer: SetVocabulary.Response, reason: str, before: Vocabulary) -> None:
    assert not answer.success
    assert reason in answer.message and len(answer.message) <= LONGEST_ANSWER
    assert answer.message.isprintable()
    assert (answer.version, list(answer.category_ids)) == (before.version, [])


@pytest.mark.parametrize("names", ACCEPTED_NAMES)
def test_strange_words_are_words(
    peer: Peer, camera: Camera, segments: list[PanopticSegmentation], names: list[str | Category]
) -> None:
    answer = ask(peer, *names)
    assert answer.success, answer.message
    assert len(answer.category_ids) == len(names)
    wanted = [entry if isinstance(entry, str) else entry.name for entry in names]
    vocabulary = peer.vocabulary()
    assert (vocabulary.version, len(vocabulary.categories)) == (answer.version, len(names))
    with peer.collect(Image, "/ovseg/overlay_image") as overlays:  # draws the names
        camera.until(lambda: overlays, "an overlay")
        frames_flow(camera, segments, answer.version)
    labels = {segment.label for message in segments for segment in message.segments}
    assert labels <= {category.name for category in vocabulary.categories}
    assert [normalize_name(category.name) for category in vocabulary.categories] == list(map(normalize_name, wanted))


@pytest.mark.parametrize(
    ("phrase", "reason"),
    [
        pytest.param("x" * HUGE, "10000000 characters", id="10 MB"),
        pytest.param(LIGATURE * (HUGE // 3), "3333333 characters", id="10 MB that NFKC makes 18 times longer"),
        pytest.param(" ".join(["word"] * 10_000), "49999 characters", id="10,000 words"),
        pytest.param("", "empty", id="empty"),
        pytest.param("\u2066cup", "U+2066", id="direction isolate"),
        pytest.param("cup\x00", "", id="NUL, which ends a string on the wire"),
        pytest.param("\x07", "U+0007", id="control character"),
        pytest.param("👩\u200d🚀", "", id="emoji"),
        pytest.param("الكوب الأحمر", "", id="right to left"),
        pytest.param(LIGATURE * 100, "", id="as long as it may be"),
    ],
)
def test_hostile_phrases_are_answered(
    peer: Peer, camera: Camera, segments: list[PanopticSegmentation], phrase: str, reason: str
) -> None:
    before = peer.vocabulary()
    frames_flow(camera, segments, before.version)  # so that there is an image to look at
    answer = peer.call(Query, "/ovseg/query", Query.Request(phrase=phrase))
    assert answer.success == (not reason), answer.message
    assert reason in answer.message and len(answer.message) <= LONGEST_ANSWER
    assert peer.vocabulary() == before
    frames_flow(camera, segments, before.version)


def test_a_phrase_is_measured_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("ovseg_ros.ros.node.query.guess_is_thing", lambda phrase: bool(read.append(phrase)))
    with pytest.raises(VocabularyError, match="at most 100"):
        phrase_vocabulary(LIGATURE * 101)
    phrase_vocabulary(LIGATURE * 100)
    assert read == [LIGATURE * 100]


def test_what_the_transport_cannot_carry(peer: Peer, camera: Camera, segments: list[PanopticSegmentation]) -> None:
    """A lone surrogate has no UTF-8, so no client can send it; a NUL ends the string on its way."""
    before = peer.vocabulary()
    for request in (request_of("cup\ud800"), request_of(text="cup\udfff")):
        with pytest.raises(UnicodeEncodeError):
            peer.call(SetVocabulary, SERVICE, request)
    assert peer.vocabulary() == before
    frames_flow(camera, segments, before.version)
    answer = ask(peer, "mug\x00; red herring", "floor")
    assert answer.success, answer.message
    assert [category.name for category in peer.vocabulary().categories] == ["mug", "floor"]
    check_refusal(ask(peer, "\x00mug"), "empty", peer.vocabulary())
    frames_flow(camera, segments, answer.version)


# A disk that fills up


def test_a_full_disk_costs_only_the_saving(
    peer: Peer, camera: Camera, node: TestProcess, segments: list[PanopticSegmentation], file: Path
) -> None:
    """The process may not write files beyond a size, which fails in the midst of writing, as a full disk does."""
    assert ask(peer, "mug", "floor").message == ""
    saved = file.read_bytes()
    names = [f"{index} " + "☕" * 90 for index in range(2000)]
    most = 384 * 1024  # above the size of the log, below that of the names
    assert len(node.output) < most - 100_000 and most < sum(len(name.encode()) for name in names)
    limits = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        answer = ask(peer, *names)
        assert answer.success and len(answer.category_ids) == 2000
        assert f"in force but could not be saved to {file}: File too large" in answer.message
        frames_flow(camera, segments, answer.version)
        assert [category.name for category in peer.vocabulary().categories] == names
        assert file.read_bytes() == saved
        assert [path.name for path in file.parent.iterdir()] == [file.name]  # nor is anything half-written left
        assert "could not be saved" in node.output
    finally:
        resource.prlimit(node.pid, resource.RLIMIT_FSIZE, limits)
    assert ask(peer, *names).message == ""
    assert [spec.name for spec in load_vocabulary_file(file)] == names
    assert file.stat().st_size > most


# The command


def test_the_command_refuses_what_cannot_be(
    node: TestProcess, domain: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))

    def refusal(*arguments: str) -> str:
        try:
            assert main(["vocabulary", *arguments]) == 2
        except SystemExit as end:  # by argparse
            assert end.code == 2
        printed = capsys.readouterr()
        assert not printed.out and "Traceback" not in printed.err
        return printed.err

    for seconds in ("0", "-1", "nan", "inf", "soon"):
        assert "--timeout" in refusal("show", "--timeout", seconds)
    for name in ("", "two words", "/a//b", "/1st"):
        assert "is no name of a node" in refusal("show", "--node", name)
    assert "U+202E" in refusal("set", "cup\u202e")
    assert "lone surrogate U+DCFF" in refusal("set", "cup\udcff")  # what Python makes of a byte that is not UTF-8
    assert "no names" in refusal("add", " , ")
    assert "does not exist" in refusal("set", "nowhere.yaml")
    assert "at most 1048576" in refusal("set", "x" * (1 << 21))
    assert "no names" in refusal("remove", " , ")
    assert "not in the vocabulary" in refusal("remove", "no such cup")
    assert "lone surrogate U+DCFF" in refusal("remove", "cup\udcff")
    assert "did you mean 'indoor_robot'" in refusal("set", "indoor_robots")
    assert "the vocabulary has 2001 categories" in refusal("set", ",".join(f"word {i}" for i in range(2001)))


def test_the_command_prints_every_word_to_any_terminal(
    node: TestProcess, peer: Peer, domain: int, tmp_path: Path
) -> None:
    words = tmp_path / "words.yaml"
    words.write_text("categories: [{name: ☕, synonyms: [كوب], threshold: 0.3}, no, {name: wall, negative: true}]\n")
    assert "put quotes around it" in ovseg_vocabulary(domain, "set", str(words)).stderr  # YAML takes `no` for false
    words.write_text(words.read_text().replace("no,", "'no',"))
    done = ovseg_vocabulary(domain, "set", str(words), PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u2615 (\\u0643\\u0648\\u0628)  [thing, threshold 0.3]" in done.stdout
    assert [category.name for category in peer.vocabulary().categories] == ["☕", "no", "wall"]
    piped = ovseg_vocabulary(domain, "add", "floor", "--thing", PYTHONIOENCODING="utf-8")
    assert "☕ (كوب)  [thing, threshold 0.3]" in piped.stdout and "floor  [thing]" in piped.stdout
