"""EoMTs of transformers with random weights, written to disk in both published layouts by a key map of the tests' own.

The structures are the published ones (registers, layer scale, SwiGLU of the giant, L2 of each size); widths and depths
are small.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from published_names import with_joined_gates
from safetensors.torch import save_file
from torch import Tensor
from transformers import EomtConfig, EomtForUniversalSegmentation

STRUCTURES = {
    "small": {"hidden_size": 128, "num_hidden_layers": 4, "num_blocks": 3},
    "base": {"hidden_size": 192, "num_hidden_layers": 4, "num_blocks": 3},
    "large": {"hidden_size": 128, "num_hidden_layers": 6, "num_blocks": 4},
    "giant": {"hidden_size": 192, "num_hidden_layers": 7, "num_blocks": 5, "use_swiglu_ffn": True},
}

# The authors' names from transformers', in order; queries, keys and values are joined before.
_RENAMES = (
    (r"^embeddings\.cls_token", "network.encoder.backbone.cls_token"),
    (r"^embeddings\.register_tokens", "network.encoder.backbone.reg_token"),
    (r"^embeddings\.position_embeddings\.weight", "network.encoder.backbone.pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "network.encoder.backbone.patch_embed.proj"),
    (r"^layernorm\.", "network.encoder.backbone.norm."),
    (r"^query\.", "network.q."),
    (r"^class_predictor\.", "network.class_head."),
    (r"^attn_mask_probs", "network.attn_mask_probs"),
    (r"^mask_head\.fc1", "network.mask_head.0"),
    (r"^mask_head\.fc2", "network.mask_head.2"),
    (r"^mask_head\.fc3", "network.mask_head.4"),
    (r"^upscale_block\.block\.(\d)\.layernorm2d", r"network.upscale.\1.norm"),
    (r"^upscale_block\.block\.", "network.upscale."),
    (r"^layers\.", "network.encoder.backbone.blocks."),
    (r"\.attention\.out_proj", ".attn.proj"),
    (r"\.attention\.qkv", ".attn.qkv"),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"\.mlp\.weights_in", ".mlp.fc1"),
    (r"\.mlp\.weights_out", ".mlp.fc2"),
)


@dataclass(frozen=True)
class Reference:
    """transformers' EoMT under random weights."""

    model: EomtForUniversalSegmentation
    config: EomtConfig

    def transformers_state(self) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in self.model.state_dict().items()}

    def tue_mps_state(self) -> dict[str, Tensor]:
        state = with_joined_gates(self.transformers_state())
        for index in range(self.config.num_hidden_layers):
            prefix = f"layers.{index}.attention"
            for kind in ("weight", "bias"):
                parts = [state.pop(f"{prefix}.{name}_proj.{kind}") for name in "qkv"]
                state[f"{prefix}.qkv.{kind}"] = torch.cat(parts)
        renamed = {}
        for key, value in state.items():
            for pattern, replacement in _RENAMES:
                key = re.sub(pattern, replacement, key)
            renamed[key] = value
        renamed["network.encoder.backbone.pos_embed"] = renamed["network.encoder.backbone.pos_embed"][None]
        renamed["network.encoder.pixel_mean"] = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
        renamed["network.encoder.pixel_std"] = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
        return renamed

    def write(self, folder: Path, layout: str, *, settings: bool = True, kind: str = "safetensors") -> Path:
        """A folder as a hub has it, or a Lightning checkpoint (`kind` "lightning"); returns the weights' file."""
        folder.mkdir(parents=True, exist_ok=True)
        state = self.transformers_state() if layout == "transformers" else self.tue_mps_state()
        if settings:
            stated = self.config.to_diff_dict() | {"num_attention_heads": self.config.num_attention_heads}
            (folder / "config.json").write_text(json.dumps(stated))
        if kind == "safetensors":
            save_file(state, folder / "model.safetensors")
            return folder / "model.safetensors"
        if kind == "lightning":
            torch.save({"state_dict": state, "epoch": 11, "global_step": 88692}, folder / "last.ckpt")
            return folder / "last.ckpt"
        torch.save(state, folder / "pytorch_model.bin")
        return folder / "pytorch_model.bin"


def _make(structure: str, **changes: object) -> Reference:
    settings = STRUCTURES[structure] | {
        "image_size": 64,
        "num_queries": 9,
        "id2label": dict(enumerate(["cup", "mug", "floor", "wall", "sky"])),
    }
    settings = settings | changes
    settings["num_attention_heads"] = settings["hidden_size"] // 64
    config = EomtConfig(**settings)
    model = EomtForUniversalSegmentation(config).eval()
    torch.manual_seed(5)  # after what the model draws itself, which differs between versions of transformers
    with torch.no_grad():  # its own initialisation leaves many weights at constants, which would hide mistakes
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
        model.attn_mask_probs.zero_()  # annealed, as published checkpoints are
    return Reference(model, config)


@pytest.fixture(scope="session")
def make_reference() -> Callable[..., Reference]:
    """`make_reference(structure, **changes of EomtConfig)`."""
    return _make


@pytest.fixture(scope="session", params=STRUCTURES)
def reference(request: pytest.FixtureRequest) -> Reference:
    """One after the other, the structures of every published size."""
    return _make(request.param)


@pytest.fixture(scope="session")
def small_reference() -> Reference:
    return _make("small")
