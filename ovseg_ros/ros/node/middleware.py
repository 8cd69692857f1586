"""The package's profile for Fast DDS, which makes room for images in shared memory. Imports no rclpy."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

from ovseg_ros.core.distributions import PROFILES_VARIABLES, profiles_variable


def shared_memory_profile() -> dict[str, str]:
    """The environment variable that selects the profile, under the name that this distribution reads."""
    profile = Path(get_package_share_directory("ovseg_ros")) / "config" / "fastdds_shm.xml"
    return {profiles_variable(os.environ.get("ROS_DISTRO", "")): str(profile)}


def shared_memory_profile_unless_chosen() -> dict[str, str]:
    """As `shared_memory_profile`; empty where the user's environment names a profile already."""
    return {} if any(os.environ.get(name) for name in PROFILES_VARIABLES) else shared_memory_profile()
