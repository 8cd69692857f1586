"""FISA as a classifier: which masks it reads, what counts as nothing, what it prepares, trains, saves and refuses."""

import weakref
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fisa_support import SCALE, classify, embed, make, photos, proposals, stir, tower, words
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_ros.core.classification.fisa.clip_tower import check_tower
from ovseg_ros.core.classification.fisa.config import FisaConfig
from ovseg_ros.core.classification.fisa.distribution_adapter import DistributionAdapter
from ovseg_ros.core.classification.mask_views import crop_masks, square_windows, view_size
from ovseg_ros.core.config import from_mapping
from ovseg_ros.core.errors import CheckpointError, ConfigError
from ovseg_ros.core.merge import MergeConfig, merge_panoptic
from ovseg_ros.core.text_attention import TextAttention
from ovseg_ros.core.types import MaskProposals, TextEmbeddings
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

VIEWS = pytest.mark.parametrize("view", ["image", "crops"])


@VIEWS
@pytest.mark.parametrize(("batch", "count"), [(1, 0), (2, 0), (1, 1), (2, 7)])
@pytest.mark.parametrize("closed_set", [False, True])
def test_any_number_of_proposals(view: str, batch: int, count: int, closed_set: bool) -> None:
    found = proposals(batch, count, closed_set=closed_set)
    with torch.inference_mode():
        logits = classify(make(view=view, mirrored=True), photos(batch), found, words(3))
    assert logits.shape == (batch, count, 4) and logits.isfinite().all()


@VIEWS
def test_a_batch_is_its_images_one_by_one(view: str) -> None:
    classifier, found, images, text = stir(make(view=view)), proposals(3, 5, closed_set=True), photos(3), words(4)
    together = classify(classifier, images, found, text)
    for index in range(3):
        one = MaskProposals(
            *(part[[index]] for part in (found.mask_logits, found.query_embeddings, found.class_logits))
        )
        torch.testing.assert_close(
            classify(classifier, images[[index]], one, text)[0], together[index], atol=1e-4, rtol=1e-4
        )


@VIEWS
@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), rows=st.integers(1, 40), columns=st.integers(1, 40))
def test_any_size_of_image_and_masks(view: str, height: int, width: int, rows: int, columns: int) -> None:
    found = proposals(1, 2, (rows, columns))
    with torch.inference_mode():
        assert classify(make(view=view), photos(1, height, width), found, words(2)).isfinite().all()


