"""OMTSeg behind the seam: whose name is whose, how names become probabilities, and what a prompt holds."""

import gc
import threading
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_omtseg import TINY, WORDS, tiny_omtseg, write_tiny_omtseg
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD
from ovseg_ros.core.joint.omtseg.adapter import AdaptedEncoder, Features
from ovseg_ros.core.joint.omtseg.model import OMTSeg, OMTSegPrompt
from ovseg_ros.core.joint.omtseg.network import OBJECT
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import NO_CATEGORY, Prediction
from ovseg_ros.core.vocabulary import MAX_NAME_LENGTH, CategorySpec, Vocabulary

CPU = torch.device("cpu")
EVERYTHING = MergeConfig(object_threshold=0, overlap_threshold=0, mask_threshold=0.5, min_area=1)
MODEL = tiny_omtseg()
"""For tests that change nothing of it."""


def words(*names: str, previous: Vocabulary | None = None) -> Vocabulary:
    return Vocabulary.build([CategorySpec(name) for name in names], previous=previous)


def pixels(height: int = 64, width: int = 96, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def run(model: OMTSeg, prompt: OMTSegPrompt, images: Tensor | None = None) -> Prediction:
    return model(pixels() if images is None else images, prompt)


class NextToken(nn.Module):
    """An encoder whose state at a mark is the word that comes next, so that names do not depend on their order."""

    def __init__(self, adapter: AdaptedEncoder) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(
        self, encoder: nn.Module, images: Tensor, text: Tensor, present: Tensor | None = None, *, fused: bool
    ) -> Features:
        return Features(self.adapter(encoder, images, text, fused=False).maps, text.roll(-1, dims=1))


def reading_next_words() -> OMTSeg:
    """Names mean their first word; but for that, real weights all through."""
    model = tiny_omtseg()
    model.network.adapter = NextToken(model.network.adapter)
    nn.init.zeros_(model.network.encoder.encoder.embed_positions.B.weight)
    model.network.log_scale.data.fill_(4.0)
    return model


def test_shuffled_categories_are_reported_under_the_right_ids() -> None:
    model = reading_next_words()
    segmenter = PanopticSegmenter(model, EVERYTHING, CPU)
    names = ["red", "green", "blue", "cup", "ball", "ring"]
    synonyms = {"cup": ("mat", "wall"), "red": ("floor",)}
    specs = [CategorySpec(name, synonyms.get(name, ()), is_thing=name != "ball") for name in names]
    first = Vocabulary.build(specs)
    before = run(model, model.prepare(first))
    image = np.random.default_rng(0).integers(0, 255, (48, 70, 3), dtype=np.uint8)
    result = segmenter.segment(image, segmenter.prepare(first))
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(names)).tolist()
        second = Vocabulary.build([specs[k] for k in order], previous=first)
        prompt = model.prepare(second)
        after = run(model, prompt)
        torch.testing.assert_close(after.class_logits[..., :-1], before.class_logits[..., order], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(after.class_logits[..., :-1], before.class_logits[..., :-1], atol=0.1)
        again = segmenter.segment(image, segmenter.prepare(second))
        assert [segment.label for segment in again.segments] == [segment.label for segment in result.segments]
        assert np.array_equal(again.category_ids, result.category_ids)


def test_a_prompts_places_are_those_of_its_owners_names() -> None:
    model = tiny_omtseg()
    vocabulary = Vocabulary.build(
        [CategorySpec("red ball", ("ring", "green mat")), CategorySpec("unknown"), CategorySpec("cup")]
    )
    prompt = model.prepare(vocabulary)
    assert prompt.owner.tolist() == [0, 0, 0, 2]
    table, positions = model.network.encoder.text_embed.weight, model.network.encoder.encoder.embed_positions.B.weight
    firsts = ["red", "ring", "green", "cup"]
    for place, word in zip(prompt.places.tolist(), firsts, strict=True):
        assert torch.allclose(prompt.text[place], model.network.name_mark[0] + positions[2 + place])
        after = prompt.text[place + 1] - positions[3 + place]
        assert torch.allclose(after, table[5 + WORDS.index(word)], atol=1e-6)


def word_logits(model: OMTSeg, prompt: OMTSegPrompt) -> tuple[Tensor, Tensor]:
    """What the network says of each name in the text, and the objectness."""
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        last = model.network((pixels() - mean) / std, prompt.text, prompt.places)[0][-1]
    assert last.word_logits is not None
    return last.word_logits, last.class_logits.softmax(dim=-1)[..., OBJECT]


def test_a_category_is_as_likely_as_its_best_name_times_the_objectness() -> None:
    model = tiny_omtseg(unknown_likeness=0.2)
    prompt = model.prepare(Vocabulary.build([CategorySpec("cup", ("red", "blue ring")), CategorySpec("mat")]))
    logits, objectness = word_logits(model, prompt)
    assert logits.shape[-1] == 4
    none = torch.full_like(objectness, 0.2 * model.network.scale.item())
    shares = torch.stack([logits[..., :3].amax(dim=-1), logits[..., 3], none], dim=-1).softmax(dim=-1)
    named = shares[..., :2] * objectness[..., None]
    wanted = torch.cat([named, 1 - named.sum(dim=-1, keepdim=True)], dim=-1)
    predicted = run(model, prompt)
    torch.testing.assert_close(predicted.class_logits.exp(), wanted, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(predicted.objectness, objectness)


@pytest.mark.parametrize("spelling", ["unknown", "Unknown"])
def test_unknown_is_not_written_and_is_as_likely_as_its_constant_cosine(spelling: str) -> None:
    model = tiny_omtseg(unknown_likeness=0.2)
    prompt = model.prepare(words("cup", spelling, "mat"))
    assert prompt.owner.tolist() == [0, 2]
    logits, objectness = word_logits(model, prompt)
    none = torch.full_like(objectness, 0.2 * model.network.scale.item())
    shares = torch.stack([logits[..., 0], none, logits[..., 1]], dim=-1).softmax(dim=-1)
    wanted = torch.cat([shares * objectness[..., None], 1 - objectness[..., None]], dim=-1)
    torch.testing.assert_close(run(model, prompt).class_logits.exp(), wanted, atol=1e-5, rtol=1e-4)


def test_unknown_alone_takes_every_mask() -> None:
    model = tiny_omtseg()
    prompt = model.prepare(words("unknown"))
    assert len(prompt.places) == 0 and prompt.remarks == ()
    predicted = run(model, prompt)
    wanted = torch.stack([predicted.objectness, 1 - predicted.objectness], dim=-1)
    torch.testing.assert_close(predicted.class_logits.exp(), wanted, atol=1e-5, rtol=1e-4)


def test_synonyms_join_a_text_that_stays_short_and_else_leave_it_with_a_remark() -> None:
    model = tiny_omtseg()  # trained with 40 tokens; a word takes 3
    fits = Vocabulary.build([CategorySpec("cup", WORDS[:5]), CategorySpec("ring", ("table", "floor"))])
    prompt = model.prepare(fits)
    assert len(prompt.owner) == 9 and prompt.remarks == ()
    phrases = [f"{color} {thing}" for color in WORDS[:4] for thing in WORDS[4:8]]
    prompt = model.prepare(Vocabulary.build([CategorySpec("cup", phrases), CategorySpec("ring")]))
    assert prompt.owner.tolist() == [0, 1]
    assert len(prompt.remarks) == 1 and "the 16 synonyms are left out" in prompt.remarks[0]


@pytest.mark.parametrize("count", [1, 2, 100, 1000])
def test_any_number_of_categories_is_read_and_a_text_too_long_for_the_training_is_said_once(count: int) -> None:
    model = tiny_omtseg()
    names = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS][:count]
    prompt = model.prepare(words(*names))
    assert prompt.owner.tolist() == list(range(count))
    said = [remark for remark in prompt.remarks if "positions are interpolated" in remark]
    assert len(said) == len(prompt.remarks) == (count > 2)
    assert len(prompt.text) == 2 + 5 * count
    if said:
        assert f"these {count} names make {2 + 5 * count} tokens" in said[0] and "40 tokens" in said[0]
    predicted = run(model, prompt)
    assert predicted.class_logits.shape == (1, 7, count + 1)
    torch.testing.assert_close(predicted.class_logits.exp().sum(dim=-1), torch.ones(1, 7))


def test_odd_names_are_read_as_far_as_they_are_known() -> None:
    model = tiny_omtseg()
    odd = ["sofa", "CUP", "red_ball", "cup 2", "chair", "ball!", "x" * MAX_NAME_LENGTH]
    prompt = model.prepare(words(*odd))
    assert len(prompt.owner) == len(odd)
    same, unknown = prompt.remarks
    assert unknown.startswith("this preset does not know all of 'sofa', 'cup 2', 'chair', 'ball!' and 'xxx")
    assert same.startswith("this preset cannot tell apart 'sofa', 'chair', 'ball!'")
    table = model.network.encoder.text_embed.weight
    positions = model.network.encoder.encoder.embed_positions.B.weight[2:]
    after = int(prompt.places[1]) + 1
    assert torch.allclose(prompt.text[after] - positions[after], table[5 + WORDS.index("cup")], atol=1e-6)
    assert bool(run(model, prompt).class_logits.isfinite().all())
    assert model.prepare(words("red ball", "ball red")).remarks == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (7, 13), (61, 97), (400, 300)])
