"""How a node's process lives and ends: SIGINT and SIGTERM end it cleanly, a start that fails exits with 1."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.logging import get_logger

from ovseg_ros.core.errors import OvsegError
from ovseg_ros.core.interruption import is_importing, leave
from ovseg_ros.ros.node.command_line import explain, init_ros

END_DEADLINE = 8.0
"""Seconds to finish what is at hand; then the process ends anyway, before a launch system kills it."""

SWITCH_INTERVAL = 1e-4
"""Seconds after which a thread that wants Python's interpreter gets it from another one that computes.

By Python's own 5 ms a new frame waited half a millisecond for the bookkeeping of rclpy's executor.
"""


class RunnableNode(Protocol):
    """What `run_node` needs beyond a node's own methods."""

    @property
    def is_loading(self) -> bool:
        """Whether this thread is in a long call of the node's own, which a signal may break off at any point."""

    def start(self) -> bool:
        """Called before spinning. False, with the reason already logged, ends the process with 1."""

    def destroy_node(self) -> None:
        """As in rclpy."""

    def close(self) -> None:
        """Joins threads and frees what is not ROS's; called once, whatever happened."""


def run_node(make_node: Callable[[], RunnableNode], name: str, args: list[str] | None = None) -> None:
    """Makes, starts and spins a node in this thread until it is told to end.

    Args:
        make_node: the node's class or a function; an OvsegError, a ParameterException or a refusal by ROS ends the
            process with 1.
        name: for the log while there is no node yet.
        args: command line; None takes that of the process.
    """
    node = None
    told_to_end = False
    ending = _Ending(name)
    try:
        # Before rclpy's own handlers, which call these after shutting down: both signals break off the loading of a
        # model, too.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, ending.interrupt)
        sys.setswitchinterval(SWITCH_INTERVAL)
        init_ros(name, args)
        executor = SingleThreadedExecutor()
        ending.node = node = make_node()
        executor.add_node(node)
        if not node.start() and rclpy.ok():
            sys.exit(1)
        ending.spinning = node
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        told_to_end = True  # the ordinary ways
    except (OvsegError, ParameterException) as error:
        get_logger(name).fatal(f"cannot start: {error}")
        sys.exit(1)
    except Exception as error:
        if not rclpy.ok():
            told_to_end = True  # in the midst of a start, in which ROS's own calls then fail
        elif node is None and isinstance(error, rclpy_implementation.RCLError):
            get_logger(name).fatal(f"cannot start: {explain(str(error))}")
            sys.exit(1)
        else:
            raise
    finally:
        ending.begin()
        ending.clean_up()
        if told_to_end:
            ending.leave_unfinished()


class _Ending:
    """From the first signal on: no further ones, and an end by force if the orderly one takes too long."""

    def __init__(self, name: str) -> None:
        self.node: RunnableNode | None = None
        """The node, once it is made."""
        self.spinning: RunnableNode | None = None
        """The node whose callbacks are served; None before that."""
        self._name = name
        self._timer = threading.Timer(END_DEADLINE, self._force)
        self._timer.daemon = True

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler of signals."""
        self.begin()
        # An exception out of nowhere would leave half-made objects behind in the executor, which rclpy ends anyway.
        if self.spinning is not None and not self.spinning.is_loading:
            return
        if self.node is None:  # what an exception would leave half-made complains when it is freed
            leave(0)
        if is_importing(frame):  # an exception may be printed and swallowed
            node = self.node
            self.clean_up()
            vars(node).clear()  # the interrupted calls still hold the node
            leave(0)
        raise KeyboardInterrupt

    def begin(self) -> None:
        """Starts the time; the second call does nothing."""
        # Ctrl-C reaches a launched process twice; the second one must not interrupt the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not self._timer.is_alive():
            self._timer.start()

    def clean_up(self) -> None:
        """Frees what is the node's and says good-bye to the others on the network."""
        node, self.node, self.spinning = self.node, None, None  # they leave the network with the last reference
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()

    def leave_unfinished(self) -> None:
        """Ends the process at once where a thread still computes that cannot be told to stop, as one that encodes text.

        Python's own ending would abort it. Others on the network then miss this node only after a while.
        """
        others = {*threading.enumerate()} - {threading.main_thread(), self._timer}
        if any(thread.daemon for thread in others):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)

    def _force(self) -> None:
        busy = ", ".join(sorted(t.name for t in threading.enumerate() if t is not self._timer))
        get_logger(self._name).fatal(
            f"not finished {END_DEADLINE:g} s after being told to end (threads: {busy}); ending by force"
        )
        os._exit(1)
