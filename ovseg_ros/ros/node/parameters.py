"""Every ROS parameter of the segmentation node: name, default, meaning, range."""

import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from ovseg_ros.core.engine.options import AUTOMATIC, ENGINES, PRECISIONS, EngineOptions
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.outputs import OutputOptions
from ovseg_ros.core.region import Region
from ovseg_ros.core.run_length import require_pycocotools
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.ros.node.launch_topics import CAMERA_NAME
from ovseg_ros.ros.node.parameter_spec import ParameterSpec

_OPTIONS = OutputOptions()

PARAMETERS = (
    ParameterSpec("preset", "tabletop", "Model: the name of a file in config/models, or a path to one.", fixed=True),
    ParameterSpec("device", "auto", "Where the model runs: auto, cpu, cuda or cuda:N.", fixed=True),
    ParameterSpec(
        "engine",
        AUTOMATIC.engine,
        "What runs the model. auto: the fastest that works here; the log and /diagnostics say which.",
        choices=ENGINES,
        fixed=True,
    ),
    ParameterSpec(
        "precision",
        AUTOMATIC.precision,
        "Of weights and activations. auto: float32 on a CPU; on a GPU the first of float16, bfloat16 and float32 whose "
        "masks agree with float32's.",
        choices=PRECISIONS,
        fixed=True,
    ),
    ParameterSpec(
        "engine_folder",
        "",
        "What `ovseg export` wrote, for onnx and tensorrt; empty = its usual place.",
        fixed=True,
    ),
    ParameterSpec(
        "vocabulary",
        [""],
        "Names to look for at start; used instead of vocabulary_file unless empty. One text alone may hold several, "
        "such as 'cup, table', or be a file. Change them later with the service ~/set_vocabulary.",
        fixed=True,
    ),
    ParameterSpec(
        "vocabulary_file",
        "tabletop",
        "Vocabulary at start: the name of a file in config/vocabularies, or a path to a YAML, JSON or text file. A "
        "YAML file given by path also keeps what ~/set_vocabulary changes, see save_vocabulary.",
        fixed=True,
    ),
    ParameterSpec(
        "save_vocabulary",
        True,
        "Keep every change of the vocabulary in vocabulary_file, where that is the path of a YAML file; what was saved "
        "wins over the parameter vocabulary at the next start.",
        fixed=True,
    ),
    ParameterSpec(
        "max_categories",
        inspect.signature(Vocabulary.build).parameters["max_categories"].default,
        "Most categories of a vocabulary; longer ones are refused.",
        1,
        65535,
        fixed=True,
    ),
    ParameterSpec(
        "label_image_encoding",
        _OPTIONS.label_image_encoding,
        "Of ~/label_image. auto: mono8 while all ids are below 255, else 16UC1. mono8: ids stay below 255, as Nav2 "
        "needs it; those of words that are gone are given again, and a vocabulary that does not fit is refused. 16UC1: "
        "always.",
        choices=("auto", "mono8", "16UC1"),
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
    ParameterSpec(
        "cameras",
        [""],
        "Names of cameras; the inputs are <name>/image and so on, the outputs ~/<name>/label_image and so on. Empty: "
        "one camera without a name, image and ~/label_image.",
        fixed=True,
    ),
    ParameterSpec(
        "max_batch",
        0,
        "Most cameras' frames that go through the model at once; 0 = all that wait on a GPU, one on a CPU, where a "
        "batch saves nothing and makes the first camera wait for the last.",
        0,
        64,
        fixed=True,
    ),
    ParameterSpec("enabled", True, "Whether images are segmented; also set by the service ~/enable."),
    ParameterSpec("max_rate", 0.0, "Most frames per second and camera; 0 = as many as arrive.", 0.0, 1000.0),
    ParameterSpec(
        "roi",
        [0, 0, 0, 0],
        "Region of interest: x, y, width and height in pixels of the input image; width or height 0 = to the edge. "
        "Outside it everything is void. With cameras, <camera>.roi takes its place for that camera.",
    ),
    ParameterSpec("image_timeout", 5.0, "Warn when no image came for this many seconds; 0 = never.", 0.0, 3600.0),
    ParameterSpec("overlay_alpha", _OPTIONS.overlay_alpha, "Opacity of the colours in ~/overlay_image.", 0.0, 1.0),
    ParameterSpec("overlay_labels", _OPTIONS.overlay_labels, "Write names into ~/overlay_image."),
    ParameterSpec("jpeg_quality", _OPTIONS.jpeg_quality, "JPEG quality of ~/overlay_image/compressed.", 1, 100),
    ParameterSpec(
        "mask_rle",
        _OPTIONS.mask_rle,
        "Give every segment in ~/segments its mask as COCO's compressed run-length code; needs pycocotools.",
    ),
    ParameterSpec("tracking", True, "Follow objects from frame to frame and publish their track_id; else it is 0."),
    ParameterSpec(
        "name_votes",
        0,
        "An object's name is decided by the scores of the names that it had in so many of its last frames; 0 = by each "
        "frame alone. Needs tracking; stuff keeps the frame's name.",
        0,
        1000,
    ),
    ParameterSpec(
        "depth_tolerance",
        0.0,
        "Most seconds between the stamps of an image and its depth; 0 = they must be equal.",
        0.0,
        1.0,
    ),
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


def engine_options(node: Node) -> EngineOptions:
    """How the model is to be run."""
    folder = node.get_parameter("engine_folder").value
    return EngineOptions(
        engine=node.get_parameter("engine").value,
        precision=node.get_parameter("precision").value,
        folder=Path(folder).expanduser() if folder else None,
    )


def camera_names(parameter: Sequence[str]) -> tuple[str, ...]:
    """The cameras of the parameter `cameras`; one without a name where it is empty."""
    return tuple(name for name in parameter if name) or ("",)


def camera_parameters(names: Iterable[str], roi: list[int]) -> tuple[ParameterSpec, ...]:
    """The parameters that each named camera has of its own; their defaults are the node's."""
    return tuple(
        ParameterSpec(f"{name}.roi", list(roi), f"As roi, for the camera {name} only.") for name in names if name
    )


def later_parameters(cameras: Sequence[str]) -> tuple[str, ...]:
    """The names of those that are declared when a model is loaded, for the parameter `cameras`."""
    return (*_MERGE_DESCRIPTIONS, *(spec.name for spec in camera_parameters(cameras, [])))


@dataclass(frozen=True, slots=True)
class Settings:
    """The live parameters as they are at one moment; one frame uses one `Settings`."""

    merge: MergeConfig
    region: Region
    outputs: OutputOptions
    tracking: bool
    name_votes: int

    @classmethod
    def read(cls, node: Node, camera: str = "") -> "Settings":
        """The values now in force for a camera. May be called from any thread."""

        def values(config: type[MergeConfig | OutputOptions]) -> dict[str, Any]:
            return {field.name: node.get_parameter(field.name).value for field in fields(config)}

        return cls(
            merge=MergeConfig(**values(MergeConfig)),
            region=Region(*node.get_parameter(f"{camera}.roi" if camera else "roi").value),
            outputs=OutputOptions(**values(OutputOptions)),
            tracking=node.get_parameter("tracking").value,
            name_votes=node.get_parameter("name_votes").value,
        )


def validate(parameters: list[Parameter]) -> SetParametersResult:
    """Refuses what types and ranges, which rclpy checks, let through; for `add_on_set_parameters_callback`."""
    for parameter in parameters:
        # Of no value, which is no type either, rclpy or `declare` says more.
        if parameter.value is not None and (reason := _objection(parameter.name, parameter.value)):
            return SetParametersResult(successful=False, reason=reason)
    return SetParametersResult(successful=True)


def _objection(name: str, value: Any) -> str:
    """Why a value cannot be; empty where it can."""
    for spec in PARAMETERS:
        if spec.name == name and spec.choices and value not in spec.choices:
            return f"{name} is {value!r}; expected one of {', '.join(spec.choices)}"
    if name == "mask_rle" and value:
        try:
            require_pycocotools()
        except ConfigError as error:
            return f"{name} is {value}: {error}"
    if name == "cameras":
        names = [camera for camera in value if camera]
        wrong = [camera for camera in names if not CAMERA_NAME.fullmatch(camera)]
        if wrong or len(names) != len(set(names)):
            return f"{name} is {list(value)}; expected different names of letters, digits and _, a letter first"
    if name.split(".")[-1] == "roi" and (len(value) != 4 or min(value) < 0):
        return f"{name} is {list(value)}; expected x, y, width and height, 0 or more"
    return ""
