"""The segmentation node on a robot's camera.

ros2 launch ovseg_ros segment.launch.py image:=/camera/color/image_raw vocabulary_file:=/path/to/words.yaml rviz:=true

An argument that is left empty leaves the parameter to params_file.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(get_package_share_directory("ovseg_ros")) / "config"
# Arguments that override the parameter of the same name, and the type of it.
OVERRIDES = {"preset": str, "vocabulary_file": str, "device": str, "autostart": bool}
ARGUMENTS = {
    "image": ("image", "Topic of the camera's images; <image>/compressed is listened to as well."),
    "preset": ("", "Model: the name of a file in config/models, or a path to one."),
    "vocabulary_file": ("", "Vocabulary at start: the name of a file in config/vocabularies, or a path."),
    "params_file": (str(CONFIG / "segment.yaml"), "Node parameters."),
    "device": ("", "auto, cpu, cuda or cuda:N."),
    "autostart": ("", "true: become active at once; false: leave that to a lifecycle manager."),
    "namespace": ("", "Namespace of the node, and of RViz."),
    "log_level": ("info", "debug, info, warn, error or fatal."),
    "rviz": ("false", "Show camera, overlay, labels and segments in RViz."),
}


def start(context: LaunchContext) -> list[Node]:
    """The node, with the arguments that were given, and RViz."""
    image = LaunchConfiguration("image").perform(context)
    remappings = [("image", image), ("image/compressed", f"{image}/compressed")]
    given = {name: LaunchConfiguration(name).perform(context) for name in OVERRIDES}
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=OVERRIDES[name])
        for name, value in given.items()
        if value
    }
    return [
        Node(
            package="ovseg_ros",
            executable="segment_node",
            name="ovseg",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), overrides],
            remappings=remappings,
            arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
            output="screen",
        ),
        Node(
            package="rviz2",
            executable="rviz2",
            namespace=LaunchConfiguration("namespace"),
            arguments=["-d", str(CONFIG / "segment.rviz")],
            remappings=remappings,
            condition=IfCondition(LaunchConfiguration("rviz")),
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in ARGUMENTS.items()
            ),
            OpaqueFunction(function=start),
        ]
    )
