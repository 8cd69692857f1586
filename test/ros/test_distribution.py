"""The tests run on the distribution that they say they do, whole: the wheels of two lie beside each other."""

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

VERSIONS = {"jazzy": "7.1.", "kilted": "9.1."}


@pytest.fixture(scope="module")
def wheels() -> Path:
    """The virtual environment of the wheels."""
    try:
        importlib.metadata.version("ros-rclpy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("ROS is not from wheels here")
    return Path(sys.prefix).resolve()


def test_rclpy_is_the_distributions(wheels: Path) -> None:
    distribution = os.environ["ROS_DISTRO"]
    assert importlib.metadata.version("ros-rclpy").startswith(VERSIONS[distribution])


@pytest.mark.usefixtures("peer")
def test_nothing_of_another_distribution_is_loaded(wheels: Path) -> None:
    """Modules and libraries: those that bring messages, rclpy, the middleware and this package's own messages."""
    packages = importlib.metadata.packages_distributions()
    of_ros = {name for name, owners in packages.items() if any(owner.startswith("ros-") for owner in owners)}
    modules = {module.__file__ for name, module in list(sys.modules.items()) if name in of_ros and module.__file__}
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "lib/lib" in line}
    libraries = {name for name in mapped if any(part in name for part in ("rcl", "rmw", "rosidl", "fast"))}
    assert modules and any("librmw_fastrtps_cpp" in name for name in libraries)
    own = Path(os.environ["AMENT_PREFIX_PATH"].split(":")[0]).resolve()
    foreign = [name for name in modules | libraries if not {wheels, own} & set(Path(name).resolve().parents)]
    assert not foreign
