"""What W&B is told, by a stand-in for its package; the package itself is not needed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from tiny_training import EOMT_RECIPE, run

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.train.wandb_run import WandbProject, WandbRun


class StandIn(ModuleType):
    """Keeps what it is told, and fails if it shall."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[Any] = []
        self.fails = ""
        self.Image = lambda picture: ("picture", picture.shape, picture.dtype)
        self.Settings = SimpleNamespace

    def init(self, **told: Any) -> Any:
        self.fail("init")
        made = SimpleNamespace(id=told["id"] or f"id{len(self.runs)}", told=told, lines=[], ended=None)
        made.log = lambda values, step: (self.fail("log"), made.lines.append((step, values)))
        made.finish = lambda exit_code: setattr(made, "ended", exit_code)
        self.runs.append(made)
        return made

    def fail(self, where: str) -> None:
        if self.fails == where:
            raise ConnectionError("no route to host")


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    yield stand_in


def test_a_run_and_what_goes_on_from_it_are_one_run(wandb: StandIn, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for steps in ("2", "4"):
        assert run(out, EOMT_RECIPE, data, "--wandb", "project", "--steps", steps) == 0
    first, second = wandb.runs
    assert first.id == second.id == "id0" == (out / "eomt" / "wandb_id").read_text()
    assert (first.told["id"], second.told["id"]) == (None, "id0")
    assert (first.told["project"], first.told["name"], first.told["group"]) == ("project", "out/eomt", "out")
    kept = yaml.safe_load((out / "run.yaml").read_text())
    assert second.told["config"]["stages"] == kept["stages"]
    assert [step for step, values in first.lines + second.lines if "loss/total" in values] == [1, 2, 3, 4]
    assert set(first.lines[0][1]) == {
        *("loss/class", "loss/bce", "loss/dice", "loss/total", "learning_rate", "gradient_norm", "images_per_second")
    }
    assert first.lines[-1] == (2, {"segments": ("picture", first.lines[-1][1]["segments"][1], np.uint8)})
    assert first.ended == second.ended == 0


def test_what_fails_at_w_and_b_ends_no_training(
    wandb: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for wandb.fails in ("init", "log"):
        caplog.clear()
        shown = WandbRun(WandbProject("project", {}), tmp_path, 0)
        for step in (1, 2):
            shown.tell({"loss": 1.0}, step)
        shown.close(failed=False)
        assert [record.getMessage() for record in caplog.records] == [
            "W&B fails, and the training goes on without it: ConnectionError: no route to host"
        ]
    wandb.fails = ""
    begun_anew = WandbRun(WandbProject("project", {}), tmp_path, 0)  # before its first checkpoint there is no run
    begun_anew.close(failed=True)
    assert wandb.runs[-1].told["id"] is None and wandb.runs[-1].ended == 1


def test_without_the_package_the_message_comes_first(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a folder has its name, as W&B's own logs have."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert run(tmp_path, EOMT_RECIPE, data, "--wandb", "project") == 2
    error = capsys.readouterr().err
    assert "--wandb needs the Python package wandb; install it (pip install wandb)" in error
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    with pytest.raises(ConfigError, match="needs the Python package wandb"):
        WandbProject.require()
