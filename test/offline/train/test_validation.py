"""Validation while training: what is measured, what it leaves, kills at every place, overfitting, bad input."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_images import Striped
from summing_task import CONFIG, Sums, assert_equal_weights, losses_told, make_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import EOMT_RECIPE, run, told

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.errors import ConfigError, TrainingError
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, RenderedTabletop
from ovseg_ros.offline.evaluate.measure import Evaluator
from ovseg_ros.offline.evaluate.truth import truth_of
from ovseg_ros.offline.train import loop as loops
from ovseg_ros.offline.train.data import PanopticData, RenderedData
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.eomt import EoMTTask, EoMTTraining
from ovseg_ros.offline.train.history import Validated, overfitting, read_history
from ovseg_ros.offline.train.log import TrainingLog
from ovseg_ros.offline.train.loop import TrainingStopped, run_loop
from ovseg_ros.offline.train.run import load_recipe
from ovseg_ros.offline.train.state import TrainingState, has_state
from ovseg_ros.offline.train.validation import ThingsAndStuff, Validation, ValidationConfig, figures_of, open_validation

CPU = Engine("cpu")
STEPS = 30


def history(*entries: tuple[float | None, float]) -> list[Validated]:
    return [Validated(10 * number, *entry) for number, entry in enumerate(entries, start=1)]


@pytest.mark.parametrize(
    ("scores", "losses", "warned"),
    [
        ([1, 2, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 2, 1], []),  # rises
        ([5, 4, 3, 2, 1, 1, 1], [7, 6, 5, 4, 3, 2, 1], [4]),  # falls: said once
        ([5, 5, 5, 5, 5, 5, 5], [7, 6, 5, 4, 3, 2, 1], [4]),  # does not rise
        ([5, 4, 3, 2, 6, 5, 4, 3, 2], [9, 8, 7, 6, 5, 4, 3, 2, 1], [4, 8]),  # once for each best
        ([1, 3, 2, 4, 3, 5, 4, 6, 5], [9, 8, 7, 6, 5, 4, 3, 2, 1], []),  # noisy, and rises
        ([5, 4, 3, 2, 1, 1, 1], [1, 2, 3, 2, 1, 0.5, 0.4], [6]),  # the loss falls late
        ([5, 4, 3, 2, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], []),  # nor does the loss fall
        ([None, None, None, None, None], [5, 4, 3, 2, 1], []),  # nothing was counted
        ([5, None, 4, None, 3, 2, 1], [7, 6, 5, 4, 3, 2, 1], [6]),
        ([0, 0, 0, 0, 0, 0], [6, 5, 4, 3, 2, 1], []),  # nothing is found yet
        ([5, 4, 3, 2], [math.nan] * 4, []),  # too few steps for a line of the log
        ([], [], []),
    ],
)
def test_overfitting_is_said_once_for_each_best(
    scores: list[float | None], losses: list[float], warned: list[int]
) -> None:
    found = history(*zip(scores, losses, strict=True))
    said = {length: overfitting(found[:length], 3) for length in range(len(found) + 1)}
    assert [length for length, words in said.items() if words] == warned
    for length in warned:
        words = said[length] or ""
        assert re.search(r"the score was \d\.00 at step \d+ and has not risen in [3-6] validations", words)
        assert f"now, at step {10 * length}, while the training loss fell from" in words
        assert "More data or augmentation, fewer steps or a lower rate" in words and "best.pt keeps step" in words


def test_the_history_is_what_the_log_says(tmp_path: Path) -> None:
    val = {"of": "here", "val": {"pq": 5.0, "miou": 50.0}}
    lines = [
        {"step": 2, "total": 8.0},
        {"step": 4, "total": 4.0},
        {"step": 4, **val},
        {"step": 5, "of": "there", "val": {"pq": 99.0}},
        {"step": 6, **val, "val": {"miou": 40.0}},
        {"step": 8, "total": 2.0},
        {"step": 8, **val, "val": {"images": 0}},
        {"step": 10, **val},
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "va')
    assert read_history(log, "here", 8) == [(4, 5.0, 6.0), (6, 40.0, 6.0), (8, None, 2.0)]
    assert read_history(log, "nowhere", 8) == read_history(tmp_path / "none", "here", 8) == []


class Segmented(Sums):
    """Sums, with a segmenter as what would be used."""

    def __init__(self, segmenter: PanopticSegmenter | None = None, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self._segmenter = segmenter

    def system(self) -> PanopticSegmenter:
        assert not self.model.training
        torch.rand(5)
        return self._segmenter  # type: ignore[return-value]


class Scored(Validation):
    """Scores by the weights, whatever is segmented; they fall at last."""

    def __init__(self, model: torch.nn.Module, every: int = 4, patience: int = 2) -> None:
        super().__init__(ValidationConfig(every, patience=patience), Striped(3), CPU)
        self.model = model

    def check(self, segmenter: PanopticSegmenter) -> None:
        pass

    def measure(self, segmenter: PanopticSegmenter) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        weight = float(self.model[0].weight.detach().abs().sum())
        return {"pq": round(100 - 10 * abs(weight - 9.2), 4)}, {}


def validated(folder: Path, steps: int = STEPS) -> Segmented:
    task = Segmented()
    config = replace(CONFIG, log_every=2, steps=steps)
    run_loop(task, config, folder, engine=CPU, validation=Scored(task.model))
    return task


def after(number: int) -> Callable[..., None]:
    """Kills at the n-th call."""
    calls = []

    def kill(*_: object) -> None:
        calls.append(1)
        if len(calls) == number:
            raise KeyboardInterrupt

    return kill


def assert_same_run(folder: Path, other: Path) -> None:
    assert losses_told(folder) == losses_told(other)
    for name in ("best.pt", "last.pt"):
        ours, theirs = (torch.load(where / name, weights_only=True) for where in (folder, other))
        assert ours["step"] == theirs["step"] and ours.get("score") == theirs.get("score")
        assert all(torch.equal(ours["model"][key], value) for key, value in theirs["model"].items())


def test_a_kill_anywhere_in_a_validation_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Validations at 4, 8, ..., checkpoints at 10, 20, ...: log, best and warnings are those of an unbroken run."""
    unbroken = validated(tmp_path / "unbroken")
    warned = [record.getMessage() for record in caplog.records]
    assert warned and all("it seems to overfit" in words for words in warned)
    steps = [line["step"] for line in losses_told(tmp_path / "unbroken") if "val" in line]
    assert steps == [*range(4, STEPS, 4), STEPS]
    best = torch.load(tmp_path / "unbroken" / "best.pt", weights_only=True)
    assert set(best) == {"model", "step", "score"} and 4 < best["step"] < STEPS
    places = {
        "while it measures": (Scored, "measure"),
        "before the log": (TrainingLog, "validated"),
        "before the checkpoint": (TrainingState, "save"),
        "before the best": (TrainingState, "save_best"),
        "after all": (loops, "overfitting"),
    }
    for place, (owner, name) in places.items():
        for number in (1, 2):
            caplog.clear()
            folder, kill, original = tmp_path / f"{place} {number}", after(number), getattr(owner, name)
            with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patched:
                patched.setattr(owner, name, lambda *a, o=original, k=kill: (k(), o(*a))[1])
                validated(folder)
            assert_equal_weights(validated(folder).model, unbroken.model)
            assert_same_run(folder, tmp_path / "unbroken")
            said = [record.getMessage() for record in caplog.records]
            assert list(dict.fromkeys(said)) == warned, place


