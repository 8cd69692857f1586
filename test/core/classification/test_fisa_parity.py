"""FISA against slow literal references: one joint sequence for CLIP and mask tokens, one head and one row at a time."""

import pytest
import torch
import torch.nn.functional as F
from fisa_support import MEAN, STD, embed, make, photos, proposals, stir, tower, words
from open_clip.transformer import VisionTransformer
from torch import Tensor

from ovseg_ros.core.classification.fisa.clip_tower import image_tokens, position_embedding
from ovseg_ros.core.classification.mask_views import patches_inside
from ovseg_ros.core.images import normalize
from ovseg_ros.core.text_attention import TextAttention


def literal_inside(mask_logits: Tensor, size: int, patch: int) -> Tensor:
    """Eq. 5 by loops: does any pixel of a patch have mask probability of one half or more?"""
    masks = F.interpolate(mask_logits, size=(size, size), mode="bilinear").sigmoid() >= 0.5
    grid = size // patch
    inside = torch.zeros(*masks.shape[:2], grid * grid, dtype=torch.bool)
    for row in range(grid):
        for column in range(grid):
            block = masks[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            inside[:, :, row * grid + column] = block.flatten(2).any(dim=2)
    return inside


def literal_mask_clip(visual: VisionTransformer, images: Tensor, inside: Tensor) -> Tensor:
    """MaskCLIP's mask attention: mask tokens appended to CLIP's sequence, an (N + M)^2 mask, CLIP's own blocks."""
    tokens = visual._embeds(normalize(images, MEAN, STD))
    count, masks = tokens.shape[1], inside.shape[1]
    tokens = torch.cat([tokens, tokens[:, :1].expand(-1, masks, -1)], dim=1)
    bias = torch.zeros(len(images), count + masks, count + masks)
    bias[:, :, count:] = float("-inf")  # nobody reads a mask token, not even itself
    bias[:, count:, 1:count] = torch.where(inside, 0.0, float("-inf"))
    heads = visual.transformer.resblocks[0].attn.num_heads
    for block in visual.transformer.resblocks:
        tokens = block(tokens, attn_mask=bias.repeat_interleave(heads, dim=0))
    return F.normalize(visual.ln_post(tokens[:, count:]) @ visual.proj, dim=-1)


@pytest.mark.parametrize("quick", [False, True], ids=["GELU", "QuickGELU"])
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (2, 5)])
def test_untrained_it_is_mask_attention_exactly(quick: bool, batch: int, count: int) -> None:
    visual = tower(quick=quick)
    found, images = proposals(batch, count), photos(batch)
    wanted = literal_mask_clip(visual, images, literal_inside(found.mask_logits, 32, 8))
    embeddings = embed(make(visual), images, found.mask_logits, words(4))
    torch.testing.assert_close(embeddings, wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("scaled", [None, 0.1])
def test_untrained_it_is_mask_attention_with_layer_scale_too(scaled: float | None) -> None:
    visual = tower(ls_init_value=scaled, no_ln_pre=True)
    found, images = proposals(1, 3), photos(1)
    wanted = literal_mask_clip(visual, images, literal_inside(found.mask_logits, 32, 8))
    torch.testing.assert_close(embed(make(visual), images, found.mask_logits, words(4)), wanted, atol=2e-6, rtol=1e-5)


def test_a_mask_of_everything_is_clip_itself() -> None:
    visual, images = tower(), photos(2)
    everything = torch.full((2, 1, 16, 16), 5.0)
    wanted = F.normalize(visual(normalize(images, MEAN, STD)), dim=-1)
    torch.testing.assert_close(embed(make(visual), images, everything, words(3))[:, 0], wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("clip_trains", [False, True])
def test_the_image_path_is_clips_to_the_bit(clip_trains: bool) -> None:
    """Trained or not, with masks or without: what enters every block, and what leaves the last one, is unmodified."""
    reference, visual = tower(), tower()
    images = normalize(photos(2), MEAN, STD)
    with torch.set_grad_enabled(clip_trains):
        tokens = reference._embeds(images)
        classifier = stir(make(visual))
        classifier.visual.requires_grad_(clip_trains)
        embed(classifier, photos(2), proposals(2, 3).mask_logits, words(3))
        for block, entering in zip(reference.transformer.resblocks, image_tokens(visual, images), strict=True):
            assert torch.equal(entering, tokens)
            tokens = block(tokens)
        leaving = visual.transformer.resblocks[-1](entering)
        assert torch.equal(visual.ln_post(leaving)[:, 0] @ visual.proj, reference(images))
        assert torch.equal(visual(images), reference(images))


def test_a_layer_by_hand() -> None:
    """Trained SEVE and f_q in every layer, one mask at a time: Eqs 1 to 5 spelt out."""
    visual = tower()
    classifier = stir(make(visual, adapter_convolutions=0))
    seve = classifier.stream.seve[0]
    assert isinstance(seve, TextAttention)
    found, images, text = proposals(1, 2), photos(1), words(5)
    got = embed(classifier, images, found.mask_logits, text)
    inside = literal_inside(found.mask_logits, 32, 8)[0]
    image = visual._embeds(normalize(images, MEAN, STD))[0]
    masks = [image[0], image[0]]
    for layer, block in enumerate(visual.transformer.resblocks):
        keys_values = F.linear(block.ln_1(image), block.attn.in_proj_weight[32:], block.attn.in_proj_bias[32:])
        for number, token in enumerate(masks):
            query = seve.query(F.layer_norm(token, (32,)))  # g_q
            target = F.layer_norm(text.vectors, (16,))
            key, value = seve.key(target), seve.value(target)  # g_k, g_v
            heads = [
                (query[h] @ key[:, h].T / 4**0.5).softmax(dim=-1) @ value[:, h] for h in (slice(0, 4), slice(4, 8))
            ]
            token = token + seve.out(torch.cat(heads))  # Eq. 3 with its residual
            query = classifier.stream.queries[str(layer)](block.ln_1(token))  # f_q
            allowed = torch.cat([torch.tensor([True]), inside[number]])
            read = []
            for h in (slice(0, 16), slice(16, 32)):
                scores = query[h] @ keys_values[allowed][:, :32][:, h].T / 16**0.5
                read.append(scores.softmax(dim=-1) @ keys_values[allowed][:, 32:][:, h])
            token = token + block.attn.out_proj(torch.cat(read))
            masks[number] = token + block.mlp(block.ln_2(token))
        image = block(image[None])[0]
    wanted = F.normalize(torch.stack([visual.ln_post(token) @ visual.proj for token in masks]), dim=-1)
    torch.testing.assert_close(got[0], wanted, atol=5e-6, rtol=1e-4)


def test_no_mask_reads_another() -> None:
    classifier = stir(make())
    images, masks, text = photos(1), proposals(1, 4).mask_logits, words(3)
    together = embed(classifier, images, masks, text)
    alone = torch.cat([embed(classifier, images, masks[:, [number]], text) for number in range(4)], dim=1)
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)


def test_patches_inside_agree_with_loops_and_hold_single_pixels() -> None:
    masks = proposals(2, 3, (13, 9)).mask_logits
    assert torch.equal(patches_inside(masks, (32, 32), (8, 8)), literal_inside(masks, 32, 8))
    dot = torch.full((1, 1, 32, 32), -9.0)
    dot[0, 0, 9, 30] = 9.0
    assert patches_inside(dot, (32, 32), (8, 8))[0, 0].nonzero().tolist() == [[7]]  # row 1, column 3
    assert not patches_inside(torch.full((1, 1, 4, 4), float("nan")), (32, 32), (8, 8)).any()


def test_position_embeddings_interpolate_to_any_size() -> None:
    visual = tower()
    assert position_embedding(visual, (4, 4)) is visual.positional_embedding
    with torch.no_grad():  # a ramp stays a ramp: bilinear interpolation, pixel centres at halves
        visual.positional_embedding[1:] = torch.arange(4.0).repeat(4)[:, None]
    across = position_embedding(visual, (2, 8))[1:].unflatten(0, (2, 8))[0, :, 0]
    assert across.tolist() == pytest.approx([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], abs=1e-6)
    assert torch.equal(position_embedding(visual, (7, 3))[0], visual.positional_embedding[0])


@pytest.mark.parametrize(("architecture", "patch"), [("ViT-L-14-336", 14), ("ViT-B-16", 16)])
def test_large_towers_take_896_pixels(architecture: str, patch: int) -> None:
    """By shape, without weights: 64 x 64 and 56 x 56 patches."""
    import open_clip

    description = open_clip.get_model_config(architecture)
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(description["embed_dim"], description["vision_cfg"])
        tokens = next(image_tokens(visual, torch.empty(1, 3, 896, 896)))
    assert tokens.shape[1] == 1 + (896 // patch) ** 2
