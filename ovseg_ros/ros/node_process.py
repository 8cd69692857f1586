"""How a node's process lives and ends: SIGINT and SIGTERM end it cleanly, a start that fails exits with 1."""

import signal
import sys
from collections.abc import Callable
from typing import Protocol

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.logging import get_logger

from ovseg_ros.core.errors import OvsegError


class RunnableNode(Protocol):
    """What `run_node` needs beyond a node's own methods."""

    def start(self) -> bool:
        """Called before spinning. False, with the reason already logged, ends the process with 1."""

    def destroy_node(self) -> None:
        """As in rclpy."""

    def close(self) -> None:
        """Joins threads and frees what is not ROS's; called once, whatever happened."""


def run_node(make_node: Callable[[], RunnableNode], name: str, args: list[str] | None = None) -> None:
    """Makes, starts and spins a node in this thread until it is told to end.

    Args:
        make_node: the node's class or a function; an OvsegError or a ParameterException ends the process with 1.
        name: for the log while there is no node yet.
        args: command line; None takes that of the process.
    """
    node = None
    try:
        rclpy.init(args=args)
        executor = SingleThreadedExecutor()
        node = make_node()
        executor.add_node(node)
        if not node.start() and rclpy.ok():
            sys.exit(1)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the ordinary ways to end
    except (OvsegError, ParameterException) as error:
        get_logger(name).fatal(f"cannot start: {error}")
        sys.exit(1)
    except Exception:
        if rclpy.ok():
            raise
        # Else told to end in the midst of a start, in which ROS's own calls then fail.
    finally:
        # Ctrl-C reaches a launched process twice; the second one must not interrupt the clean-up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
