"""The training loop: schedule, log, exact resume after any stop, full disks, foreign checkpoints."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from ovseg_ros.core.errors import CheckpointError, ConfigError, TrainingError
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import LoopConfig, TrainingStopped, run_loop
from ovseg_ros.offline.train.optimization import Schedule

CONFIG = LoopConfig(steps=60, batch_size=4, learning_rate=0.05, warmup_steps=5, checkpoint_every=10, seed=3)


def make_model() -> nn.Module:
    torch.manual_seed(CONFIG.seed)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.GELU(), nn.Linear(8, 1))


def losses_of(model: nn.Module, engine: Engine | None = None) -> Callable[[int], dict[str, Tensor]]:
    def losses_at(step: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(CONFIG.batch_size, 3, generator=generator)
        if engine is not None:
            inputs = inputs[list(engine.samples(CONFIG.batch_size))]
        return {"square": (model(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()}

    return losses_at


def train(folder: Path) -> nn.Module:
    model = make_model()
    run_loop(model, losses_of(model), CONFIG, folder, name="test")
    return model


def losses_told(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_equal_weights(ours: nn.Module, theirs: nn.Module) -> None:
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def test_the_schedule_warms_up_and_decays_to_zero() -> None:
    schedule = Schedule(delay=0, warmup=CONFIG.warmup_steps, steps=CONFIG.steps)
    factors = [schedule(step) for step in range(CONFIG.steps + 1)]
    assert factors[0] == pytest.approx(1 / 5) and factors[4] == 1.0
    assert all(late <= early for early, late in pairwise(factors[5:]))
    assert factors[-1] == 0.0


def test_training_learns_and_logs(tmp_path: Path) -> None:
    model = train(tmp_path)
    assert not model.training
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    assert lines[-1]["total"] < lines[0]["total"]


def test_the_log_has_scalars_and_pictures_for_tensorboard(tmp_path: Path) -> None:
    model = make_model()
    picture = np.full((4, 6, 3), 7, dtype=np.uint8)
    seen = []

    def pictures_at(step: int) -> dict[str, np.ndarray]:
        seen.append((step, model.training, torch.is_grad_enabled()))
        return {"masks": picture}

    config = replace(CONFIG, pictures_every=30)
    run_loop(model, losses_of(model), config, tmp_path, name="test", pictures_at=pictures_at)
    assert seen == [(29, False, False), (59, False, False)]
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    names = {"loss/square", "loss/total", "learning_rate", "gradient_norm", "images_per_second"}
    assert set(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("loss/total")] == [20, 40, 60]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [event.value for event in events.Scalars("loss/total")] == pytest.approx(
        [line["total"] for line in lines], abs=1e-4
    )
    assert all(event.value > 0 for name in ("learning_rate", "gradient_norm") for event in events.Scalars(name))
    assert [(image.step, image.width, image.height) for image in events.Images("masks")] == [(30, 6, 4), (60, 6, 4)]


@pytest.mark.parametrize("at", [1, 10, 37])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(tmp_path: Path, at: int) -> None:
    """Stopped before any checkpoint, right after one, and between log line and checkpoint."""
    unbroken = train(tmp_path / "unbroken")
    folder = tmp_path / "broken"
    model = make_model()
    losses = losses_of(model)

    def interrupted(step: int) -> dict[str, Tensor]:
        if step == at:
            raise KeyboardInterrupt
        return losses(step)

    with pytest.raises(KeyboardInterrupt):
        run_loop(model, interrupted, CONFIG, folder, name="test")
    assert_equal_weights(train(folder), unbroken)
    assert losses_told(folder) == losses_told(tmp_path / "unbroken")


def test_sigterm_saves_and_stops(tmp_path: Path) -> None:
    unbroken = train(tmp_path / "unbroken")
    model = make_model()
    losses = losses_of(model)

    def terminated(step: int) -> dict[str, Tensor]:
        if step == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return losses(step)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingStopped, match="stopped at step 1[34] of 60"):
        run_loop(model, terminated, CONFIG, tmp_path / "stopped", name="test")
    assert signal.getsignal(signal.SIGTERM) is handler
    state = torch.load(tmp_path / "stopped" / "last.pt", weights_only=True)
    assert state["step"] in (13, 14)
    assert_equal_weights(train(tmp_path / "stopped"), unbroken)


def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    assert_equal_weights(train(tmp_path), train(tmp_path))


def test_a_state_of_the_first_runs_resumes(tmp_path: Path) -> None:
    """They kept the state of a LambdaLR, and neither the configuration nor the log's sums."""
    unbroken = train(tmp_path)
    state = torch.load(tmp_path / "previous.pt", weights_only=True)
    for key in ("config", "sums", "scaler"):
        del state[key]
    for group in state["optimizer"]["param_groups"]:
        group["initial_lr"] = CONFIG.learning_rate
    state["scheduler"] = {"base_lrs": [0.05, 0.05], "last_epoch": 50, "_step_count": 51, "lr_lambdas": [None, None]}
    (tmp_path / "old").mkdir()
    torch.save(state, tmp_path / "old" / "last.pt")
    assert_equal_weights(train(tmp_path / "old"), unbroken)


