"""Lifecycle transitions that the state does not allow."""

from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rclpy.lifecycle import LifecycleNode

_NAMES = {
    Transition.TRANSITION_CONFIGURE: "configure",
    Transition.TRANSITION_CLEANUP: "cleanup",
    Transition.TRANSITION_ACTIVATE: "activate",
    Transition.TRANSITION_DEACTIVATE: "deactivate",
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: "shutdown",
    Transition.TRANSITION_INACTIVE_SHUTDOWN: "shutdown",
    Transition.TRANSITION_ACTIVE_SHUTDOWN: "shutdown",
}


def refuse_impossible_transitions(node: LifecycleNode) -> None:
    """Has such a request answered with no success, and says what is possible.

    Up to Jazzy, rclpy's own callback raises, which ends the process; later it says nothing.
    """
    [service] = [service for service in node.services if service.srv_type is ChangeState]
    possible = next(service for service in node.services if service.srv_type is GetAvailableTransitions)
    [state] = [service for service in node.services if service.srv_type is GetState]
    change = service.callback

    def change_or_refuse(request: Any, response: Any) -> Any:
        before = state.callback(GetState.Request(), GetState.Response()).current_state.label
        transitions = [
            description.transition
            for description in possible.callback(
                GetAvailableTransitions.Request(), GetAvailableTransitions.Response()
            ).available_transitions
        ]
        asked = request.transition
        if not any(asked.label == known.label if asked.label else asked.id == known.id for known in transitions):
            names = ", ".join(known.label for known in transitions) or "nothing; start the node again"
            node.get_logger().error(
                f"cannot change state: {_described(asked)} was asked in the state {before}; possible now: {names}"
            )
            response.success = False
            return response
        return change(request, response)

    service.callback = change_or_refuse


def _described(transition: Transition) -> str:
    return transition.label or _NAMES.get(transition.id, f"the transition {transition.id}")