@given(height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_views_keep_the_aspect_ratio_to_half_a_patch(height: int, width: int) -> None:
    rows, columns = view_size(height, width, 896, (14, 14))
    assert rows % 14 == columns % 14 == 0 and max(rows, columns) == 896 and min(rows, columns) >= 14
    exact = (height * 896 / max(height, width), width * 896 / max(height, width))
    assert abs(rows - exact[0]) <= max(7.001, 14 - exact[0]) and abs(columns - exact[1]) <= max(7.001, 14 - exact[1])


def test_masks_stay_aligned_with_pictures_of_any_shape() -> None:
    """A wide picture, dark but for its right quarter: what a mask of that quarter reads, no other quarter has."""
    visual = tower()
    classifier = make(visual, input_size=64)
    picture = torch.zeros(1, 3, 21, 84)
    picture[..., 63:] = 1.0
    masks = torch.full((1, 4, 21, 84), -6.0)
    for quarter in range(4):
        masks[0, quarter, :, 21 * quarter : 21 * (quarter + 1)] = 6.0
    inside: list[torch.Tensor] = []
    classifier.stream.register_forward_pre_hook(lambda _, arguments: inside.append(arguments[2]))
    embed(classifier, picture, masks, words(2))
    grid = inside[0][0].unflatten(1, (2, 8))  # 16 x 64 pixels
    for quarter in range(4):
        assert grid[quarter].any(dim=0).nonzero()[:, 0].tolist() == [2 * quarter, 2 * quarter + 1]


def test_crops_hold_their_mask_and_nothing_else() -> None:
    masks = torch.full((2, 12, 16), -5.0)
    masks[0, 3:7, 8:12] = 5.0
    masks[1] = 5.0
    windows = square_windows(masks, (24, 32), 1.0)
    assert windows.tolist() == [[16, 6, 24, 14], [0, 0, 32, 24]]
    cropped = crop_masks(masks, windows, (24, 32), (8, 8))
    assert (cropped > 0).all()
    half = crop_masks(masks[:1], torch.tensor([[16.0, 6.0, 32.0, 14.0]]), (24, 32), (8, 8))[0, 0]
    assert (half[:, :4] >= 0).all() and (half[:, 4:] < 0).all()


def test_unread_masks_are_nothing() -> None:
    found = proposals(1, 5, closed_set=True)
    likely = torch.tensor([3.0, -3.0, 2.0, 0.1, -9.0])
    found = MaskProposals(found.mask_logits, found.query_embeddings, torch.stack([likely, 0 * likely], dim=-1)[None])
    text = words(3)
    few = classify(make(max_masks=2), photos(1), found, text)[0].softmax(dim=-1)
    sure = classify(make(min_objectness=0.5), photos(1), found, text)[0].softmax(dim=-1)
    assert (few[:, -1] == 1).tolist() == [False, True, False, True, True]
    assert (sure[:, -1] == 1).tolist() == [False, True, False, False, True]


def test_the_generators_verdict_and_clips_multiply() -> None:
    """P(word) = objectness x softmax over words and "none of these"; the rest is "no object"."""
    found, images, text = proposals(1, 3, closed_set=True), photos(1), words(4, synonyms=1)
    classifier = make(bias=-1.0, none="bias", none_logit=0.5)
    assert found.class_logits is not None
    objectness = 1 - found.class_logits[0].softmax(dim=-1)[:, -1:]
    cosines = embed(classifier, images, found.mask_logits, text)[0] @ text.vectors.T
    best = (SCALE.exp() * cosines - 1.0).unflatten(1, (4, 2)).amax(dim=2)
    wanted = objectness * torch.cat([best, torch.full((3, 1), 0.5)], dim=1).softmax(dim=-1)[:, :-1]
    got = classify(classifier, images, found, text)[0].softmax(dim=-1)
    torch.testing.assert_close(got[:, :-1], wanted, atol=1e-5, rtol=1e-4)


def test_the_three_sources_of_nothing() -> None:
    found, images, text = proposals(1, 2), photos(1), words(3)
    by_generator = classify(make(), images, found, text)[0].softmax(dim=-1)
    assert (by_generator[:, -1] < 1e-5).all()  # a generator without a closed set has no doubt
    learned = make(none="embedding")
    with torch.no_grad():
        learned.none_embedding.copy_(50 * embed(learned, images, found.mask_logits, text)[0, 0])
    shares = classify(learned, images, found, text)[0].softmax(dim=-1)
    assert shares[0].argmax() == 3  # its own embedding is what "nothing" looks like
    with pytest.raises(ConfigError, match="needs a CLIP with a logit bias"):
        make(none="bias")


def test_a_word_named_unknown_stands_for_none_of_these() -> None:
    vectors = words(3).vectors
    vocabulary = Vocabulary.build([CategorySpec(name) for name in ("cup", "unknown", "bowl")])
    text = TextEmbeddings(vectors, torch.arange(3), vocabulary)
    logits = classify(make(bias=0.0, none="bias", none_logit=30.0), photos(1), proposals(1, 2), text)[0]
    assert logits.argmax(dim=-1).tolist() == [1, 1]


def test_the_merge_takes_what_it_says() -> None:
    found, text = proposals(1, 6, closed_set=True), words(4)
    logits = classify(make(), photos(1), found, text)
    result = merge_panoptic(found.mask_logits[0], logits[0], text.vocabulary, (32, 32), MergeConfig(0.0, 0.0, 0.5, 1))
    assert {segment.label for segment in result.segments} <= {f"word {number}" for number in range(4)}


def test_prepare_computes_the_texts_keys_and_values_and_forward_never_does(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, images, found = make(), photos(1), proposals(1, 2)
    computed: list[int] = []
    original = TextAttention.key_values
    monkeypatch.setattr(
        TextAttention,
        "key_values",
        lambda self, vectors: computed.append(len(vectors)) or original(self, vectors),
    )
    with torch.inference_mode():
        prepared = [classifier.prepare(words(count)) for count in (3, 5)]
        assert computed == [3, 5]
        for _ in range(3):
            for text in prepared:
                classifier(images, found, text)
    assert computed == [3, 5]


def test_a_model_keeps_nothing_of_a_vocabulary() -> None:
    classifier = make()
    before = {name: id(value) for name, value in vars(classifier).items()}
    text = words(3)
    prepared, vectors = classifier.prepare(text), weakref.ref(text.vectors)
    classifier(photos(1), proposals(1, 2), prepared)
    assert {name: id(value) for name, value in vars(classifier).items()} == before
    del prepared, text
    assert vectors() is None


def test_words_of_one_vocabulary_never_affect_another() -> None:
    """Prepared beside each other and used in turn, moved weights and all: as if each were alone."""
    classifier, images, found = stir(make()), photos(1), proposals(1, 3)
    texts = [words(3), words(5), words(3, seed=9)]
    with torch.inference_mode():
        alone = [classify(classifier, images, found, text) for text in texts]
        prepared = [classifier.prepare(text) for text in texts]
        for _ in range(2):
            for text, wanted in zip(reversed(prepared), reversed(alone), strict=True):
                assert torch.equal(classifier(images, found, text), wanted)
        again = classifier.prepare(words(3))  # another object, the same words
        assert torch.equal(classifier(images, found, again), alone[0])
        assert not torch.equal(alone[0], alone[2])


@pytest.mark.parametrize("mirrored", [False, True])
def test_an_image_may_be_looked_at_before_its_masks_are_there(mirrored: bool) -> None:
    images, found = photos(2, 40, 56), proposals(2, 3)
    classifier = stir(make(mirrored=mirrored))
    prepared = classifier.prepare(words(3))
    seen = classifier.look(images)
    assert torch.equal(classifier(images, found, prepared, seen), classifier(images, found, prepared))
    # As trainings read them, one layer after the other.
    embeddings = classifier.embed(
        classifier.views_of(images, found.mask_logits), classifier.adapter(found.mask_logits), prepared
    )
    queries, is_read = classifier.top_masks(found)
    rows = torch.arange(2)[:, None]
    wanted = classifier.join(classifier.word_logits(embeddings[rows, queries], prepared), found, queries, is_read)
    torch.testing.assert_close(classifier(images, found, prepared, seen), wanted, atol=1e-4, rtol=1e-4)
    assert make(view="crops").look(images) is None


def test_crops_may_be_read_before() -> None:
    """What CLIP makes of them does not depend on what FISA learns; such crops are not mirrored as well."""
    classifier, images, found = stir(make(view="crops", max_masks=2)), photos(1), proposals(1, 3)
    prepared = classifier.prepare(words(3))
    masks = found.mask_logits[:, classifier.top_masks(found)[0][0]]
    views = classifier.views_of(images, masks)
    views = replace(views, key_values=tuple(classifier.key_values(views.pixels)))
    wanted = classifier(images, found, prepared)
    given = classifier(images, found, prepared, views)
    torch.testing.assert_close(given, wanted, atol=1e-5, rtol=1e-5)
    classifier.config = replace(classifier.config, mirrored=True)
    assert torch.equal(classifier(images, found, prepared, views), given)
    assert not torch.allclose(classifier(images, found, prepared), wanted, atol=1e-3)


def trained_names(**changes: object) -> set[str]:
    return {name.split(".")[0] for name in make(**changes).trained_state_dict()}


def test_what_trains() -> None:
    nothing = {"seve_layers": (), "query_layers": (), "adapter_convolutions": 0}
    assert trained_names() == {"stream", "adapter"}
    assert trained_names(**nothing) == set()
    assert trained_names(none="embedding") == {"stream", "adapter", "none_embedding"}
    one = make(seve_layers=(1,), query_layers=(0, 2))
    assert len(one.stream.seve) == 1 and sorted(one.stream.queries) == ["0", "2"]


@pytest.mark.parametrize("clip_trains", [False, True])
def test_gradients_reach_all_that_trains_and_nothing_else(clip_trains: bool) -> None:
    classifier = make(none="embedding")
    classifier.visual.requires_grad_(clip_trains)
    stir(classifier, 0.05)
    images, found, text = photos(1), proposals(1, 3), classifier.prepare(words(4))
    adapted = classifier.adapter(found.mask_logits)
    embeddings = classifier.embed(classifier.views_of(images, found.mask_logits), adapted, text)
    loss = (
        F.cross_entropy(classifier.word_logits(embeddings, text)[0], torch.tensor([0, 1, 4])) + adapted.square().sum()
    )
    loss.backward()
    for name, parameter in classifier.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, name


def test_trained_states_travel_strictly() -> None:
    source, images, found, text = stir(make()), photos(1), proposals(1, 3), words(3)
    state = source.trained_state_dict()
    target = make()
    target.load_trained_state_dict(state, "fisa.safetensors")
    assert torch.equal(classify(target, images, found, text), classify(source, images, found, text))
    torn = {"nonsense": torch.zeros(1), **state}
    del torn["adapter.layers.0.bias"]
    torn["stream.queries.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(
        CheckpointError,
        match=r"^fisa.safetensors does not fit.*missing: adapter.layers.0.bias.*unexpected: nonsense.*\(2, 2\)",
    ):
        target.load_trained_state_dict(torn, "fisa.safetensors")


@pytest.mark.parametrize("convolutions", [0, 1, 2, 3])
def test_an_untrained_adapter_changes_nothing(convolutions: int) -> None:
    masks = proposals(2, 3).mask_logits
    adapter = DistributionAdapter(convolutions, 4)
    assert torch.equal(adapter(masks), masks)
    assert sum(layer.weight.ndim == 4 for layer in adapter.layers if isinstance(layer, torch.nn.Conv2d)) == convolutions
    assert adapter(masks[:, :0]).shape == (2, 0, 16, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attentional_pool": True}, "attentional pooling"),
        ({"pool_type": "avg"}, "'avg' pooling"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_towers_that_it_cannot_serve(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(tower(**changes))


def test_towers_of_timm_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match=r"got Linear. SigLIP and timm towers .* choose another architecture"):
        check_tower(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seve_layers": (0, 3)}, r"fisa.seve_layers must be different layers in 0 to 2 .* got \[0, 3\]"),
        ({"query_layers": (1, 1)}, "fisa.query_layers must be different layers"),
    ],
)
def test_layers_that_are_not_there(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"view": "fish"}, "fisa.view: unknown view 'fish'; expected one of image, crops"),
        ({"seve_width": 30}, "multiple of seve_heads"),
        ({"adapter_convolutions": 4}, "adapter_convolutions: it should be less than or equal to 3, got 4"),
        ({"temperature": 0}, "temperature: it should be greater than or equal to 0.0001, got 0"),
        ({"adapter_convolution": 1}, "did you mean 'adapter_convolutions'"),
        ({"min_objectness": 2}, "min_objectness: it should be less than or equal to 1, got 2"),
    ],
)
def test_configurations_that_make_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(FisaConfig, values, "preset.yaml: fisa")


def test_the_temperature_can_be_fixed() -> None:
    assert float(make(temperature=0.01).logit_scale.exp()) == pytest.approx(100)
    assert float(make().logit_scale) == pytest.approx(float(SCALE))
