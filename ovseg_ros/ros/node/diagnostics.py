"""What `/diagnostics` says once a second (REP 107): one status for the model, one for each camera.

Figures go in, statuses come out, so that what is said can be tested without a robot.
"""

from collections.abc import Callable, Sequence

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from ovseg_ros.core.engine.options import Engine
from ovseg_ros.core.model import Prompt
from ovseg_ros.ros.node.statistics import CameraFigures

PERIOD = 1.0
"""Seconds between messages, by a clock that goes on where simulated time stands still."""
_TOO_MANY_FAILURES = 5
"""Frames lost in a row that are an error and no longer a warning."""
_PLAUSIBLE_LATENCY = 60.0
"""Seconds from stamp to publication beyond which, or below minus a second, the stamps belong to another clock."""


class Diagnostics:
    """Publishes, while somebody listens, what `statuses` answers."""

    def __init__(self, node: Node, statuses: Callable[[], Sequence[DiagnosticStatus]]) -> None:
        self._node = node
        self._statuses = statuses
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=1))
        node.create_timer(PERIOD, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def publish(self) -> None:
        """Publishes how things stand now."""
        if not self._publisher.get_subscription_count():
            return
        message = DiagnosticArray(status=self._statuses())
        message.header.stamp = self._node.get_clock().now().to_msg()
        node_name = self._node.get_fully_qualified_name()
        for status in message.status:
            status.name = f"{node_name.removeprefix('/')}: {status.name}"
            status.hardware_id = node_name
        self._publisher.publish(message)


def model_status(
    *,
    state: str,
    preset: str,
    device: str,
    engine: Engine | None,
    prompt: Prompt | None,
    host_memory: int,
    device_memory: tuple[int, int] | None,
    fault: str,
    warning: str = "",
) -> DiagnosticStatus:
    """The node apart from its cameras: an error where its last transition failed.

    Args:
        state: of the lifecycle, or what it is doing.
        engine: what runs the model; None without one.
        prompt: in force; None without a model.
        host_memory: resident bytes of the process.
        device_memory: bytes held on the GPU, and bytes free on it; None without a GPU.
        fault: why the last transition failed; empty if it did not.
        warning: what else to know, as long as it lasts; empty for nothing.
    """
    described = prompt.descriptions if prompt is not None else None
    values = {
        "state": state,
        "preset": preset,
        "device": device,
        "engine": engine.engine if engine is not None else "none",
        "precision": engine.precision if engine is not None else "none",
        "vocabulary version": prompt.vocabulary.version if prompt is not None else 0,
        "categories": len(prompt.vocabulary.categories) if prompt is not None else 0,
        "descriptions": described.sources if described is not None else "none",
        "host memory (MB)": round(host_memory / 1e6),
    }
    if device_memory is not None:
        held, free = device_memory
        values |= {"GPU memory (MB)": round(held / 1e6), "GPU memory free (MB)": round(free / 1e6)}
    values["last error"] = fault
    if fault:
        return _status("model", DiagnosticStatus.ERROR, f"{state}: {fault}", values)
    if warning:
        return _status("model", DiagnosticStatus.WARN, f"{state}: {warning}", values)
    return _status("model", DiagnosticStatus.OK, state, values)


def camera_status(
    figures: CameraFigures,
    *,
    name: str,
    activity: str,
    topics: Sequence[str],
    dropped: int,
    problem: str = "",
    mistyped: Sequence[str] = (),
    incompatible: Sequence[str] = (),
) -> DiagnosticStatus:
    """One camera: a warning where images do not come, do not fit or are lost; an error where all of them are lost.

    Args:
        figures: of its frames.
        name: as in the parameter cameras; empty for the only one.
        activity: what it does now, in words.
        topics: the inputs after remapping.
        dropped: frames replaced by a newer one before their turn came.
        problem: why no image comes; empty if they come or nobody wants any.
        mistyped: peers of another type, with what to do; without those that `problem` names.
        incompatible: peers whose QoS does not fit, with the policy.
    """
    latency, stamps_problem = _capture_latency(figures)
    complaints = [text for text in (problem, *mistyped, *incompatible, stamps_problem) if text]
    level = DiagnosticStatus.WARN if complaints else DiagnosticStatus.OK
    if figures.failing:
        complaints.append(f"the last {figures.failing} frames were lost to {figures.last_error}")
        level = DiagnosticStatus.ERROR if figures.failing >= _TOO_MANY_FAILURES else DiagnosticStatus.WARN
    p50, p95 = figures.callback_to_publish
    values = {
        "activity": activity,
        "input topics": ", ".join(topics),
        "input rate (Hz)": f"{figures.input_rate:.2f}",
        "output rate (Hz)": f"{figures.output_rate:.2f}",
        **latency,
        "callback to publish p50 (ms)": _milliseconds(p50),
        "callback to publish p95 (ms)": _milliseconds(p95),
        "frames received": figures.received,
        "frames published": figures.published,
        "frames dropped": dropped,
        "frames failed": figures.failed,
        "age of the last image (s)": "none yet" if figures.age is None else f"{figures.age:.2f}",
        "incompatible QoS": "; ".join(incompatible),
        "last error": figures.last_error,
    }
    return _status(f"camera {name}".rstrip(), level, "; ".join(complaints) or activity, values)


def _capture_latency(figures: CameraFigures) -> tuple[dict[str, str], str]:
    """The values of capture to publish, and a complaint where stamps and clock do not go together."""
    p50, p95 = figures.capture_to_publish
    names = ("capture to publish p50 (ms)", "capture to publish p95 (ms)")
    if -1.0 < p50 < _PLAUSIBLE_LATENCY or not figures.output_rate:
        return dict(zip(names, (_milliseconds(p50), _milliseconds(p95)), strict=True)), ""
    side = "behind" if p50 > 0 else "ahead of"
    complaint = (
        f"image stamps are {abs(p50):.0f} s {side} this node's clock: is use_sim_time set where it should be, "
        "and are the computers' clocks synchronised?"
    )
    return dict.fromkeys(names, "unknown, see message"), complaint


def _milliseconds(seconds: float) -> str:
    return "no frames" if seconds != seconds else f"{1000 * seconds:.1f}"


def _status(name: str, level: bytes, message: str, values: dict[str, object]) -> DiagnosticStatus:
    pairs = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    return DiagnosticStatus(name=name, level=level, message=message, values=pairs)
