"""The weights of transformers' modules under the names that published files have, for transformers 4 and 5 alike."""

import re

import torch
from torch import Tensor, nn


def dinov3_state(vit: nn.Module) -> dict[str, Tensor]:
    """A DINOv3 as in Meta's files; transformers 5 keeps the blocks one module deeper and writes the published names."""
    state = vit.state_dict()
    return {re.sub(r"^model\.", "", key): value for key, value in state.items() if "mask_token" not in key}


def with_joined_gates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A giant EoMT as transformers 4 has it and as it is published; transformers 5 keeps gate and value apart."""
    joined = {re.sub(r"\.mlp\.down_proj", ".mlp.weights_out", key): value for key, value in state.items()}
    for key in [key for key in joined if ".mlp.gate_proj." in key]:
        parts = [joined.pop(key), joined.pop(key.replace("gate", "up"))]
        joined[key.replace("gate_proj", "weights_in")] = torch.cat(parts)
    return joined


def with_parted_gates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A giant EoMT as transformers 5 writes it."""
    parted = {re.sub(r"\.mlp\.weights_out", ".mlp.down_proj", key): value for key, value in state.items()}
    for key in [key for key in parted if ".mlp.weights_in." in key]:
        for name, part in zip(("gate_proj", "up_proj"), parted.pop(key).chunk(2), strict=True):
            parted[key.replace("weights_in", name)] = part.clone()
    return parted
