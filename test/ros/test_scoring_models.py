"""A node whose model scores pixels: naming an EoMT's masks, and without masks, whole and split into components.

What the node publishes is compared with what the same preset makes of the same image and words in this process.
"""

import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import State, Transition
from ros_support import Camera, Peer, Processes, TestProcess, picture, pixels_of, request_of, stamp_of
from sensor_msgs.msg import Image
from tiny_lmseg import ARCHITECTURE, write_tiny_lmseg, write_tiny_semantic

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.msg import PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import Query, SetVocabulary

FIRST = ("red cup", "bowl")
MANY = tuple(f"{color} {noun}" for color in ("red", "green", "blue") for noun in ("ball", "cube", "ring"))
ROUNDING = 0.01
DESCRIBED = {"files": ["mine.yaml"]}
RED, BLUE, BROKEN = (
    f"format: 1\nwords: {{red cup: {{color: [{told}], shape: [with one handle]}}}}"
    for told in ("deep red", "blue and grey", "deep red, or so: [")
)


class Presets:
    """One preset file, which the node reads again whenever it is configured; weights and descriptions lie beside it."""

    def __init__(self, folder: Path) -> None:
        self.path, self.descriptions = folder / "mine_preset.yaml", folder / "mine.yaml"
        self.descriptions.write_text(RED)
        lmseg = write_tiny_lmseg(folder, descriptions=DESCRIBED).read_text()
        semantic = write_tiny_semantic(folder, descriptions=DESCRIBED).read_text()
        components = write_tiny_semantic(folder, descriptions=DESCRIBED, instances="components").read_text()
        untrained = semantic.replace("checkpoint: tiny_lmseg.safetensors", "checkpoint: null")
        assert untrained != semantic
        self._texts = {"lmseg": lmseg, "semantic": semantic, "components": components, "untrained": untrained}

    def take(self, kind: str) -> None:
        self.path.write_text(self._texts[kind])

    def made_of(self, names: Sequence[str], image: np.ndarray) -> PanopticResult:
        """By a segmenter of its own, which remembers no words."""
        segmenter = build_segmenter(str(self.path), "cpu")
        return segmenter.segment(image, segmenter.prepare(Vocabulary.build([CategorySpec(name) for name in names])))


@pytest.fixture(scope="module")
def presets(tmp_path_factory: pytest.TempPathFactory) -> Presets:
    return Presets(tmp_path_factory.mktemp("preset"))


@pytest.fixture(scope="module")
def node(processes: Processes, peer: Peer, presets: Presets) -> Iterator[TestProcess]:
    presets.take("lmseg")
    process = processes.start(
        Path(__file__).parent / "audited_node.py", preset=str(presets.path), vocabulary=list(FIRST)
    )
    peer.wait_until_active(process)
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output and "audit:" not in process.output


def hash_in(message: str) -> str:
    found = re.search(r"by mine\.yaml \(SHA-256 (\w{8})\)", message)
    assert found, message
    return found[1]


def scores_of(segments: PanopticSegmentation) -> dict[int, float]:
    return {segment.id: segment.score for segment in segments.segments}


def configured(peer: Peer) -> None:
    """The node, once it has read the preset again."""
    for transition, state in (
        (Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED),
        (Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE),
        (Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE),
    ):
        assert peer.change_state(transition) == (True, state)


