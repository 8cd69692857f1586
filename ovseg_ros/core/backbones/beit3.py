"""BEiT-3 (Wang et al., CVPR 2023): one transformer for image and text, whose layers have weights for each.

Every linear layer and norm exists twice, A for image tokens and B for text tokens; attention alone sees both. Norms
stand inside attention and feed-forward network too (Magneto's sub-LayerNorm). Tensors are named as in torchscale, which
the published files come from.
"""

import math
from typing import Annotated, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn

from ovseg_ros.core.config import STRICT
from ovseg_ros.core.text_attention import in_heads, joined_heads

UNUSED_ROWS = 2
"""Of position tables: fairseq's positions begin at 2."""
_CLASS_TOKENS = 1
_EPS = 1e-5
_SLOWEST = 500.0

Width = Annotated[int, Field(ge=1, le=8192)]
Side = Annotated[int, Field(ge=16, le=4096)]


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class Beit3Config:
    """Architecture of a BEiT-3.

    Attributes:
        image_size: (height, width) in pixels that the image's positions are made for; others are interpolated.
        patch_size: pixels along a patch's side.
        width, layers, heads: D, depth, and attention heads, of D / heads channels each.
        feed_forward_width: of the hidden layer in feed-forward networks.
        words: rows of the table of tokens.
        text_length: rows of the text's positions, without the two that are never used.
    """

    image_size: tuple[Side, Side]
    patch_size: Annotated[int, Field(ge=1, le=256)] = 16
    width: Width = 1024
    layers: Annotated[int, Field(ge=1, le=256)] = 24
    heads: PositiveInt = 16
    feed_forward_width: Annotated[int, Field(ge=1, le=65_536)] = 4096
    words: Annotated[int, Field(ge=1, le=1_000_000)] = 64_010
    text_length: Annotated[int, Field(ge=1, le=65_536)] = 1022

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is no multiple of 4 and of heads {self.heads}")
        if any(side % self.patch_size for side in self.image_size):
            raise ValueError(f"image_size is {list(self.image_size)}; expected multiples of {self.patch_size}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class Tokens(NamedTuple):
    """Both halves of a sequence; None where there is no such half.

    Attributes:
        image: (B, 1 + h * w, D), the class token first.
        text: (B, L, D).
    """

    image: Tensor | None
    text: Tensor | None

    @property
    def parts(self) -> list[Tensor]:
        """Those that there are, the image first."""
        return [part for part in self if part is not None]

    def plus(self, more: "Tokens") -> "Tokens":
        """The sum of tokens with the same halves."""
        halves = zip(self, more, strict=True)
        return Tokens(*(None if one is None or other is None else one + other for one, other in halves))


_M = TypeVar("_M", bound=nn.Module)


class Multiway(nn.Module, Generic[_M]):
    """One module for image tokens, A, and one for text tokens, B."""

    def __init__(self, image: _M, text: _M) -> None:
        super().__init__()
        self.A, self.B = image, text

    def forward(self, tokens: Tokens) -> Tokens:
        """Each half through its own."""
        return Tokens(
            None if tokens.image is None else self.A(tokens.image),
            None if tokens.text is None else self.B(tokens.text),
        )


def _linears(inputs: int, outputs: int) -> Multiway[nn.Linear]:
    return Multiway(nn.Linear(inputs, outputs), nn.Linear(inputs, outputs))


def _norms(width: int) -> Multiway[nn.LayerNorm]:
    return Multiway(nn.LayerNorm(width, eps=_EPS), nn.LayerNorm(width, eps=_EPS))


class _Attention(nn.Module):
    """Self-attention over both halves at once, normalised before it is put out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.q_proj, self.k_proj, self.v_proj = (_linears(width, width) for _ in range(3))
        self.inner_attn_ln = _norms(width)
        self.out_proj = _linears(width, width)

    def forward(self, tokens: Tokens, present: Tensor | None, fused: bool) -> Tokens:
        projected = [project(tokens) for project in (self.q_proj, self.k_proj, self.v_proj)]
        if fused and tokens.image is not None and tokens.text is not None:
            lengths = [tokens.image.shape[1], tokens.text.shape[1]]
            query, key, value = (torch.cat(both.parts, dim=1) for both in projected)
            seen = None if present is None else F.pad(present, (lengths[0], 0), value=True)
            read = Tokens(*self._attend(query, key, value, seen).split(lengths, dim=1))
        else:
            halves = zip(*projected, (None, present), strict=True)
            read = Tokens(
                *(
                    None if q is None or k is None or v is None else self._attend(q, k, v, seen)
                    for q, k, v, seen in halves
                )
            )
        attended: Tokens = self.out_proj(self.inner_attn_ln(read))
        return attended

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, present: Tensor | None) -> Tensor:
        """(B, N, D) of (B, N, D) each."""
        allowed = None if present is None else present[:, None, None]
        query, key, value = (in_heads(part, self._heads) for part in (query, key, value))
        return joined_heads(F.scaled_dot_product_attention(query, key, value, allowed))


class _FeedForward(nn.Module):
    """Of one kind of tokens."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.ffn_layernorm = nn.LayerNorm(hidden, eps=_EPS)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.ffn_layernorm(F.gelu(self.fc1(tokens))))


class Beit3Layer(nn.Module):
    """One multiway layer."""

    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        width, hidden = config.width, config.feed_forward_width
        self.self_attn_layer_norm = _norms(width)
        self.self_attn = _Attention(width, config.heads)
        self.final_layer_norm = _norms(width)
        self.ffn = Multiway(_FeedForward(width, hidden), _FeedForward(width, hidden))

    def forward(self, tokens: Tokens, present: Tensor | None = None, *, fused: bool = True) -> Tokens:
        """Tokens of the same shapes.

        Args:
            present: (B, L) bool, False for text tokens that nothing reads, such as padding; None reads all.
            fused: whether image and text see each other.
        """
        tokens = tokens.plus(self.self_attn(self.self_attn_layer_norm(tokens), present, fused))
        return tokens.plus(self.ffn(self.final_layer_norm(tokens)))


class _ImageEmbedding(nn.Module):
    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        # In the published files, of pretraining alone.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width), requires_grad=False)
        self.proj = nn.Conv2d(3, config.width, config.patch_size, config.patch_size)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.proj(images).flatten(2).transpose(1, 2)  # (B, h * w, D)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)


class _Encoder(nn.Module):
    def __init__(self, config: Beit3Config) -> None:
        super().__init__()
        rows, columns = config.grid
        image_rows, text_rows = UNUSED_ROWS + _CLASS_TOKENS + rows * columns, UNUSED_ROWS + config.text_length
        self.embed_positions = Multiway(
            nn.Embedding(image_rows, config.width), nn.Embedding(text_rows, config.width)
        )  # fmt: skip
        self.layers = nn.ModuleList(Beit3Layer(config) for _ in range(config.layers))
        self.layer_norm = _norms(config.width)


class Beit3(nn.Module):
    """Embeds images and text, and reads both in one pass, or each alone.

    Attributes:
        config: its architecture.
    """

    def __init__(self, config: Beit3Config) -> None:
        """With random weights for training from scratch.

        They are Magneto's, but for positions, which are sines, and the text's attention in the first half of the
        layers, which looks at the next places: which words follow a mark is what a text has to know first, and from
        noise alone a short training does not find it.
        """
        super().__init__()
        self.config = config
        self.text_embed = nn.Embedding(config.words, config.width)
        self.vision_embed = _ImageEmbedding(config)
        self.encoder = _Encoder(config)
        if not self.text_embed.weight.is_meta:
            _initialise(self)

    @property
    def layers(self) -> list[Beit3Layer]:
        """From the first to the last."""
        return [layer for layer in self.encoder.layers if isinstance(layer, Beit3Layer)]

    def forward(self, tokens: Tokens, present: Tensor | None = None, *, fused: bool = True) -> Tokens:
        """Last states, normalised; of embedded tokens, with arguments as of `Beit3Layer`."""
        if tokens.text is not None and present is not None:
            tokens = tokens._replace(text=tokens.text * present[..., None])
        for layer in self.layers:
            tokens = layer(tokens, present, fused=fused)
        return self.normalised(tokens)

    def normalised(self, tokens: Tokens) -> Tokens:
        """The final norm of what the last layer put out."""
        states: Tokens = self.encoder.layer_norm(tokens)
        return states

    def embed_images(self, images: Tensor) -> Tensor:
        """Tokens (B, 1 + h * w, D) of normalised images (B, 3, H, W), whose sides are multiples of the patch's."""
        patch = self.config.patch_size
        if any(side % patch for side in images.shape[-2:]):
            raise ValueError(f"BEiT-3 takes images of multiples of {patch} pixels, got {tuple(images.shape[-2:])}")
        grid = (images.shape[-2] // patch, images.shape[-1] // patch)
        rows = self.encoder.embed_positions.A.weight[UNUSED_ROWS:]
        return self.vision_embed(images) + resized_positions(rows, self.config.grid, grid)

    def embed_text(self, words: Tensor, trained_length: int | None = None) -> Tensor:
        """Tokens (..., L, D) of words' vectors of that shape, which positions are added to.

        Args:
            trained_length: how many of the positions are trained; None = all. A longer text gets as many, interpolated
                linearly between these.
        """
        length, rows = words.shape[-2], self.encoder.embed_positions.B.weight[UNUSED_ROWS:]
        trained = rows[: trained_length or self.config.text_length]
        if length <= len(trained):
            return words + trained[:length]
        stretched = F.interpolate(trained.T[None].float(), size=length, mode="linear", align_corners=True)
        return words + stretched[0].T.to(words)


def resized_positions(rows: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Positions (1 + h * w, D) of a grid of patches for another grid; the class token's, the first, stays.

    Bicubic in float32, as BEiT-3's own fine-tuning does it.
    """
    if grid == wanted:
        return rows
    patches = rows[_CLASS_TOKENS:].float().unflatten(0, grid).permute(2, 0, 1)[None]  # (1, D, h, w)
    patches = F.interpolate(patches, size=wanted, mode="bicubic", align_corners=False)
    return torch.cat([rows[:_CLASS_TOKENS], patches[0].flatten(1).T.to(rows)])


def _frequencies(width: int) -> Tensor:
    """(width / 2,) radians from a place to the next: the slowest wave is some hundred places long."""
    return _SLOWEST ** -torch.linspace(0, 1, width // 2)


def _sines(places: Tensor, width: int) -> Tensor:
    """Vectors (N, width) of length 1, of places (N,): sine and cosine of each frequency, side by side."""
    angles = places[:, None] * _frequencies(width)  # (N, width / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1) * math.sqrt(2 / width)


def _look_ahead(query: Tensor, key: Tensor, heads: int) -> None:
    """Make heads compare places alone: the first with their own, the others with the next, the one after it, ...

    Turning a wave's sine and cosine by an angle is moving it by so many places, so the query's weights are the key's,
    turned. Each head takes waves of the faster half, evenly.

    Args:
        query, key: weights (D, D) of projections, changed in place.
    """
    width, per_head = len(query), len(query) // heads // 2  # waves
    frequencies = _frequencies(width)
    waves = torch.linspace(0, width // 4 - 1, per_head).long()
    for head in range(heads):
        for number, wave in enumerate(waves.tolist()):
            angle = float(head * frequencies[wave])
            turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
            row = head * (width // heads) + 2 * number
            for weight, pair in ((query, turn), (key, torch.eye(2))):
                weight[row : row + 2] = 0.0
                weight[row : row + 2, 2 * wave : 2 * wave + 2] = pair


def _initialise(model: Beit3) -> None:
    """Magneto's random weights: Xavier's, and the deeper the network, the larger where norms follow."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        width, (rows, columns) = model.config.width, model.config.grid
        nn.init.normal_(model.text_embed.weight, std=width**-0.5)
        positions = model.encoder.embed_positions
        positions.B.weight.copy_(_sines(torch.arange(len(positions.B.weight)), width))
        down, right = torch.arange(rows).repeat_interleave(columns), torch.arange(columns).repeat(rows)
        both = torch.cat([_sines(down, width - width // 2), _sines(right, width // 2)], dim=1)
        nn.init.zeros_(positions.A.weight)
        positions.A.weight[UNUSED_ROWS + _CLASS_TOKENS :] = both / math.sqrt(2)
        gain = math.sqrt(math.log(2 * model.config.layers))
        for layer in model.layers:
            for half in ("A", "B"):
                attention, network = layer.self_attn, layer.ffn.get_submodule(half)
                for name in ("q_proj", "k_proj"):
                    attention.get_submodule(f"{name}.{half}").get_parameter("weight").div_(math.sqrt(2))
                attention.get_submodule(f"v_proj.{half}").get_parameter("weight").mul_(gain / math.sqrt(2))
                attention.get_submodule(f"out_proj.{half}").get_parameter("weight").mul_(gain)
                for name in ("fc1", "fc2"):
                    network.get_submodule(name).get_parameter("weight").mul_(gain)
        for layer in model.layers[: model.config.layers // 2]:
            attention = layer.self_attn
            _look_ahead(attention.q_proj.B.weight, attention.k_proj.B.weight, model.config.heads)
