"""A model without masks: its merge is an argmax of scores, and things can be cut up into what does not touch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lmseg_support import PADDED, Edges, GivenScores, make, photos, unit
from torch import Tensor
from waits import counted_waits

from ovseg_ros.core.joint.semantic import SemanticModel
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.scoring.lmseg.scorer import LMSegScorer
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.text import TextEncoder
from ovseg_ros.core.types import NO_CATEGORY, PanopticResult, Prediction
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

OPEN = MergeConfig(object_threshold=0.0, overlap_threshold=0.0, mask_threshold=0.0, min_area=0)
FITTING = MergeConfig(object_threshold=0.0, overlap_threshold=0.0, mask_threshold=0.5, min_area=0)
IMAGE = np.zeros((16, 16, 3), np.uint8)


def encoder() -> TextEncoder:
    """Vectors by the number at a sentence's end, or its length."""
    return TextEncoder(lambda some: torch.stack([unit(1, seed=sum(text.encode()))[0] for text in some]), ("{}",))


def vocabulary(*names: str | CategorySpec) -> Vocabulary:
    """Names in capitals are of stuff."""
    specs = [CategorySpec(name, is_thing=name.islower()) if isinstance(name, str) else name for name in names]
    return Vocabulary.build(specs)


def model(scorer: LMSegScorer | GivenScores, most: int | None = None) -> SemanticModel:
    return SemanticModel(scorer, encoder(), max_components=most).eval()  # type: ignore[arg-type]


def drawn(*maps: str) -> Tensor:
    """(1, K, h, w): of each word a map of lines, in which a digit is a logit and a dot -5."""
    rows = [[[-5.0 if sign == "." else float(sign) for sign in row] for row in text.split()] for text in maps]
    return torch.tensor([rows])


def predict(logits: Tensor, words: Vocabulary, most: int | None = None, features: Tensor | None = None) -> Prediction:
    made = model(GivenScores(logits, features=features), most)
    with torch.no_grad():
        return made(photos(len(logits)), made.prepare(words))


def segment(
    logits: Tensor, words: Vocabulary, merge: MergeConfig = FITTING, most: int | None = None
) -> list[PanopticResult]:
    segmenter = PanopticSegmenter(model(GivenScores(logits), most), merge, torch.device("cpu"))
    return segmenter.segment_batch([IMAGE] * len(logits), segmenter.prepare(words))


def labels(result: PanopticResult) -> list[str]:
    return [one.label for one in result.segments]


def names(found: Prediction, words: Vocabulary, image: int = 0) -> list[str]:
    """Of each mask, its category's name, which is certain."""
    every = [*(category.name for category in words.categories), "no object"]
    shares = found.class_logits[image].softmax(dim=-1)
    assert bool(((shares == 1) | (shares == 0)).all())
    return [every[place] for place in shares.argmax(dim=-1).tolist()]


@pytest.mark.parametrize("count", [1, 4, 2 * PADDED])
def test_the_merge_is_the_argmax_of_upsampled_scores(count: int) -> None:
    scorer = make(second=Edges())
    segmenter = PanopticSegmenter(model(scorer), OPEN, torch.device("cpu"))
    words = vocabulary(*(f"word {index}" for index in range(count)))
    image = (photos(1, 50, 70)[0].permute(1, 2, 0) * 255).byte().numpy()
    prompt = segmenter.prepare(words)
    found = segmenter.segment(image, prompt)
    with torch.no_grad():
        scores = scorer(segmenter.to_pixels([image]), prompt.words)  # type: ignore[attr-defined]
    best = F.interpolate(scores.logits, (50, 70), mode="bilinear")[0].argmax(dim=0)
    ids = torch.tensor([category.id for category in words.categories])
    expected = ids[scores.words[0][best]].numpy()
    assert (found.category_ids == expected).mean() > 0.999  # rounding where two are equal
    assert count == 1 or len(np.unique(expected)) > 1


def test_what_no_word_fits_is_void_or_unknown() -> None:
    logits = drawn("44.. 44.. .... ....")
    (found,) = segment(logits, vocabulary("cup"))
    assert labels(found) == ["cup"]
    assert found.category_ids[12, 12] == NO_CATEGORY
    words = vocabulary("cup", "unknown")
    for most in (None, 10):
        (found,) = segment(logits, words, most=most)
        assert sorted(labels(found)) == ["cup", "unknown"]
        assert found.category_ids[12, 12] == words.categories[1].id
        assert found.category_ids[2, 2] == words.categories[0].id
        assert NO_CATEGORY not in found.category_ids


def test_nothing_but_unknown() -> None:
    for most in (None, 10):
        (found,) = segment(torch.zeros(1, 0, 4, 4), vocabulary("unknown"), most=most)
        assert labels(found) == ["unknown"]


BLOBS = drawn(
    "9..77 9..77 9.... ...7.", "..4.. ..4.. .4... 44...", "..... ..... ...44 ....4"
)  # a wall divides the cups


def test_things_are_cut_up_and_stuff_stays_whole() -> None:
    words = vocabulary("cup", "WALL", "table")
    for most, expected in ((None, ["cup", "WALL", "table"]), (10, ["WALL", "cup", "cup", "table", "cup"])):
        found = predict(BLOBS, words, most)
        assert names(found, words) == expected
        assert found.objectness.tolist() == [[1.0] * len(expected)]
    areas = [int((mask > 0).sum()) for mask in found.mask_logits[0]]
    assert areas == [5, 4, 3, 3, 1]
    (merged,) = segment(BLOBS, words, most=10)
    assert sorted(labels(merged)) == ["WALL", "cup", "cup", "cup", "table"]
    (whole,) = segment(BLOBS, words)
    assert (merged.category_ids == whole.category_ids).all()


