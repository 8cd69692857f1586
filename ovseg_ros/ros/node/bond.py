"""A bond with a lifecycle manager such as Nav2's: the sign of life by which it notices that a node is dead or stuck.

The package `bond` defines it: both sides publish `Status` under one id, and one is held for dead by the other when it
says so, or says nothing for a while. A manager of Nav2 bonds with each node that it has activated, by the node's name,
on the topic `bond`, and ends the bring-up where nothing answers. This is the only place that imports bond.msg.

Only the node's half is here, which speaks and never listens. As Nav2's own servers do, the node goes on whatever
becomes of its manager; and the topic carries the heartbeats of all nodes, hundreds a second, all of which would pass
through Python.
"""

import uuid

from rclpy.node import Node
from rclpy.qos import QoSProfile

try:
    from bond.msg import Status
except ImportError as error:
    MISSING = (
        f"bond.msg cannot be imported ({error}), so there is no bond with a lifecycle manager; for one that expects "
        "it, as Nav2's do, install ros-$ROS_DISTRO-bond and restart, or give that manager bond_timeout: 0.0"
    )
else:
    MISSING = ""

HEARTBEAT_PERIOD = 0.2
"""Seconds between calls of `Bond.beat`; managers of Nav2 wait 4 s for one (2 s for the first) unless told otherwise."""

_HEARTBEAT_TIMEOUT = 4.0
"""Said in every message; the other side goes by its own."""


class Bond:
    """Beats from `form` to `dissolve`; does nothing where the package bond is missing.

    All is called in the executor's thread, so that the beats stop where callbacks are no longer served, and go on while
    other threads compute.

    Args:
        node: whose name is the bond's id.
        has_manager: whether one is to be expected, so that it is worth a word where the package is missing.
    """

    def __init__(self, node: Node, *, has_manager: bool) -> None:
        self._node = node
        self._instance = ""
        if not MISSING:
            self._publisher = node.create_publisher(Status, "bond", QoSProfile(depth=5))
        elif has_manager:
            node.get_logger().info(MISSING)
        else:
            node.get_logger().debug(MISSING)

    def form(self) -> None:
        """The node is active. A new bond, which messages of an earlier one do not concern."""
        self._instance = str(uuid.uuid4())
        self.beat()

    def beat(self) -> None:
        """Says that the node lives, where it is bonded."""
        if self._instance:
            self._say(active=True)

    def dissolve(self) -> None:
        """Says that the node is about to stop, where it was bonded."""
        if self._instance and self._node.context.ok():
            self._say(active=False)
        self._instance = ""

    def _say(self, *, active: bool) -> None:
        if MISSING or not self._publisher.get_subscription_count():
            return
        message = Status(id=self._node.get_name(), instance_id=self._instance, active=active)
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.heartbeat_period, message.heartbeat_timeout = HEARTBEAT_PERIOD, _HEARTBEAT_TIMEOUT
        self._publisher.publish(message)
