"""The package's Fast DDS profile: large best-effort images arrive, which the default segment has no room for.

Only that they arrive is asserted here; `ovseg bench --delivered` counts how many of them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rclpy.qos import qos_profile_sensor_data
from ros_support import Peer, Processes
from sensor_msgs.msg import Image

from ovseg_ros.ros.node.middleware import shared_memory_profile, shared_memory_profile_unless_chosen


@pytest.fixture(scope="module")
def processes(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """Processes that use the profile."""
    (profile,) = shared_memory_profile().values()
    assert Path(profile).is_file()
    with Processes(domain, tmp_path_factory.mktemp("processes"), **shared_memory_profile()) as running:
        yield running


def test_large_images_of_a_best_effort_camera_go_through_the_node(
    processes: Processes, peer: Peer, tiny_preset: Path
) -> None:
    node = processes.start("segment_node", preset=str(tiny_preset), vocabulary=["cup"])
    cameras = {
        (width, height): processes.start(
            Path(__file__).parent / "fast_camera.py", f"image:=/image_{width}", rate=10.0, width=width, height=height
        )
        for width, height in ((640, 480), (1920, 1080))
    }
    for width, height in cameras:
        with peer.collect(Image, f"/image_{width}", qos_profile_sensor_data) as images:
            peer.wait_until(lambda images=images: len(images) >= 3, f"images of {width}x{height}")
        assert all(len(image.data) == 3 * width * height for image in images)
    processes.start(Path(__file__).parent / "fast_camera.py", rate=5.0, width=1920, height=1080)
    peer.wait_until_active(node)
    with peer.collect(Image, "/ovseg/segment_image") as results:
        peer.wait_until(lambda: len(results) >= 2, "results at full resolution", node)
    assert {(image.width, image.height) for image in results} == {(1920, 1080)}
    for process in (node, *cameras.values()):
        assert "XML" not in process.output  # Fast DDS names the elements of a profile that it does not know


@pytest.mark.parametrize(
    ("distribution", "name"), [("humble", "FASTRTPS"), ("jazzy", "FASTRTPS"), ("kilted", "FASTDDS"), (None, "FASTDDS")]
)
def test_the_profile_is_set_under_the_name_that_the_distribution_reads_and_never_over_the_users(
    monkeypatch: pytest.MonkeyPatch, distribution: str | None, name: str
) -> None:
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_DISTRO"):
        monkeypatch.delenv(variable, raising=False)
    if distribution:
        monkeypatch.setenv("ROS_DISTRO", distribution)
    assert list(shared_memory_profile_unless_chosen()) == [f"{name}_DEFAULT_PROFILES_FILE"]
    for variable in ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(variable, "/my/own.xml")
        assert shared_memory_profile_unless_chosen() == {}
        monkeypatch.delenv(variable)
