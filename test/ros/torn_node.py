"""A node that gets SIGTERM while it makes an object: in its first callback, as rclpy makes one for every callback, or,
with the parameter `early`, while the node itself is made.
"""

import os
import signal

from rclpy.node import Node

from ovseg_ros.ros.node.node_process import run_node


class Fragile:
    """Says so if it was never finished."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)  # Python runs the handler before the next line
        self.whole = True

    def __del__(self) -> None:
        if "whole" not in vars(self):
            print("torn", flush=True)


class TornNode(Node):
    is_loading = False

    def __init__(self) -> None:
        super().__init__("torn")
        if self.declare_parameter("early", False).value:
            Fragile()
        self.create_timer(0.01, self._make)

    def start(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def _make(self) -> None:
        Fragile()
        print("the callback went on to its end", flush=True)


if __name__ == "__main__":
    run_node(TornNode, "torn")
