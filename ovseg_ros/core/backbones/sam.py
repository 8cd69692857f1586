"""SAM's image encoder (Kirillov et al., ICCV 2023), a ViT with windows: its features know edges, and no words.

The network is transformers', whose import takes seconds: only who builds one pays for it. Tensors are named as in the
public files of its layout.
"""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass
from timm.layers import resample_abs_pos_embed_nhwc
from torch import Tensor, nn

from ovseg_ros.core.backbones.image_encoder import ImageEncoder
from ovseg_ros.core.config import STRICT
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, Canvas, squash
from ovseg_ros.core.weights.files import WeightFiles, find_weights, read_weights
from ovseg_ros.core.weights.strict import check_fit

_PATCH_SIZE = 16
_PREFIX, _META_PREFIX = "vision_encoder.", "image_encoder."
_POSITIONS = f"{_PREFIX}pos_embed"
_NOT_OF_THE_ENCODER = ("prompt_encoder.", "mask_decoder.", "shared_image_embedding.")
_META_NAMES = {
    _PREFIX: _META_PREFIX,
    ".layers.": ".blocks.",
    ".projection.": ".proj.",
    ".neck.conv1.": ".neck.0.",
    ".neck.layer_norm1.": ".neck.1.",
    ".neck.conv2.": ".neck.2.",
    ".neck.layer_norm2.": ".neck.3.",
    ".layer_norm": ".norm",
}
"""By parts of transformers' names, those of Meta's; in this order."""
_KEYS_SHOWN = 8


@dataclass(frozen=True, slots=True, config=STRICT)
class SamConfig:
    """A SAM's image encoder. The defaults are sam-vit-base's.

    sam-vit-large has width 1024, 24 layers and 16 heads; sam-vit-huge width 1280, 32 layers and 16 heads.

    Attributes:
        checkpoint: hub repository ("owner/name"), folder or file, in transformers' layout or Meta's; None for random
            weights.
        image_size: side of the square that images are scaled to, pixels; the public weights' is 1024. Positions are
            interpolated for others.
        width, layers, heads: channels, depth, and attention heads, of width / heads channels each.
        window: tokens along a side of the windows that most layers see no further than.
        global_layers: how many layers see the whole image: the last of as many equal groups.
    """

    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    image_size: Annotated[int, Field(ge=_PATCH_SIZE, le=4096, multiple_of=_PATCH_SIZE)] = 1024
    width: Annotated[int, Field(ge=1, le=8192)] = 768
    layers: Annotated[int, Field(ge=1, le=256)] = 12
    heads: PositiveInt = 12
    window: Annotated[int, Field(ge=1, le=256)] = 14
    global_layers: PositiveInt = 4
    kind: Literal["sam"] = "sam"

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        if self.layers % self.global_layers:
            raise ValueError(f"layers {self.layers} is no multiple of global_layers {self.global_layers}")

    @property
    def grid(self) -> int:
        """Tokens along a side of the image."""
        return self.image_size // _PATCH_SIZE

    @property
    def global_indices(self) -> list[int]:
        """Of the layers that see the whole image."""
        group = self.layers // self.global_layers
        return list(range(group - 1, self.layers, group))