@pytest.mark.parametrize("content", [b"", b"torn", None])
def test_a_torn_state_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    unbroken = train(tmp_path)
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:-2000] if content is None else content)
    assert_equal_weights(train(tmp_path), unbroken)
    assert "last.pt" in caplog.text and "going on from" in caplog.text


def test_a_death_while_saving_costs_nothing(tmp_path: Path) -> None:
    unbroken = train(tmp_path)
    (tmp_path / ".last.pt.tmp").write_bytes(b"half")
    (tmp_path / "last.pt").unlink()  # between the two renames there is only previous.pt
    assert_equal_weights(train(tmp_path), unbroken)
    assert sorted(path.name for path in tmp_path.glob("*last*")) == ["last.pt"]


def test_two_torn_states_are_an_error(tmp_path: Path) -> None:
    train(tmp_path)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="no checkpoint in .* can be read; choose another --out"):
        train(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a disk that is always full")
def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path) -> None:
    unbroken = train(tmp_path / "unbroken")
    folder = tmp_path / "full"
    model = make_model()
    losses = losses_of(model)

    def fills_up(step: int) -> dict[str, Tensor]:
        if step == 25:
            (folder / ".last.pt.tmp").symlink_to("/dev/full")
        return losses(step)

    with pytest.raises(TrainingError, match=r"step 30 .*No space left on device.*last good one is kept"):
        run_loop(model, fills_up, CONFIG, folder, name="test")
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 20
    assert not list(folder.glob(".*"))
    assert_equal_weights(train(folder), unbroken)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_ends_the_run_and_keeps_the_state(tmp_path: Path, broken: str) -> None:
    model = make_model()
    losses = losses_of(model)

    def diverges(step: int) -> dict[str, Tensor]:
        found = losses(step)
        if step == 14:
            zero = sum(parameter.sum() for parameter in model.parameters()) * 0
            # The root's slope at 0 is infinite, its value is not.
            found["extra"] = zero + float("nan") if broken == "loss" else zero.abs().sqrt()
        return found

    with pytest.raises(
        TrainingError, match=f"the {broken} of step 15 is not finite .*checkpoint of step 10 in .* is kept"
    ):
        run_loop(model, diverges, CONFIG, tmp_path, name="test")
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 10
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_another_models_state_is_refused_with_the_keys(tmp_path: Path) -> None:
    train(tmp_path)
    other = nn.Sequential(nn.Linear(2, 8), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="last.pt does not fit this configuration; choose another --out") as error:
        run_loop(other, lambda step: {"a": other[0].weight.sum()}, CONFIG, tmp_path, name="other")
    assert "2 missing: 1.weight, 1.bias" in str(error.value)
    assert "2 unexpected: 3.weight, 3.bias" in str(error.value)
    assert "0.weight (file (8, 3), model (8, 2))" in str(error.value)


def test_another_configuration_is_refused_unless_it_is_free(tmp_path: Path) -> None:
    train(tmp_path)
    model = make_model()
    changed = replace(CONFIG, learning_rate=0.01, betas=(0.9, 0.999))
    with pytest.raises(CheckpointError, match=r"learning_rate was 0.05, now 0.01, betas was \[0.9, 0.98\]"):
        run_loop(model, losses_of(model), changed, tmp_path, name="test")
    run_loop(model, losses_of(model), replace(CONFIG, steps=62, checkpoint_every=1), tmp_path, name="test")
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 62


def test_frozen_parameters_are_neither_trained_nor_kept(tmp_path: Path) -> None:
    model = make_model()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run_loop(model, losses_of(model), CONFIG, tmp_path, name="test")
    assert torch.equal(model[0].weight, before)
    assert set(torch.load(tmp_path / "last.pt", weights_only=True)["model"]) == {"3.weight", "3.bias"}


def test_accumulation_changes_memory_and_not_the_result(tmp_path: Path) -> None:
    """Without random draws in the model, that is: the parts of a batch draw apart."""
    results = []
    for parts in (1, 2, 4):
        engine = Engine("cpu")
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 1))
        config = replace(CONFIG, gradient_accumulation=parts, steps=20)
        run_loop(model, losses_of(model, engine), config, tmp_path / str(parts), name="test", engine=engine)
        results.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(results[0], results[1], atol=1e-5) and torch.allclose(results[0], results[2], atol=1e-5)


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    model = make_model()
    config = replace(CONFIG, gradient_accumulation=3)
    with pytest.raises(ConfigError, match="a batch of 4 does not divide over 1 processes x 3 .* multiple of 3"):
        run_loop(model, losses_of(model), config, tmp_path, name="test")


@pytest.mark.parametrize(
    ("device", "precision", "message"),
    [
        ("cuda:99", None, "device 'cuda:99' is not there"),
        ("tpu9", None, "unknown device 'tpu9'"),
        ("cpu", "fp16", "fp16 needs a GPU"),
        ("cpu", "int4", "unknown mixed precision 'int4'; expected one of no, bf16, fp16"),
    ],
)
def test_devices_and_precisions_that_cannot_be_are_named(device: str, precision: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(device, precision)
