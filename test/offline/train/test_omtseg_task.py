"""OMTSeg's training, function by function: texts, targets beside padding, what learns and what stays as it is."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_images import Numbered, Striped
from omtseg_networks import ARCHITECTURE, CATEGORIES, LOOP, TOKENIZER, WORDS, network, omtseg_task
from torch import Tensor, nn

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import BLACK, IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.joint.omtseg.network import OBJECT, OMTSegNetwork
from ovseg_ros.core.joint.omtseg.tokens import PLACEHOLDER, WordTokenizer
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.offline.data.types import DatasetCategory, PanopticSample
from ovseg_ros.offline.train.augmentation import JitterConfig, View
from ovseg_ros.offline.train.data import PanopticData, RenderedData, SegmentedView, segmented_view, shown_categories
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.losses import BatchShare, MaskTargets
from ovseg_ros.offline.train.masks import to_targets
from ovseg_ros.offline.train.omtseg import OMTSegTask
from ovseg_ros.sim.categories import SEEN

NAMES = [category.name for category in CATEGORIES]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(None, tmp_path, Engine("cpu"))


def closed(task: OMTSegTask) -> OMTSegTask:
    """A task whose batches are not asked for."""
    task.stream.close()
    return task


def decoded(ids: Sequence[int]) -> list[tuple[str, int]]:
    """The names of a text, in its order, and how many separators follow each."""
    assert ids[0] == TOKENIZER.start and ids[-1] == TOKENIZER.end and ids[1] == PLACEHOLDER
    names = []
    for part in " ".join(map(str, ids[2:-1])).split(str(PLACEHOLDER)):
        tokens = [int(token) for token in part.split()]
        words = [WORDS[token - TOKENIZER.separator - 1] for token in tokens if token != TOKENIZER.separator]
        separators = len(tokens) - len(words)
        assert tokens[len(words) :] == [TOKENIZER.separator] * separators
        names.append((" ".join(words), separators))
    return names


def test_a_text_names_every_category_once_in_an_order_of_its_step(run: Run) -> None:
    task = closed(omtseg_task(run))
    orders, separators = [], set()
    for step in range(8):
        ids, places = task.text(step)
        found = decoded(ids.tolist())
        assert sorted(name for name, _ in found) == sorted(NAMES)
        separators |= {count for _, count in found}
        orders.append([name for name, _ in found])
        # Of each category, in the data's order, where its name's mark is.
        assert (ids[places] == PLACEHOLDER).all() and len(places.unique()) == len(NAMES)
        marks = (ids == PLACEHOLDER).nonzero()[:, 0].tolist()
        assert [orders[-1][marks.index(place)] for place in places.tolist()] == NAMES
    assert separators == {1, 2, 3} and len({tuple(order) for order in orders}) == 8
    assert {count for _, count in decoded(closed(omtseg_task(run, separators=1)).text(0)[0].tolist())} == {1}


def test_a_text_is_a_function_of_seed_and_step(run: Run) -> None:
    one, again = (closed(omtseg_task(run, synonyms=0.5)) for _ in range(2))
    other = closed(omtseg_task(run, synonyms=0.5, loop=replace(LOOP, seed=1)))
    later = one.text(7)
    torch.rand(3), np.random.default_rng().random()
    for ours, theirs in zip(again.text(7), later, strict=True):  # first asked here, later there
        assert torch.equal(ours, theirs)
    assert other.text(7)[0].tolist() != later[0].tolist() != one.text(8)[0].tolist()


def test_synonyms_are_called_as_often_as_asked(run: Run) -> None:
    phrases = {category.name: {category.name, *category.synonyms} for category in CATEGORIES}
    task = closed(omtseg_task(run, synonyms=0.5))
    said = []
    for step in range(40):
        ids, places = task.text(step)
        marks = (ids == PLACEHOLDER).nonzero()[:, 0].tolist()
        names = [name for name, _ in decoded(ids.tolist())]
        for category, place in zip(CATEGORIES, places.tolist(), strict=True):
            name = names[marks.index(place)]
            assert name in phrases[category.name]
            if category.synonyms:
                said.append(name != category.name)
    assert 0.4 < np.mean(said) < 0.6


def test_names_are_read_as_the_model_reads_them_and_unknown_words_are_told(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    class Joined(Striped):
        def __init__(self) -> None:
            super().__init__(4)
            self.categories = [replace(c, name=c.name.replace(" ", "_"), synonyms=()) for c in self.categories]

    plain, joined = closed(omtseg_task(run)), closed(omtseg_task(run, dataset=Joined()))
    assert any("_" in category.name for category in Joined().categories)
    assert joined.text(3)[0].tolist() == plain.text(3)[0].tolist()
    with caplog.at_level(logging.WARNING):
        few = [word for word in WORDS if word not in ("traffic", "road")]
        closed(omtseg_task(run, tokenizer=WordTokenizer(few)))
    assert "not know all words of 3 names, such as road, traffic light, traffic sign" in caplog.text


def test_names_too_long_for_the_network_are_refused(run: Run) -> None:
    longest = 2 + sum(1 + len(name.split()) + 1 for name in NAMES)  # separators that have no room are left out
    small = network(replace(ARCHITECTURE, trained_words=longest - 1))
    message = rf"19 names make up to {longest} tokens, but .*trained_words of the preset .* is {longest - 1}; raise"
    with pytest.raises(ConfigError, match=message):
        omtseg_task(run, small)
    closed(omtseg_task(run, network(replace(ARCHITECTURE, trained_words=longest))))

    class Wordy(Striped):
        def __init__(self) -> None:
            super().__init__(4)
            self.categories = [replace(self.categories[0], synonyms=("road of many words",)), *self.categories[1:]]

    just = network(replace(ARCHITECTURE, trained_words=longest))
    closed(omtseg_task(run, just, dataset=Wordy()))
    with pytest.raises(ConfigError, match=f"make up to {longest + 3} tokens"):  # the longest that may be called
        omtseg_task(run, just, dataset=Wordy(), synonyms=0.01)


def test_of_the_tabletop_the_seen_categories_alone_are_named(run: Run) -> None:
    """Which are in the middle of a hundred: a segment's category becomes its place among them."""
    every = [
        DatasetCategory(i, i + 1, name, (), True) for i, name in enumerate(("a", sorted(SEEN)[0], "b", sorted(SEEN)[1]))
    ]

    class Tabletop(Numbered):
        def __init__(self) -> None:
            super().__init__(2)
            self.categories = every

    names = [c.name for c in shown_categories(RenderedData(1, 1), Tabletop())]
    assert names == sorted(SEEN)[:2] and shown_categories(PanopticData(), Tabletop()) == every


