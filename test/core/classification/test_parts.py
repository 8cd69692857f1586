"""Masked crops and FISA as engines run them: exported, filled up, without waits, in half precision."""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from fisa_support import make, photos, proposals, stir, tower, words
from float32_bytes import Float32Bytes
from parts_support import check_export
from torch import Tensor, nn
from waits import counted_waits

from ovseg_ros.core.backbones.sentence_clip import ImageTower
from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.classification.masked_crops import MaskedCropClassifier, MaskedCropConfig
from ovseg_ros.core.classification.word_ensemble import WordEnsembleClassifier
from ovseg_ros.core.engine.part import Part
from ovseg_ros.core.engine.precision import store
from ovseg_ros.core.model import Classifier
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.word_logits import margin as leads
from ovseg_ros.sim.categories import TABLETOP_SPECS
from ovseg_ros.sim.simulator import TabletopSimulator


def crops(**config: object) -> MaskedCropClassifier:
    """Masked crops on a tiny tower, whose bias makes some words fit better than none."""
    scale, bias = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.tensor(-1.0))
    image_tower = ImageTower(SimpleNamespace(visual=tower(), logit_scale=scale, logit_bias=bias))
    return MaskedCropClassifier(image_tower, MaskedCropConfig(**config)).eval()


MAKE: dict[str, Callable[[], Classifier]] = {
    "crops": lambda: crops(mirrored=True, min_objectness=0.5),
    "crops, mirrored in doubt": lambda: crops(mirrored=True, mirror_margin=1.0, max_masks=6),
    "fisa on images": lambda: stir(make(min_objectness=0.6, mirrored=True)),
    "fisa on crops": lambda: stir(make(view="crops", min_objectness=0.6, max_masks=6, mirrored=True)),
    "fisa without words": lambda: stir(make(seve_layers=(), none="embedding")),
}
EACH = pytest.mark.parametrize("name", MAKE)


def recorded(classifier: Classifier, *, count: int = 9) -> dict[str, tuple[Tensor, ...]]:
    """What each part is given at last."""
    given: dict[str, tuple[Tensor, ...]] = {}

    def recording(part: Part) -> Callable[..., tuple[Tensor, ...]]:
        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            given[part.name] = tensors
            return part.module(*tensors)

        return run

    for part in classifier.parts:
        part.run = recording(part)
    with torch.no_grad():
        classifier(photos(2, 40, 56), proposals(2, count, closed_set=True), classifier.prepare(words(5, synonyms=1)))
    for part in classifier.parts:
        part.run = part.module
    return given


@pytest.mark.parametrize("name", [name for name in MAKE if name != "crops, mirrored in doubt"])
def test_every_part_is_exported_without_a_break(name: str) -> None:
    classifier = MAKE[name]()
    given = recorded(classifier)
    assert set(given) == {part.name for part in classifier.parts} and given
    for part in classifier.parts:
        check_export(part, given[part.name])


@EACH
def test_what_only_fills_up_changes_nothing(name: str) -> None:
    classifier = MAKE[name]()
    for part in classifier.parts:
        tensors = recorded(classifier)[part.name]
        filled = []
        for port, tensor in zip(part.inputs, tensors, strict=True):
            margins = [0] * (2 * tensor.ndim)
            for axis in port.free:
                margins[2 * (tensor.ndim - 1 - axis) + 1] = 3
            filled.append(F.pad(tensor, margins, value=port.fill))
        with torch.no_grad():
            wanted, found = part.module(*tensors), part.module(*filled)
        for own, other in zip(wanted, found, strict=True):
            cut = other[tuple(slice(length) for length in own.shape)]
            assert other.isfinite().all() and own.shape != other.shape
            torch.testing.assert_close(cut, own, atol=1e-6, rtol=1e-5)


def test_words_that_only_fill_up_are_numbers_even_alone() -> None:
    classifier = MAKE["fisa on images"]()
    names = classifier.parts[1]
    *image, keys, values, bias = recorded(classifier)["fisa_names"]
    (embeddings,) = names.module(*image, keys, values, torch.full_like(bias, -torch.inf))
    assert embeddings.isfinite().all()
    (without,) = names.module(*image, keys[:, :0], values[:, :0], bias[:0])
    assert without.isfinite().all()


@EACH
@pytest.mark.parametrize("least", [0.0, 0.7])
def test_a_gpu_is_never_waited_for_and_says_the_same(name: str, least: float) -> None:
    classifier, images, found = MAKE[name](), photos(2, 40, 56), proposals(2, 9, closed_set=True)
    prepared = classifier.prepare(words(5, synonyms=1))
    with torch.no_grad():
        wanted = classifier(images, found, prepared, None, least)
        with counted_waits() as waits:
            logits = classifier(images, found, prepared, classifier.look(images), least)
    assert waits.found == []
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted.argmax(dim=-1) == 5).any() and (wanted.argmax(dim=-1) < 5).any()


@EACH
def test_masks_that_cannot_win_are_not_read(name: str) -> None:
    """And the others are what they were."""
    classifier, images, found = MAKE[name](), photos(1, 40, 56), proposals(1, 9, closed_set=True)
    prepared = classifier.prepare(words(5))
    least = float(found.objectness.median())
    with torch.no_grad():
        every, some = (classifier(images, found, prepared, None, threshold) for threshold in (0.0, least))
    wins = found.objectness > least
    torch.testing.assert_close(some[wins], every[wins], atol=1e-4, rtol=1e-4)
    assert (every.softmax(dim=-1)[~wins][:, :-1] <= least).all()
    below = found.objectness < least - 1e-4
    assert (some[below].softmax(dim=-1)[:, -1] == 1).all()
    assert not (every[below].softmax(dim=-1)[:, -1] == 1).all() or name.startswith(("crops", "fisa on"))


