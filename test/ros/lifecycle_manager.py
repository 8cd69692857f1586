"""A program for test_bond.py, for an environment that has bond: the side of a lifecycle manager of Nav2.

It prints what it has seen, one word a line, in this order; a word in brackets is a file that it waits for before.

    silent      inactive, the node says nothing
    formed      activated, it beats
    busy        it beats on while the node encodes a vocabulary ("slow ...", until the file `gate` is there)
    broken      deactivated, it says so, and is silent after that
    renewed     activated again, it beats as another instance
    [stopped] lost, [continued] found, [killed] lost
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from bond.msg import Status
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.qos import QoSProfile

from ovseg_ros.msg import Category
from ovseg_ros.srv import SetVocabulary

DEADLINE = 100.0
SILENCE = 1.0
"""Seconds without a beat, of five a second, that are silence."""


class Manager:
    """What the node says under its name, and its transitions."""

    def __init__(self) -> None:
        self.node = rclpy.create_node("lifecycle_manager")
        self.said: list[Status] = []
        self.node.create_subscription(Status, "bond", self._receive, QoSProfile(depth=100))
        self._change_state = self.node.create_client(ChangeState, "/ovseg/change_state")
        self.set_vocabulary = self.node.create_client(SetVocabulary, "/ovseg/set_vocabulary")

    def _receive(self, message: Status) -> None:
        if message.id == "ovseg":
            self.said.append(message)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"no {what}; said: {self.said[-3:]}"
            rclpy.spin_once(self.node, timeout_sec=0.05)

    def change_state(self, transition: int) -> None:
        self.until(self._change_state.service_is_ready, "lifecycle services")
        future = self._change_state.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.until(future.done, "answer")
        assert future.result().success

    def beats(self, count: int = 4) -> set[str]:
        """Waits for so many more; their instances."""
        before = len(self.said)
        self.until(lambda: len(self.said) >= before + count, "beats")
        assert all(message.active for message in self.said[before:]), self.said[before:]
        return {message.instance_id for message in self.said[before:]}

    def silence(self) -> None:
        """Fails if anything is said in a while."""
        self._spin(0.2)  # what is on its way
        before = len(self.said)
        self._spin(SILENCE)
        assert len(self.said) == before, self.said[before:]

    def _spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self.node, timeout_sec=0.05)


def main() -> None:
    rclpy.init()
    manager = Manager()

    def file(name: str) -> None:
        manager.until(Path(name).exists, name)

    manager.change_state(Transition.TRANSITION_CONFIGURE)
    manager.silence()
    assert not manager.said
    print("silent", flush=True)

    manager.change_state(Transition.TRANSITION_ACTIVATE)
    (first,) = manager.beats()
    message = manager.said[0]
    assert message.header.stamp.sec > 0 and 0 < message.heartbeat_period < 1 and message.heartbeat_timeout == 4
    print("formed", flush=True)

    request = SetVocabulary.Request(categories=[Category(name="slow mug")])
    future = manager.set_vocabulary.call_async(request)
    manager.beats(8)
    assert not future.done()
    Path("gate").touch()
    manager.until(future.done, "answer")
    assert future.result().success
    print("busy", flush=True)

    manager.change_state(Transition.TRANSITION_DEACTIVATE)
    manager.until(lambda: not manager.said[-1].active, "farewell")
    assert [message.active for message in manager.said].count(False) == 1
    assert manager.said[-1].instance_id == first
    manager.silence()
    print("broken", flush=True)

    manager.change_state(Transition.TRANSITION_ACTIVATE)
    (second,) = manager.beats()
    assert second != first
    print("renewed", flush=True)

    file("stopped")
    manager.silence()
    print("lost", flush=True)
    file("continued")
    assert manager.beats() == {second}
    print("found", flush=True)
    file("killed")
    manager.silence()
    assert manager.said[-1].active  # no farewell: it could not say any
    print("lost", flush=True)

    manager.node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
