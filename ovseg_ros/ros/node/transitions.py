"""Lifecycle transitions that the state does not allow."""

from typing import Any

from lifecycle_msgs.srv import ChangeState
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """Has such a request answered with no success: up to Jazzy, rclpy's own callback raises, which ends the process."""
    [service] = [service for service in node.services if service.srv_type is ChangeState]
    change = service.callback

    def change_or_refuse(request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except rclpy_implementation.RCLError as error:
            node.get_logger().error(f"cannot change state: {error}")
            response.success = False
            return response

    service.callback = change_or_refuse
