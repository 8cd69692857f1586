"""The segmentation node on a robot's camera.

ros2 launch ovseg_ros segment.launch.py image:=/camera/color/image_raw vocabulary_file:=/path/to/words.yaml rviz:=true
ros2 launch ovseg_ros segment.launch.py cameras:='front:=/front/color/image_raw left:=/left/color/image_raw'

An argument that is left empty leaves the parameter to params_file. Node and RViz get a Fast DDS profile with room for
images in shared memory, unless the environment names one already; give the camera's driver the same (docs/node.md).
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from ovseg_ros.ros.node.middleware import shared_memory_profile_unless_chosen

CONFIG = Path(get_package_share_directory("ovseg_ros")) / "config"
# Arguments that override the parameter of the same name, and the type of it.
OVERRIDES = {"preset": str, "vocabulary_file": str, "device": str, "autostart": bool}
ARGUMENTS = {
    "image": ("image", "Topic of the camera's images; <image>/compressed is listened to as well."),
    "depth": ("depth", "Topic of depth images that are aligned with the images; for 3D outputs."),
    "camera_info": ("camera_info", "Topic of the camera's intrinsics; for 3D outputs."),
    "cameras": ("", "Several cameras: names and their image topics, as in 'front:=/front/color left:=/left/color'."),
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
    topics = {name: LaunchConfiguration(name).perform(context) for name in ("image", "depth", "camera_info")}
    remappings = [*topics.items(), ("image/compressed", f"{topics['image']}/compressed")]
    cameras = dict(pair.split(":=", 1) for pair in LaunchConfiguration("cameras").perform(context).split())
    for name, topic in cameras.items():
        remappings += [(f"{name}/image", topic), (f"{name}/image/compressed", f"{topic}/compressed")]
    given = {name: LaunchConfiguration(name).perform(context) for name in OVERRIDES}
    overrides = {
        name: ParameterValue(LaunchConfiguration(name), value_type=OVERRIDES[name])
        for name, value in given.items()
        if value
    }
    if cameras:
        overrides["cameras"] = list(cameras)
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
            *(SetEnvironmentVariable(*setting) for setting in shared_memory_profile_unless_chosen().items()),
            OpaqueFunction(function=start),
        ]
    )
