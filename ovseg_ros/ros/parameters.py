"""Every ROS parameter of the segmentation node: name, default, meaning, range."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ovseg_ros.core.draw import draw_overlay
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.parameter_spec import ParameterSpec


def _core_default(function: Callable[..., object], argument: str) -> Any:
    return inspect.signature(function).parameters[argument].default


PARAMETERS = (
    ParameterSpec("preset", "tabletop", "Model: the name of a file in config/models, or a path to one.", fixed=True),
    ParameterSpec("device", "auto", "Where the model runs: auto, cpu, cuda or cuda:N.", fixed=True),
    ParameterSpec(
        "vocabulary",
        [""],
        "Names to look for at start; used instead of vocabulary_file unless empty. Change them later with the "
        "service ~/set_vocabulary.",
        fixed=True,
    ),
    ParameterSpec(
        "vocabulary_file",
        "tabletop",
        "Vocabulary at start: the name of a file in config/vocabularies, or a path to a YAML or text file.",
        fixed=True,
    ),
    ParameterSpec(
        "max_categories",
        _core_default(Vocabulary.build, "max_categories"),
        "Most categories of a vocabulary; longer ones are refused.",
        1,
        65535,
        fixed=True,
    ),
    ParameterSpec(
        "autostart", True, "Configure and activate at start; false leaves that to a lifecycle manager.", fixed=True
    ),
    ParameterSpec(
        "image_transport",
        "both",
        "Which inputs to subscribe to: image (raw), image/compressed (compressed) or both.",
        choices=("both", "raw", "compressed"),
        fixed=True,
    ),
    ParameterSpec("enabled", True, "Whether images are segmented; also set by the service ~/enable."),
    ParameterSpec("max_rate", 0.0, "Most frames per second to segment; 0 = as many as arrive.", 0.0, 1000.0),
    ParameterSpec("image_timeout", 5.0, "Warn when no image came for this many seconds; 0 = never.", 0.0, 3600.0),
    ParameterSpec(
        "overlay_alpha",
        _core_default(draw_overlay, "alpha"),
        "Opacity of the colours in ~/overlay_image.",
        0.0,
        1.0,
    ),
    ParameterSpec("overlay_labels", _core_default(draw_overlay, "labels"), "Write names into ~/overlay_image."),
    ParameterSpec("jpeg_quality", 85, "JPEG quality of ~/overlay_image/compressed.", 1, 100),
)

_MERGE_DESCRIPTIONS = {
    "object_threshold": ("Least class probability at which a mask is published.", 0.0, 1.0),
    "overlap_threshold": ("Least share of its own mask that a segment must keep against better ones.", 0.0, 1.0),
    "mask_threshold": ("Least mask probability at which a pixel belongs to a mask.", 0.0, 1.0),
    "min_area": ("Smallest published segment, in pixels of the input image.", 0, 1_000_000_000),
}


def merge_parameters(defaults: MergeConfig) -> tuple[ParameterSpec, ...]:
    """The thresholds of the merge. Their defaults are the preset's, so they exist once a preset is loaded."""
    return tuple(
        ParameterSpec(field.name, getattr(defaults, field.name), *_MERGE_DESCRIPTIONS[field.name])
        for field in fields(MergeConfig)
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The live parameters as they are at one moment; one frame uses one `Settings`."""

    merge: MergeConfig
    overlay_alpha: float
    overlay_labels: bool
    jpeg_quality: int

    @classmethod
    def read(cls, node: Node) -> "Settings":
        """The values now in force. May be called from any thread."""
        merge = {field.name: node.get_parameter(field.name).value for field in fields(MergeConfig)}
        overlay = {name: node.get_parameter(name).value for name in ("overlay_alpha", "overlay_labels", "jpeg_quality")}
        return cls(merge=MergeConfig(**merge), **overlay)


def validate(parameters: list[Parameter]) -> SetParametersResult:
    """Refuses what types and ranges, which rclpy checks, let through; for `add_on_set_parameters_callback`."""
    choices = {spec.name: spec.choices for spec in PARAMETERS if spec.choices}
    for parameter in parameters:
        name, value = parameter.name, parameter.value
        if name in choices and value not in choices[name]:
            expected = ", ".join(choices[name])
            return SetParametersResult(successful=False, reason=f"{name} is {value!r}; expected one of {expected}")
    return SetParametersResult(successful=True)
