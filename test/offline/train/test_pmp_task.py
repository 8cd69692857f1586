"""PMP's training, function by function: targets, words of several images at once, step 0, and what learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from guided_networks import ARCHITECTURE, JITTER, LOOP, TEXT, guided, pmp_task
from numbered_images import Numbered, Striped
from tiny_mask2former import tiny_mask2former, tiny_swin
from torch import Tensor

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize
from ovseg_ros.core.proposals.eomt.network import EoMT
from ovseg_ros.core.proposals.mask2former import Mask2Former
from ovseg_ros.core.proposals.mask_network import MaskNetwork
from ovseg_ros.core.types import QueryPrediction
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.train.augmentation import JitterConfig, View
from ovseg_ros.offline.train.data import SegmentedView, segmented_view, to_pixels
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.loop import run_loop
from ovseg_ros.offline.train.losses import MaskLossConfig, MaskTargets, mask_set_loss
from ovseg_ros.offline.train.masks import to_targets
from ovseg_ros.offline.train.optimization import parameter_groups
from ovseg_ros.offline.train.pmp import PmpTask, embed_questions
from ovseg_ros.offline.train.questions import Question, QuestionConfig
from ovseg_ros.offline.train.run import load_recipe

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(None, tmp_path, Engine("cpu"))


def mask2former(**changes: object) -> Mask2Former:
    """Three layers of five queries."""
    small = {"image_size": 32, "embed_dim": 8, "num_heads": [1, 2, 2, 2], "window_size": 2, **changes}
    torch.manual_seed(0)
    return Mask2Former(tiny_mask2former(("cup", "floor"), layers=4, heads=2, queries=5, backbone=tiny_swin(**small)))


def guided_networks() -> dict[str, MaskNetwork]:
    return {"eomt": guided(opened=True), "mask2former": guided(mask2former(drop_path_rate=0.0), opened=True)}


def view_of(ids: list[list[int]]) -> SegmentedView:
    """A view of 8 x 8 pixels, 2 x 2 cells of 4, with a segment of each id."""
    segment_ids = torch.tensor(ids, dtype=torch.int32).repeat_interleave(4, 0).repeat_interleave(4, 1)
    present = segment_ids.unique()
    return SegmentedView(torch.zeros(3, 8, 8, dtype=torch.uint8), segment_ids, present, present)


def test_targets_are_the_union_of_what_is_meant() -> None:
    view = view_of([[1, 2], [3, 4]])
    answers = [(0, (1, 4)), (2, (2,)), (2, (4,))]  # a group, and two of one word; a segment may answer twice
    points = to_targets(view, answers, None, CPU)
    assert points.classes.tolist() == [0, 2, 2] and points.masks.dtype == torch.bool
    assert points.masks[0, :4, :4].all() and points.masks[0, 4:, 4:].all() and points.masks[0].sum() == 32
    assert points.masks[1].sum() == points.masks[2].sum() == 16
    pixels = to_targets(view, answers, (4, 4), CPU)
    assert pixels.classes.tolist() == [0, 2, 2]
    assert pixels.masks[0].tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    few = to_targets(view, answers, (2, 2), CPU)  # a cell each: too little for any but the group
    assert few.classes.tolist() == [0] and few.masks.tolist() == [[[1, 0], [0, 1]]]


@pytest.mark.parametrize("size", [None, (4, 4)])
def test_nothing_to_find_is_no_target(size: tuple[int, int] | None) -> None:
    targets = to_targets(view_of([[1, 1], [1, 1]]), [], size, CPU)
    assert targets.masks.shape == (0, *(size or (8, 8))) and targets.classes.shape == (0,)


def test_crowds_and_other_words_are_no_targets(run: Run) -> None:
    """A word whose category shows as a crowd only is answered by nothing."""
    task = pmp_task(run, dataset=Numbered(2), points=40)
    task.stream.close()
    view = segmented_view(Numbered(1)[0], View((12, 16), 0, 0, (12, 16), flipped=False))
    names = [category.name for category in Numbered(1).categories]
    question = task.questions.ask(task.questions.whole, task._segments(view))
    assert question.answers == ((3, (70_000,)),) and question.phrases == tuple(names)
    few = pmp_task(run, dataset=Numbered(2), questions=QuestionConfig(0.0))
    few.stream.close()
    asked = [few.question(view, step, 0) for step in range(50)]
    assert all(names[3] in question.phrases for question in asked)  # never about the crowd
    assert any(len(question.phrases) == 1 for question in asked)


def test_words_are_padded_to_the_most() -> None:
    questions = [Question(("cup", "floor"), ()), Question(("a", "b", "c"), ())]
    vectors, present = embed_questions(questions, TEXT, CPU)
    assert vectors.shape == (2, 3, 16) and present.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(vectors[0, :2], TEXT.vectors(["cup", "floor"])) and not vectors[0, 2].any()
    assert not vectors.is_inference() and not vectors.requires_grad


def losses_of(task: PmpTask, views: list[SegmentedView], asked: list[Question]) -> tuple[list[QueryPrediction], Tensor]:
    """What the network says, and the total loss."""
    size = task.model.mask_size(*views[0].segment_ids.shape)
    targets = [to_targets(view, question.answers, size, CPU) for view, question in zip(views, asked, strict=True)]
    predictions = task._guided(views, asked)
    return predictions, torch.stack(list(mask_set_loss(predictions, targets, MaskLossConfig()).values())).sum()


@pytest.mark.parametrize("kind", ["eomt", "mask2former"])
def test_words_of_other_images_change_nothing(run: Run, kind: str) -> None:
    """Nor does the order of the words: masks, word logits and loss."""
    task = pmp_task(run, guided_networks()[kind].eval())
    views = task.stream.batch(0, range(2))
    task.stream.close()
    whole = task.questions.ask(task.questions.whole, task._segments(views[0]))
    few = Question(whole.phrases[:2], ())
    with torch.no_grad():
        both, _ = losses_of(task, views, [few, whole])
        alone, loss = losses_of(task, views[:1], [few])
        _, one = losses_of(task, views[:1], [whole])
        turned = Question(whole.phrases[::-1], tuple((len(whole.phrases) - 1 - w, m) for w, m in whole.answers[::-1]))
        _, other = losses_of(task, views[:1], [turned])
    for padded, plain in zip(both, alone, strict=True):
        torch.testing.assert_close(padded.mask_logits[:1], plain.mask_logits, atol=1e-5, rtol=1e-5)
        logits = padded.class_logits[:1]
        torch.testing.assert_close(logits[..., [0, 1, -1]], plain.class_logits, atol=1e-5, rtol=1e-5)
        assert (logits[..., 2:-1].softmax(dim=-1).sum(dim=-1) > 0).all() and (logits[..., 2:-1] < -1e3).all()
    cut = [QueryPrediction(p.mask_logits[:1], p.class_logits[:1]) for p in both]
    size = task.model.mask_size(32, 48)
    nothing = [MaskTargets(torch.zeros(0, *size), torch.zeros(0, dtype=torch.int64))]
    padded_loss = torch.stack(list(mask_set_loss(cut, nothing, MaskLossConfig()).values())).sum()
    torch.testing.assert_close(padded_loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", ["eomt", "mask2former"])
def test_step_0_is_the_generator_without_words(run: Run, kind: str) -> None:
    """Masks to the bit, in training mode."""
    torch.manual_seed(0)
    network = (
        EoMT(replace(ARCHITECTURE, convolutional_stem=True)) if kind == "eomt" else mask2former(drop_path_rate=0.0)
    )
    task = pmp_task(run, guided(network).train())
    views = task.stream.batch(0, range(2))
    task.stream.close()
    asked = [task.question(view, 0, sample) for sample, view in enumerate(views)]
    pixels = task._pixels(views)
    assert torch.equal(pixels, normalize(to_pixels([v.image for v in views], CPU), IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        guided_masks = task._guided(views, asked)[-1].mask_logits
        network.guidance = None
        proposals = network(pixels)
    assert torch.equal(guided_masks, proposals.mask_logits)


@pytest.mark.parametrize("kind", ["eomt", "mask2former"])
def test_losses_fall_and_everything_that_words_need_learns(run: Run, kind: str) -> None:
    network = guided(None if kind == "eomt" else mask2former())
    task = pmp_task(run, network, points=64, loop=replace(LOOP, steps=12, log_every=1))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    try:
        counts = task.counts(0, range(4))
        network.train()
        torch.manual_seed(0)
        first = torch.stack(list(task.losses(0, range(4), counts).values())).sum()
        run_loop(task, replace(LOOP, steps=12), run.out / "pmp", engine=run.engine)
        network.train()
        torch.manual_seed(0)
        last = torch.stack(list(task.losses(0, range(4), counts).values())).sum()
        pictures = task.pictures()
    finally:
        task.stream.close()
    assert last.item() < 0.9 * first.item()
    assert pictures["segments"].shape == (3 * 32, 3 * 48, 3)
    moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    guidance = {name for name in before if name.startswith("guidance.")}
    assert {"guidance.word_head.logit_scale", "guidance.word_head.no_object"} <= guidance
    # A bias of keys moves all words' scores of a query alike, which a softmax does not see.
    assert {name for name in guidance - moved if not name.endswith(".key.bias")} == set()
    closed_set = {name for name in before if "class_head" in name or "class_predictor" in name}
    assert closed_set and not closed_set & moved
    body = "encoder.blocks.0.mlp.fc1.weight"
    if kind == "mask2former":
        body = "network.model.pixel_level_module.encoder.embeddings.patch_embeddings.projection.weight"
        assert any("transformer_module.decoder.layers.0.cross_attn" in name for name in moved)
    assert body in moved


@pytest.mark.parametrize("kind", ["eomt", "mask2former"])
def test_reduced_precision_leaves_words_and_losses_in_single(run: Run, kind: str) -> None:
    task = pmp_task(run, guided_networks()[kind].train(), points=64)
    try:
        counts = task.counts(0, range(4))
        torch.manual_seed(0)
        plain = task.losses(0, range(4), counts)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = task.losses(0, range(4), counts)
    finally:
        task.stream.close()
    for name, value in plain.items():
        assert reduced[name].dtype == torch.float32
        assert float(reduced[name]) == pytest.approx(float(value), rel=0.2), name
    torch.stack(list(reduced.values())).sum().backward()
    gradients = [value.grad for name, value in task.model.named_parameters() if name.startswith("guidance.")]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


class Stopped(Exception):
    """As if the process were gone."""


def test_a_stopped_training_goes_on_to_the_bit(tmp_path: Path) -> None:
    def trained(folder: Path, stop_at: int | None = None) -> dict[str, Tensor]:
        run = Run(None, folder, Engine("cpu"))
        loop = replace(LOOP, steps=5, checkpoint_every=2)
        task = pmp_task(run, loop=loop, questions=QuestionConfig(0.3, synonyms=0.5))
        losses = task.losses

        def stopping(step: int, samples: range, counts: Tensor) -> dict[str, Tensor]:
            if step == stop_at:
                raise Stopped
            return losses(step, samples, counts)

        task.losses = stopping  # type: ignore[method-assign]
        try:
            run_loop(task, loop, folder / "pmp", engine=run.engine)
        finally:
            task.stream.close()
        return task.model.state_dict()

    unbroken = trained(tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(tmp_path / "broken", stop_at=3)
    assert torch.load(tmp_path / "broken/pmp/last.pt", weights_only=True)["step"] == 2
    again = trained(tmp_path / "broken")
    assert all(torch.equal(again[name], value) for name, value in unbroken.items())


class Cut(Striped):
    """As COCO's crops that show nothing of the ground truth: void but for a corner that no view shows."""

    def __getitem__(self, index: int) -> PanopticSample:
        sample = super().__getitem__(index)
        ids = sample.segment_ids * 0
        ids[0, 0] = 1
        return replace(sample, segment_ids=ids)


