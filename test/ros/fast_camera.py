"""A camera process for tests: best effort, as fast as asked, a stamp of its own on every frame."""

import itertools
from contextlib import suppress

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ovseg_ros.ros.node.conversions import MESSAGES

if __name__ == "__main__":
    rclpy.init()
    node = rclpy.create_node("fast_camera")
    rate, width, height = (
        node.declare_parameter(name, value).value for name, value in (("rate", 10.0), ("width", 64), ("height", 48))
    )
    publisher = node.create_publisher(Image, "image", qos_profile_sensor_data)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    numbers = itertools.count()

    def publish() -> None:
        header = Header(stamp=node.get_clock().now().to_msg(), frame_id=f"frame {next(numbers)}")
        publisher.publish(MESSAGES.image(pixels, "rgb8", header))

    node.create_timer(1 / rate, publish)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
