"""The managed node over DDS, as `ros2 lifecycle` and lifecycle managers drive it, and what its diagnostics say."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import GetAvailableTransitions
from rclpy.duration import Duration
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from ros_support import Camera, Peer, Processes, TestProcess, request_of
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from ovseg_ros.msg import PanopticSegmentation, Vocabulary
from ovseg_ros.srv import Query, SetVocabulary

Statuses = Callable[[Callable[[dict[str, DiagnosticStatus]], bool], str], dict[str, DiagnosticStatus]]


@pytest.fixture(scope="module")
def node(processes: Processes, tiny_preset: Path) -> Iterator[TestProcess]:
    """The instrumented node, left to its manager; at first its preset does not exist."""
    process = processes.start(
        Path(__file__).parent / "instrumented_node.py",
        preset=str(processes.folder / "late.yaml"),
        vocabulary=["cup", "floor"],
        autostart=False,
        image_timeout=1.0,
        **{"qos_overrides./image.subscription.reliability": "reliable"},
    )
    yield process
    assert process.interrupt(signal.SIGTERM) == 0, process.output
    assert "Traceback" not in process.output


@pytest.fixture
def statuses(peer: Peer, node: TestProcess) -> Iterator[Statuses]:
    """Waits until the newest statuses, by the end of their names, are as wished, and returns them."""
    with peer.collect(DiagnosticArray, "/diagnostics") as messages:

        def wait(condition: Callable[[dict[str, DiagnosticStatus]], bool], what: str) -> dict[str, DiagnosticStatus]:
            def newest() -> dict[str, DiagnosticStatus]:
                return {status.name.split(": ")[1]: status for status in messages[-1].status} if messages else {}

            peer.wait_until(lambda: messages and condition(newest()), what, node)
            return newest()

        yield wait


def test_a_configuration_that_fails_gives_its_reason_and_can_be_tried_again(
    peer: Peer, node: TestProcess, processes: Processes, tiny_preset: Path, statuses: Statuses
) -> None:
    model = statuses(lambda now: now["model"].message == "unconfigured", "the unconfigured node")["model"]
    assert model.level == DiagnosticStatus.OK and model.hardware_id == "/ovseg" and model.name == "ovseg: model"
    assert peer.change_state(Transition.TRANSITION_CONFIGURE) == (False, State.PRIMARY_STATE_UNCONFIGURED)
    model = statuses(lambda now: now["model"].level == DiagnosticStatus.ERROR, "an error")["model"]
    assert "late.yaml" in model.message and "unconfigured" in model.message
    assert "cannot start" in node.output and "late.yaml" in node.output

    for file in tiny_preset.parent.iterdir():
        (processes.folder / file.name.replace("tiny.yaml", "late.yaml")).write_bytes(file.read_bytes())
    assert peer.change_state(Transition.TRANSITION_CONFIGURE) == (True, State.PRIMARY_STATE_INACTIVE)
    model = statuses(lambda now: now["model"].message == "inactive", "the inactive node")["model"]
    values = {pair.key: pair.value for pair in model.values}
    assert model.level == DiagnosticStatus.OK and values["vocabulary version"] == "1" and values["last error"] == ""
    assert int(values["host memory (MB)"]) > 50


def test_a_camera_that_does_not_fit_or_does_not_come_is_named(
    peer: Peer, node: TestProcess, statuses: Statuses
) -> None:
    assert peer.change_state(Transition.TRANSITION_ACTIVATE) == (True, State.PRIMARY_STATE_ACTIVE)
    resting = statuses(lambda now: "resting" in now["camera"].message, "the resting camera")["camera"]
    assert resting.level == DiagnosticStatus.OK and "no image for" not in node.output  # for nobody asks for one
    with peer.collect(PanopticSegmentation, "/ovseg/segments"):
        warning = statuses(lambda now: "no image for" in now["camera"].message, "the missing camera")["camera"]
        assert warning.level == DiagnosticStatus.WARN and "/image (0 publishers)" in warning.message

    best_effort = peer.node.create_publisher(Image, "/image", qos_profile_sensor_data)
    with peer.collect(PanopticSegmentation, "/ovseg/segments"):
        warning = statuses(lambda now: "RELIABILITY" in now["camera"].message, "a warning of the QoS")["camera"]
        assert "/image: publisher of node peer: policy RELIABILITY: offered BEST_EFFORT" in warning.message
        assert warning.level == DiagnosticStatus.WARN
        node.wait_for_output("/image: a publisher offers an incompatible QoS policy RELIABILITY")
    peer.node.destroy_publisher(best_effort)


def test_peers_of_another_type_are_named_once_with_the_remedy(
    peer: Peer, node: TestProcess, statuses: Statuses, domain: int
) -> None:
    jpegs = peer.node.create_publisher(CompressedImage, "/image", qos_profile_sensor_data)
    text = "/image is published as sensor_msgs/msg/CompressedImage (by node peer), but image takes"
    text += " sensor_msgs/msg/Image"
    line = f"{text}; start it with -r image/compressed:=/image -p image_transport:=compressed"
    line += " (segment.launch.py: compressed_image:=/image in place of image)"
    status = statuses(lambda now: now["camera"].message == line, "a warning of the type while nobody wants images")
    assert status["camera"].level == DiagnosticStatus.WARN
    with peer.collect(PanopticSegmentation, "/ovseg/segments"):
        status = statuses(lambda now: "no image for" in now["camera"].message, "the missing image")["camera"]
    assert f"s: {text}" in status.message and status.message.count(text) == 1
    assert "QoS" not in status.message
    peer.node.destroy_publisher(jpegs)
    statuses(lambda now: now["camera"].level == DiagnosticStatus.OK, "the end of the warning")
    assert sum(text in line and "no image for" not in line for line in node.output.splitlines()) == 1

    clouds = peer.node.create_subscription(PointCloud2, "/ovseg/label_image", print, qos_profile_sensor_data)
    text = "/ovseg/label_image is sensor_msgs/msg/Image, but node peer asks for sensor_msgs/msg/PointCloud2"
    status = statuses(lambda now: text in now["camera"].message, "a warning of the subscriber")["camera"]
    assert status.level == DiagnosticStatus.WARN and "or to /ovseg/points, which is" in status.message
    node.wait_for_output(text)
    peer.node.destroy_subscription(clouds)

    text = "/ovseg/vocabulary is ovseg_ros/msg/Vocabulary, but node peer asks for sensor_msgs/msg/PointCloud2"
    qos = "/ovseg/vocabulary: subscriber of node peer: policy DEADLINE"
    impatient = QoSProfile(depth=1, deadline=Duration(seconds=1))
    late = peer.node.create_subscription(Vocabulary, "/ovseg/vocabulary", print, impatient)
    with Peer(domain) as other:  # no process may have two types on a topic
        other.node.create_subscription(PointCloud2, "/ovseg/vocabulary", print, qos_profile_sensor_data)
        status = statuses(lambda now: all(part in now["model"].message for part in (text, qos)), "who hears nothing")
    assert status["model"].level == DiagnosticStatus.WARN
    node.wait_for_output(" asks for sensor_msgs/msg/PointCloud2, so it gets nothing; subscribe with ovseg_ros/msg/Voc")
    peer.node.destroy_subscription(late)


def test_diagnostics_follow_the_frames(peer: Peer, node: TestProcess, statuses: Statuses) -> None:
    camera = Camera(peer)
    resting = statuses(lambda now: "resting" in now["camera"].message, "the resting camera")["camera"]
    assert resting.level == DiagnosticStatus.OK
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: len(segments) >= 3, "segments")
        # The camera's stamps are from 1970; no latency is made up from them.
        now = statuses(lambda now: "behind this node's clock" in now["camera"].message, "the stamps' warning")
    values = {pair.key: pair.value for pair in now["camera"].values}
    assert int(values["frames published"]) >= 3 and int(values["frames received"]) >= 3
    assert float(values["input rate (Hz)"]) > 0 and float(values["callback to publish p50 (ms)"]) > 0
    assert values["capture to publish p50 (ms)"] == "unknown, see message"
    assert float(values["age of the last image (s)"]) < 60 and values["incompatible QoS"] == ""
    camera.close()


def test_deactivation_keeps_the_model_and_cleanup_frees_it(peer: Peer, node: TestProcess) -> None:
    camera = Camera(peer)
    with peer.collect(PanopticSegmentation, "/ovseg/segments") as segments:
        camera.until(lambda: segments, "segments")
        assert peer.change_state(Transition.TRANSITION_DEACTIVATE) == (True, State.PRIMARY_STATE_INACTIVE)
        peer.wait_until(lambda: not camera.publisher.get_subscription_count(), "the subscription's end")
        assert "segmenter freed" not in node.output
        assert peer.vocabulary().version == 1
        segments.clear()
        assert peer.change_state(Transition.TRANSITION_ACTIVATE) == (True, State.PRIMARY_STATE_ACTIVE)
        camera.until(lambda: segments, "segments after a pause")
        assert node.output.count("vocabulary of 2 categories") == 1  # loaded once
        assert peer.change_state(Transition.TRANSITION_DEACTIVATE) == (True, State.PRIMARY_STATE_INACTIVE)
        assert peer.change_state(Transition.TRANSITION_CLEANUP) == (True, State.PRIMARY_STATE_UNCONFIGURED)
        node.wait_for_output("segmenter freed")
    camera.close()


def test_what_the_state_does_not_allow_is_refused(peer: Peer, node: TestProcess, statuses: Statuses) -> None:
    answer = peer.call(GetAvailableTransitions, "/ovseg/get_available_transitions", GetAvailableTransitions.Request())
    labels = {description.transition.label for description in answer.available_transitions}
    assert labels == {"configure", "shutdown"}
    assert peer.change_state(Transition.TRANSITION_ACTIVATE) == (False, State.PRIMARY_STATE_UNCONFIGURED)
    node.wait_for_output("cannot change state")
    [line] = [line for line in node.output.splitlines() if "cannot change state" in line]
    assert "activate" in line and "unconfigured" in line and "possible now: configure, shutdown" in line
    assert peer.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)[0]
    model = statuses(lambda now: now["model"].message == "finalized", "the finalized node")["model"]
    assert "finalized" in {pair.key: pair.value for pair in model.values}["state"]
    for answer in (
        peer.call(SetVocabulary, "/ovseg/set_vocabulary", request_of("cup")).message,
        peer.call(Query, "/ovseg/query", Query.Request(phrase="cup")).message,
    ):
        assert "shut down (state finalized)" in answer and "start it again" in answer