def test_what_touches_at_a_corner_is_one() -> None:
    words = vocabulary("cup")
    assert names(predict(drawn("4... .4.. ..4. ...."), words, 10), words) == ["cup"]
    stuff = vocabulary("WALL")
    assert names(predict(drawn("4... .... ..4. ...."), stuff, 10), stuff) == ["WALL"]


def test_a_component_is_the_categorys_mask_but_for_other_components() -> None:
    logits = drawn("9927 .927", "..6. ..6.")  # cups at either side of a wall, which hides what fits the cup, too
    left, right, wall = predict(logits, vocabulary("cup", "WALL"), 10).mask_logits[0].unbind()
    assert left.tolist() == [[9, 9, 2, -100], [-5, 9, 2, -100]]
    assert right.tolist() == [[-100, -100, 2, 7], [-5, -100, 2, 7]]
    assert wall.equal(logits[0, 1])


def test_the_largest_are_kept_by_area_then_by_order() -> None:
    words = vocabulary("cup", "WALL")
    logits = drawn("7.7.7 ....7 77...", "..... ..... ...55")  # cups of 1, 1, 2 and 2 cells, and a wall of 2
    for most, expected in ((1, [2]), (3, [2, 2, 2]), (4, [2, 2, 2, 1]), (99, [2, 2, 2, 1, 1])):
        found = predict(logits, words, most)
        assert [int((mask > 0).sum()) for mask in found.mask_logits[0]] == expected
    assert names(found, words) == ["cup", "cup", "WALL", "cup", "cup"]
    assert [int((mask > 0).flatten().nonzero()[0]) for mask in found.mask_logits[0]] == [4, 10, 13, 0, 2]


def test_images_with_fewer_parts_are_filled_up_with_no_objects() -> None:
    words = vocabulary("cup", "WALL")
    logits = torch.cat(
        [drawn("7.7 ... 7.7", "... ... ..."), drawn("... ... ...", "... .5. ..."), drawn("... ... ...", "... ... ...")]
    )
    found = predict(logits, words, 10)
    assert [names(found, words, image) for image in range(3)] == [
        ["cup"] * 4,
        ["WALL", *["no object"] * 3],
        ["no object"] * 4,
    ]
    assert found.objectness.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    results = segment(logits, words, most=10)
    assert [labels(result) for result in results] == [["cup"] * 4, ["WALL"], []]
    alone = segment(logits[1:2], words, most=10)[0]
    assert (alone.category_ids == results[1].category_ids).all()


@pytest.mark.parametrize("merge", [FITTING, OPEN])
def test_an_image_that_nothing_fits(merge: MergeConfig) -> None:
    (found,) = segment(drawn("... ... ...", "... ... ..."), vocabulary("cup", "WALL"), merge, most=10)
    assert labels(found) == []
    assert found.embeddings is not None
    assert found.embeddings.shape == (0, 16)


def test_negatives_compete_and_are_not_published() -> None:
    words = vocabulary("cup", CategorySpec("hand", negative=True))
    logits = drawn("33.. 33.. .... ....", ".9.. .9.. .... ....")
    for most in (None, 10):
        (found,) = segment(logits, words, most=most)
        assert labels(found) == ["cup"]
        assert found.category_ids[1, 1] == words.categories[0].id
        assert found.category_ids[1, 6] == NO_CATEGORY


def test_embeddings_are_means_of_features_where_a_mask_wins() -> None:
    words = vocabulary("cup", "WALL", "unknown")
    # Of 4 x 4 cells in 2 x 2 of features: the cup wins the top left, and a cell of the top right.
    logits = drawn("444. 44.. .... ....", "333. .... .... 3...")
    features = torch.randn(1, 16, 2, 2, generator=torch.Generator().manual_seed(0))
    top_left, top_right, bottom_left, bottom_right = features[0].flatten(1).T
    cup = (top_left + top_right / 4) / 1.25
    unknown = (0.75 * top_right + 0.75 * bottom_left + bottom_right) / 2.5
    for most in (None, 10):
        found = predict(logits, words, most, features)
        by_name = dict(zip(names(found, words), found.query_embeddings[0], strict=True))
        for name, expected in (("cup", cup), ("WALL", bottom_left), ("unknown", unknown)):
            torch.testing.assert_close(by_name[name], expected, atol=1e-5, rtol=1e-4)


def test_a_prompt_tells_what_is_not_seen_of_it() -> None:
    made = SemanticModel(make(), encoder(), max_components=None, is_trained=False)
    assert any("scores are noise" in remark for remark in made.prepare(vocabulary("cup")).remarks)
    assert model(make()).prepare(vocabulary("cup")).remarks == ()
    assert model(make()).input_size == (64, 64)


@pytest.mark.parametrize("most", [None, 10])
def test_a_gpu_is_waited_for_once_if_things_are_split(most: int | None) -> None:
    """And not at all if they are not. There are as many masks whatever is in the image, of the same segments."""
    words = vocabulary("cup", "WALL", "unknown")
    made = model(make(second=Edges()), most)
    prompt, images = made.prepare(words), photos(1)
    with torch.no_grad():
        expected = made(images, prompt)
        with counted_waits() as waits:
            found = made(images, prompt)
    assert len(waits.found) == (most is not None)
    assert all("_split" in wait for wait in waits.found)
    count = expected.mask_logits.shape[1]
    assert found.mask_logits.shape[1] == (most or count)
    assert found.objectness[0].tolist() == [1.0] * count + [0.0] * (found.objectness.shape[1] - count)
    for one, other in ((found.mask_logits, expected.mask_logits), (found.class_logits, expected.class_logits)):
        assert torch.equal(one[:, :count], other)
    assert names(found, words)[count:] == ["no object"] * (found.objectness.shape[1] - count)
