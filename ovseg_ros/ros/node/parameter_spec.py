"""How a ROS parameter is described once and declared from that."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    ParameterUninitializedException,
)
from rclpy.node import Node

from ovseg_ros.core.errors import ConfigError

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

    @property
    def expected(self) -> str:
        """What a value has to be, for those that are not."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        match self.default:
            case bool():
                kind = "true or false"
            case int():
                kind = "a whole number"
            case float():
                kind = "a number with a point, as in 1.0,"
            case str():
                kind = "text, in quotes where it looks like a number or like true and false"
            case [int(), *_]:
                kind = f"{len(self.default)} whole numbers, as in {self.default}"
            case _:
                kind = 'a list of texts, as in ["one", "two"]'
        return kind if self.minimum is None else f"{kind} from {self.minimum} to {self.maximum}"


def declare(node: Node, specs: Iterable[ParameterSpec]) -> None:
    """Declares the parameters that the node does not have yet.

    Raises:
        ConfigError: a value given at start has the wrong type, is out of range, or is the empty list, which to ROS
            is no value at all.
    """
    for spec in specs:
        if node.has_parameter(spec.name):
            continue
        try:
            node.declare_parameter(spec.name, spec.default, spec.descriptor())
            node.get_parameter(spec.name)
        except ParameterUninitializedException as error:
            raise ConfigError(
                f"the parameter {spec.name} is the empty list, which ROS takes for no value; expected {spec.expected}, "
                "or leave the parameter out"
            ) from error
        except InvalidParameterTypeException as error:
            raise ConfigError(f"{str(error).removesuffix(f': {spec.name}')}; expected {spec.expected}") from error
        except InvalidParameterValueException as error:  # whose reason says what is expected, and its beginning nothing
            raise ConfigError(str(error).partition("Reason: ")[2] or str(error)) from error


def unknown_parameters(node: Node, declared_later: Iterable[str] = ()) -> str:
    """What was given at start for parameters that the node does not have, which rclpy passes over; else empty.

    Args:
        declared_later: names that the node will have.
    """
    names = {*node.get_parameters_by_prefix(""), *declared_later}
    unknown = []
    # rclpy has no public name for what was given.
    for given in sorted(node._parameter_overrides.keys() - names):
        if not given.startswith("qos_overrides."):
            near = difflib.get_close_matches(given, names, n=1)
            unknown.append(f"{given} (did you mean {near[0]}?)" if near else given)
    return f"no such parameters, so that they have no effect: {', '.join(unknown)}" if unknown else ""
