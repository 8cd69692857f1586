"""How a ROS parameter is described once and declared from that."""

from collections.abc import Iterable
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

ParameterValue = bool | int | float | str | list[str] | list[int]


@dataclass(frozen=True, slots=True)
class ParameterSpec:
    """One parameter. `fixed` ones are read once at start; the others take effect on the next frame."""

    name: str
    default: ParameterValue
    description: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    fixed: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """What `ros2 param describe` shows."""
        descriptor = ParameterDescriptor(description=self.description, read_only=self.fixed)
        if self.choices:
            descriptor.additional_constraints = f"one of: {', '.join(self.choices)}"
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                ]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=1)
                ]
        return descriptor


def declare(node: Node, specs: Iterable[ParameterSpec]) -> None:
    """Declares the parameters that the node does not have yet.

    Raises:
        rclpy.exceptions.ParameterException: a value given at start has the wrong type or is out of range.
    """
    for spec in specs:
        if not node.has_parameter(spec.name):
            node.declare_parameter(spec.name, spec.default, spec.descriptor())