def test_a_word_ensemble_reads_what_cannot_win_by_objectness_alone() -> None:
    """Its score is no product with the objectness."""
    found = proposals(1, 9, closed_set=True)
    by_words = torch.randn(1, 9, 6, generator=torch.Generator().manual_seed(5))
    found = replace(found, word_logits=by_words)
    ensemble = WordEnsembleClassifier(crops(), 0.65)
    assert ensemble.parts == ensemble.clip.parts
    prepared, images = ensemble.prepare(words(5)), photos(1)
    with torch.no_grad():
        assert torch.equal(ensemble(images, found, prepared, None, 0.9), ensemble(images, found, prepared))


def test_only_crops_in_doubt_are_mirrored() -> None:
    """Those whose best word, or none of these, leads the second by less; whatever it is, both ends are as ever."""
    images, found, text = photos(1, 40, 56), proposals(1, 9, closed_set=True), words(5)
    with torch.no_grad():
        plain = crops(min_objectness=0.0)(images, found, text)
    # Divided by objectness, the shares of words; "none of these" is what is left.
    shares = plain[0, :, :-1].exp() / found.objectness[0][:, None]
    middle = float(leads(torch.cat([shares, 1 - shares.sum(dim=-1, keepdim=True)], dim=-1).log()).median()) + 1e-4
    read: dict[float | None, int] = {}
    logits = {}
    for margin in (None, 1e4, middle, 0.0):
        classifier = crops(mirrored=True, mirror_margin=margin, min_objectness=0.0)
        counts: list[int] = []
        (part,) = classifier.parts

        def run(given: Tensor, inside: Tensor, part: Part = part, counts: list[int] = counts) -> tuple[Tensor, ...]:
            counts.append(len(given))
            return part.module(given, inside)

        part.run = run
        with torch.no_grad():
            logits[margin] = classifier(images, found, text)
        read[margin] = sum(counts)
    assert read == {None: 18, 1e4: 18, middle: 14, 0.0: 9}
    torch.testing.assert_close(logits[None], logits[1e4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[0.0], plain, atol=1e-5, rtol=1e-5)
    is_averaged = ~torch.isclose(logits[middle], plain, atol=1e-5).all(dim=-1)
    torch.testing.assert_close(logits[middle][is_averaged], logits[None][is_averaged], atol=1e-5, rtol=1e-5)
    assert int(is_averaged.sum()) == 5


def halved(classifier: Classifier, dtype: torch.dtype) -> Classifier:
    store(classifier, dtype)
    for part in classifier.parts:
        part.dtype = dtype
    return classifier


@EACH
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_writes_nothing_in_float32_but_in_islands(name: str, dtype: torch.dtype) -> None:
    exact, classifier = MAKE[name](), halved(MAKE[name](), dtype)
    images, found, text = photos(1, 40, 56), proposals(1, 9, closed_set=True), words(5)
    assert found.class_logits is not None
    half = MaskProposals(found.mask_logits.to(dtype), found.query_embeddings.to(dtype), found.class_logits)
    with torch.inference_mode():
        prepared = classifier.prepare(text)
        with Float32Bytes() as counted:
            logits = classifier(images, half, prepared, classifier.look(images))
        wanted = exact(images, found, exact.prepare(text))
    assert counted.written == {}
    assert logits.dtype == torch.float32
    tolerance = 0.02 if dtype == torch.float16 else 0.1
    # A crop whose doubt is decided by rounding, or a patch at a mask's edge, may differ more.
    close = (logits.exp() - wanted.exp()).abs().amax(dim=-1) < tolerance
    assert close.float().mean() > 0.7


def test_what_stays_in_float32() -> None:
    classifier = halved(stir(make(none="embedding", bias=0.5)), torch.bfloat16)
    kept = {name for name, value in classifier.named_parameters() if value.dtype == torch.float32}
    assert kept == {name for name, _ in classifier.named_parameters() if ".seve." in name or name == "none_embedding"}
    assert classifier.logit_scale.dtype == classifier.logit_bias.dtype == torch.float32
    masked = halved(crops(), torch.float16)
    assert {name for name, value in masked.named_parameters() if value.dtype == torch.float32} == {
        "tower.logit_scale", "tower.logit_bias"
    }  # fmt: skip


@pytest.mark.parametrize("preset", ["tabletop", "tabletop_fisa"])
def test_names_of_the_tabletop_in_half_precision(preset: str) -> None:
    """At least 99.5 % of the pixels of rendered frames keep their category."""
    segmenter = build_segmenter(preset, "cpu")
    with TabletopSimulator(7) as simulator:
        frames = [simulator.render(time).image for time in (0.0, 4.0, 8.0)]
    prompt = segmenter.prepare(Vocabulary.build(TABLETOP_SPECS))
    exact = [segmenter.segment(frame, prompt).category_ids for frame in frames]
    halved(segmenter.model.classifier, torch.float16)
    low = [segmenter.segment(frame, prompt).category_ids for frame in frames]
    equal = sum(int((one == other).sum()) for one, other in zip(exact, low, strict=True))
    assert equal >= 0.995 * sum(one.size for one in exact)
