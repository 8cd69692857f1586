"""What engines run of FISA: the image, and mask tokens that read it and the words."""

from collections.abc import Iterable

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from ovseg_ros.core.backbones.masked_attention import attended, queries_keys_values
from ovseg_ros.core.classification.fisa.clip_tower import first_tokens
from ovseg_ros.core.classification.fisa.mask_tokens import MaskTokenStream
from ovseg_ros.core.engine.part import Part, Port
from ovseg_ros.core.images import Canvas
from ovseg_ros.core.text_attention import KeyValues
from ovseg_ros.core.word_logits import unit


class ImageReader(nn.Module):
    """CLIP on views; words and masks have no part in it.

    Up to rounding, `image_key_values`, which trainings run; but CLIP's own keys and values are those that masks read.
    """

    def __init__(self, visual: VisionTransformer, pixels: Canvas) -> None:
        super().__init__()
        self.visual, self.pixels = visual, pixels

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Keys and values, of one layer after the other, of views (N, 3, S, T) in [0, 1]."""
        visual, read = self.visual, []
        tokens = first_tokens(visual, self.pixels(pixels).to(visual.conv1.weight.dtype))
        *blocks, last = visual.transformer.resblocks
        for block in blocks:
            queries, keys, values = queries_keys_values(block, tokens)
            read += [keys, values]
            tokens = attended(block, tokens, queries, keys, values)
        return (*read, *queries_keys_values(last, tokens, first=0)[1:])


class MaskNamer(nn.Module):
    """Mask tokens on what CLIP made of views."""

    def __init__(self, visual: VisionTransformer, stream: MaskTokenStream) -> None:
        super().__init__()
        self.visual, self.stream = visual, stream

    def forward(self, *tensors: Tensor) -> tuple[Tensor]:
        """Unit embeddings (N, M, D), float32, of masks.

        Args:
            tensors: what `ImageReader` gives, (N, M, P) bool the patches inside, and, where the stream reads words,
                their keys, values and bias (see `TextAttention`).
        """
        count = 2 * len(self.visual.transformer.resblocks)
        image, inside, of_words = layers(tensors[:count]), tensors[count], tensors[count + 1 :]
        text = KeyValues(*of_words[:2]) if of_words else None
        return (unit(self.stream(self.visual, image, inside, text, *of_words[2:])),)


def flat(read: Iterable[KeyValues]) -> tuple[Tensor, ...]:
    """Keys and values of one layer after the other."""
    return tuple(part for layer in read for part in layer)


def layers(tensors: tuple[Tensor, ...]) -> tuple[KeyValues, ...]:
    """The reverse of `flat`."""
    return tuple(KeyValues(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True))


def fisa_parts(visual: VisionTransformer, stream: MaskTokenStream, pixels: Canvas, *, crops: bool) -> tuple[Part, Part]:
    """The image's part and the masks'. `crops`: each view holds one mask; else a view is an image with many."""
    depth = len(visual.transformer.resblocks)
    views = {0: "crops" if crops else "images"}
    read = [Port(f"{kind}_{layer}", views) for layer in range(depth) for kind in ("keys", "values")]
    words = [
        Port("text_keys", {1: "words"}, keeps_type=True),
        Port("text_values", {1: "words"}, keeps_type=True),
        Port("text_bias", {0: "words"}, fill=-torch.inf, keeps_type=True),
    ]
    inside = Port("inside", views if crops else {**views, 1: "masks"})
    return (
        Part("fisa_image", ImageReader(visual, pixels), [Port("pixels", views, keeps_type=True)], read),
        Part(
            "fisa_names",
            MaskNamer(visual, stream),
            [*read, inside, *(words if stream.reads_words else ())],
            [Port("embeddings", inside.free)],
        ),
    )
