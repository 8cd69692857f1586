"""From the launch file's arguments to topics and switches. Imports neither ROS nor PyTorch: launching is immediate."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ovseg_ros.core.errors import ConfigError

CAMERA_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")
_TOPIC = re.compile("(~?/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*")
_EXAMPLES = {
    "cameras": "front:=/front/color/image_raw left:=/left/color/image_raw",
    "compressed_image": "front:=/front/jpeg left:=/left/jpeg",
    "depth": "front:=/front/depth/image_raw left:=/left/depth/image_raw",
    "camera_info": "front:=/front/color/camera_info left:=/left/color/camera_info",
}
SHOWN_IN_RVIZ = ("overlay_image", "label_image", "segment_image", "points", "markers")
"""The node's outputs in config/segment.rviz."""


@dataclass(frozen=True, slots=True)
class LaunchTopics:
    """What the arguments say about topics.

    Attributes:
        cameras: their names; none for one camera without a name.
        node, rviz: remappings (from, to) of the two.
        transport: value for the parameter image_transport; empty leaves it.
    """

    cameras: tuple[str, ...]
    node: tuple[tuple[str, str], ...]
    rviz: tuple[tuple[str, str], ...]
    transport: str = ""

    @classmethod
    def of_arguments(
        cls, *, image: str, compressed_image: str, depth: str, camera_info: str, cameras: str
    ) -> "LaunchTopics":
        """Read the launch arguments of these names; each is its own name where it was not given, the others empty.

        `compressed_image` is for a topic that is not <image>/compressed. Alone, it is all that is listened to.

        Raises:
            ConfigError: an argument has another form, a name is none for ROS, or two arguments contradict each other.
        """
        given = {"image": image, "depth": depth, "camera_info": camera_info}
        if not cameras.strip():
            compressed = {"compressed_image": compressed_image} if compressed_image else {}
            for argument, topic in (given | compressed).items():
                if not _TOPIC.fullmatch(topic):
                    raise ConfigError(f"{argument} is {topic!r}; {_expected_topic(argument)}")
            remappings = (*given.items(), ("image/compressed", compressed_image or f"{image}/compressed"))
            return cls((), remappings, remappings, "compressed" if compressed and image == "image" else "")
        images = _topics_of_cameras("cameras", cameras)
        if image != "image":
            raise ConfigError(
                f"image is {image!r} beside cameras, which has the topics of images; leave out one of them"
            )
        remapped = [(f"{name}/image", topic) for name, topic in images.items()]
        compressed = {name: f"{topic}/compressed" for name, topic in images.items()}
        compressed |= _topics_of_cameras("compressed_image", compressed_image, tuple(images))
        remapped += [(f"{name}/image/compressed", topic) for name, topic in compressed.items()]
        for argument in ("depth", "camera_info"):
            if given[argument] != argument:
                topics = _topics_of_cameras(argument, given[argument], tuple(images))
                remapped += [(f"{name}/{argument}", topic) for name, topic in topics.items()]
        first = next(iter(images))
        shown = [(f"ovseg/{output}", f"ovseg/{first}/{output}") for output in SHOWN_IN_RVIZ]
        shown += [("image", images[first]), ("image/compressed", compressed[first])]
        return cls(tuple(images), tuple(remapped), tuple(shown))


def _topics_of_cameras(argument: str, text: str, cameras: Sequence[str] = ()) -> dict[str, str]:
    """Topic of each camera in 'NAME:=TOPIC NAME:=TOPIC'; only of `cameras`, if there are any."""
    expected = f"expected NAME:=TOPIC for each camera, separated by spaces, such as {argument}:='{_EXAMPLES[argument]}'"
    topics: dict[str, str] = {}
    for pair in text.split():
        name, separator, topic = pair.partition(":=")
        if not separator:
            raise ConfigError(f"{argument}: {pair!r} is no NAME:=TOPIC; {expected}")
        if not CAMERA_NAME.fullmatch(name):
            kind = "name of a camera, which has letters, digits and _, a letter first"
            raise ConfigError(f"{argument}: {name!r} in {pair!r} is no {kind}; {expected}")
        if not _TOPIC.fullmatch(topic):
            raise ConfigError(f"{argument}: {topic!r} in {pair!r} is no topic for ROS; {expected}")
        if name in topics:
            raise ConfigError(f"{argument}: {name!r} has {topics[name]} and {topic}; give each camera one topic")
        if cameras and name not in cameras:
            raise ConfigError(f"{argument}: there is no camera {name!r}; cameras has {', '.join(cameras)}")
        topics[name] = topic
    return topics


def _expected_topic(argument: str) -> str:
    several = "or cameras for several" if argument == "image" else "and cameras as well for several"
    return (
        f"expected a topic such as {argument}:=/camera/{argument}, of letters, digits, _ and no / at the end, {several}"
    )


def is_true(argument: str, value: str) -> bool:
    """An argument that is a switch; ConfigError where it is neither true nor false."""
    if value.lower() not in ("true", "1", "false", "0"):
        raise ConfigError(f"{argument} is {value!r}; expected true or false")
    return value.lower() in ("true", "1")
