"""LMSeg's scorer as a whole: before training it is CAT-Seg; words see each other, images do not; what trains."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fisa_support import tower
from lmseg_support import PADDED, Edges, embedded, lmseg_config, make, photos, some_words, text_tower
from torch import Tensor

from ovseg_ros.core.backbones.dense_clip import dense_features
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.scoring.lmseg.config import FusionConfig
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer, ScoredWords, Scores

SHARES = [
    *(FusionConfig(kind, share) for kind in ("scalar", "channel", "pixel", "fixed") for share in (0.05, 0.7)),
    FusionConfig("concat"),
]


@torch.no_grad()
def scores_of(scorer: LMSegScorer, count: int, images: Tensor | None = None) -> Scores:
    return scorer(photos() if images is None else images, some_words(scorer, count))


def by_word(scores: Scores) -> list[dict[int, Tensor]]:
    """Of each image, each word's logits (h, w)."""
    return [
        dict(zip(words.tolist(), maps, strict=True)) for words, maps in zip(scores.words, scores.logits, strict=True)
    ]


@pytest.mark.parametrize("fusion", SHARES, ids=lambda fusion: f"{fusion.kind}-{fusion.clip_share}")
def test_before_training_the_second_encoder_changes_nothing(fusion: FusionConfig) -> None:
    expected = scores_of(make(), 3)
    scorer = make(second=Edges(), fusion=fusion)
    found = scores_of(scorer, 3)
    assert found.logits.equal(expected.logits)
    assert found.features.equal(expected.features)
    with torch.no_grad():
        assert scorer.fusion is not None
        for parameter in scorer.fusion.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    assert not torch.allclose(scores_of(scorer, 3).logits, expected.logits, atol=1e-3)


def test_the_second_encoder_gets_the_images_as_they_are() -> None:
    second, images = Edges(), photos(1, 50, 90)
    scores_of(make(second=second), 2, images)
    assert second.seen[0].equal(images)


@pytest.mark.parametrize("count", [0, 1, PADDED, PADDED + 3])
def test_shapes(count: int) -> None:
    found = scores_of(make(), count, photos(2, 40, 100))
    looked_at = min(count, PADDED)
    assert found.logits.shape == (2, looked_at, 32, 32)
    assert found.words.shape == (2, looked_at)
    assert found.features.shape == (2, 16, 8, 8)
    assert torch.isfinite(found.logits).all()


def test_of_many_words_those_with_the_highest_cosines_are_looked_at() -> None:
    scorer, count = make(), 3 * PADDED
    images, words = photos(4), some_words(scorer, count)
    with torch.no_grad():
        found = scorer(images, words)
    cosines = torch.einsum("bdyx,kd->bkyx", F.normalize(found.features, dim=1), words.vectors)
    for image in range(4):
        best = cosines[image].flatten(1).amax(dim=1).argsort(descending=True)[:PADDED]
        assert set(found.words[image].tolist()) == set(best.tolist())
        alone = words_at(scorer, words, best)  # what was not chosen has no influence
        with torch.no_grad():
            maps = scorer(images[image : image + 1], alone).logits[0]
        for place, word in enumerate(best.tolist()):
            torch.testing.assert_close(by_word(found)[image][word], maps[place], atol=1e-5, rtol=1e-4)
    assert len({frozenset(words.tolist()) for words in found.words}) > 1  # each image has its own


def words_at(scorer: LMSegScorer, words: ScoredWords, rows: Tensor) -> ScoredWords:
    places = torch.arange(len(rows))
    return scorer.words(words.vectors[rows], places, places, places)


