"""The package's profile for Fast DDS, which makes room for images in shared memory. Imports no rclpy."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

_NEW, _OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
_FAST_DDS_2 = frozenset({"humble", "iron", "jazzy"})
"""Distributions that know the old name only; with both, the newer ones load the profile twice and complain."""


def shared_memory_profile() -> dict[str, str]:
    """The environment variable that selects the profile, under the name that this distribution reads."""
    profile = Path(get_package_share_directory("ovseg_ros")) / "config" / "fastdds_shm.xml"
    return {_OLD if os.environ.get("ROS_DISTRO") in _FAST_DDS_2 else _NEW: str(profile)}


def shared_memory_profile_unless_chosen() -> dict[str, str]:
    """As `shared_memory_profile`; empty where the user's environment names a profile already."""
    return {} if os.environ.get(_NEW) or os.environ.get(_OLD) else shared_memory_profile()