class SamEncoder(ImageEncoder):
    """Features of images on a grid.

    Attributes:
        config: its architecture.
        vision_encoder: transformers' `SamVisionEncoder`.
    """

    def __init__(self, config: SamConfig) -> None:
        """With random weights; the checkpoint is not read, see `load_sam`."""
        from transformers import SamVisionConfig, SamVisionModel  # seconds

        super().__init__()
        self.config = config
        described = SamVisionConfig(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            image_size=config.image_size,
            patch_size=_PATCH_SIZE,
            window_size=config.window,
            global_attn_indexes=config.global_indices,
            initializer_range=0.02,  # transformers' own leaves weights of 1e-10, from which nothing is learned
            attn_implementation="sdpa",
        )
        self.width: int = described.output_channels
        self.vision_encoder: nn.Module = SamVisionModel(described).vision_encoder
        for layer in self._layers:
            layer.attn = _Attention(layer.attn)
        self.make_constants()

    def make_constants(self) -> None:
        """What no file holds; to be made again, on the CPU, after weights came to a model without memory."""
        self.canvas = Canvas(IMAGENET_MEAN, IMAGENET_STD)
        for layer in self._layers:
            layer.attn.make_constants(layer.window_size or self.config.grid)

    @property
    def _layers(self) -> Any:
        return self.vision_encoder.layers

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] squashed to the configured square, so that features lie on the same part of any image,
        whatever its aspect ratio.
        """
        side = self.config.image_size
        return self.canvas(squash(images, (side, side)))

    def features(self, pixels: Tensor) -> Tensor:
        """(B, width, grid, grid) of what `pixels` made."""
        found: Tensor = self.vision_encoder(pixels).last_hidden_state
        return found

    def tune_attention(self) -> dict[str, nn.Parameter]:
        """Freeze all but what LMSeg trains, and return that by name: projections into attention, but for their biases,
        and out of it.
        """
        self.requires_grad_(False)
        ends = ("attn.qkv.weight", "attn.proj.weight", "attn.proj.bias")
        tuned = {name: parameter for name, parameter in self.named_parameters() if name.endswith(ends)}
        for parameter in tuned.values():
            parameter.requires_grad_(True)
        return tuned


class _Attention(nn.Module):
    """transformers' attention with positions between tokens, of one side for all that it sees.

    Which position is between which tokens is a constant. transformers asks the host for each image anew, so that a GPU
    is waited for twice in every layer.
    """

    between: Tensor

    def __init__(self, attention: Any) -> None:
        """Takes over the weights of `attention`, a `SamVisionAttention`."""
        super().__init__()
        self._heads: int = attention.num_attention_heads
        self.rel_pos_h, self.rel_pos_w = attention.rel_pos_h, attention.rel_pos_w
        self.qkv: nn.Linear = attention.qkv
        self.proj: nn.Linear = attention.proj

    def make_constants(self, side: int) -> None:
        """`side`: tokens along a side of what is seen."""
        place = torch.arange(side)
        self.register_buffer("between", place[:, None] - place + side - 1, persistent=False)  # (side, side)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, None]:
        """(N, side, side, C) -> the same, and no weights."""
        batch, rows, columns, _ = hidden_states.shape
        parts = self.qkv(hidden_states).reshape(batch, rows * columns, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)  # (N, heads, side * side, d) each
        on_grid = queries.flatten(0, 1).unflatten(1, (rows, columns))
        down = torch.einsum("bhwc,hkc->bhwk", on_grid, self.rel_pos_h[self.between])
        across = torch.einsum("bhwc,wkc->bhwk", on_grid, self.rel_pos_w[self.between])
        bias = (down[..., :, None] + across[..., None, :]).reshape(batch, self._heads, rows * columns, rows * columns)
        read = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        read = read.unflatten(2, (rows, columns)).permute(0, 2, 3, 1, 4).reshape(batch, rows, columns, -1)
        return self.proj(read), None


def load_sam(source: str, config: SamConfig) -> SamEncoder:
    """An encoder in float32 with published weights. What is not interpolated is, where the file is float32, mapped
    from it: pages are read when they are used.

    Positions of other image sizes are interpolated once: absolute ones bicubically, antialiased, as timm's SAM does it
    for each image, and those between tokens of the global layers linearly, as SAM's own code does it.

    Args:
        source: hub repository, folder or file; see `find_weights`. SAM's prompt encoder and mask decoder, if they are
            there, are skipped.

    Raises:
        CheckpointError: the file is missing or damaged, holds no SAM, or one of another size or kind; the tensors that
            are missing, unexpected or of another shape are named.
    """
    files = find_weights(source)
    with torch.device("meta"):
        model = SamEncoder(config)
    own = model.state_dict()
    state = _encoder_state(files)
    in_metas_names = not any(key.startswith(_PREFIX) for key in state)
    names = {key: _meta_name(key) if in_metas_names else key for key in own}
    grid = _published_grid(state.get(names[_POSITIONS]), config)
    relative = {f"{_PREFIX}layers.{i}.attn.rel_pos_{axis}" for i in config.global_indices for axis in "hw"}
    wanted = {names[key]: value for key, value in own.items()}
    wanted[names[_POSITIONS]] = torch.empty(1, grid, grid, config.width, device="meta")
    for key in relative:
        wanted[names[key]] = torch.empty(2 * grid - 1, config.width // config.heads, device="meta")
    check_fit(wanted, state, files.where)
    weights = {key: state[name].to(torch.float32) for key, name in names.items()}
    if grid != config.grid:
        weights[_POSITIONS] = resample_abs_pos_embed_nhwc(weights[_POSITIONS], [config.grid, config.grid]).contiguous()
        for key in relative:
            rows = F.interpolate(weights[key].T[None], size=2 * config.grid - 1, mode="linear")
            weights[key] = rows[0].T.contiguous()
    model.load_state_dict(weights, assign=True)
    model.make_constants()
    return model


def _encoder_state(files: WeightFiles) -> dict[str, Tensor]:
    """All tensors of the file but those of the prompt encoder and mask decoder."""
    state = read_weights(files)
    if not any(key.startswith((_PREFIX, _META_PREFIX)) for key in state):
        raise CheckpointError(
            f"{files.where} holds no image encoder of SAM: no tensor's name begins with {_PREFIX!r} or "
            f"{_META_PREFIX!r}, but there are {', '.join(sorted(state)[:_KEYS_SHOWN]) or 'none at all'}"
        )
    return {key: value for key, value in state.items() if not key.startswith(_NOT_OF_THE_ENCODER)}


def _meta_name(key: str) -> str:
    for ours, theirs in _META_NAMES.items():
        key = key.replace(ours, theirs)
    return key


def _published_grid(positions: Tensor | None, config: SamConfig) -> int:
    """Tokens along a side of the square that the file's positions are for; the configured ones if they are for none."""
    is_square = positions is not None and positions.ndim == 4 and 0 < positions.shape[1] == positions.shape[2]
    return positions.shape[1] if positions is not None and is_square else config.grid
