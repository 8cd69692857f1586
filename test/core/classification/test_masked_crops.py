"""The masked-crop classifier, with an image tower whose answers can be worked out by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from ovseg_ros.core.classification.mask_views import square_windows
from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier, MaskedCropConfig
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

SCALE, BIAS = 10.0, -3.0


class ColorTower(nn.Module):
    """Embeds a crop as the mean colour of its masked patches; remembers the crops it was given."""

    visual = SimpleNamespace(image_size=(32, 32), grid_size=(4, 4), proj=torch.zeros(1, 3))

    def read(self, images: Tensor, patch_masks: Tensor) -> tuple[Tensor]:
        self.crops, self.patch_masks = images, patch_masks
        patches = nn.functional.adaptive_avg_pool2d(images, patch_masks.shape[-2:])  # (M, 3, p, p)
        weights = patch_masks[:, None].float()
        mean = (patches * weights).sum(dim=(2, 3)) / weights.sum(dim=(2, 3)).clamp(min=1)
        return (nn.functional.normalize(mean, dim=-1),)

    def prompt_logits(self, embeddings: Tensor, vectors: Tensor) -> Tensor:
        return SCALE * embeddings @ vectors.T + BIAS


def text(**vectors: list[list[float]]) -> TextEmbeddings:
    """One category for each keyword, with its prompts' vectors."""
    specs = [
        CategorySpec(name, synonyms=tuple(f"{name}{i}" for i in range(1, len(rows)))) for name, rows in vectors.items()
    ]
    rows = torch.tensor([row for rows in vectors.values() for row in rows], dtype=torch.float32)
    owners = torch.tensor([index for index, rows in enumerate(vectors.values()) for _ in rows])
    return TextEmbeddings(nn.functional.normalize(rows, dim=-1), owners, Vocabulary.build(specs))


def square_mask(top: int, left: int, bottom: int, right: int, size: int = 16) -> Tensor:
    mask = torch.full((size, size), -8.0)
    mask[top:bottom, left:right] = 8.0
    return mask


def proposals(masks: list[Tensor], objectness: list[float]) -> MaskProposals:
    likelihood = torch.tensor(objectness).clamp(1e-4, 1 - 1e-4)
    class_logits = torch.stack([likelihood.log(), (1 - likelihood).log()], dim=-1)
    return MaskProposals(torch.stack(masks)[None], torch.zeros(1, len(masks), 4), class_logits[None])


def classifier(tower: ColorTower | None = None, **config: float) -> MaskedCropClassifier:
    """Crops are read by the tower as they are, so that colours can be read off."""
    made = MaskedCropClassifier(tower or ColorTower(), MaskedCropConfig(**config))
    made.parts[0].run = made.tower.read
    return made


@pytest.fixture
def red_left_blue_right() -> Tensor:
    """(1, 3, 64, 64)."""
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, :, :32] = 1.0
    image[:, 2, :, 32:] = 1.0
    return image


