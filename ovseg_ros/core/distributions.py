"""What differs between ROS 2 distributions and is needed where ROS may be absent."""

TESTED = ("jazzy", "kilted")
"""Distributions that the tests run on."""

_NEW, _OLD = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
PROFILES_VARIABLES = (_NEW, _OLD)
_FAST_DDS_2 = frozenset({"humble", "iron", "jazzy"})
"""Distributions that know the old name only; with both, the newer ones load the profile twice and complain."""


def profiles_variable(distribution: str) -> str:
    """Name of the environment variable from which a distribution's Fast DDS reads its profiles' file."""
    return _OLD if distribution in _FAST_DDS_2 else _NEW
