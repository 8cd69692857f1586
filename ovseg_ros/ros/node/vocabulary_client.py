"""The vocabulary of a running node, from another process: read it, replace it, wait for the answer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from ovseg_ros.core.errors import ConfigError, VocabularyError
from ovseg_ros.core.vocabulary import CategorySpec
from ovseg_ros.msg import Vocabulary
from ovseg_ros.ros.node.conversions import specs_from_messages, vocabulary_request
from ovseg_ros.srv import GetVocabulary, SetVocabulary


class VocabularyClient:
    """Calls the services of one segmentation node. Made by `connect`; every method raises ConfigError without answer.

    Args:
        node: asks.
        target: fully qualified name of the segmentation node, such as "/ovseg".
        timeout: longest wait for a service and for an answer, seconds.

    Raises:
        ConfigError: `target` is empty.
    """

    def __init__(self, node: Node, target: str, timeout: float) -> None:
        self._node, self._target, self._timeout = node, target.rstrip("/"), timeout
        if not self._target:
            raise ConfigError(f"--node {target!r} is no name of a node; give one such as /ovseg")
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)

    def get(self) -> Vocabulary:
        """The vocabulary in force."""
        vocabulary: Vocabulary = self._call(GetVocabulary, "get_vocabulary", GetVocabulary.Request()).vocabulary
        if not vocabulary.version:
            raise ConfigError(f"{self._target} is not configured yet, so it has no vocabulary; configure it first")
        return vocabulary

    def specs(self) -> tuple[CategorySpec, ...]:
        """The vocabulary in force, ready to be edited."""
        return specs_from_messages(self.get().categories)

    def set(self, specs: Sequence[CategorySpec]) -> SetVocabulary.Response:
        """Replaces the vocabulary; the answer, whose `success` is true.

        Raises:
            VocabularyError: the node refuses it.
        """
        response: SetVocabulary.Response = self._call(SetVocabulary, "set_vocabulary", vocabulary_request(specs))
        if not response.success:
            raise VocabularyError(f"{self._target} refuses it: {response.message}")
        return response

    def _call(self, service_type: Any, name: str, request: Any) -> Any:
        service = f"{self._target}/{name}"
        try:
            client = self._node.create_client(service_type, service)
        except NameValidationException as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"--node {self._target!r} is no name of a node: {reason}; give one such as /ovseg"
            ) from error
        try:
            if not client.wait_for_service(timeout_sec=self._timeout):
                raise ConfigError(
                    f"no service {service} within {self._timeout:g} s; segmentation nodes now: {self._candidates()}; "
                    "start one, or choose it with --node, under the same ROS_DOMAIN_ID"
                )
            future = client.call_async(request)
            self._executor.spin_until_future_complete(future, self._timeout)
            if not future.done():
                raise ConfigError(f"{service} did not answer within {self._timeout:g} s; raise --timeout")
            return future.result()
        finally:
            self._node.destroy_client(client)

    def _candidates(self) -> str:
        found = sorted(
            service.removesuffix("/set_vocabulary")
            for service, types in self._node.get_service_names_and_types()
            if "ovseg_ros/srv/SetVocabulary" in types
        )
        return ", ".join(found) or "none"


@contextmanager
def connect(target: str, timeout: float) -> Iterator[VocabularyClient]:
    """A client with a ROS context of its own, which ends with the block."""
    context = Context()
    rclpy.init(context=context)
    try:
        node = Node("ovseg_vocabulary", context=context, enable_rosout=False, start_parameter_services=False)
        try:
            yield VocabularyClient(node, target, timeout)
        finally:
            node.destroy_node()
    finally:
        rclpy.shutdown(context=context)
