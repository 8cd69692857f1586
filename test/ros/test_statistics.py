"""A camera's figures, and what the diagnostics make of them."""

from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.duration import Duration
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy

from ovseg_ros.core.descriptions import ATTRIBUTES, Descriptions
from ovseg_ros.core.engine.options import Engine
from ovseg_ros.core.model import Prompt
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.ros.node.diagnostics import camera_status, model_status
from ovseg_ros.ros.node.qos import incompatibility, input_qos, latched_qos, output_qos
from ovseg_ros.ros.node.statistics import CameraStatistics


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def run(statistics: CameraStatistics, clock: Clock, seconds: int, rate: int, latency: float = 0.05) -> None:
    for _ in range(seconds * rate):
        clock.now += 1 / rate
        statistics.arrived()
        statistics.published(latency, latency / 2)


def values_of(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def status_of(statistics: CameraStatistics, **changes: Any) -> DiagnosticStatus:
    described = {"name": "front", "activity": "subscribed", "topics": ["/front/image"], "dropped": 0}
    return camera_status(statistics.figures(), **described | changes)


def test_rates_and_latencies_look_back_over_the_window() -> None:
    clock = Clock()
    statistics = CameraStatistics(clock)
    run(statistics, clock, seconds=20, rate=30, latency=0.5)
    run(statistics, clock, seconds=10, rate=10)
    figures = statistics.figures()
    assert figures.input_rate == pytest.approx(10, abs=0.2) and figures.output_rate == pytest.approx(10, abs=0.2)
    assert (figures.received, figures.published, figures.failed) == (700, 700, 0)
    assert figures.capture_to_publish[1] == pytest.approx(0.05)
    assert figures.callback_to_publish[0] == pytest.approx(0.025)
    assert figures.age == 0.0
    clock.now += 60
    later = statistics.figures()
    assert (later.input_rate, later.output_rate, later.age) == (0.0, 0.0, 60.0)


def test_before_the_first_frame_nothing_is_made_up() -> None:
    values = values_of(status_of(CameraStatistics()))
    assert values["age of the last image (s)"] == "none yet"
    assert values["capture to publish p50 (ms)"] == "no frames"
    assert values["frames received"] == "0" and values["last error"] == ""


def test_a_healthy_camera_is_ok() -> None:
    clock = Clock()
    statistics = CameraStatistics(clock)
    run(statistics, clock, seconds=10, rate=20)
    status = status_of(statistics, dropped=4)
    assert (status.level, status.name, status.message) == (DiagnosticStatus.OK, "camera front", "subscribed")
    values = values_of(status)
    assert values["capture to publish p95 (ms)"] == "50.0" and values["frames dropped"] == "4"
    assert float(values["input rate (Hz)"]) == pytest.approx(20, abs=0.2)


def test_silence_and_misfitting_peers_are_warnings_in_their_own_words() -> None:
    statistics = CameraStatistics()
    status = status_of(statistics, problem="no image for 7 s on /front/image (0 publishers)")
    assert status.level == DiagnosticStatus.WARN and "/front/image (0 publishers)" in status.message
    status = status_of(statistics, mistyped=["/front/image is published as another type"])
    assert status.level == DiagnosticStatus.WARN and status.message == "/front/image is published as another type"
    status = status_of(statistics, incompatible=["/front/image: policy RELIABILITY"])
    assert status.level == DiagnosticStatus.WARN and "RELIABILITY" in status.message
    assert values_of(status)["incompatible QoS"] == "/front/image: policy RELIABILITY"


def test_lost_frames_are_a_warning_then_an_error_until_one_is_published() -> None:
    clock = Clock()
    statistics = CameraStatistics(clock)
    levels = []
    for _ in range(5):
        statistics.failed("RuntimeError: no luck")
        levels.append(status_of(statistics).level)
    assert levels == [DiagnosticStatus.WARN] * 4 + [DiagnosticStatus.ERROR]
    assert "RuntimeError: no luck" in status_of(statistics).message
    statistics.published(0.1, 0.1)
    status = status_of(statistics)
    assert status.level == DiagnosticStatus.OK
    assert values_of(status)["last error"] == "RuntimeError: no luck" and values_of(status)["frames failed"] == "5"


@pytest.mark.parametrize(("latency", "word"), [(1e9, "behind"), (-5.0, "ahead of")])
def test_stamps_of_another_clock_are_named_and_give_no_latency(latency: float, word: str) -> None:
    clock = Clock()
    statistics = CameraStatistics(clock)
    run(statistics, clock, seconds=10, rate=5, latency=latency)
    status = status_of(statistics)
    assert status.level == DiagnosticStatus.WARN and word in status.message and "use_sim_time" in status.message
    assert "unknown" in values_of(status)["capture to publish p50 (ms)"]


def test_the_models_status() -> None:
    first = Vocabulary.build([CategorySpec("cup")])
    words = Vocabulary.build([CategorySpec(name) for name in ("cup", "mug", "pot")], previous=first)
    described: dict[str, Any] = {
        "state": "active",
        "preset": "tabletop",
        "device": "cuda:0",
        "engine": Engine("compile", "float16", "engine compile, float16: warm-up 40.2 s"),
        "prompt": Prompt(words),
        "host_memory": 2_000_000_000,
        "device_memory": (3_000_000_000, 5_000_000_000),
        "fault": "",
    }
    status = model_status(**described)
    values = values_of(status)
    assert (status.level, status.message) == (DiagnosticStatus.OK, "active")
    assert (values["host memory (MB)"], values["GPU memory (MB)"], values["GPU memory free (MB)"]) == (
        "2000",
        "3000",
        "5000",
    )
    assert (values["vocabulary version"], values["categories"]) == ("2", "3")
    assert values["descriptions"] == "none"
    assert (values["engine"], values["precision"]) == ("compile", "float16")
    files = (("mugs.yaml", "0123456789abcdef" * 4), ("cups.yaml", "fedcba9876543210" * 4))
    prompt = Prompt(words, descriptions=Descriptions({}, ATTRIBUTES, with_templates=False, files=files))
    told = values_of(model_status(**described | {"prompt": prompt}))["descriptions"]
    assert told == "mugs.yaml (SHA-256 01234567), cups.yaml (SHA-256 fedcba98)"
    described |= {"state": "unconfigured", "engine": None, "prompt": None, "device_memory": None}
    status = model_status(**described | {"fault": "cannot start: no preset"})
    assert values_of(status)["vocabulary version"] == "0" and values_of(status)["engine"] == "none"
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, "unconfigured: cannot start: no preset")
    assert "GPU memory (MB)" not in values_of(status)


def test_incompatible_policies_are_named_with_both_values() -> None:
    best_effort = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)
    reliable = QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)
    latched = QoSProfile(
        depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
    )
    assert "RELIABILITY: offered BEST_EFFORT, requested RELIABLE" in incompatibility(best_effort, reliable)
    assert "DURABILITY: offered VOLATILE, requested TRANSIENT_LOCAL" in incompatibility(output_qos(), latched)
    for offered in (best_effort, reliable, latched):
        assert not incompatibility(offered, input_qos())
    # A period that is not set is 0 in a profile of one's own, and infinite in an endpoint's.
    hasty = QoSProfile(depth=1, deadline=Duration(seconds=1))
    endless = QoSProfile(depth=1, deadline=Duration(nanoseconds=2**63 - 1))
    assert "DEADLINE: offered inf s, requested 1 s" in incompatibility(reliable, hasty)
    assert not incompatibility(reliable, endless) and not incompatibility(endless, reliable)
    assert not incompatibility(hasty, reliable)
    assert not incompatibility(output_qos(), reliable) and not incompatibility(latched_qos(), latched)
