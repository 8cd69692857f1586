"""The mask generators whose weights anyone can download: what their hub names say. docs/checkpoints.md lists them.

Sources: the model zoos and configurations of github.com/tue-mps/eomt and github.com/facebookresearch/Mask2Former (MIT).
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


@dataclass(frozen=True, slots=True)
class PublishedMask2Former:
    """One Mask2Former on a Swin; its decoders are alike in all: 256 channels, 9 layers.

    Attributes:
        width, depths, heads, window: of the Swin: channels of its first stage, blocks and heads of each, tokens along a
            window's side.
        num_queries, num_classes: most masks in an image; closed-set classes, without "no object".
    """

    width: int
    depths: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    window: int
    num_queries: int = 100
    num_classes: int = 133


_MASK2FORMERS = {
    "tiny": PublishedMask2Former(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "small": PublishedMask2Former(96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "base": PublishedMask2Former(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "large": PublishedMask2Former(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, num_queries=200),
}


def published_mask2former(source: str) -> PublishedMask2Former | None:
    """What is known of a Mask2Former for COCO panoptic by its hub name; None where it is no published one's."""
    match = re.fullmatch(r"facebook/mask2former-swin-([a-z]+)-coco-panoptic", repository_of(source) or "")
    return _MASK2FORMERS.get(match[1]) if match else None
