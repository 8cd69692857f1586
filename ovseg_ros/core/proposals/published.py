"""The EoMTs whose weights anyone can download, in one table: names and architectures.

Sources: the model zoo and configurations of github.com/tue-mps/eomt (MIT). Published quality is in docs/checkpoints.md.
"""

from dataclasses import dataclass, replace

from ovseg_ros.core.proposals.eomt.network import EoMTConfig
from ovseg_ros.core.weights.files import repository_of


@dataclass(frozen=True, slots=True)
class PublishedEoMT:
    """One EoMT.

    Attributes:
        hub_name: what `load_eomt` takes.
        task: "panoptic", "instance" or "semantic".
        dataset: what it was trained with, in words.
        config: its architecture.
        base: for the differences to DINOv3's weights: the repository that has those.
    """

    hub_name: str
    task: str
    dataset: str
    config: EoMTConfig
    base: str | None = None


_SMALL = EoMTConfig(image_size=(640, 640), width=384, depth=12, heads=6, joint_blocks=3)
_BASE = replace(_SMALL, width=768, heads=12)
_LARGE = replace(_SMALL, width=1024, depth=24, heads=16, joint_blocks=4)
_GIANT = replace(_SMALL, width=1536, depth=40, heads=24, joint_blocks=5, swiglu=True)

_SMALL_3, _BASE_3, _LARGE_3 = (replace(config, dinov3=True) for config in (_SMALL, _BASE, _LARGE))

DINOV3_BASES = {
    384: "facebook/dinov3-vits16-pretrain-lvd1689m",
    768: "facebook/dinov3-vitb16-pretrain-lvd1689m",
    1024: "facebook/dinov3-vitl16-pretrain-lvd1689m",
}
"""By the ViT's width: what the published EoMTs on DINOv3 were trained from."""


def _at(config: EoMTConfig, side: int, num_classes: int = 133, num_queries: int = 200) -> EoMTConfig:
    return replace(config, image_size=(side, side), num_classes=num_classes, num_queries=num_queries)


def _on_dinov3(hub_name: str, task: str, dataset: str, config: EoMTConfig) -> PublishedEoMT:
    return PublishedEoMT(hub_name, task, dataset, config, base=DINOV3_BASES[config.width])


PUBLISHED_EOMT = (
    PublishedEoMT("tue-mps/coco_panoptic_eomt_small_640_2x", "panoptic", "COCO", _at(_SMALL, 640)),
    PublishedEoMT("tue-mps/coco_panoptic_eomt_base_640_2x", "panoptic", "COCO", _at(_BASE, 640)),
    PublishedEoMT("tue-mps/coco_panoptic_eomt_large_640", "panoptic", "COCO", _at(_LARGE, 640)),
    PublishedEoMT("tue-mps/coco_panoptic_eomt_large_1280", "panoptic", "COCO", _at(_LARGE, 1280)),
    PublishedEoMT("tue-mps/coco_panoptic_eomt_giant_640", "panoptic", "COCO", _at(_GIANT, 640)),
    PublishedEoMT("tue-mps/coco_panoptic_eomt_giant_1280", "panoptic", "COCO", _at(_GIANT, 1280)),
    PublishedEoMT("tue-mps/ade20k_panoptic_eomt_large_640", "panoptic", "ADE20K", _at(_LARGE, 640, 150)),
    PublishedEoMT("tue-mps/ade20k_panoptic_eomt_large_1280", "panoptic", "ADE20K", _at(_LARGE, 1280, 150)),
    PublishedEoMT("tue-mps/ade20k_panoptic_eomt_giant_640", "panoptic", "ADE20K", _at(_GIANT, 640, 150)),
    PublishedEoMT("tue-mps/ade20k_panoptic_eomt_giant_1280", "panoptic", "ADE20K", _at(_GIANT, 1280, 150)),
    PublishedEoMT("tue-mps/coco_instance_eomt_large_640", "instance", "COCO", _at(_LARGE, 640, 80)),
    PublishedEoMT("tue-mps/coco_instance_eomt_large_1280", "instance", "COCO", _at(_LARGE, 1280, 80)),
    PublishedEoMT("tue-mps/ade20k_semantic_eomt_large_512", "semantic", "ADE20K", _at(_LARGE, 512, 150, 100)),
    _on_dinov3("tue-mps/coco_panoptic_eomt_small_640_dinov3", "panoptic", "COCO", _at(_SMALL_3, 640)),
    _on_dinov3("tue-mps/coco_panoptic_eomt_base_640_dinov3", "panoptic", "COCO", _at(_BASE_3, 640)),
    _on_dinov3("tue-mps/coco_panoptic_eomt_large_640_dinov3", "panoptic", "COCO", _at(_LARGE_3, 640)),
    _on_dinov3("tue-mps/coco_panoptic_eomt_large_1280_dinov3", "panoptic", "COCO", _at(_LARGE_3, 1280)),
    _on_dinov3("tue-mps/coco_instance_eomt_large_640_dinov3", "instance", "COCO", _at(_LARGE_3, 640, 80)),
    _on_dinov3("tue-mps/coco_instance_eomt_large_1280_dinov3", "instance", "COCO", _at(_LARGE_3, 1280, 80)),
    _on_dinov3("tue-mps/ade_semantic_eomt_large_512_dinov3", "semantic", "ADE20K", _at(_LARGE_3, 512, 150, 100)),
)
"""Never measure zero-shot quality on ADE20K with the checkpoints that were trained on it."""


def published_eomt(source: str) -> PublishedEoMT | None:
    """What is known of an EoMT by its hub name, with or without "hf-hub:"; None where it is no published one's."""
    return next((entry for entry in PUBLISHED_EOMT if entry.hub_name == repository_of(source)), None)
