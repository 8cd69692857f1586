"""Mask pooling: agreement with CLIP itself and with a literal loop, padded grids, small and empty masks."""

import open_clip
import pytest
import torch
import torch.nn.functional as F
from float32_bytes import Float32Bytes
from parts_support import check_export
from torch import Tensor
from waits import counted_waits

from ovseg_ros.core.classification.ensemble import EnsembleConfig
from ovseg_ros.core.classification.pooled import PooledClassifier
from ovseg_ros.core.classification.pooling import (
    CellGrids,
    ConvNextEncoder,
    MaskPooling,
    PoolingConfig,
    VitEncoder,
    dense_encoder,
)
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
TEXT = {"context_length": 16, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
CONVNEXT = {
    "timm_model_name": "test_convnext",
    "timm_model_pretrained": False,
    "timm_pool": "",
    "timm_proj": "mlp",
    "image_size": 64,
}
VIT = {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}


def clip(vision: dict) -> open_clip.CustomTextCLIP:
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(embed_dim=24, vision_cfg=vision, text_cfg=TEXT).eval().requires_grad_(False)
    for weights in model.visual.parameters():  # else all features look alike
        weights.data += 0.1 * torch.randn_like(weights)
    return model


def pooling(vision: dict, short_side: int = 64, long_side: int = 128) -> MaskPooling:
    return MaskPooling(clip(vision).visual, PoolingConfig(short_side, long_side), MEAN, STD)


def embed(pool: MaskPooling, images: Tensor, mask_logits: Tensor) -> Tensor:
    return F.normalize(pool(pool.look(images), mask_logits), dim=-1)


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def test_a_full_mask_of_a_convnext_is_clip_itself() -> None:
    images = torch.rand(2, 3, 64, 64)
    expected = clip(CONVNEXT).encode_image(normalised(images), normalize=True)
    embeddings = embed(pooling(CONVNEXT), images, torch.ones(2, 1, 16, 16))
    torch.testing.assert_close(embeddings[:, 0], expected)


def test_a_vits_features_are_its_patch_tokens() -> None:
    visual = clip(VIT).visual
    images = torch.randn(2, 3, 64, 64)
    expected = visual.forward_intermediates(images, indices=[1], intermediates_only=True)["image_intermediates"][0]
    torch.testing.assert_close(VitEncoder(visual)(images)[0], expected)


@pytest.mark.parametrize("vision", [CONVNEXT, VIT], ids=["convnext", "vit"])
@pytest.mark.parametrize("size", [(64, 64), (50, 90), (90, 50)])
def test_pooling_agrees_with_a_literal_loop(vision: dict, size: tuple[int, int]) -> None:
    pool = pooling(vision, short_side=96, long_side=160)
    images = torch.rand(2, 3, *size)
    mask_logits = F.interpolate(torch.randn(2, 5, 3, 4), size=(size[0] // 2, size[1] // 2), mode="bilinear")
    stride = pool.encoder.stride
    scale = min(96 / min(size), 160 / max(size))
    height, width = round(size[0] * scale), round(size[1] * scale)
    canvas = torch.zeros(2, 3, -(-height // stride) * stride, -(-width // stride) * stride)
    canvas[..., :height, :width] = normalised(F.interpolate(images, (height, width), mode="bilinear"))
    (features,) = pool.encoder(canvas)
    embeddings = embed(pool, images, mask_logits)
    assert embeddings.shape == (2, 5, 24)
    for image in range(2):
        for query in range(5):
            # The mask at full size, where a cell's centre can be read off.
            mask = F.interpolate(mask_logits[None, None, image, query], (height, width), mode="bilinear")[0, 0]
            cells = []
            for row in range(features.shape[2]):
                for column in range(features.shape[3]):
                    y, x = row * stride + stride // 2, column * stride + stride // 2
                    # Centres lie between four pixels.
                    if y < height and x < width and mask[y - 1 : y + 1, x - 1 : x + 1].mean() > 0:
                        cells.append(features[image, :, row, column])
            if cells:
                expected = F.normalize(pool.encoder.project(torch.stack(cells).mean(dim=0)[None]), dim=-1)[0]
                torch.testing.assert_close(embeddings[image, query], expected, atol=1e-5, rtol=1e-4)


def test_weights_are_the_interpolated_mask_where_there_is_no_padding() -> None:
    torch.manual_seed(0)
    mask_logits = torch.randn(2, 7, 40, 48)
    weights = CellGrids().grid_weights(mask_logits, (5, 6), (5.0, 6.0))
    inside = (F.interpolate(mask_logits, (5, 6), mode="bilinear") > 0).float()
    torch.testing.assert_close(weights, inside / inside.sum(dim=(2, 3), keepdim=True))


def test_cells_of_the_padding_count_for_nothing() -> None:
    weights = CellGrids().grid_weights(torch.ones(1, 1, 10, 18), (2, 3), (1.25, 2.25))
    # The second row's centre, 1.5, and the third column's, 2.5, lie outside of the image.
    assert weights[0, 0].tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_a_mask_between_the_centres_takes_the_cells_it_touches_by_area() -> None:
    mask = torch.full((1, 1, 8, 8), -1.0)
    mask[0, 0, 0, 3:5] = 1.0  # of 4 x 4 pixels in a cell: one in the first, one in the second
    mask[0, 0, 1, 4:6] = 1.0  # two more in the second
    assert not (F.interpolate(mask, (2, 2), mode="bilinear") > 0).any()
    torch.testing.assert_close(
        CellGrids().grid_weights(mask, (2, 2), (2.0, 2.0))[0, 0], torch.tensor([[0.25, 0.75], [0.0, 0.0]])
    )


def test_an_image_smaller_than_half_a_cell_is_still_read() -> None:
    weights = CellGrids().grid_weights(torch.ones(1, 1, 4, 100), (1, 4), (0.2, 4.0))
    torch.testing.assert_close(weights, torch.full((1, 1, 1, 4), 0.25))


@pytest.mark.parametrize("vision", [CONVNEXT, VIT], ids=["convnext", "vit"])
def test_no_masks_and_empty_masks(vision: dict) -> None:
    pool = pooling(vision)
    images = torch.rand(1, 3, 40, 64)
    assert embed(pool, images, torch.zeros(1, 0, 10, 16)).shape == (1, 0, 24)
    assert torch.isfinite(embed(pool, images, torch.full((1, 2, 10, 16), -5.0))).all()


def test_the_image_is_scaled_to_its_shorter_or_longer_side() -> None:
    pool = MaskPooling(clip(CONVNEXT).visual, PoolingConfig(800, 1333), MEAN, STD)
    for size, canvas, covered in [
        ((480, 640), (800, 1088), (800 / 32, 1067 / 32)),
        ((240, 640), (512, 1344), (500 / 32, 1333 / 32)),
        ((1600, 1600), (800, 800), (25.0, 25.0)),
    ]:
        fitted, extent = pool._fit(torch.zeros(1, 3, *size))
        assert tuple(fitted.shape[-2:]) == canvas
        assert extent == covered


def test_moving_the_object_and_its_mask_together_changes_little_else() -> None:
    """Alignment: the mask picks the features that lie under it, not their mirror image."""
    pool = pooling(CONVNEXT, short_side=256, long_side=256)
    image = torch.zeros(1, 3, 128, 128)
    image[:, 0, :64, 64:] = 1.0
    mask = torch.full((1, 2, 32, 32), -1.0)
    mask[0, 0, :16, 16:] = 1.0
    mask[0, 1, 16:, :16] = 1.0
    over, opposite = embed(pool, image, mask)[0]
    plain = embed(pool, torch.zeros(1, 3, 128, 128), mask)[0]
    assert (over - plain[0]).norm() > 2 * (opposite - plain[1]).norm()


def test_towers_without_poolable_features_are_refused() -> None:
    with torch.device("meta"):
        resnet = open_clip.CustomTextCLIP(
            embed_dim=24, vision_cfg={"layers": [1, 1, 1, 1], "width": 64, "image_size": 64}, text_cfg=TEXT
        )
    with pytest.raises(ConfigError, match=r"convnext_\* or ViT-\* CLIP.*ModifiedResNet"):
        dense_encoder(resnet.visual)


def test_strides() -> None:
    assert isinstance(dense_encoder(clip(CONVNEXT).visual), ConvNextEncoder)
    assert (dense_encoder(clip(CONVNEXT).visual).stride, dense_encoder(clip(VIT).visual).stride) == (32, 16)


@pytest.mark.parametrize("sides", [(0, 10), (20, 10)])
def test_impossible_sizes_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="should be greater than|short_side must be at most long_side = 10, got 20"):
        PoolingConfig(*sides)


@torch.no_grad()
@pytest.mark.parametrize("vision", [CONVNEXT, VIT], ids=["convnext", "vit"])
def test_parts_are_exported(vision: dict) -> None:
    """For one size of images, with free images and masks; a canvas of a ViT's own grid, and others."""
    for short_side in (64, 96) if vision is VIT else (96,):
        pool = pooling(vision, short_side)
        encode, pooled = pool.parts
        canvas, _ = pool._fit(torch.rand(2, 3, 48, 48 if short_side == 64 else 64))
        check_export(encode, [canvas])
        (maps,) = encode(canvas)
        if short_side == 96:
            check_export(pooled, [maps, torch.rand(2, 5, *maps.shape[-2:])])


def test_a_vits_own_grid_is_not_interpolated() -> None:
    visual = clip(VIT).visual
    own = VitEncoder(visual)._positions(*visual.grid_size)
    assert own.data_ptr() == visual.positional_embedding.data_ptr()


def test_weights_of_masks_in_half_precision_are_float32() -> None:
    """With cells' places in the masks' precision, they would be off by 5 %."""
    torch.manual_seed(0)
    masks = F.interpolate(torch.randn(1, 20, 6, 8), (120, 160), mode="bilinear").bfloat16()
    grids = CellGrids()
    arguments = ((25, 34), (800 / 32, 1067 / 32))
    weights = grids.grid_weights(masks, *arguments)
    assert weights.dtype == torch.float32
    assert torch.equal(weights, CellGrids().grid_weights(masks.float(), *arguments))
    with torch.inference_mode():
        grids.grid_weights(masks, (5, 6), (5.0, 6.0))
    learning = masks.float().requires_grad_(True)
    grids.grid_weights(learning, (5, 6), (5.0, 6.0))  # what is kept was not made in inference mode


def classified(vision: dict) -> tuple[PooledClassifier, TextEmbeddings]:
    """With an ensemble, of two classes."""
    vocabulary = Vocabulary.build([CategorySpec("cup", ("mug",)), CategorySpec("table"), CategorySpec("robot")])
    text = TextEmbeddings(F.normalize(torch.randn(4, 24), dim=-1), torch.tensor([0, 0, 1, 2]), vocabulary)
    made = PooledClassifier(
        pooling(vision, 96), logit_scale=10.0, ensemble=EnsembleConfig(), class_phrases=[("cup",), ("dog",)]
    )
    return made, text


def proposals(dtype: torch.dtype = torch.float32, device: str = "cpu") -> MaskProposals:
    shapes = ((1, 5, 16, 24), (1, 5, 2), (1, 5, 3))
    return MaskProposals(*(torch.randn(shape, dtype=dtype, device=device) for shape in shapes))


@torch.no_grad()
@pytest.mark.parametrize("vision", [CONVNEXT, VIT], ids=["convnext", "vit"])
def test_no_image_waits_for_the_device(vision: dict) -> None:
    classifier, text = classified(vision)
    words, images, found = classifier.prepare(text), torch.rand(1, 3, 64, 90), proposals()
    with counted_waits() as waits:
        looked = classifier(images, found, words, classifier.look(images))
    assert waits.found == []
    torch.testing.assert_close(looked, classifier(images, found, words), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vision", [CONVNEXT, VIT], ids=["convnext", "vit"])
def test_half_precision(vision: dict, dtype: torch.dtype) -> None:
    """Names as in float32; and no byte of it is written but of pixels, cells, positions and words."""
    classifier, text = classified(vision)
    words, images, found = classifier.prepare(text), torch.rand(1, 3, 64, 90), proposals()
    expected = classifier(images, found, words)
    store(classifier, dtype)
    for part in classifier.parts:
        part.dtype = dtype
    torch.testing.assert_close(classifier(images, found, words).exp(), expected.exp(), atol=0.02, rtol=0.02)
    shapes = TextEmbeddings(text.vectors.to("meta"), text.category_of_prompt.to("meta"), text.vocabulary)
    words, images, found = classifier.to("meta").prepare(shapes), images.to("meta"), proposals(dtype, "meta")
    with Float32Bytes() as counted:
        classifier(images, found, words)
    assert counted.written == {}