@pytest.mark.parametrize("points", [0, 40])
def test_images_without_any_segment_teach_nothing_but_that(run: Run, points: int) -> None:
    task = pmp_task(run, dataset=Cut(2), augmentation=JitterConfig((32, 48), scale=(0.1, 0.1)), points=points)
    try:
        counts = task.counts(0, range(4))
        losses = task.losses(0, range(4), counts)
    finally:
        task.stream.close()
    assert not counts.any() and float(losses["bce"]) == float(losses["dice"]) == 0 < float(losses["class"])
    torch.stack(list(losses.values())).sum().backward()
    assert task.model.guidance.word_head.no_object.grad.abs().sum() > 0


def test_views_must_be_whole_patches(run: Run) -> None:
    jitter = replace(JITTER, size=(40, 50))
    with pytest.raises(ConfigError, match=r"views of size \(40, 50\) must be multiples of 16 pixels"):
        pmp_task(run, augmentation=jitter)
    with pytest.raises(ConfigError, match=r"views of size \(40, 50\) must be multiples of 4 pixels"):
        pmp_task(run, guided(mask2former()), augmentation=jitter)


def test_the_swin_of_mask2former_learns_at_a_tenth_of_the_rate(run: Run) -> None:
    """By the prefix that the recipe has."""
    [stage] = load_recipe("pmp_mask2former_coco").stages
    groups = parameter_groups(guided(mask2former()), stage.loop)
    slow = {id(p) for group, parameters in groups.items() if group.factor == 0.1 for p in parameters}
    encoder = guided(mask2former()).network.model.pixel_level_module.encoder
    assert len(slow) == len(list(encoder.parameters()))