def test_segments_are_answered_by_their_categorys_place_in_the_text(run: Run) -> None:
    """And neither void nor crowds."""
    task = closed(omtseg_task(run, dataset=Numbered(2)))
    view = segmented_view(Numbered(1)[0], View((12, 16), 0, 0, (12, 16), flipped=False))
    assert task._answers(view, 0, 0) == [(3, (70_000,))]
    compared = {}

    def keep(_: object, targets: list[MaskTargets], *__: object, **___: object) -> dict[str, Tensor]:
        compared.update(classes=targets[0].classes.tolist(), words=targets[0].words.tolist())  # type: ignore[union-attr]
        return {}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("ovseg_ros.offline.train.omtseg.mask_set_loss", keep)
        task._compared(
            [], [to_targets(view, task._answers(view, 0, 0), (3, 4), run.engine.device)], BatchShare(range(1), [1])
        )
    assert compared == {"classes": [OBJECT], "words": [3]}


class Cells(nn.Module):
    """In a network's place: a mask logit is the brightness of its cell's 4 x 4 pixels, whatever is beside the view."""

    config, patch_size = ARCHITECTURE, 32
    mask_size = OMTSegNetwork.mask_size
    _MASK_STRIDE = 4

    def embed(self, ids: Tensor) -> Tensor:
        return ids

    def forward(self, images: Tensor, text: Tensor, places: Tensor) -> tuple[list[QueryPrediction], Tensor]:
        self.seen = images
        brightness = nn.functional.avg_pool2d(images[:, :1], 4)
        return [QueryPrediction(brightness, torch.zeros(len(images), 1, 2))], places


