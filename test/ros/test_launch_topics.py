"""What the launch file's arguments say about topics, and what it answers to another form."""

from pathlib import Path

import pytest
import yaml

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.ros.node.launch_topics import SHOWN_IN_RVIZ, LaunchTopics, is_true

CONFIG = Path(__file__).parents[2] / "config"
TWO = "front:=/front/image left:=left/image"
DEFAULTS = {"image": "image", "compressed_image": "", "depth": "depth", "camera_info": "camera_info", "cameras": ""}


def topics_of(**arguments: str) -> LaunchTopics:
    return LaunchTopics.of_arguments(**{**DEFAULTS, **arguments})


def test_one_camera() -> None:
    topics = topics_of(image="/camera/color/image_raw", camera_info="~/info")
    assert topics.cameras == ()
    assert dict(topics.node) == {
        "image": "/camera/color/image_raw",
        "image/compressed": "/camera/color/image_raw/compressed",
        "depth": "depth",
        "camera_info": "~/info",
    }
    assert topics.rviz == topics.node


def test_compressed_images_under_another_name() -> None:
    alone = topics_of(compressed_image="/cam/jpeg")
    assert dict(alone.node)["image/compressed"] == "/cam/jpeg" and alone.transport == "compressed"
    both = topics_of(image="/cam/raw", compressed_image="/cam/jpeg")
    assert dict(both.node)["image"] == "/cam/raw" and both.transport == topics_of().transport == ""
    several = topics_of(cameras=TWO, compressed_image="front:=/front/jpeg")
    assert dict(several.node)["front/image/compressed"] == "/front/jpeg" and several.transport == ""
    assert dict(several.node)["left/image/compressed"] == "left/image/compressed"


def test_several_cameras_each_with_depth_and_intrinsics() -> None:
    topics = topics_of(cameras=f"  {TWO}\n", depth="left:=/left/depth", camera_info="front:=/f/info left:=/l/info")
    assert topics.cameras == ("front", "left")
    assert dict(topics.node) == {
        "front/image": "/front/image",
        "front/image/compressed": "/front/image/compressed",
        "left/image": "left/image",
        "left/image/compressed": "left/image/compressed",
        "left/depth": "/left/depth",
        "front/camera_info": "/f/info",
        "left/camera_info": "/l/info",
    }


def test_rviz_shows_the_first_of_several_cameras() -> None:
    layout = yaml.safe_load((CONFIG / "segment.rviz").read_text())["Visualization Manager"]
    shown = {display["Topic"]["Value"] for display in layout["Displays"] if "Topic" in display}
    remapped = dict(topics_of(cameras=TWO).rviz)
    assert shown == {"image", *(f"ovseg/{output}" for output in SHOWN_IN_RVIZ)}
    assert remapped.pop("image") == "/front/image" and remapped.pop("image/compressed") == "/front/image/compressed"
    assert remapped == {f"ovseg/{output}": f"ovseg/front/{output}" for output in SHOWN_IN_RVIZ}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cameras": "front"}, ["cameras: 'front' is no NAME:=TOPIC"]),
        ({"cameras": "front,left"}, ["cameras: 'front,left' is no NAME:=TOPIC", "separated by spaces"]),
        ({"cameras": "front:=/a,left:=/b"}, ["'/a,left:=/b'", "no topic for ROS", "separated by spaces"]),
        ({"cameras": "front: /a"}, ["'front:' is no NAME:=TOPIC"]),
        ({"cameras": "front=/a"}, ["'front=/a' is no NAME:=TOPIC"]),
        ({"cameras": "[front, left]"}, ["'[front,' is no NAME:=TOPIC"]),
        ({"cameras": ":=/a"}, ["'' in ':=/a' is no name of a camera"]),
        ({"cameras": "front:="}, ["'' in 'front:=' is no topic"]),
        ({"cameras": "front:=/a/"}, ["'/a/' in 'front:=/a/' is no topic"]),
        ({"cameras": "front:=/a-b"}, ["'/a-b'", "no topic"]),
        ({"cameras": "front:=/2a"}, ["'/2a'", "no topic"]),
        ({"cameras": "2nd:=/a"}, ["'2nd'", "a letter first"]),
        ({"cameras": "vorne-links:=/a"}, ["'vorne-links'", "letters, digits and _"]),
        ({"cameras": "front:=/a front:=/b"}, ["'front' has /a and /b", "each camera one topic"]),
        ({"cameras": TWO, "image": "/c"}, ["image is '/c' beside cameras"]),
        ({"cameras": TWO, "depth": "/d"}, ["depth: '/d' is no NAME:=TOPIC", "depth:='front:="]),
        ({"cameras": TWO, "camera_info": "right:=/d"}, ["no camera 'right'", "front, left"]),
        ({"depth": "front:=/d"}, ["depth is 'front:=/d'", "cameras as well for several"]),
        ({"image": "/cam/image_raw/"}, ["image is '/cam/image_raw/'", "no / at the end"]),
        ({"compressed_image": "/cam/jpeg/"}, ["compressed_image is '/cam/jpeg/'", "no / at the end"]),
        ({"cameras": TWO, "compressed_image": "right:=/d"}, ["compressed_image: there is no camera 'right'"]),
        ({"image": ""}, ["image is ''", "expected a topic"]),
    ],
)
def test_another_form_is_answered_with_the_one_that_is_meant(arguments: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refusal:
        topics_of(**arguments)
    said = str(refusal.value)
    assert all(word in said for word in words), said
    assert "expected" in said or "give each camera one topic" in said or "leave out" in said or "cameras has" in said
    assert "\n" not in said


def test_switches() -> None:
    assert [is_true("rviz", value) for value in ("true", "True", "1", "false", "0")] == [True, True, True, False, False]
    with pytest.raises(ConfigError, match="rviz is 'yes'; expected true or false"):
        is_true("rviz", "yes")
