"""The segmentation node on a robot's camera.

ros2 launch ovseg_ros segment.launch.py image:=/camera/color/image_raw vocabulary_file:=/path/to/words.yaml rviz:=true
ros2 launch ovseg_ros segment.launch.py cameras:='front:=/front/color/image_raw left:=/left/color/image_raw' \\
  depth:='front:=/front/depth/image_raw' camera_info:='front:=/front/color/camera_info'

An argument that is left empty leaves the parameter to params_file. Node and RViz get a Fast DDS profile with room for
images in shared memory, unless the environment names one already; give the camera's driver the same (docs/node.md).
"""

from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.ros.node.launch_topics import LaunchTopics, is_true
from ovseg_ros.ros.node.middleware import shared_memory_profile_unless_chosen

CONFIG = Path(get_package_share_directory("ovseg_ros")) / "config"
OVERRIDES = ("preset", "vocabulary_file", "device", "engine", "precision")
"""Arguments that override the parameter of the same name; so does autostart."""
ARGUMENTS = {
    "image": ("image", "Topic of the camera's images; <image>/compressed is listened to as well."),
    "compressed_image": (
        "",
        "Topic of compressed images, where it is not <image>/compressed; without image, nothing else is listened to. "
        "With cameras, as theirs: 'front:=/front/jpeg left:=/left/jpeg'.",
    ),
    "depth": (
        "depth",
        "Topic of depth images that are aligned with the images; for 3D outputs. With cameras, as theirs: "
        "'front:=/front/depth left:=/left/depth'.",
    ),
    "camera_info": (
        "camera_info",
        "Topic of the camera's intrinsics; for 3D outputs. With cameras, as theirs: 'front:=/front/camera_info'.",
    ),
    "cameras": ("", "Several cameras: names and their image topics, as in 'front:=/front/color left:=/left/color'."),
    "preset": ("", "Model: the name of a file in config/models, or a path to one."),
    "vocabulary_file": ("", "Vocabulary at start: the name of a file in config/vocabularies, or a path."),
    "params_file": (str(CONFIG / "segment.yaml"), "Node parameters."),
    "device": ("", "auto, cpu, cuda or cuda:N."),
    "engine": ("", "What runs the model: auto, eager, compile, cuda_graph, onnx or tensorrt."),
    "precision": ("", "auto, float32, float16 or bfloat16."),
    "autostart": ("", "true: become active at once; false: leave that to a lifecycle manager."),
    "namespace": ("", "Namespace of the node, and of RViz."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
    "rviz": ("false", "Show camera, overlay, labels and segments in RViz."),
}


def start(context: LaunchContext) -> list[Node]:
    """The node, with the arguments that were given, and RViz."""
    # Whatever can be wrong is found before anything is started, because launch would leave it running.
    topics = LaunchTopics.of_arguments(
        image=LaunchConfiguration("image").perform(context),
        compressed_image=LaunchConfiguration("compressed_image").perform(context),
        depth=LaunchConfiguration("depth").perform(context),
        camera_info=LaunchConfiguration("camera_info").perform(context),
        cameras=LaunchConfiguration("cameras").perform(context),
    )
    with_rviz = is_true("rviz", LaunchConfiguration("rviz").perform(context))
    if with_rviz:
        require_rviz()
    params_file = Path(LaunchConfiguration("params_file").perform(context)).expanduser()
    if not params_file.is_file():
        raise ConfigError(f"params_file is '{params_file}', which is no file; give the path of a YAML file")
    given = {name: LaunchConfiguration(name).perform(context) for name in OVERRIDES}
    overrides: dict[str, Any] = {
        name: ParameterValue(LaunchConfiguration(name), value_type=str) for name, value in given.items() if value
    }
    if autostart := LaunchConfiguration("autostart").perform(context):
        overrides["autostart"] = is_true("autostart", autostart)
    if topics.transport:
        overrides["image_transport"] = topics.transport
    if topics.cameras:
        overrides["cameras"] = list(topics.cameras)
    node = Node(
        package="ovseg_ros",
        executable="segment_node",
        name="ovseg",
        namespace=LaunchConfiguration("namespace"),
        parameters=[str(params_file), overrides],
        remappings=topics.node,
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
        output="screen",
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        namespace=LaunchConfiguration("namespace"),
        arguments=["-d", str(CONFIG / "segment.rviz")],
        remappings=topics.rviz,
    )
    return [node, rviz] if with_rviz else [node]


def require_rviz() -> None:
    """ConfigError where RViz is not installed."""
    try:
        installed = (Path(get_package_prefix("rviz2")) / "lib" / "rviz2" / "rviz2").exists()
    except PackageNotFoundError:
        installed = False
    if not installed:
        raise ConfigError(
            "rviz:=true, but the package rviz2 is not installed; install ros-$ROS_DISTRO-rviz2, or leave out rviz:=true"
        )


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            *(SetEnvironmentVariable(*setting) for setting in shared_memory_profile_unless_chosen().items()),
            OpaqueFunction(function=start),
        ]
    )
