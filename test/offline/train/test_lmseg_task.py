"""LMSeg's training, function by function: what images and words are, what learns and what stays as it is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fisa_scenes import coloured_samples
from lmseg_training import CATEGORIES, JITTER, LOOP, TEMPLATES, batch_loss, lmseg_task, tiny_scorer
from numbered_images import Numbered, Striped
from torch import Tensor

from ovseg_ros.core.descriptions import DescriptionFiles, DescriptionsConfig
from ovseg_ros.core.errors import ConfigError, TrainingError
from ovseg_ros.core.scoring.lmseg.scorer import Encoded, LMSegScorer, ScoredWords, Scores
from ovseg_ros.offline.train.augmentation import JitterConfig
from ovseg_ros.offline.train.data import PanopticData, RenderedData
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.lmseg import LMSegTask, LMSegTraining, Sentences
from ovseg_ros.offline.train.lmseg_data import IGNORED, LabelledViews
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig

NAMES = [category.name for category in CATEGORIES]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(None, tmp_path, Engine("cpu"))


def test_an_image_is_compared_with_its_own_words_and_the_likeliest_others(run: Run) -> None:
    task, views = lmseg_task(run, others="likeliest", max_words=7, synonyms=0.5)
    scores: list[Scores] = []
    cosines: list[Tensor] = []
    score, words_of = task.model.score, []

    def watched(encoded: Encoded, words: ScoredWords, **asked: Any) -> Scores:
        scores.append(score(encoded, words, **asked))
        cosines.append(F.normalize(scores[-1].features, dim=1).flatten(2).transpose(1, 2) @ words.vectors.T)
        words_of.append(words)
        return scores[-1]

    task.model.score = watched  # type: ignore[method-assign]
    labels = torch.stack(views.labels(0, range(4)))
    counts = task.counts(0, range(4))
    for samples in (range(4), range(1), range(2, 4)):
        task.losses(0, samples, counts)
    views.close()
    assert [found.words.shape for found in scores] == [(4, 7), (1, 7), (2, 7)]
    torch.testing.assert_close(torch.cat([scores[1].words, scores[2].words]), scores[0].words[[0, 2, 3]])
    for image in range(4):
        own = set(labels[image][labels[image] != IGNORED].tolist())
        likeliest = cosines[0][image].amax(dim=0).argsort(descending=True).tolist()
        expected = [*own, *(k for k in likeliest if k not in own)][:7]
        assert set(scores[0].words[image].tolist()) == set(expected)
    assert len({tuple(sorted(words)) for words in scores[0].words.tolist()}) > 1
    assert all(torch.equal(words.vectors, words_of[0].vectors) for words in words_of)


def heard(sentences: Sentences) -> tuple[Sentences, list[list[str]]]:
    """The same, and what the text tower is going to read."""
    read: list[list[str]] = []
    encode = sentences.encode
    assert encode is not None

    def watched(some: Sequence[str]) -> Tensor:
        read.append(list(some))
        return encode(some)

    return Sentences(sentences.encoder, watched), read


def test_where_the_text_tower_learns_each_step_reads_one_sentence_of_a_word(run: Run, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text(
        "format: 1\nwords:\n  road: {color: [grey, black, brown]}\n  car: {color: [red], shape: [long, tall]}\n"
    )
    files = DescriptionFiles(DescriptionsConfig(("some",)), [tmp_path / "some.yaml"])
    scorer, sentences = tiny_scorer(descriptions=files)
    sentences, read = heard(sentences)
    task, views = lmseg_task(run, (scorer, sentences))
    counts = task.counts(0, range(4))
    for step in (0, 1, 2, 3, 3):
        task.losses(step, range(1), counts)
    views.close()
    assert all(len(some) == 19 for some in read) and read[4] == read[3]
    of = {name: [some[NAMES.index(name)] for some in read] for name in ("road", "car", "sky")}
    assert set(of["road"]) <= {f"a photo of a road, {color}" for color in ("grey", "black", "brown")}
    assert set(of["car"]) <= {f"a photo of a car, red, {shape}" for shape in ("long", "tall")}
    assert set(of["sky"]) <= {template.format("sky") for template in TEMPLATES}
    assert len({tuple(some) for some in read}) == 4


def test_words_that_nobody_trains_are_read_as_in_use(run: Run) -> None:
    """By the mean of their sentences, and no text tower runs twice for a word."""
    scorer, sentences = tiny_scorer(tuned=False)
    task, views = lmseg_task(run, (scorer, sentences))
    asked: list[ScoredWords] = []
    score = scorer.score
    scorer.score = lambda encoded, words, **more: (asked.append(words), score(encoded, words, **more))[1]  # type: ignore[method-assign]
    batch_loss(task, 4).backward()
    views.close()
    assert torch.equal(asked[0].vectors, sentences.encoder.vectors(NAMES)) and not asked[0].vectors.requires_grad


def learned(
    task: LMSegTask, views: LabelledViews, run: Run, loop: LoopConfig = LOOP
) -> tuple[set[str], dict[str, Tensor]]:
    """Which tensors of the scorer a training moves, and all that there are."""
    before = {name: value.detach().clone() for name, value in task.model.state_dict().items()}
    try:
        run_loop(task, loop, run.out / "lmseg", engine=run.engine)
    finally:
        views.close()
    after = task.model.state_dict()
    return {name for name, value in after.items() if not torch.equal(value, before[name])}, after


def test_queries_and_values_of_both_towers_learn_and_nothing_else_of_the_encoders(run: Run) -> None:
    task, views = lmseg_task(run)
    moved, state = learned(task, views, run, replace(LOOP, steps=2))
    in_clip = {name for name in moved if name.startswith(("visual.", "text."))}
    projections = {
        f"{tower}.transformer.resblocks.{block}.attn.{layer}.weight"
        for tower, blocks in (("visual", range(4)), ("text", range(2)))
        for block in blocks
        for layer in ("query", "value")
    }
    # Of the image tower's last block, dense features read the values alone.
    assert in_clip == projections - {"visual.transformer.resblocks.3.attn.query.weight"}
    # The stand-in for SAM, its running statistics too.
    assert any("running_mean" in name for name in state if name.startswith("sam."))
    assert not [name for name in moved if name.startswith("sam.")]
    own = {name for name in state if not name.startswith(("visual.", "text.", "sam."))}
    # Biases before a group norm's mean, or of keys, may have no say.
    assert {name for name in own - moved if "weight" in name} == set()
    assert set(task.model.trained_state_dict()) == own | projections
    kept = torch.load(run.out / "lmseg/last.pt", weights_only=True)["model"]
    assert {name for name, _ in task.model.named_parameters()} & set(kept) == own | projections


def test_a_frozen_clip_does_not_move(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    task, views = lmseg_task(run, tiny_scorer(tuned=False))
    moved, _ = learned(task, views, run, replace(LOOP, steps=2, gradient_accumulation=2))
    assert moved and not [name for name in moved if name.startswith(("visual.", "text.", "sam."))]
    assert "batch norm" not in caplog.text  # the frozen encoder's normalises no share


class Killed(Exception):
    pass


def test_a_killed_training_goes_on_as_if_it_had_not_been(run: Run, tmp_path: Path) -> None:
    loop = replace(LOOP, steps=3, batch_size=2, checkpoint_every=1, log_every=1)
    changes = {"loop": loop, "others": "random", "max_words": 6, "synonyms": 0.5}
    task, views = lmseg_task(run, **changes)  # type: ignore[arg-type]
    _, unbroken = learned(task, views, run, loop)
    other = Run(None, tmp_path / "other", Engine("cpu"))
    task, views = lmseg_task(other, **changes)  # type: ignore[arg-type]
    losses = task.losses

    def until_the_second(step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
        if step == 1:
            raise Killed
        return losses(step, samples, counts)

    task.losses = until_the_second  # type: ignore[method-assign]
    with pytest.raises(Killed):
        learned(task, views, other, loop)
    task, views = lmseg_task(other, **changes)  # type: ignore[arg-type]
    _, resumed = learned(task, views, other, loop)
    for name, value in unbroken.items():
        assert torch.equal(resumed[name], value), name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("others", ["random", "likeliest"])
def test_on_a_gpu_losses_are_those_of_the_cpu(tmp_path: Path, others: str) -> None:
    told_there = {}
    for device in ("cpu", "cuda"):
        run = Run(None, tmp_path / device, Engine(device, "no"))
        task, views = lmseg_task(run, others=others, max_words=6)
        task.model.to(run.engine.device)
        learned(task, views, run, replace(LOOP, steps=1, checkpoint_every=1, pictures_every=1))
        told_there[device] = torch.load(tmp_path / device / "lmseg/last.pt", weights_only=True)["sums"]["bce"]
    assert told_there["cuda"] == pytest.approx(told_there["cpu"], rel=1e-2)


def test_a_loss_that_is_not_finite_ends_the_training(run: Run) -> None:
    task, views = lmseg_task(run)
    with torch.no_grad():
        task.model.embed.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the loss of step 1 is not finite \(bce nan, total nan\)"):
        learned(task, views, run)


def whole(run: Run, prepare: Callable[[LMSegScorer], object]) -> tuple[LMSegTask, LabelledViews]:
    """On two-object scenes, whole, with CLIP frozen."""
    scorer, sentences = tiny_scorer(tuned=False)
    prepare(scorer)
    data, dataset = RenderedData(1, 1), coloured_samples(2)
    return lmseg_task(run, (scorer, sentences), dataset=dataset, data=data, augmentation=None, max_words=9)


def test_features_are_kept_where_no_encoder_learns(run: Run) -> None:
    """Which changes what is computed, and the result by their half precision alone."""
    kept, views = whole(run, lambda _: None)
    anew, views_anew = whole(run, lambda scorer: scorer.visual.proj.requires_grad_(True))  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in kept.model.sam.state_dict().items()}  # type: ignore[union-attr]
    assert all(torch.equal(value, anew.model.sam.state_dict()[name]) for name, value in before.items())  # type: ignore[union-attr]
    kept.model.train(), anew.model.train()
    runs: list[Tensor] = []
    kept.model.visual.conv1.register_forward_hook(lambda *_: runs.append(torch.empty(0)))  # type: ignore[union-attr]
    assert float(batch_loss(kept, 4)) == pytest.approx(float(batch_loss(anew, 4)), rel=1e-3)
    for ours, theirs in zip(views.labels(2, range(4)), views_anew.labels(2, range(4)), strict=True):
        assert torch.equal(ours, theirs)
    ours, theirs = (some.encoded(2, range(1, 3)) for some in (views, views_anew))
    assert ours.second is not None and theirs.second is not None
    for one, other in zip(
        (ours.clip, *ours.skips, ours.second), (theirs.clip, *theirs.skips, theirs.second), strict=True
    ):
        torch.testing.assert_close(one, other.detach(), rtol=2e-3, atol=2e-3)
    assert not runs
    pictures = kept.pictures()
    assert pictures["categories"].shape == (2 * 64, 3 * 96, 3)


def test_labels_are_places_among_the_words(run: Run) -> None:
    """Neither void nor crowds have any, nor what no training names; of random views as of whole ones."""
    plain = JitterConfig((12, 20), scale=(1.0, 1.0), flip=0)
    task, views = lmseg_task(run, dataset=Numbered(2), augmentation=plain)
    labels = torch.stack(views.labels(0, range(4)))
    views.close()
    assert (labels[..., :8] == 3).all() and (labels[..., 8:] == IGNORED).all() and labels.dtype == torch.int64
    assert task.counts(0, range(4))[:, -1].tolist() == [12 * 8] * 4

    class Tabletop(Numbered):
        def __init__(self) -> None:
            super().__init__(2)
            table = next(one for one in coloured_samples(1).categories if one.name == "table")
            self.categories = [replace(one, index=i, name=f"no {one.name}") for i, one in enumerate(self.categories)]
            self.categories[3] = replace(table, index=3)  # the only one that may be learned

    _, views = lmseg_task(run, dataset=Tabletop(), data=RenderedData(1, 1), augmentation=None)
    labels = torch.stack(views.labels(0, range(4)))
    assert (labels[..., :8] == 0).all() and (labels[..., 8:] == IGNORED).all() and labels.dtype == torch.int64


def test_reduced_precision_leaves_the_loss_in_single(run: Run) -> None:
    task, views = lmseg_task(run)
    plain = batch_loss(task, 4)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = batch_loss(task, 4)
    views.close()
    assert reduced.dtype == torch.float32 and float(reduced) == pytest.approx(float(plain), rel=0.02)


def test_pictures_show_each_of_the_first_images(run: Run) -> None:
    task, views = lmseg_task(run, dataset=Striped(5))
    task.model.eval()
    with torch.no_grad():
        first, again = task.pictures()["categories"], task.pictures()["categories"]
    views.close()
    assert first.shape == (3 * 32, 3 * 48, 3) and first.dtype == np.uint8 and np.array_equal(first, again)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augmentation": None}, "data of kind panoptic needs an augmentation; only rendered views are taken whole"),
        ({"max_words": 0}, "max_words.*greater than or equal to 1"),
        ({"synonyms": 1.5}, "synonyms.*less than or equal to 1"),
        ({"others": "none"}, "others.*'random' or 'likeliest'"),
        ({"data": RenderedData(1, 1, "captions")}, "must be of split train, got captions"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    settings = {"preset": "none", "data": PanopticData(), "loop": LOOP, "augmentation": JITTER} | changes
    with pytest.raises((ValueError, ConfigError), match=f"(?s){message}"):
        LMSegTraining(**settings)  # type: ignore[arg-type]
