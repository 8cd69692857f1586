"""A program for test_vision_outputs.py, for an environment that has vision_msgs: prints what it received as JSON.

It publishes pictures until label info, vision info and detections have come, then sets another vocabulary and then
another threshold, and waits for the label info of each.
"""

import json
import time

import numpy as np
import rclpy
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo

from ovseg_ros.msg import Category, PanopticSegmentation
from ovseg_ros.ros.node.conversions import MESSAGES
from ovseg_ros.srv import SetVocabulary

LATCHED = QoSProfile(
    depth=10, reliability=QoSReliabilityPolicy.RELIABLE, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL
)
DEADLINE = 60.0


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("vision_client")
    received: dict[str, list] = {name: [] for name in ("label_info", "vision_info", "detections", "segments")}
    for name, message_type, qos in (
        ("label_info", LabelInfo, LATCHED),
        ("vision_info", VisionInfo, LATCHED),
        ("detections", Detection2DArray, 10),
        ("segments", PanopticSegmentation, 10),
    ):
        node.create_subscription(message_type, f"/ovseg/{name}", received[name].append, qos)
    images = node.create_publisher(Image, "/image", 10)
    end = time.monotonic() + DEADLINE

    def common() -> set[tuple[int, int]]:
        stamps = [
            {(m.header.stamp.sec, m.header.stamp.nanosec) for m in received[n]} for n in ("detections", "segments")
        ]
        return set.intersection(*stamps)

    number = 0
    while not (common() and received["label_info"] and received["vision_info"]):
        assert time.monotonic() < end, {name: len(messages) for name, messages in received.items()}
        number += 1
        header = Header(frame_id="test_camera")
        header.stamp.sec = number
        pixels = (
            np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        )
        images.publish(MESSAGES.image(pixels, "rgb8", header))
        rclpy.spin_once(node, timeout_sec=0.1)
    stamp = min(common())
    detections, segments = (
        next(m for m in received[name] if (m.header.stamp.sec, m.header.stamp.nanosec) == stamp)
        for name in ("detections", "segments")
    )

    client = node.create_client(SetVocabulary, "/ovseg/set_vocabulary")
    assert client.wait_for_service(DEADLINE)
    categories = [Category(name="cup"), Category(name="spoon"), Category(name="shadow", negative=True)]
    future = client.call_async(SetVocabulary.Request(categories=categories))
    while not (future.done() and len(received["label_info"]) > 1 and len(received["vision_info"]) > 1):
        assert time.monotonic() < end + DEADLINE
        rclpy.spin_once(node, timeout_sec=0.1)
    parameters = node.create_client(SetParameters, "/ovseg/set_parameters")
    assert parameters.wait_for_service(DEADLINE)
    threshold = Parameter("object_threshold", value=0.25).to_parameter_msg()
    future, before = parameters.call_async(SetParameters.Request(parameters=[threshold])), len(received["label_info"])
    while not (future.done() and len(received["label_info"]) > before):
        assert time.monotonic() < end + 2 * DEADLINE
        rclpy.spin_once(node, timeout_sec=0.1)
    print(
        json.dumps(
            {
                "label_info": [describe_label_info(message) for message in received["label_info"]],
                "vision_info": [
                    (message.method, message.database_location, message.database_version)
                    for message in received["vision_info"]
                ],
                "frame_id": detections.header.frame_id,
                "detections": [
                    {
                        "id": d.id,
                        "class_id": d.results[0].hypothesis.class_id,
                        "score": d.results[0].hypothesis.score,
                        "box": (d.bbox.center.position.x, d.bbox.center.position.y, d.bbox.size_x, d.bbox.size_y),
                    }
                    for d in detections.detections
                ],
                "segments": [
                    {
                        "id": str(s.id),
                        "class_id": str(s.category_id),
                        "score": s.score,
                        "box": (
                            s.box.x_offset + (s.box.width - 1) / 2,
                            s.box.y_offset + (s.box.height - 1) / 2,
                            s.box.width,
                            s.box.height,
                        ),
                    }
                    for s in segments.segments
                    if s.is_thing
                ],
            }
        )
    )
    node.destroy_node()
    rclpy.shutdown()


def describe_label_info(message: LabelInfo) -> dict:
    return {
        "classes": {str(entry.class_id): entry.class_name for entry in message.class_map},
        "threshold": message.threshold,
        "stamp": message.header.stamp.sec,
    }


if __name__ == "__main__":
    main()