def test_images_of_any_size_get_masks_of_their_shape(size: tuple[int, int]) -> None:
    predicted = run(MODEL, MODEL.prepare(words("cup", "mat")), pixels(*size))
    rows, columns = predicted.mask_logits.shape[2:]
    assert 1 <= rows <= 16 and 1 <= columns <= 24
    assert rows == 16 or columns == 24  # fitted into 64 x 96
    assert bool(predicted.class_logits.isfinite().all() and predicted.mask_logits.isfinite().all())


def test_what_is_beside_an_image_is_black_and_gets_no_masks() -> None:
    model = tiny_omtseg(encoder=replace(TINY.encoder, image_size=(256, 320)))
    seen: list[Tensor] = []
    model.network.adapter.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1]))
    image = pixels(240, 320)
    predicted = run(model, model.prepare(words("cup")), image)
    assert predicted.mask_logits.shape == (1, 7, 60, 80)
    mean, std = (torch.tensor(part)[:, None, None] for part in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(seen[0], (F.pad(image, (0, 0, 0, 16)) - mean) / std)


def test_a_batch_is_its_images_one_by_one_and_twice_the_same_is_the_same() -> None:
    prompt, images = MODEL.prepare(words("cup", "red ball", "floor")), pixels(batch=3)
    whole, again = run(MODEL, prompt, images), run(MODEL, prompt, images)
    singles = [run(MODEL, prompt, image[None]) for image in images]
    for name in ("mask_logits", "class_logits", "query_embeddings", "objectness"):
        part = getattr(whole, name)
        assert torch.equal(part, getattr(again, name))
        torch.testing.assert_close(part, torch.cat([getattr(one, name) for one in singles]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_probabilities(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=dtype):
        predicted = run(MODEL, MODEL.prepare(words("cup", "unknown", "floor")))
    assert predicted.class_logits.dtype == predicted.objectness.dtype == torch.float32
    torch.testing.assert_close(predicted.class_logits.exp().sum(dim=-1), torch.ones(1, 7), atol=1e-4, rtol=0)


def test_a_frame_waits_for_no_number_of_the_device() -> None:
    prompt = MODEL.prepare(words("cup", "unknown"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        predicted = run(MODEL, prompt, torch.zeros(2, 3, 48, 90))
    assert predicted.class_logits.shape == (2, 7, 3)


def test_prompts_are_made_beside_forward_and_used_in_turns() -> None:
    first, second = words("cup", "mat"), words("red ball", "ring", "wall")
    prompts = [MODEL.prepare(first), MODEL.prepare(second)]
    alone = [run(MODEL, prompt).class_logits for prompt in prompts]
    made: list[OMTSegPrompt] = []
    thread = threading.Thread(target=lambda: made.extend(MODEL.prepare(second) for _ in range(20)))
    thread.start()
    beside = [[run(MODEL, prompt).class_logits for prompt in prompts] for _ in range(4)]
    thread.join()
    for results in beside:
        assert all(torch.equal(one, wanted) for one, wanted in zip(results, alone, strict=True))
    assert len(made) == 20 and all(torch.equal(prompt.text, prompts[1].text) for prompt in made)


def test_with_a_prompt_goes_all_that_was_made_of_its_words() -> None:
    gone = []
    for n in range(3):
        prompt = MODEL.prepare(words(f"word {n}", "unknown"))
        run(MODEL, prompt)
        gone += [weakref.ref(prompt.vocabulary), weakref.ref(prompt.text), weakref.ref(prompt.owner)]
    del prompt
    gc.collect()
    assert all(reference() is None for reference in gone)


def test_a_preset_segments_with_ids_embeddings_and_thresholds(tmp_path: Path) -> None:
    segmenter = build_segmenter(str(write_tiny_omtseg(tmp_path)), "cpu")
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    first = words("cup", "red ball")
    vocabulary = words("floor", "red ball", "cup", previous=first)
    prompt = segmenter.prepare(vocabulary)
    result = segmenter.segment(image, prompt)
    assert result.segment_ids.shape == (60, 80) and result.segments
    assert result.vocabulary_version == vocabulary.version
    ids = {category.name: category.id for category in vocabulary.categories}
    assert ids["cup"] == first.categories[0].id
    for segment in result.segments:
        at = result.segment_ids == segment.id
        assert segment.category_id == ids[segment.label] and at.sum() == segment.area
        assert (result.category_ids[at] == segment.category_id).all()
    assert result.embeddings is not None and result.embeddings.shape == (len(result.segments), 32)
    assert (result.category_ids[result.segment_ids == 0] == NO_CATEGORY).all()
    nothing = segmenter.segment(image, prompt, MergeConfig(object_threshold=1.0))
    assert not nothing.segments and not nothing.segment_ids.any()
    # The file has the same weights as the network that it was written of.
    torch.testing.assert_close(run(segmenter.model, prompt).class_logits, run(MODEL, prompt).class_logits)


def test_a_preset_without_a_checkpoint_says_that_it_knows_nothing(tmp_path: Path) -> None:
    preset = write_tiny_omtseg(tmp_path)
    assert build_segmenter(str(preset), "cpu").prepare(words("cup")).remarks == ()
    preset.write_text(preset.read_text().replace("  checkpoint: tiny_omtseg.safetensors\n", ""))
    (remark,) = build_segmenter(str(preset), "cpu").prepare(words("cup")).remarks
    assert "names no checkpoint, so its masks and names are noise" in remark
