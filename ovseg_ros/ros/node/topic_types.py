"""Peers of our topics whose messages are of another type, and what to do about them.

The middleware joins publishers and subscribers of one type only and says nothing of the others, not even by an event.
So whoever remaps an input to a topic of another type would see no more than silence.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from rclpy.node import Node
from rclpy.publisher import Publisher

from ovseg_ros.core.errors import ConfigError

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"

_UNKNOWN_NODE = "_NODE_NAME_UNKNOWN_"
"""What the middleware calls a node that it has not heard of yet, or that is not of ROS."""

Mistyped: TypeAlias = dict[tuple[str, str], str]
"""What is wrong and what to do, in one line, by topic and the peers' type."""


_LOOKS = 1.0
"""Seconds between looks for peers of another type, of which the middleware says nothing by itself."""


class MistypedPeers:
    """Peers of another type as of the last look; each is logged once while it lasts.

    Args:
        look: tells those that are there now.
    """

    def __init__(self, node: Node, look: Callable[[], Mistyped]) -> None:
        self._node = node
        self._look = look
        self._known: Mistyped = {}
        self._next_look = float("-inf")

    @property
    def lines(self) -> list[str]:
        """What is wrong and what to do, a line for each."""
        return list(self._known.values())

    def update(self) -> None:
        """Called now and then; looks once a second."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOKS
        known, self._known = self._known, self._look()
        for peers in self._known.keys() - known.keys():
            self._node.get_logger().warning(self._known[peers])


def type_name(message_type: type) -> str:
    """As it is written in ROS, such as "sensor_msgs/msg/Image"."""
    package, kind, *_ = message_type.__module__.split(".")
    return f"{package}/{kind}/{message_type.__name__}"


def topics_of(node: Node, types: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """The topics that are published with one of these types, but for the node's own and those in `but`."""
    own, types = node.get_fully_qualified_name() + "/", frozenset(types)
    return sorted(
        topic
        for topic, known in node.get_topic_names_and_types()  # subscribers' types, too
        if not types.isdisjoint(known)
        and not topic.startswith(own)
        and topic not in but
        and any(endpoint.topic_type in types for endpoint in node.get_publishers_info_by_topic(topic))
    )


def publisher_count(node: Node, topic: str, message_type: type) -> int:
    """The publishers of that type; `node.count_publishers` counts those of others, too."""
    ours = type_name(message_type)
    return sum(endpoint.topic_type == ours for endpoint in node.get_publishers_info_by_topic(topic))


def mistyped_publishers(node: Node, inputs: Mapping[str, type], taken: Collection[str] = ()) -> Mistyped:
    """The publishers that are there now and cannot reach these inputs (relative name and type).

    Topics that are `taken` by other inputs are not offered.
    """
    found: Mistyped = {}
    for name, kind in inputs.items():
        topic, ours = node.resolve_topic_name(name), type_name(kind)
        for theirs, nodes in _others(node.get_publishers_info_by_topic(topic), ours).items():
            remedy = input_remedy(name, topic, ours, theirs, inputs, topics_of(node, [ours], taken))
            found[topic, theirs] = f"{topic} is published as {theirs} (by {nodes}), but {name} takes {ours}; {remedy}"
    return found


def mistyped_subscribers(node: Node, publishers: Sequence[Publisher]) -> Mistyped:
    """The subscribers that are there now and get nothing of our publishers."""
    found: Mistyped = {}
    for publisher in publishers:
        topic, ours = publisher.topic_name, type_name(publisher.msg_type)
        for theirs, nodes in _others(node.get_subscriptions_info_by_topic(topic), ours).items():
            fitting = [other.topic_name for other in publishers if type_name(other.msg_type) == theirs]
            nearest = [name for name in fitting if name.startswith(f"{topic}/")] or fitting
            remedy = f"subscribe with {ours}" + (
                f", or to {' or '.join(nearest)}, which is {theirs}" if nearest else ""
            )
            found[topic, theirs] = f"{topic} is {ours}, but {nodes} asks for {theirs}, so it gets nothing; {remedy}"
    return found