def test_a_stop_is_not_delayed_and_the_validation_made_up_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    validated(tmp_path / "unbroken")
    with pytest.raises(TrainingStopped, match="stopped at step 8 of 30"), monkeypatch.context() as patched:
        original = loops._over_processes
        steps = iter(range(1, 100))
        patched.setattr(loops, "_over_processes", lambda *a: (original(*a)[0], next(steps) == 8))
        validated(tmp_path / "stopped")
    assert [line["step"] for line in losses_told(tmp_path / "stopped") if "val" in line] == [4]
    validated(tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", tmp_path / "unbroken")


def test_the_last_step_is_validated_and_the_best_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Segmented()
    run_loop(task, replace(CONFIG, steps=6), tmp_path, engine=CPU, validation=Scored(task.model, every=100))
    assert [line["step"] for line in losses_told(tmp_path) if "val" in line] == [6]
    told = capsys.readouterr().out
    assert f"at step 6; --preset {tmp_path / 'best.pt'} uses it" in told
    (tmp_path / "last.pt").unlink()
    assert not has_state(tmp_path)  # a best is no state to go on from
    (tmp_path / "best.pt").rename(tmp_path / "last.pt")
    with pytest.raises(Exception, match="it is not the state of a training"):
        run_loop(Segmented(), CONFIG, tmp_path, engine=CPU)


def test_a_lost_best_is_said_and_an_unwritable_one_ends_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    validated(tmp_path, steps=20)
    best = torch.load(tmp_path / "best.pt", weights_only=True)["step"]
    (tmp_path / "best.pt").write_bytes(b"torn")
    validated(tmp_path, steps=21)
    assert f"best.pt is not of step {best}, the best so far" in caplog.text
    (tmp_path / "full" / "best.pt").mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"cannot write the checkpoint of step 4 to .*best.pt: .*good one is kept"):
        validated(tmp_path / "full")
    assert torch.load(tmp_path / "full" / "last.pt", weights_only=True)["step"] == 4


