"""The EoMTs whose weights anyone can download: what their hub names say. docs/checkpoints.md lists them.

Sources: the model zoo and configurations of github.com/tue-mps/eomt (MIT).
"""

import re
from dataclasses import dataclass, replace

from ovseg_ros.core.proposals.eomt.network import EoMTConfig
from ovseg_ros.core.weights.files import repository_of

DINOV3_BASES = {
    384: "facebook/dinov3-vits16-pretrain-lvd1689m",
    768: "facebook/dinov3-vitb16-pretrain-lvd1689m",
    1024: "facebook/dinov3-vitl16-pretrain-lvd1689m",
}
"""By the ViT's width: what the published EoMTs on DINOv3 were trained from."""

_NAME = re.compile(r"tue-mps/(coco|ade|ade20k)_(panoptic|instance|semantic)_eomt_([a-z]+)_(\d+)(_2x|_dinov3)?")
_SMALL = EoMTConfig(image_size=(640, 640), width=384, depth=12, heads=6, joint_blocks=3)
_SIZES = {
    "small": _SMALL,
    "base": replace(_SMALL, width=768, heads=12),
    "large": replace(_SMALL, width=1024, depth=24, heads=16, joint_blocks=4),
    "giant": replace(_SMALL, width=1536, depth=40, heads=24, joint_blocks=5, swiglu=True),
}
_CLASSES = {("coco", "panoptic"): 133, ("coco", "instance"): 80}  # of ADE20K 150 in every task


@dataclass(frozen=True, slots=True)
class PublishedEoMT:
    """One EoMT.

    Attributes:
        config: its architecture.
        base: for the differences to DINOv3's weights: the repository that has those.
    """

    config: EoMTConfig
    base: str | None


def published_eomt(source: str) -> PublishedEoMT | None:
    """What is known of an EoMT by its hub name, with or without "hf-hub:"; None where it is no published one's."""
    match = _NAME.fullmatch(repository_of(source) or "")
    if match is None or match[3] not in _SIZES:
        return None
    dataset, task, size, side, variant = match.groups()
    config = replace(
        _SIZES[size],
        image_size=(int(side), int(side)),
        num_classes=_CLASSES.get((dataset, task), 150),
        num_queries=100 if task == "semantic" else 200,
        dinov3=variant == "_dinov3",
    )
    return PublishedEoMT(config, DINOV3_BASES[config.width] if config.dinov3 else None)