def check_one_type(node: Node, topics: Mapping[str, type]) -> None:
    """Refuse two types on one topic, which no node can have.

    Args:
        topics: type by relative name, before remapping.

    Raises:
        ConfigError: remapping brought two together.
    """
    by_topic: dict[str, str] = {}
    for name, kind in topics.items():
        topic = node.resolve_topic_name(name)
        other = by_topic.setdefault(topic, name)
        if topics[other] is kind:
            continue
        remedy = "remap one of them to another topic"
        if (other, name) == ("image", "image/compressed"):
            remedy += f", or listen to one only, that which {topic} is: image_transport:=compressed or :=raw"
        raise ConfigError(
            f"{other} ({type_name(topics[other])}) and {name} ({type_name(kind)}) are both {topic}, and a topic has "
            f"one type; {remedy}"
        )


def input_remedy(name: str, topic: str, ours: str, theirs: str, inputs: Iterable[str], fitting: Sequence[str]) -> str:
    """What to remap so that something comes.

    Args:
        name: relative, of the input that was remapped to a topic of another type.
        topic: where it leads.
        ours: type of the input.
        theirs: type of the topic.
        inputs: names of all inputs of its kind that are in use.
        fitting: topics that there are of a type that the input takes.
    """
    raw = topic.removesuffix("/compressedDepth").removesuffix("/compressed")
    is_depth = name.split("/")[-1] == "depth"
    if {ours, theirs} == {IMAGE, COMPRESSED_IMAGE} and not is_depth:
        if topic.endswith("/compressedDepth"):
            return f"that is a depth image: remap {name} to the topic of a colour camera"
        is_raw = ours == IMAGE
        twin = f"{name}/compressed" if is_raw else name.removesuffix("/compressed")
        listening = "" if twin in inputs else ", with image_transport:=both"
        if is_raw and raw != topic:
            launch = "segment.launch.py needs only the former and listens to both"
            return f"remap {name}:={raw} and {twin}:={topic} ({launch}){listening}"
        # The input itself has to leave the topic, because no node can have two types on one.
        camera, _, rest = twin.partition("/")
        if rest in ("", "compressed"):
            argument = f"compressed_image:={topic} in place of image" if is_raw else f"image:={topic}"
            transport = "compressed" if is_raw else "raw"
            return f"start it with -r {twin}:={topic} -p image_transport:={transport} (segment.launch.py: {argument})"
        argument = (
            f"compressed_image:='{camera}:={topic}', and in cameras" if is_raw else f"cameras:='{camera}:={topic}'"
        )
        launch = f"{argument} another one for {camera}" if is_raw else argument
        return f"remap {twin}:={topic} and {name} to any other topic (segment.launch.py: {launch}){listening}"
    if is_depth and theirs == COMPRESSED_IMAGE and raw != topic:
        missing = "" if raw in fitting else "; nobody publishes that now, but image_transport's republish can make it"
        return f"remap {name}:={raw}{missing}"
    remedy = f"remap {name} to a topic of that type; now there are: {', '.join(fitting) or 'none'}"
    if not fitting and ours in (IMAGE, COMPRESSED_IMAGE):
        remedy += " (image_transport's republish makes them of compressed ones and of videos)"
    return remedy


def _others(endpoints: Iterable[Any], ours: str) -> dict[str, str]:
    """The nodes, in words, by the type that is not ours."""
    nodes: dict[str, set[str]] = {}
    for endpoint in endpoints:
        if endpoint.topic_type != ours:
            known = {endpoint.node_name} - {_UNKNOWN_NODE}
            nodes.setdefault(endpoint.topic_type, set()).update(known)
    return {kind: "node " + ", ".join(sorted(names)) if names else "some node" for kind, names in nodes.items()}