def test_nothing_of_the_training_changes(tmp_path: Path, tiny_segmenter: PanopticSegmenter) -> None:
    """Real measuring, with a dropout in training mode and a frozen part in evaluation mode."""

    class Frozen(torch.nn.Linear):
        def train(self, mode: bool = True) -> "Frozen":
            return super().train(False)

    def model() -> torch.nn.Module:
        return torch.nn.Sequential(*make_model(), Frozen(1, 1))

    modes = []

    def note(step: int, losses: dict[str, torch.Tensor]) -> None:
        modes.append([module.training for module in task.model.modules()])

    plain, task = Segmented(model=model()), Segmented(tiny_segmenter, model=model(), hook=note)
    config = replace(CONFIG, steps=8, log_every=2)
    run_loop(plain, config, tmp_path / "plain", engine=CPU)
    validation = Validation(ValidationConfig(3, images=2), Striped(5), CPU)
    run_loop(task, config, tmp_path / "validated", engine=CPU, validation=validation)
    assert_equal_weights(task.model, plain.model)
    lines = losses_told(tmp_path / "validated")
    assert [line for line in lines if "val" not in line] == losses_told(tmp_path / "plain")
    assert [line["step"] for line in lines if "val" in line] == [3, 6, 8]
    assert len(modes) == 8 and all(mode == modes[0] for mode in modes) and modes[0][0] and not modes[0][-1]


def test_figures_are_the_evaluators_on_the_same_images(tiny_segmenter: PanopticSegmenter) -> None:
    dataset = Striped(7)
    validation = Validation(ValidationConfig(1, images=3, pictures=2), dataset, CPU)
    draws = torch.get_rng_state()
    figures, pictures = validation.measure(tiny_segmenter)
    assert torch.equal(torch.get_rng_state(), draws) and validation.of == "numbered train, 3 images"
    evaluator = Evaluator(tiny_segmenter, tiny_segmenter.prepare(dataset.vocabulary()))
    records = [evaluator.measure(truth_of(dataset[index])) for index in (0, 2, 4)]  # evenly spread
    assert figures == figures_of(records, {"things": range(11, 19), "stuff": range(11)})
    assert any(record.detections for record in records) and figures["images"] == 3
    assert {"pq", "sq", "rq", "pq_things", "pq_stuff", "miou", "mask_recall"} < set(figures)
    assert [picture.dtype for picture in pictures.values()] == [np.uint8] * 2
    assert list(pictures) == ["folder/image0.jpg", "folder/image2.jpg"]


