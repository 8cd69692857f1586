"""What config/ names exists: outputs of the node, words of its vocabularies, parameters of Nav2's costmap layer."""

import re
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.context import Context
from rclpy.node import Node

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.vocabulary import Vocabulary, find_vocabulary, load_vocabulary_file
from ovseg_ros.ros.node.outputs import NEEDS_DEPTH, OUTPUTS, SHOWS_IDENTITY
from ovseg_ros.ros.node.parameter_spec import declare
from ovseg_ros.ros.node.parameters import PARAMETERS, merge_parameters

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


LAYER = {
    "plugin",
    "enabled",
    "combination_method",
    "observation_sources",
    "publish_debug_topics",
    "use_approximate_time_sync",
}
SOURCE = {
    "segmentation_topic",
    "confidence_topic",
    "labels_topic",
    "pointcloud_topic",
    "observation_persistence",
    "expected_update_rate",
    "class_types",
    "max_obstacle_distance",
    "min_obstacle_distance",
    "tile_map_decay_time",
    "visualize_tile_map",
    "use_cost_selection",
}
CLASS = {"classes", "base_cost", "max_cost", "mark_confidence", "samples_to_max_cost", "dominant_priority"}
"""The parameters that the costmap layer declares, by where they are."""


def nav2_parameters() -> dict[str, Any]:
    return yaml.safe_load((CONFIG / "nav2_semantic_layer.yaml").read_text())


def test_nav2s_layer_gets_parameters_that_it_has_and_outputs_of_the_node() -> None:
    costmap = nav2_parameters()["local_costmap"]["local_costmap"]["ros__parameters"]
    layer = costmap["semantic_segmentation_layer"]
    source = layer["camera"]
    assert layer["observation_sources"] == "camera" and "semantic_segmentation_layer" in costmap["plugins"]
    assert layer.keys() - {"camera"} <= LAYER
    assert source.keys() - set(source["class_types"]) <= SOURCE
    assert all(source[name].keys() == CLASS for name in source["class_types"])
    assert {key: value for key, value in source.items() if key.endswith("_topic")} == {
        "segmentation_topic": "/ovseg/label_image",
        "confidence_topic": "/ovseg/confidence_image",
        "labels_topic": "/ovseg/label_info",
        "pointcloud_topic": "/ovseg/points",
    }


def test_nav2s_classes_are_published_names_of_the_vocabulary_that_goes_with_them() -> None:
    parameters = nav2_parameters()
    source = parameters["local_costmap"]["local_costmap"]["ros__parameters"]["semantic_segmentation_layer"]["camera"]
    given = [
        (parameters["/**/ovseg"]["ros__parameters"]["vocabulary_file"], source[t]["classes"])
        for t in source["class_types"]
    ]
    text = (CONFIG / "nav2_semantic_layer.yaml").read_text()
    others = [(name, yaml.safe_load(names)) for name, names in re.findall(r"# with (\w+): (\[.*\])", text)]
    assert len(others) == 2 * len(given)
    for name, classes in given + others:
        vocabulary = Vocabulary.build(load_vocabulary_file(find_vocabulary(name)), fit_mono8=True)
        published = {category.name for category in vocabulary.categories if not category.negative}
        assert set(classes) <= published, name


def test_the_node_and_its_manager_take_their_sections_of_nav2s_file(domain: int) -> None:
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    arguments = ["--ros-args", "--params-file", str(CONFIG / "nav2_semantic_layer.yaml")]
    nodes = [Node(name, context=context, cli_args=arguments) for name in ("ovseg", "lifecycle_manager_ovseg")]
    try:
        declare(nodes[0], PARAMETERS)
        values = {name: nodes[0].get_parameter(name).value for name in ("label_image_encoding", "autostart", "preset")}
        assert values == {"label_image_encoding": "mono8", "autostart": False, "preset": "eomt_l_convnext"}
        assert nodes[1].declare_parameter("node_names", [""]).value == ["ovseg"]
    finally:
        for node in nodes:
            node.destroy_node()
        rclpy.shutdown(context=context)


def test_what_is_commented_out_in_the_nodes_file_is_the_default() -> None:
    text = (CONFIG / "segment.yaml").read_text()
    shown = dict(re.findall(r"^    # ([a-z_]+):(?: (.*))?$", text, re.MULTILINE))
    given = yaml.safe_load(text)["/**/ovseg"]["ros__parameters"]
    defaults = {spec.name: spec.default for spec in PARAMETERS}
    thresholds = {spec.name for spec in merge_parameters(MergeConfig())}
    assert shown.keys() | given.keys() == defaults.keys() | thresholds
    values = {name: yaml.safe_load(value) for name, value in shown.items()}
    # Those are the preset's, so that no value can be shown.
    assert {name for name, value in values.items() if value is None} == thresholds
    assert {name: value for name, value in values.items() if value is not None} == {
        name: defaults[name] for name in values.keys() - thresholds
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