@pytest.mark.parametrize("count", [4, PADDED, 2 * PADDED])
def test_the_order_of_words_does_not_matter(count: int) -> None:
    scorer = make()
    words = some_words(scorer, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        straight = by_word(scorer(photos(), words))
        shuffled = by_word(scorer(photos(), words_at(scorer, words, order)))
    for one, other in zip(straight, shuffled, strict=True):
        assert one.keys() == {int(order[place]) for place in other}
        for place, maps in other.items():
            torch.testing.assert_close(maps, one[int(order[place])], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [3, PADDED + 2])
def test_images_of_a_batch_do_not_see_each_other(count: int) -> None:
    scorer, images = make(second=Edges()), photos(3)
    together = by_word(scores_of(scorer, count, images))
    for image in range(3):
        alone = by_word(scores_of(scorer, count, images[image : image + 1]))[0]
        assert alone.keys() == together[image].keys()
        for word, maps in alone.items():
            torch.testing.assert_close(together[image][word], maps, atol=1e-5, rtol=1e-4)


def test_words_see_each_other_only_by_attention_over_words() -> None:
    for by_words in (True, False):
        scorer = make(by_word=by_words)
        few, more = scores_of(scorer, 3).logits, scores_of(scorer, 4).logits
        assert torch.allclose(few, more[:, :3], atol=1e-4) == (not by_words)


@pytest.mark.parametrize("changes", [{"spatial": False}, {"by_word": False}, {"layers": 0}, {"padded_words": 0}])
def test_parts_can_be_left_out(changes: dict[str, object]) -> None:
    scorer, whole = make(**changes), make()
    assert scores_of(scorer, PADDED + 1).logits.shape == (2, PADDED + ("padded_words" in changes), 32, 32)
    names = {name for name, _ in scorer.named_parameters()}
    gone = {name for name, _ in whole.named_parameters()} - names
    marks = {"spatial": ".spatial.", "by_word": ".by_word.", "layers": "layers.", "padded_words": ".padding"}
    mark = marks[next(iter(changes))]
    assert any(mark in name for name in gone)
    assert not any(mark in name for name in names)


def test_decoding_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = scores_of(make(), 5).logits
    monkeypatch.setattr("ovseg_ros.core.scoring.lmseg.scorer._WORDS_AT_ONCE", 2)
    torch.testing.assert_close(scores_of(make(), 5).logits, whole, atol=1e-6, rtol=1e-5)


def test_a_category_is_its_best_phrase_and_guided_by_its_name() -> None:
    scorer = make()
    text = embedded(["cup", "unknown", "table"], synonyms=2)
    words = scorer.prepare(text)
    assert words.vectors.equal(text.vectors[[0, 1, 2, 6, 7, 8]])
    assert words.owner.tolist() == [0, 0, 0, 1, 1, 1]
    assert words.categories.tolist() == [0, 2]
    torch.testing.assert_close(words.guidance, F.relu(scorer.word_guidance(text.vectors[[0, 6]]))[None])


def test_nothing_but_unknown() -> None:
    for windows in (False, True):
        scorer = make(windows=windows)
        words = scorer.prepare(embedded(["unknown"]))
        with torch.no_grad():
            found = scorer(photos(), words)
        assert found.logits.shape == (2, 0, 32, 32)
        assert found.words.shape == (2, 0)


def test_remarks() -> None:
    scorer = make()
    assert scorer.remarks(embedded(["cup"]).vocabulary, is_trained=True) == ()
    (untrained,) = scorer.remarks(embedded(["cup"]).vocabulary, is_trained=False)
    assert "scores are noise" in untrained
    names = [f"word {index}" for index in range(PADDED)]
    assert scorer.remarks(embedded([*names, "unknown"]).vocabulary, is_trained=True) == ()
    (many,) = scorer.remarks(embedded([*names, "unknown", "cup"]).vocabulary, is_trained=True)
    assert f"of {PADDED + 1} words, this preset looks in each image at the {PADDED}" in many
    assert make(padded_words=0).remarks(embedded([*names, "cup"]).vocabulary, is_trained=True) == ()


def test_gradients_reach_what_trains_and_nothing_else() -> None:
    second = Edges().requires_grad_(False)
    second.layer.weight.requires_grad_(True)
    text = text_tower()
    scorer = make(second=second, text=text).train()
    with torch.no_grad():  # past the first step, where the adapter is zero and hides the second encoder
        scorer.fusion.project.weight.normal_(generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr]
    tokens = torch.randint(1, 60, (3, 12), generator=torch.Generator().manual_seed(0))
    places = torch.arange(3)
    words = scorer.words(F.normalize(text(tokens), dim=-1), places, places, places)
    scorer(photos(), words).logits.square().mean().backward()
    reached = {name for name, value in scorer.named_parameters() if value.grad is not None and value.grad.abs().sum()}
    trained = set(scorer.trained_state_dict())
    last = "visual.transformer.resblocks.2.attn.query.weight"  # the last block's patches attend to nothing
    assert trained - reached == {last}
    assert not reached - trained
    assert "fusion.share_logit" in trained
    assert "sam.layer.weight" in trained
    assert "sam.layer.bias" not in trained
    ends = {name.split("attn.")[1] for name in trained if name.startswith(("visual.", "text."))}
    assert ends == {"query.weight", "value.weight"}


def test_a_clip_that_is_not_tuned_stays_as_it_is() -> None:
    visual, images = tower(quick=True), torch.randn(1, 3, 64, 64)
    before = dense_features(visual, images, ()).projected
    scorer = make(visual=visual, tunes_clip=False)
    assert not any(name.startswith("visual.") for name in scorer.trained_state_dict())
    torch.testing.assert_close(dense_features(scorer.visual, images, ()).projected, before, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_encoder_alone_trains(share: float) -> None:
    scorer = make(second=Edges(), fusion=FusionConfig("fixed", share)).train()
    scores = scorer(photos(), some_words(scorer, 3))
    scores.logits.square().mean().backward()
    assert scorer.fusion is not None
    gradients = {name: value.grad for name, value in scorer.named_parameters() if value.grad is not None}
    assert all(torch.isfinite(value).all() for value in gradients.values())
    assert bool(gradients["fusion.project.weight"].abs().sum() > 0) == (share == 0)
    if share == 1:
        other = make(second=Edges(), fusion=FusionConfig("fixed", share), visual=scorer.visual).train()
        torch.testing.assert_close(other(photos(), some_words(other, 3)).logits, scores.logits, atol=1e-6, rtol=1e-5)


def test_windows_of_a_constant_image_are_the_mean_of_equals() -> None:
    """At the cells, where only one window and the whole image are."""
    images = torch.full((1, 3, 64, 64), 0.4)
    single = scores_of(make(), 3, images).logits.sigmoid()
    found = scores_of(make(windows=True), 3, images)
    assert found.logits.shape == (1, 3, 53, 53)  # 32 cells, and 21 of the second window that the first has not
    assert found.words.tolist() == [[0, 1, 2]]
    by_all = F.interpolate(single, (53, 53), mode="bilinear")
    corner = (single[..., :21, :21] + by_all[..., :21, :21]) / 2
    torch.testing.assert_close(found.logits.sigmoid()[..., :21, :21], corner, atol=1e-5, rtol=1e-4)
    overlap = (single[..., :21, 21:] + single[..., :21, :11] + 2 * by_all[..., :21, 21:32]) / 4
    torch.testing.assert_close(found.logits.sigmoid()[..., :21, 21:32], overlap, atol=1e-5, rtol=1e-4)


def test_windows_are_five_views_and_only_outside_of_training() -> None:
    second = Edges()
    scorer, images = make(second=second, windows=True), photos(1, 106, 106)
    scores_of(scorer, 3, images)
    assert [tuple(seen.shape[-2:]) for seen in second.seen] == [(106, 106), *[(64, 64)] * 4]
    corners = [images[..., top : top + 64, left : left + 64] for top in (0, 42) for left in (0, 42)]
    for seen, corner in zip(second.seen[1:], corners, strict=True):
        torch.testing.assert_close(seen, corner)
    second.seen.clear()
    scorer.train()(images, some_words(scorer, 3))
    assert len(second.seen) == 1


def test_windows_know_of_words_that_one_of_them_did_not_look_at() -> None:
    found = scores_of(make(windows=True), 3 * PADDED)
    assert found.logits.shape == (2, 3 * PADDED, 53, 53)
    assert found.words.tolist() == [list(range(3 * PADDED))] * 2
    assert torch.isfinite(found.logits).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": (64, 60)}, r"image_size is \[64, 60\]; expected multiples of CLIP's patches, \[8, 8\] pixels"),
        ({"window": 3}, r"window 3 does not divide the 8 x 8 cells of image_size \[64, 64\]"),
        ({"skip_layers": (0, 2)}, r"skip_layers must be 0 to 1 of this CLIP, got \[0, 2\]"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)
    if "window" in changes:
        make(**changes, spatial=False)


def test_a_grid_that_is_not_square() -> None:
    scorer = make(image_size=(32, 96))
    assert scores_of(scorer, 2).logits.shape == (2, 2, 16, 48)


def test_what_trains_is_written_and_read() -> None:
    trained, fresh = make(second=Edges(), seed=7), make(second=Edges())
    with torch.no_grad():
        for value in trained.trained_state_dict().values():
            value.add_(0.1)
    expected = scores_of(trained, 3).logits
    assert not torch.allclose(scores_of(fresh, 3).logits, expected, atol=1e-3)
    fresh.load_trained_state_dict(trained.trained_state_dict(), "a file")
    torch.testing.assert_close(scores_of(fresh, 3).logits, expected, atol=1e-6, rtol=1e-6)


def test_a_file_that_does_not_fit_is_refused_by_its_names() -> None:
    scorer = make(second=Edges())
    before = scores_of(scorer, 3).logits
    state = scorer.trained_state_dict()
    state["strange"] = state.pop("embed.bias")
    state["word_guidance.weight"] = torch.zeros(2, 3)
    with pytest.raises(CheckpointError) as caught:
        scorer.load_trained_state_dict(state, Path("trained.safetensors"))
    for told in (
        "trained.safetensors",
        "1 missing: embed.bias",
        "1 unexpected: strange",
        "word_guidance.weight (file (2",
    ):
        assert told in str(caught.value)
    assert scores_of(scorer, 3).logits.equal(before)


def test_shapes_alone() -> None:
    with torch.device("meta"):
        visual = tower()
    scorer = LMSegScorer(visual, None, Edges().to("meta"), lmseg_config(), sam_width=5, mean=(0, 0, 0), std=(1, 1, 1))
    assert {value.device.type for value in scorer.parameters()} == {"meta"}