def test_masks_without_names_are_things_and_stuff() -> None:
    sample = ThingsAndStuff(Striped(3))[2]
    assert [segment.category for segment in sample.segments] == [0, 0, 0]
    stuff = [replace(segment, is_thing=False) for segment in sample.segments]
    dataset = Striped(3)
    dataset.__class__ = type("Stuff", (Striped,), {"__getitem__": lambda *_: replace(sample, segments=tuple(stuff))})
    vocabulary = ThingsAndStuff(dataset).vocabulary()
    assert [segment.category for segment in ThingsAndStuff(dataset)[0].segments] == [1, 1, 1]
    assert [(c.name, c.is_thing) for c in vocabulary.categories] == [("thing", True), ("stuff", True)]


def test_damaged_images_are_named_once_and_cost_no_training(
    tmp_path: Path,
    tiny_segmenter: PanopticSegmenter,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Torn(Striped):
        def __getitem__(self, index: int):
            return super(Striped, self).__getitem__(index)

    config = replace(CONFIG, steps=4)
    torn = Validation(ValidationConfig(2), Torn(2, damaged=(0, 1)), CPU)
    run_loop(Segmented(tiny_segmenter), config, tmp_path, engine=CPU, validation=torn)
    assert caplog.text.count("2 of 2 images cannot be read: folder/image0.jpg: image0 is torn; folder/image1.jpg") == 1
    assert caplog.text.count("no image of numbered train, 2 images could be measured") == 2
    lines = [line for line in losses_told(tmp_path) if "val" in line]
    assert [line["val"] for line in lines] == [{"images": 0}] * 2
    assert not (tmp_path / "best.pt").exists() and "uses it" not in capsys.readouterr().out


def test_a_recipe_validates_on_the_side(data: Path, eomt: Path, tmp_path: Path) -> None:
    """The same losses and result as without; figures, pictures and the best are there."""
    recipe = EOMT_RECIPE + "    validation: {every: 3, split: train, images: 2, pictures: 1}\n"
    assert run(tmp_path, recipe, data) == 0
    lines = told(tmp_path / "eomt")
    assert [line for line in lines if "val" not in line] == told(eomt / "eomt")
    assert (tmp_path / "tiny_eomt.safetensors").read_bytes() == (eomt / "tiny_eomt.safetensors").read_bytes()
    ours = [line for line in lines if "val" in line]
    assert [(line["step"], line["of"], line["val"]["images"]) for line in ours] == [
        (3, "tabletop train, 2 images", 2), (4, "tabletop train, 2 images", 2)
    ]  # fmt: skip
    assert {"pq", "pq_seen", "miou"} < set(ours[0]["val"])  # type: ignore[call-overload]
    board = EventAccumulator(str(tmp_path / "eomt" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("val/pq")] == [3, 4]
    assert [image.step for image in board.Images("val/000000")] == [3, 4]
    kept = torch.load(tmp_path / "eomt" / "best.pt", weights_only=True)
    last = torch.load(tmp_path / "eomt" / "last.pt", weights_only=True)
    assert kept["model"].keys() == last["model"].keys()
    # It may be left out, or others asked for, when the run goes on.
    assert run(tmp_path, EOMT_RECIPE, data) == 0


def test_what_is_measured_of_an_eomt_is_what_its_preset_makes(data: Path, tmp_path: Path) -> None:
    """With the padding and the names of its training."""
    size = "image_size: [64, 96]"
    recipe = EOMT_RECIPE.replace(size, size.replace("96", "128")).replace("2.0]", "2.0], padding: [255, 0, 0]")
    assert run(tmp_path, f"{recipe}    validation: {{every: 4, split: train, images: 1}}\n", data) == 0
    [stage] = load_recipe(str(tmp_path / "recipe.yaml")).stages
    assert isinstance(stage, EoMTTraining)
    task = EoMTTask(stage, Run(data, tmp_path, CPU))
    best = tmp_path / "eomt" / "best.pt"
    task.model.load_state_dict(torch.load(best, weights_only=True)["model"])
    image, vocabulary = np.full((64, 96, 3), 90, np.uint8), task.stream.dataset.vocabulary()
    ours, theirs = (
        segmenter.predict([image], segmenter.prepare(vocabulary))
        for segmenter in (task.system(), build_segmenter(str(best), "cpu", REPRODUCIBLE))
    )
    task.stream.close()
    assert torch.equal(ours.mask_logits, theirs.mask_logits) and torch.equal(ours.class_logits, theirs.class_logits)


def test_validations_that_cannot_be_are_refused_before_the_first_step(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for keys, message in (
        ("every: 2", "validation: .*panoptic.json holds the split 'train'; expected 'val'"),
        ("every: 2, split: vall", "validation: tabletop has no split 'vall'; expected"),
        ("every: 2, dataset: tabeltop", "validation: there is no data set 'tabeltop' .did you mean 'tabletop'"),
        ("every: 0", "validation.every: it should be greater than 0"),
        ("evry: 2", "unknown key 'evry'; did you mean 'every'"),
    ):
        assert run(tmp_path, f"{EOMT_RECIPE}    validation: {{{keys}}}\n", data) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "eomt").exists()
    with pytest.raises(ConfigError, match="validation: numbered train has no images"):
        Validation(ValidationConfig(1, images=0), Striped(0), CPU)
    foreign = tmp_path / "foreign.yaml"
    foreign.write_text(
        f"kind: panoptic\npath: {data}\nval: {{images: images, masks: panoptic, annotations: {tmp_path}/other.json}}\n"
    )
    index = json.loads((data / "panoptic.json").read_text())
    for number, category in enumerate(index["categories"]):
        category["name"] = f"word {number}"
    (tmp_path / "other.json").write_text(json.dumps(index))
    assert run(tmp_path, f"{EOMT_RECIPE}    validation: {{every: 2, dataset: {foreign}}}\n", data) == 2
    error = capsys.readouterr().err
    assert "validation: none of the words is a class, not word 0, word 1" in error
    assert not (tmp_path / "eomt" / "last.pt").exists()
    rendered, here = RenderedData(1, 1), Run(None, tmp_path, CPU)
    whole = ", ".join(["images: images", "masks: panoptic", f"annotations: {data}/panoptic.json"])
    foreign.write_text(
        f"kind: panoptic\npath: {data}\ntrain: {{{whole}}}\nval: {{{whole.replace(str(data), str(tmp_path))}}}\n"
    )
    train, of_val = json.loads((data / "panoptic.json").read_text()), tmp_path / "panoptic.json"
    for change, named in (({"name": "kup"}, "kup"), ({"isthing": 0}, train["categories"][0]["name"]), ({}, None)):
        table = [{**train["categories"][0], **change}, *train["categories"][:0:-1]]  # in another order
        of_val.write_text(json.dumps({**train, "categories": table}))
        if named is None:
            assert open_validation(ValidationConfig(1), PanopticData(str(foreign)), here)
            continue
        with pytest.raises(ConfigError, match=f"val has categories that train has not, .* alike: {named}; give both"):
            open_validation(ValidationConfig(1), PanopticData(str(foreign)), here)
    with pytest.raises(ConfigError, match="validation: the tabletop is rendered, .* say how many: images"):
        open_validation(ValidationConfig(1, images=0), rendered, here)
    with pytest.raises(ConfigError, match="validation: the tabletop has no split 'vla'; expected train, val"):
        open_validation(ValidationConfig(1, split="vla"), rendered, here)
    assert open_validation(None, PanopticData(), here) is None


def test_rendered_views_are_those_that_are_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_ros.offline.data.tabletop_views.SCENES_PER_SHARD", 1)
    validation = open_validation(ValidationConfig(1, images=1), RenderedData(1, 1), Run(None, tmp_path, CPU))
    assert validation is not None and validation.of == "tabletop val, 1 images"
    sample, other = validation._dataset[0], RenderedTabletop(DatasetConfig("val", 1))[0]
    assert (sample.image == other.image).all() and (sample.segment_ids == other.segment_ids).all()
    assert [segment.category for segment in sample.segments] == [segment.category for segment in other.segments]
