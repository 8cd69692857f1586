"""What `/diagnostics` says once a second (REP 107): one status for the model, one for each camera.

Reports go in, statuses come out, so that what is said can be tested without a robot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from ovseg_ros.ros.node.statistics import CameraFigures

PERIOD = 1.0
"""Seconds between messages, by a clock that goes on where simulated time stands still."""
_TOO_MANY_FAILURES = 5
"""Frames lost in a row that are an error and no longer a warning."""
_PLAUSIBLE_LATENCY = 60.0
"""Seconds from stamp to publication beyond which, or below minus a second, the stamps belong to another clock."""


@dataclass(frozen=True, slots=True)
class ModelReport:
    """The node apart from its cameras.

    Attributes:
        state: of the lifecycle, or what it is doing.
        host_memory: resident bytes of the process.
        device_memory: bytes held on the GPU, and bytes free on it; None without a GPU.
        vocabulary_version: 0 while there is none.
        fault: why the last transition failed; empty if it did not.
    """

    state: str
    preset: str
    device: str
    host_memory: int
    device_memory: tuple[int, int] | None
    vocabulary_version: int
    categories: int
    fault: str


@dataclass(frozen=True, slots=True)
class CameraReport:
    """One camera.

    Attributes:
        name: as in the parameter cameras; empty for the only one.
        activity: what it does now, in words.
        topics: the inputs after remapping.
        dropped: frames replaced by a newer one before their turn came.
        problem: why no image comes; empty if they come or nobody wants any.
        incompatible: peers whose QoS does not fit, with the policy.
    """

    name: str
    activity: str
    topics: Sequence[str]
    figures: CameraFigures
    dropped: int
    problem: str = ""
    incompatible: Sequence[str] = field(default=())


class Diagnostics:
    """Publishes the reports while somebody listens.

    Args:
        node: owns publisher and timer.
        model: asked for the model's report.
        cameras: asked for the cameras' reports.
    """

    def __init__(
        self, node: Node, model: Callable[[], ModelReport], cameras: Callable[[], Sequence[CameraReport]]
    ) -> None:
        self._node = node
        self._model = model
        self._cameras = cameras
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=1))
        node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publishes how things stand now."""
        if not self._publisher.get_subscription_count():
            return
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [model_status(self._model()), *map(camera_status, self._cameras())]
        node_name = self._node.get_fully_qualified_name()
        for status in message.status:
            status.name = f"{node_name.removeprefix('/')}: {status.name}"
            status.hardware_id = node_name
        self._publisher.publish(message)


def model_status(report: ModelReport) -> DiagnosticStatus:
    """The node apart from its cameras: an error where its last transition failed."""
    values = {
        "state": report.state,
        "preset": report.preset,
        "device": report.device,
        "vocabulary version": report.vocabulary_version,
        "categories": report.categories,
        "host memory (MB)": round(report.host_memory / 1e6),
    }
    if report.device_memory is not None:
        held, free = report.device_memory
        values |= {"GPU memory (MB)": round(held / 1e6), "GPU memory free (MB)": round(free / 1e6)}
    values["last error"] = report.fault
    if report.fault:
        return _status("model", DiagnosticStatus.ERROR, f"{report.state}: {report.fault}", values)
    return _status("model", DiagnosticStatus.OK, report.state, values)


def camera_status(report: CameraReport) -> DiagnosticStatus:
    """One camera: a warning where images do not come, do not fit or are lost; an error where all of them are lost."""
    figures = report.figures
    latency, stamps_problem = _capture_latency(figures)
    complaints = [text for text in (report.problem, *report.incompatible, stamps_problem) if text]
    level = DiagnosticStatus.WARN if complaints else DiagnosticStatus.OK
    if figures.failing:
        complaints.append(f"the last {figures.failing} frames were lost to {figures.last_error}")
        level = DiagnosticStatus.ERROR if figures.failing >= _TOO_MANY_FAILURES else DiagnosticStatus.WARN
    values = {
        "activity": report.activity,
        "input topics": ", ".join(report.topics),
        "input rate (Hz)": f"{figures.input_rate:.2f}",
        "output rate (Hz)": f"{figures.output_rate:.2f}",
        **latency,
        "callback to publish p50 (ms)": _milliseconds(figures.callback_to_publish.p50),
        "callback to publish p95 (ms)": _milliseconds(figures.callback_to_publish.p95),
        "frames received": figures.received,
        "frames published": figures.published,
        "frames dropped": report.dropped,
        "frames failed": figures.failed,
        "age of the last image (s)": "none yet" if figures.age is None else f"{figures.age:.2f}",
        "incompatible QoS": "; ".join(report.incompatible),
        "last error": figures.last_error,
    }
    name = f"camera {report.name}".rstrip()
    return _status(name, level, "; ".join(complaints) or report.activity, values)


def _capture_latency(figures: CameraFigures) -> tuple[dict[str, str], str]:
    """The values of capture to publish, and a complaint where stamps and clock do not go together."""
    latency = figures.capture_to_publish
    names = ("capture to publish p50 (ms)", "capture to publish p95 (ms)")
    if -1.0 < latency.p50 < _PLAUSIBLE_LATENCY or not figures.output_rate:
        return dict(zip(names, map(_milliseconds, (latency.p50, latency.p95)), strict=True)), ""
    side = "behind" if latency.p50 > 0 else "ahead of"
    complaint = (
        f"image stamps are {abs(latency.p50):.0f} s {side} this node's clock: is use_sim_time set where it should be, "
        "and are the computers' clocks synchronised?"
    )
    return dict.fromkeys(names, "unknown, see message"), complaint


def _milliseconds(seconds: float) -> str:
    return "no frames" if seconds != seconds else f"{1000 * seconds:.1f}"


def _status(name: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