@pytest.mark.parametrize("kind", ["lmseg", "semantic", "components"])
def test_frames_words_queries_and_descriptions(peer: Peer, node: TestProcess, presets: Presets, kind: str) -> None:
    presets.descriptions.write_text(RED)
    if kind != "lmseg":  # with which it started
        presets.take(kind)
        configured(peer)
    image = picture()
    camera = Camera(peer)
    frame = MESSAGES.image(image, "rgb8", camera.header())

    def set_words(*names: str) -> SetVocabulary.Response:
        return peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of(*names))

    with (
        peer.collect(Image, "/ovseg/segment_image") as maps,
        peer.collect(Image, "/ovseg/label_image") as labels,
        peer.collect(PanopticSegmentation, "/ovseg/segments") as lists,
        peer.collect(DiagnosticArray, "/diagnostics") as statuses,
    ):

        def shown(version: int) -> tuple[np.ndarray, np.ndarray, PanopticSegmentation] | None:
            """The frame under a version, once all three have come: the newest are of one frame and fit each other."""
            if not (maps and labels and lists) or lists[-1].vocabulary_version != version:
                return None
            ids, categories, segments = pixels_of(maps[-1]), pixels_of(labels[-1]), lists[-1]
            of_id = {segment.id: segment.category_id for segment in segments.segments}
            fits = {id_: set(np.unique(categories[ids == id_]).tolist()) for id_ in np.unique(ids).tolist() if id_}
            areas = {segment.id: segment.area for segment in segments.segments}
            if fits != {id_: {category} for id_, category in of_id.items()}:
                return None
            if areas != {id_: int((ids == id_).sum()) for id_ in fits} or stamp_of(segments) != stamp_of(frame):
                return None
            return ids, categories, segments

        def check(version: int, names: Sequence[str]) -> PanopticSegmentation:
            """The frame under a version is what a new segmenter makes of these words."""
            peer.wait_until(lambda: shown(version), f"version {version}", node)
            found = shown(version)
            assert found is not None
            expected = presets.made_of(names, image)
            assert (found[0] == expected.segment_ids).mean() > 0.99
            assert [s.label for s in found[2].segments] == [s.label for s in expected.segments]
            assert scores_of(found[2]) == pytest.approx({s.id: s.score for s in expected.segments}, abs=ROUNDING)
            numbers = [segment.track_id for segment in found[2].segments if segment.is_thing]
            assert len(set(numbers)) == len(numbers) and min(numbers, default=1) > 0
            return found[2]

        camera.wait_for_subscriber()
        camera.until(lambda: shown(1), "the frame", lambda: frame)
        check(1, FIRST)
        assert node.output.count("vocabulary 1: 1 of 2 names and synonyms are described, by mine.yaml") >= 1

        answer = set_words(*FIRST, "unknown")
        assert answer.success and answer.message.startswith("vocabulary 2: 1 of 3 names and synonyms are described")
        check(2, (*FIRST, "unknown"))
        answer = set_words(*MANY)
        most = ARCHITECTURE["padded_words"]
        assert f"of 9 words, this preset looks in each image at the {most} that CLIP" in answer.message
        check(3, MANY)
        answer = set_words("unknown")
        only = check(4, ["unknown"])
        assert answer.success and {segment.label for segment in only.segments} == {"unknown"}

        # Descriptions that change count for the same words, at once.
        red = set_words(*FIRST)
        before = check(5, FIRST)
        presets.descriptions.write_text(BLUE)
        blue = set_words(*FIRST)
        after = check(6, FIRST)
        assert blue.version == 6 and hash_in(blue.message) != hash_in(red.message)
        assert [s.area for s in before.segments] != [s.area for s in after.segments] or scores_of(
            before
        ) != pytest.approx(scores_of(after))
        for refused, reason in ((BROKEN, "mine.yaml"), (None, "cannot read the descriptions")):
            presets.descriptions.unlink() if refused is None else presets.descriptions.write_text(refused)
            answer = set_words("jar")
            assert not answer.success and answer.version == 6 and reason in answer.message
            query = peer.call(Query, "/ovseg/query", Query.Request(phrase="jar"))
            assert not query.success and reason in query.message
        camera.until(lambda: stamp_of(lists[-1]) != stamp_of(frame), "a frame under the words as they were")
        assert lists[-1].vocabulary_version == 6 and peer.vocabulary().version == 6

        def described() -> set[tuple[str, str]]:
            """What the diagnostics say of versions and descriptions."""
            told = [{pair.key: pair.value for pair in message.status[0].values} for message in statuses]
            return {(values["vocabulary version"], values["descriptions"]) for values in told}

        wanted = ("6", f"mine.yaml (SHA-256 {hash_in(blue.message)})")
        peer.wait_until(lambda: wanted in described(), "the hash beside the version", node)

        presets.descriptions.write_text(RED)
        query = peer.call(Query, "/ovseg/query", Query.Request(phrase="red cup"))
        expected = presets.made_of(["red cup"], image)
        assert query.success and query.message == ""  # the descriptions are nothing to complain of
        assert len(query.segments) == len(expected.segments)
    camera.close()


def test_an_untrained_scorer_says_so(peer: Peer, node: TestProcess, presets: Presets) -> None:
    presets.take("untrained")
    configured(peer)
    remark = "this preset names no checkpoint, so its scores are noise"
    assert remark in node.output
    answer = peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of("cup"))
    assert answer.success and remark in answer.message
