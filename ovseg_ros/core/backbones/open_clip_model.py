"""Any CLIP of open_clip's list with its published weights, loaded strictly and without a second copy in memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer
from pydantic import PositiveFloat
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from ovseg_ros.core.backbones.sentences import PieceTokenizer, SentenceEncoder
from ovseg_ros.core.config import STRICT, choices
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.weights.files import find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit

CHECKPOINT_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
"""Files of a CLIP in a folder or a hub repository, the preferred one first."""


@dataclass(frozen=True, slots=True, config=STRICT)
class OpenClipConfig:
    """A published CLIP.

    Attributes:
        architecture: a name of `open_clip.list_models()`, or the path of a JSON file in open_clip's format.
        checkpoint: hub repository ("owner/name"), folder, or file (.bin, .pt, .safetensors).
        mean, std: of the image encoder's input, for channels in [0, 1].
    """

    architecture: str
    checkpoint: str
    mean: tuple[float, float, float] = OPENAI_DATASET_MEAN
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = OPENAI_DATASET_STD
    kind: Literal["open_clip"] = "open_clip"


def build_open_clip(
    config: OpenClipConfig, *, device: Literal["cpu", "meta"] = "cpu"
) -> tuple[open_clip.CustomTextCLIP, SimpleTokenizer]:
    """The model, in evaluation mode and without gradients, and its tokenizer.

    On "cpu" the weights are float32 and, where the file is, mapped from it: pages are read when they are used. On
    "meta" there are only shapes, and the checkpoint is not touched.

    Raises:
        ConfigError: for an unknown or unsupported architecture.
        CheckpointError: if the checkpoint is missing or unreadable, or naming the keys that do not fit.
    """
    description = model_description(config.architecture)
    try:
        with torch.device("meta"):
            model = open_clip.CustomTextCLIP(**description)
    except (AttributeError, TypeError, ValueError, RuntimeError, AssertionError, ArithmeticError) as error:
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise ConfigError(
            f"open_clip {open_clip.__version__} cannot make the architecture {config.architecture}: {reason}; correct "
            "its vision_cfg, text_cfg and embed_dim"
        ) from error
    model.requires_grad_(False).eval()
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    if device == "meta":
        return model, tokenizer
    files = find_weights(config.checkpoint, CHECKPOINT_NAMES)
    state = {_nested(key.removeprefix("module.")): value for key, value in read_weights(files).items()}
    state.pop("text.attn_mask", None)  # some old files have it; it is a constant
    wanted = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in state and name in wanted and state[name].numel() == 1:
            state[name] = state[name].reshape(wanted[name].shape)
    check_fit(wanted, state, files.where)
    model.load_state_dict({key: value.to(wanted[key].dtype) for key, value in state.items()}, assign=True)
    model.requires_grad_(False)
    if model.text.attn_mask is not None:  # not in a checkpoint, so it is still without content
        model.text.attn_mask = model.text.build_causal_mask()
    return model, tokenizer


def model_description(architecture: str) -> dict[str, Any]:
    """What open_clip's constructor takes for an architecture's name or JSON file.

    Raises:
        ConfigError: if there is no such name or file, or its text encoder is not open_clip's own transformer.
    """
    if architecture.endswith(".json"):
        try:
            description = json.loads(Path(architecture).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                f"cannot read the architecture {architecture}: {error.strerror}; correct the path"
            ) from error
        except ValueError as error:
            raise ConfigError(f"{architecture} is not valid JSON: {error}; correct it") from error
        description = description.get("model_cfg", description) if isinstance(description, dict) else {}
    elif architecture in (known := open_clip.list_models()):
        description = open_clip.get_model_config(architecture)
    else:
        raise ConfigError(
            f"open_clip {open_clip.__version__} has no architecture {architecture!r}"
            f"{choices(architecture, known)}, or give the path of a .json file"
        )
    parts = {"vision_cfg": dict, "text_cfg": dict, "embed_dim": int}
    if not isinstance(description, dict) or not all(isinstance(description.get(n), kind) for n, kind in parts.items()):
        raise ConfigError(
            f"the architecture {architecture} lacks vision_cfg, text_cfg or embed_dim; expected the format of "
            "open_clip's model_configs/*.json"
        )
    text = description["text_cfg"]
    if "hf_model_name" in text or "hf_tokenizer_name" in text or "multimodal_cfg" in description:
        raise ConfigError(
            f"the architecture {architecture} is not supported: its text tower or tokenizer is not CLIP's own; "
            "use a ViT-* or convnext_* architecture without a language model's name"
        )
    taken = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale", "init_logit_bias")
    return {key: description[key] for key in taken if key in description}


def encode_prompts(model: open_clip.CustomTextCLIP, tokenizer: SimpleTokenizer, sentences: Sequence[str]) -> Tensor:
    """Unit vectors (N, D) of sentences in one batch, by the text encoder on its own device; gradients flow."""
    text = model.text
    tokens = tokenizer(list(sentences)).to(text.positional_embedding.device)  # (N, context length)
    if _is_read_to_the_end(text):
        tokens = tokens[:, : int(tokens.argmax(dim=1).max()) + 1]
    return F.normalize(embed_tokens(text, tokens), dim=-1)


def prompt_encoder(model: open_clip.CustomTextCLIP, tokenizer: SimpleTokenizer) -> SentenceEncoder:
    """As `encode_prompts`, for sentences by the thousand, without gradients."""
    text, length = model.text, model.context_length

    def embed(tokens: Tensor) -> Tensor:
        return embed_tokens(text, tokens if _is_read_to_the_end(text) else F.pad(tokens, (0, length - tokens.shape[1])))

    tokens = PieceTokenizer(lambda texts: [tokenizer.encode(some) for some in texts])
    ends = (tokenizer.sot_token_id, tokenizer.eot_token_id)
    return SentenceEncoder(text, embed, tokens, ends=ends, context_length=length)


def _is_read_to_the_end(text: open_clip.transformer.TextTransformer) -> bool:
    """Whether a token attends only to earlier ones, and the end's is all that counts.

    Then what follows the last sentence's end need not be computed: the same vectors for a sixth of the work.
    """
    return text.pool_type == "argmax" and text.attn_mask is not None and text.cls_emb is None


def embed_tokens(text: open_clip.transformer.TextTransformer, tokens: Tensor) -> Tensor:
    """Vectors (N, D) of tokens (N, L); if the tower reads to the end, L may be less than the context's length."""
    if not _is_read_to_the_end(text):
        embedded: Tensor = text(tokens)
        return embedded
    ends, length = tokens.argmax(dim=1), tokens.shape[1]  # the end token has the highest id
    states = text.token_embedding(tokens) + text.positional_embedding[:length]  # (N, L, C)
    states = text.transformer(states, attn_mask=text.attn_mask[:length, :length])
    pooled = text.ln_final(states[torch.arange(len(tokens), device=tokens.device), ends])  # (N, C)
    if isinstance(text.text_projection, nn.Linear):
        return text.text_projection(pooled)
    return pooled if text.text_projection is None else pooled @ text.text_projection


def count_prompt_tokens(tokenizer: SimpleTokenizer, sentences: Sequence[str]) -> list[tuple[int, int]]:
    """Of each sentence: its tokens before it is cut, the start's and the end's included, and 0: it knows all signs."""
    return [(2 + len(tokenizer.encode(sentence)), 0) for sentence in sentences]


def _nested(key: str) -> str:
    """A key of `open_clip.CLIP`, whose text encoder lies at the top, as `CustomTextCLIP` calls it."""
    at_top = key.startswith(("visual.", "text.")) or key in ("logit_scale", "logit_bias")
    return key if at_top else f"text.{key}"
