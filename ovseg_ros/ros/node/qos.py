"""Quality of service of every topic, and a log line when a peer asks for something else.

REP 2003: a consumer of sensor data takes best effort, which matches every camera driver. Outputs are reliable, because
RViz and other tools ask for that by default, and a best-effort subscriber still matches.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSLivelinessPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
    qos_policy_name_from_kind,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from ovseg_ros.ros.node.topic_types import Mistyped, mistyped_publishers, type_name

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks

    HAS_MATCHED_EVENTS = True
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

    HAS_MATCHED_EVENTS = False


_FOREVER = 9_000_000_000 * 10**9
"""Nanoseconds that mean "for ever"; middlewares write the largest number of their own, which is a little more."""


def input_qos(depth: int = 1) -> QoSProfile:
    """Best effort, and only the newest messages are kept."""
    return QoSProfile(depth=depth, reliability=QoSReliabilityPolicy.BEST_EFFORT)


def output_qos() -> QoSProfile:
    """Reliable, volatile, depth 1."""
    return QoSProfile(depth=1, reliability=QoSReliabilityPolicy.RELIABLE)


def latched_qos() -> QoSProfile:
    """Reliable, transient local, depth 1: who subscribes late still gets the last message."""
    return QoSProfile(
        depth=1, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
    )


class Subscriptions:
    """Topics that are subscribed to together. That a publisher of one does not fit is logged, and why.

    Args:
        topics: type and callback by relative name.
        qos: for all, unless parameters qos_overrides say otherwise.
        others: relative names of further inputs, whose topics are no advice for these.
    """

    def __init__(
        self,
        node: Node,
        topics: Mapping[str, tuple[type, Callable[[Any], None]]],
        qos: QoSProfile,
        others: Iterable[str] = (),
    ) -> None:
        self._node = node
        self._topics = topics
        self._qos = qos
        self._taken = frozenset(node.resolve_topic_name(name) for name in others)
        self._subscriptions: list[Subscription] = []

    @property
    def topics(self) -> list[str]:
        """Their names after remapping."""
        return [self._node.resolve_topic_name(name) for name in self._topics]

    @property
    def is_open(self) -> bool:
        """Whether it is subscribed."""
        return bool(self._subscriptions)

    def open(self) -> None:
        """Subscribes to all topics or to none.

        Raises:
            Exception: whatever rclpy raises on parameters qos_overrides that are no QoS.
        """
        overriding = QoSOverridingOptions.with_default_policies()
        try:
            for name, (kind, receive) in self._topics.items():
                events = SubscriptionEventCallbacks(
                    incompatible_qos=partial(self._warn, self._node.resolve_topic_name(name))
                )
                self._subscriptions.append(
                    self._node.create_subscription(
                        kind, name, receive, self._qos, event_callbacks=events, qos_overriding_options=overriding
                    )
                )
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Unsubscribes."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def incompatible(self) -> list[str]:
        """The publishers that are there now and cannot reach us: topic, node, policy and both sides' values."""
        return [
            f"{ours.topic_name}: publisher of node {theirs.node_name}: {reason}"
            for ours in self._subscriptions
            for theirs in self._node.get_publishers_info_by_topic(ours.topic_name)
            if theirs.topic_type == type_name(ours.msg_type)
            and (reason := incompatibility(theirs.qos_profile, ours.qos_profile))
        ]

    def mistyped(self) -> Mistyped:
        """The publishers that are there now and are of another type."""
        return mistyped_publishers(self._node, {name: kind for name, (kind, _) in self._topics.items()}, self._taken)

    def _warn(self, topic: str, event: Any) -> None:
        self._node.get_logger().warning(
            f"{topic}: a publisher offers an incompatible {_policy(event)}, so its images cannot arrive; "
            f"change its QoS, or ours with the parameter qos_overrides.{topic}.subscription.*"
        )


def latched_publisher(node: Node, message_type: type, name: str) -> Publisher:
    """Who subscribes late still gets the last message."""
    topic = node.resolve_topic_name(f"~/{name}")
    return node.create_publisher(message_type, topic, latched_qos(), event_callbacks=publisher_events(node, topic))


def publisher_events(node: Node, topic: str, on_matched: Callable[[], None] | None = None) -> PublisherEventCallbacks:
    """Logs that a subscriber of `topic` does not fit our publisher, and why.

    `on_matched` is called in the executor's thread when a subscriber comes or goes; never on Humble, which cannot tell.
    """

    def warn(event: Any) -> None:
        node.get_logger().warning(
            f"{topic}: a subscriber requests an incompatible {_policy(event)}, so it gets nothing; change its QoS"
        )

    if on_matched is None or not HAS_MATCHED_EVENTS:
        return PublisherEventCallbacks(incompatible_qos=warn)
    return PublisherEventCallbacks(incompatible_qos=warn, matched=lambda _: on_matched())


def offending_subscribers(node: Node, publishers: Iterable[Publisher]) -> list[str]:
    """The subscribers that are there now and cannot hear our publishers: topic, node, policy and both sides' values."""
    return [
        f"{ours.topic_name}: subscriber of node {theirs.node_name}: {reason}"
        for ours in publishers
        for theirs in node.get_subscriptions_info_by_topic(ours.topic_name)
        if theirs.topic_type == type_name(ours.msg_type)
        and (reason := incompatibility(ours.qos_profile, theirs.qos_profile))
    ]


def incompatibility(offered: QoSProfile, requested: QoSProfile) -> str:
    """The first policy by which a subscription cannot hear a publisher, with both values; empty where it can.

    Not `qos_check_compatible`: it takes a period that is not set, which one side gives as 0, for a shorter one than the
    same period as the other side's endpoint gives it, which is infinite.
    """
    best_effort, reliable = QoSReliabilityPolicy.BEST_EFFORT, QoSReliabilityPolicy.RELIABLE
    if (offered.reliability, requested.reliability) == (best_effort, reliable):
        return "policy RELIABILITY: offered BEST_EFFORT, requested RELIABLE"
    volatile, transient_local = QoSDurabilityPolicy.VOLATILE, QoSDurabilityPolicy.TRANSIENT_LOCAL
    if (offered.durability, requested.durability) == (volatile, transient_local):
        return "policy DURABILITY: offered VOLATILE, requested TRANSIENT_LOCAL"
    automatic, manual = QoSLivelinessPolicy.AUTOMATIC, QoSLivelinessPolicy.MANUAL_BY_TOPIC
    if (offered.liveliness, requested.liveliness) == (automatic, manual):
        return "policy LIVELINESS: offered AUTOMATIC, requested MANUAL_BY_TOPIC"
    periods = (
        ("DEADLINE", offered.deadline, requested.deadline),
        ("LIVELINESS_LEASE_DURATION", offered.liveliness_lease_duration, requested.liveliness_lease_duration),
    )
    for name, ours, theirs in periods:
        if _seconds(ours) > _seconds(theirs):
            return f"policy {name}: offered {_seconds(ours):g} s, requested {_seconds(theirs):g} s"
    return ""


def _seconds(period: Duration) -> float:
    """Zero stands for "not set", and so does the largest one."""
    return period.nanoseconds / 1e9 if 0 < period.nanoseconds < _FOREVER else float("inf")


def _policy(event: Any) -> str:
    return f"QoS policy {qos_policy_name_from_kind(event.last_policy_kind)}"
