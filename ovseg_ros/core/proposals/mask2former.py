"""Mask2Former (Cheng et al., CVPR 2022) as transformers has it, behind the types of this package.

FISA's own masks come from it (Swin-B; Swin-T and ResNet-50 in its Table 4).
"""

from typing import NamedTuple

import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.closed_set import class_names
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.weights.files import find_weights
from ovseg_ros.core.weights.strict import list_faults

_STRIDE = 4  # pixels of the image along a pixel of the mask logits
_ALIGNMENT = 32  # the deepest features' stride


class LoadedMask2Former(NamedTuple):
    """A published checkpoint in evaluation mode on the CPU, and what its class logits mean."""

    model: "Mask2Former"
    class_names: tuple[str, ...]


class Mask2Former(nn.Module):
    """Wraps the library's network."""

    def __init__(self, network: Mask2FormerForUniversalSegmentation) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> MaskProposals:
        """Mask proposals.

        Args:
            images: (B, 3, H, W) float, normalised by ImageNet's statistics; H and W are multiples of 4. Padded to
                multiples of 32 at the right and bottom with the mean colour, as in training.

        Returns:
            `mask_logits` (B, Q, H / 4, W / 4); `query_embeddings` are the last decoder layer's, before its norm.

        Raises:
            ValueError: H or W is no multiple of 4: masks and image could not be aligned.
        """
        height, width = images.shape[-2:]
        if height % _STRIDE or width % _STRIDE:
            raise ValueError(f"Mask2Former takes images of multiples of {_STRIDE} pixels, got {height} x {width}")
        padded = F.pad(images, (0, -width % _ALIGNMENT, 0, -height % _ALIGNMENT))
        outputs = self.network(pixel_values=padded)
        return MaskProposals(
            mask_logits=outputs.masks_queries_logits[..., : height // _STRIDE, : width // _STRIDE],
            query_embeddings=outputs.transformer_decoder_last_hidden_state,
            class_logits=outputs.class_queries_logits,
        )


def load_mask2former(source: str) -> LoadedMask2Former:
    """Load a checkpoint in transformers' layout; nothing is downloaded.

    Args:
        source: a hub name in the local cache, such as "facebook/mask2former-swin-base-coco-panoptic", or a folder; it
            holds the weights and their config.json.

    Raises:
        CheckpointError: nothing is there, the files are damaged, or naming the keys that are missing, unexpected or of
            another shape.
    """
    files = find_weights(source)
    kind = files.settings.get("model_type")
    if kind != "mask2former":
        raise CheckpointError(
            f"{source} is no Mask2Former of transformers: model_type in its config.json is {kind!r}, expected "
            f"'mask2former'"
        )
    try:
        network, report = Mask2FormerForUniversalSegmentation.from_pretrained(
            files.shards[0].parent,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to list them all below
            use_safetensors=files.shards[0].suffix == ".safetensors",
        )
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        first_line = str(error).split("\n", maxsplit=1)[0]
        raise CheckpointError(f"{source} cannot be loaded as a Mask2Former: {first_line}") from error
    faults = list_faults(
        missing=sorted(report["missing_keys"]),
        unexpected=sorted(report["unexpected_keys"]),
        ill_shaped=sorted(fault if isinstance(fault, str) else fault[0] for fault in report["mismatched_keys"]),
    )
    if faults:
        raise CheckpointError(f"{source} does not fit the Mask2Former of its config.json: {faults}; download it again")
    names = class_names(network.config.num_labels, files.settings, source)
    return LoadedMask2Former(Mask2Former(network).eval(), names)
