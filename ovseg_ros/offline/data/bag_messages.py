"""The node's messages as a bag library writes them."""

from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from ovseg_ros.core.messages import Messages
from ovseg_ros.core.resources import interfaces_dir


class BagMessages(Messages):
    """Makes messages of the bag library's classes, and serialises them to CDR."""

    def __init__(self) -> None:
        self.typestore: Typestore = get_typestore(Stores.ROS2_HUMBLE)
        definitions: dict[str, Any] = {}
        for file in sorted(interfaces_dir().glob("*.msg")):
            definitions |= get_types_from_msg(file.read_text(encoding="utf-8"), f"ovseg_ros/msg/{file.stem}")
        self.typestore.register(definitions)
        super().__init__(self.typestore.types, lambda message, data: setattr(message, "data", data))

    def serialize(self, message: Any) -> memoryview:
        """CDR bytes."""
        return self.typestore.serialize_cdr(message, message.__msgtype__)

    def header_of(self, message: Any) -> Any:
        """The header of an image message, without the sequence number that ROS 1 headers have."""
        stamp = message.header.stamp
        return self._types["std_msgs/msg/Header"](
            stamp=self.time(stamp.sec, stamp.nanosec), frame_id=message.header.frame_id
        )

    def time(self, seconds: int, nanoseconds: int) -> Any:
        """builtin_interfaces/Time."""
        return self._types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
