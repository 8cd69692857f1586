"""The demonstration: simulated camera, segmentation node and a client that changes the vocabulary and measures.

ros2 launch ovseg_ros demo.launch.py

Writes pictures and summary.json to the folder `out`, then ends. `make demo` runs the same.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, RegisterEventHandler, Shutdown
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("ovseg_ros"))
PARAMETERS = str(SHARE / "config" / "demo.yaml")


def generate_launch_description() -> LaunchDescription:
    """Called by `ros2 launch`."""
    camera = Node(
        package="ovseg_ros",
        executable="tabletop_camera",
        name="tabletop_camera",
        parameters=[PARAMETERS],
        output="screen",
    )
    segmentation = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / "launch" / "segment.launch.py")),
        launch_arguments={
            "params_file": PARAMETERS,
            "device": LaunchConfiguration("device"),
            "rviz": LaunchConfiguration("rviz"),
        }.items(),
    )
    client = Node(
        package="ovseg_ros",
        executable="demo",
        name="demo",
        parameters=[PARAMETERS, {"out": ParameterValue(LaunchConfiguration("out"), value_type=str)}],
        output="screen",
        emulate_tty=True,
    )
    return LaunchDescription(
        [
            DeclareLaunchArgument("out", default_value="out/demo", description="Folder for pictures and summary.json."),
            DeclareLaunchArgument("device", default_value="", description="auto, cpu, cuda or cuda:N."),
            DeclareLaunchArgument("rviz", default_value="false", description="Watch in RViz."),
            # The client has finished, or something broke: either way all is over.
            RegisterEventHandler(OnProcessExit(on_exit=[Shutdown(reason="a process of the demonstration ended")])),
            segmentation,  # first, because it sets the environment of all that follow
            camera,
            client,
        ]
    )