@pytest.mark.parametrize(("size", "padded"), [((240, 320), (256, 320)), ((160, 192), (160, 192)), ((48, 80), (64, 96))])
def test_logits_line_up_with_segments_beside_padding(run: Run, size: tuple[int, int], padded: tuple[int, int]) -> None:
    task = closed(omtseg_task(run, Cells()))  # type: ignore[arg-type]
    segment_ids = torch.zeros(size, dtype=torch.int32)
    segment_ids[8:20, -24:], segment_ids[-12:, 16:] = 1, 1  # to the right and lower edges
    shown = (255 * segment_ids).to(torch.uint8)
    one = torch.tensor([1])
    view = SegmentedView(shown.expand(3, *size), segment_ids, one, one)
    [prediction] = task._predict([view, view], 0, range(2), 2)
    targets = to_targets(view, [(0, (1,))], task.model.mask_size(*size), run.engine.device)
    white = normalize(torch.ones(1, 3, 1, 1), IMAGENET_MEAN, IMAGENET_STD)[0, 0, 0, 0]
    black = normalize(torch.tensor(BLACK)[None, :, None, None], IMAGENET_MEAN, IMAGENET_STD)[0, 0, 0, 0]
    assert prediction.mask_logits.shape == (2, 1, size[0] // 4, size[1] // 4)
    cells = (prediction.mask_logits[1, 0] - black) / (white - black)
    torch.testing.assert_close(cells, targets.masks[0], atol=1e-5, rtol=0)
    assert task.model.seen.shape[2:] == padded  # type: ignore[attr-defined]
    assert (task.model.seen[:, 0, size[0] :] == black).all() and (task.model.seen[:, 0, :, size[1] :] == black).all()  # type: ignore[attr-defined]


def test_views_must_be_of_whole_cells(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"views of size \(48, 82\) must be multiples of 4 pixels"):
        omtseg_task(run, augmentation=JitterConfig((48, 82)))


def trained(task: OMTSegTask, run: Run, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's state before and after."""
    before = {name: value.detach().clone() for name, value in task.model.state_dict().items()}
    try:
        run_loop(task, replace(LOOP, steps=steps), run.out / "omtseg", engine=run.engine)
    finally:
        task.stream.close()
    return before, task.model.state_dict()


def test_from_scratch_everything_learns(run: Run) -> None:
    before, after = trained(omtseg_task(run), run, 2)
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    # A bias of keys moves all scores of a query alike, which a softmax does not see; whether rounding moves it or not,
    # it has no say. The adapter reads the image's last states before the norm.
    exempt = ("k_proj.A.bias", "k_proj.B.bias", "key.bias", "encoder.layer_norm.A", "mask_token")
    assert {name for name in same if not any(part in name for part in exempt)} == set()


def test_of_a_public_encoder_the_positions_alone_learn(run: Run) -> None:
    model = network()
    model.freeze_encoder()
    before, after = trained(omtseg_task(run, model), run, 2)
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    positions = {"encoder.encoder.embed_positions.A.weight", "encoder.encoder.embed_positions.B.weight"}
    assert {name for name in moved if name.startswith("encoder.")} == positions and "name_mark" in moved
    assert {"words.weight", "adapter.injectors.0.gate", "decoder.queries.weight"} < moved
    own = model.trained_state(encoder_is_public=True)
    assert positions < set(own) and {name for name in own if name.startswith("encoder.")} == positions
    assert moved <= set(own)
    # Neither the state to go on from holds what is in a file of its own.
    kept = torch.load(run.out / "omtseg/last.pt", weights_only=True)["model"]
    assert set(kept) == set(own)


def test_nothing_differs_in_training(run: Run) -> None:
    """No dropout, no norm over the batch: so a frozen encoder need not be kept in evaluation."""
    task = omtseg_task(run)
    views = task.stream.batch(0, range(2))
    task.stream.close()
    with torch.no_grad():
        task.model.train()
        ours = task._predict(views, 0, range(2), 4)
        task.model.eval()
        theirs = task._predict(views, 0, range(2), 4)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.mask_logits, other.mask_logits) and torch.equal(one.word_logits, other.word_logits)  # type: ignore[arg-type]


def test_two_segments_are_learned_by_heart(run: Run) -> None:
    """Masks, words and objectness, under any order of the names."""

    class One(Striped):
        def __init__(self) -> None:
            super().__init__(1)
            self.categories = self.categories[6:8]

        def __getitem__(self, index: int) -> PanopticSample:
            return super().__getitem__(1)

    loop = replace(LOOP, steps=80, batch_size=1, warmup_steps=5, gradient_clip=1.0)
    task = omtseg_task(run, dataset=One(), augmentation=JitterConfig((64, 96), scale=(1.0, 1.0), flip=0), loop=loop)
    try:
        run_loop(task, loop, run.out / "omtseg", engine=run.engine)
        view = task.stream.batch(79, range(1))[0]
        with torch.no_grad():
            steps = {bool(task.text(step)[1].diff() > 0): step for step in range(20)}  # of either order
            last, other = (task._predict([view], step, range(1), 1)[-1] for step in steps.values())
            pictures = task.pictures()
    finally:
        task.stream.close()
    assert pictures["segments"].shape == (64, 3 * 96, 3)
    best = last.class_logits[0, :, OBJECT].topk(2).indices
    masks = last.mask_logits[0, best] > 0
    wanted = to_targets(view, task._answers(view, 0, 0), task.model.mask_size(64, 96), run.engine.device)
    order = [int((masks & (mask > 0.5)).sum(dim=(1, 2)).argmax()) for mask in wanted.masks]
    assert sorted(order) == [0, 1]
    overlap = ((masks[order] == (wanted.masks > 0.5)).float().mean(dim=(1, 2))).tolist()
    assert min(overlap) > 0.95, overlap
    for prediction in (last, other):
        assert prediction.word_logits is not None
        assert prediction.word_logits[0, best[order]].argmax(dim=1).tolist() == wanted.classes.tolist() == [0, 1]


def test_reduced_precision_leaves_losses_in_single(run: Run) -> None:
    task = omtseg_task(run, points=64)
    try:
        counts = task.counts(0, range(4))
        torch.manual_seed(0)
        plain = task.losses(0, range(4), counts)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = task.losses(0, range(4), counts)
    finally:
        task.stream.close()
    assert set(plain) == {"class", "bce", "dice", "word"}
    for name, value in plain.items():
        assert reduced[name].dtype == torch.float32
        assert reduced[name].item() == pytest.approx(value.item(), rel=0.2), name
    torch.stack(list(reduced.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())


class Stopped(Exception):
    """As if the process were gone."""


@pytest.mark.parametrize("optimizer", ["adamw", "lion"])
def test_a_stopped_training_goes_on_to_the_bit(tmp_path: Path, optimizer: str) -> None:
    def trained(folder: Path, stop_at: int | None = None) -> dict[str, Tensor]:
        run = Run(None, folder, Engine("cpu"))
        loop = replace(LOOP, steps=5, checkpoint_every=2, optimizer=optimizer)
        model = network()
        model.freeze_encoder()
        task = omtseg_task(run, model, loop=loop, synonyms=0.5)
        losses = task.losses

        def stopping(step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
            if step == stop_at:
                raise Stopped
            return losses(step, samples, counts)

        task.losses = stopping  # type: ignore[method-assign]
        try:
            run_loop(task, loop, folder / "omtseg", engine=run.engine)
        finally:
            task.stream.close()
        return model.state_dict()

    unbroken = trained(tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(tmp_path / "broken", stop_at=3)
    assert torch.load(tmp_path / "broken/omtseg/last.pt", weights_only=True)["step"] == 2
    again = trained(tmp_path / "broken")
    assert all(torch.equal(again[name], value) for name, value in unbroken.items())


@pytest.mark.parametrize("points", [0, 40])
def test_images_without_any_segment_teach_nothing_but_that(run: Run, points: int) -> None:
    class Cut(Striped):
        def __getitem__(self, index: int) -> PanopticSample:
            sample = super().__getitem__(index)
            ids = sample.segment_ids * 0
            ids[0, 0] = 1
            return replace(sample, segment_ids=ids)

    task = omtseg_task(run, dataset=Cut(2), augmentation=JitterConfig((48, 80), scale=(0.1, 0.1)), points=points)
    try:
        counts = task.counts(0, range(4))
        losses = task.losses(0, range(4), counts)
    finally:
        task.stream.close()
    assert not counts.any() and losses["bce"].item() == losses["word"].item() == 0 < losses["class"].item()
    torch.stack(list(losses.values())).sum().backward()
    assert task.model.objectness.bias.grad.abs().sum() > 0  # type: ignore[union-attr]
