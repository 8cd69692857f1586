"""What config/ names exists: topics in RViz's layout and in Nav2's parameters are outputs of the node."""

from pathlib import Path
from typing import Any

import yaml

from ovseg_ros.ros.node.outputs import NEEDS_DEPTH, OUTPUTS, SHOWS_IDENTITY

CONFIG = Path(__file__).parents[2] / "config"


def test_rviz_shows_everything_that_can_be_shown() -> None:
    layout = yaml.safe_load((CONFIG / "segment.rviz").read_text())["Visualization Manager"]
    shown = {display["Topic"]["Value"]: display["Class"] for display in layout["Displays"] if "Topic" in display}
    assert shown.pop("image") == "rviz_default_plugins/Image"
    assert {topic.removeprefix("ovseg/") for topic in shown} == {
        "overlay_image",
        "label_image",
        "segment_image",
        "points",
        "markers",
    }
    assert {topic.removeprefix("ovseg/") for topic in shown} <= OUTPUTS.keys()
    assert shown["ovseg/points"] == "rviz_default_plugins/PointCloud2"
    assert shown["ovseg/markers"] == "rviz_default_plugins/MarkerArray"


def test_nav2_reads_outputs_of_the_node() -> None:
    def sources(tree: dict[str, Any]) -> dict[str, str]:
        found = {key: value for key, value in tree.items() if key.endswith("_topic")}
        for value in tree.values():
            if isinstance(value, dict):
                found |= sources(value)
        return found

    topics = sources(yaml.safe_load((CONFIG / "nav2_semantic_layer.yaml").read_text()))
    assert topics == {
        "segmentation_topic": "/ovseg/label_image",
        "confidence_topic": "/ovseg/confidence_image",
        "labels_topic": "/ovseg/label_info",
        "pointcloud_topic": "/ovseg/points",
    }


def test_groups_of_outputs_are_outputs() -> None:
    assert OUTPUTS.keys() >= NEEDS_DEPTH and OUTPUTS.keys() >= SHOWS_IDENTITY


def test_the_order_of_publishing() -> None:
    """What robots use first, then what people look at, last what waits for depth."""
    assert [name for name in OUTPUTS if name != "detections"] == [
        "label_image",
        "segment_image",
        "confidence_image",
        "segments",
        "label_image/compressed",
        "segment_image/compressed",
        "overlay_image",
        "overlay_image/compressed",
        "points",
        "segments_3d",
        "markers",
    ]
    if "detections" in OUTPUTS:
        assert list(OUTPUTS).index("detections") == list(OUTPUTS).index("segments") + 1
