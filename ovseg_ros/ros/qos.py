"""Quality of service of every topic, and a log line when a peer asks for something else.

REP 2003: a consumer of sensor data takes best effort, which matches every camera driver. Outputs are reliable, because
RViz and other tools ask for that by default, and a best-effort subscriber still matches.
"""

from typing import Any

from rclpy.node import Node
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_policy_name_from_kind,
)

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks


def input_qos() -> QoSProfile:
    """Best effort, and only the newest message is kept."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def output_qos() -> QoSProfile:
    """Reliable, volatile, depth 1."""
    return QoSProfile(history=QoSHistoryPolicy.KEEP_LAST, depth=1, reliability=QoSReliabilityPolicy.RELIABLE)


def latched_qos() -> QoSProfile:
    """Reliable, transient local, depth 1: who subscribes late still gets the last message."""
    return QoSProfile(
        history=QoSHistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=QoSReliabilityPolicy.RELIABLE,
        durability=QoSDurabilityPolicy.TRANSIENT_LOCAL,
    )


def subscription_events(node: Node, topic: str) -> SubscriptionEventCallbacks:
    """Logs that a publisher of `topic` does not fit our subscription, and why."""

    def warn(event: Any) -> None:
        node.get_logger().warning(
            f"{topic}: a publisher offers an incompatible {_policy(event)}, so its images cannot arrive; "
            f"change its QoS, or ours with the parameter qos_overrides.{topic}.subscription.*"
        )

    return SubscriptionEventCallbacks(incompatible_qos=warn)


def publisher_events(node: Node, topic: str) -> PublisherEventCallbacks:
    """Logs that a subscriber of `topic` does not fit our publisher, and why."""

    def warn(event: Any) -> None:
        node.get_logger().warning(
            f"{topic}: a subscriber requests an incompatible {_policy(event)}, so it gets nothing; change its QoS"
        )

    return PublisherEventCallbacks(incompatible_qos=warn)


def _policy(event: Any) -> str:
    return f"QoS policy {qos_policy_name_from_kind(event.last_policy_kind)}"