def test_masks_are_named_by_what_is_inside_them(red_left_blue_right: Tensor) -> None:
    found = proposals([square_mask(2, 1, 6, 7), square_mask(8, 9, 15, 15)], [0.9, 0.8])
    words = text(red=[[1, 0, 0]], blue=[[0, 0, 1]])
    logits = classifier()(red_left_blue_right, found, words)
    probabilities = logits.softmax(dim=-1)[0]
    assert logits.shape == (1, 2, 3)
    assert probabilities.argmax(dim=-1).tolist() == [0, 1]
    # log-softmax over [10 - 3, 0 - 3, none: 0], times the objectness
    red = math.exp(7) / (math.exp(7) + math.exp(-3) + 1)
    assert probabilities[0, 0] == pytest.approx(0.9 * red, rel=1e-3)
    assert probabilities.sum(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_the_mask_decides_not_the_box(red_left_blue_right: Tensor) -> None:
    """A thin frame of red around blue: the box is mostly blue, the mask is red."""
    mask = square_mask(0, 0, 16, 16)
    mask[:, 8:] = -8.0
    tower_input = classifier()
    logits = tower_input(red_left_blue_right, proposals([mask], [0.9]), text(red=[[1, 0, 0]], blue=[[0, 0, 1]]))
    assert logits[0, 0].argmax() == 0
    assert tower_input.tower.patch_masks[0].sum() < 16


def test_nothing_that_fits_is_no_object(red_left_blue_right: Tensor) -> None:
    logits = classifier()(red_left_blue_right, proposals([square_mask(2, 1, 6, 7)], [0.9]), text(green=[[0, 1, 0]]))
    probabilities = logits.softmax(dim=-1)[0, 0]
    assert probabilities.argmax() == 1  # logit 0 - 3 loses against 0
    assert probabilities[0] == pytest.approx(0.9 * math.exp(-3) / (math.exp(-3) + 1), rel=1e-3)


def test_the_best_synonym_counts(red_left_blue_right: Tensor) -> None:
    words = text(green=[[0, 1, 0]], warm=[[0, 1, 0], [0.9, 0.1, 0]])
    logits = classifier()(red_left_blue_right, proposals([square_mask(2, 1, 6, 7)], [0.9]), words)
    assert logits.shape == (1, 1, 3)
    assert logits[0, 0].argmax() == 1


def test_unlikely_masks_are_not_read(red_left_blue_right: Tensor) -> None:
    masks = [square_mask(2, 1, 6, 7)] * 3
    reader = classifier(min_objectness=0.5, max_masks=2)
    logits = reader(red_left_blue_right, proposals(masks, [0.1, 0.6, 0.9]), text(red=[[1, 0, 0]]))
    assert len(reader.tower.crops) == 2
    assert logits[0].argmax(dim=-1).tolist() == [1, 0, 0]
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("count", [0, 1])
def test_no_mask_worth_reading_is_all_no_object(red_left_blue_right: Tensor, count: int) -> None:
    found = MaskProposals(
        torch.zeros(1, count, 16, 16),
        torch.zeros(1, count, 4),
        torch.tensor([[[-9.0, 9.0]] * count]).reshape(1, count, 2),
    )
    logits = classifier()(red_left_blue_right, found, text(red=[[1, 0, 0]]))
    assert logits.shape == (1, count, 2)
    assert (logits.argmax(dim=-1) == 1).all()


def test_an_empty_mask_reads_the_whole_image(red_left_blue_right: Tensor) -> None:
    reader = classifier()
    logits = reader(red_left_blue_right, proposals([torch.full((16, 16), -1.0)], [0.9]), text(red=[[1, 0, 0]]))
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(reader.tower.crops.mean(dim=(2, 3)), torch.tensor([[0.5, 0.0, 0.5]]), atol=0.02, rtol=0)


def test_mirrored_reading_does_not_depend_on_left_and_right(red_left_blue_right: Tensor) -> None:
    class LeftTower(ColorTower):
        """Sees the left half of a crop only."""

        def read(self, images: Tensor, patch_masks: Tensor) -> tuple[Tensor]:
            return super().read(images[..., : images.shape[-1] // 2], patch_masks[..., :2])

    words = text(red=[[1, 0, 0]], blue=[[0, 0, 1]])
    found = proposals([square_mask(0, 0, 16, 16)], [0.9])
    logits = {}
    for mirrored in (False, True):
        reader = classifier(LeftTower(), mirrored=mirrored)
        logits[mirrored] = reader(red_left_blue_right, found, words)[0, 0]
    assert logits[False][0] > logits[False][1] + 5
    assert logits[True][0] == pytest.approx(float(logits[True][1]), abs=1e-4)


def test_a_category_named_unknown_takes_what_no_word_fits(red_left_blue_right: Tensor) -> None:
    found = proposals([square_mask(2, 1, 6, 7), square_mask(8, 9, 15, 15)], [0.9, 0.8])
    words = text(red=[[1, 0, 0]], Unknown=[[0, 0, 1]])  # its text would fit the blue mask, but is not read
    probabilities = classifier()(red_left_blue_right, found, words).softmax(dim=-1)[0]
    assert probabilities.argmax(dim=-1).tolist() == [0, 1]
    blue_is_red = math.exp(-3) / (math.exp(-3) + 1)
    assert probabilities[1].tolist() == pytest.approx([0.8 * blue_is_red, 0.8 * (1 - blue_is_red), 0.2], rel=1e-3)


def test_words_that_fit_badly_win_when_none_is_lowered(red_left_blue_right: Tensor) -> None:
    reader = classifier(none_logit=-6.0)
    logits = reader(red_left_blue_right, proposals([square_mask(2, 1, 6, 7)], [0.9]), text(green=[[0, 1, 0]]))
    assert logits[0, 0].softmax(dim=-1)[0] == pytest.approx(
        0.9 * math.exp(-3) / (math.exp(-3) + math.exp(-6)), rel=1e-3
    )


def test_windows_stay_square_inside_the_image_and_centred_otherwise() -> None:
    masks = torch.stack([square_mask(4, 4, 8, 8), square_mask(0, 0, 4, 2), square_mask(0, 0, 16, 16)])
    windows = square_windows(masks, (64, 64), 1.5)
    assert windows.tolist() == [[12, 12, 36, 36], [0, 0, 24, 24], [0, 0, 64, 64]]


def test_a_batch_is_its_images_one_by_one(red_left_blue_right: Tensor) -> None:
    words = text(red=[[1, 0, 0]], blue=[[0, 0, 1]])
    flipped = red_left_blue_right.flip(-1)
    one = proposals([square_mask(2, 1, 6, 7), square_mask(8, 9, 15, 15)], [0.9, 0.1])
    both = MaskProposals(
        one.mask_logits.repeat(2, 1, 1, 1), one.query_embeddings.repeat(2, 1, 1), one.class_logits.repeat(2, 1, 1)
    )
    reader = classifier()
    together = reader(torch.cat([red_left_blue_right, flipped]), both, words)
    torch.testing.assert_close(together[:1], reader(red_left_blue_right, one, words))
    torch.testing.assert_close(together[1:], reader(flipped, one, words))
    assert together[:, 0].argmax(dim=-1).tolist() == [0, 1]


def test_proposals_without_class_logits_are_refused() -> None:
    found = MaskProposals(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4))
    with pytest.raises(ValueError, match="word logits"):
        classifier()(torch.zeros(1, 3, 16, 16), found, text(red=[[1, 0, 0]]))
