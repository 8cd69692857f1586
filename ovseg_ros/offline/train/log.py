"""What a training tells: a progress bar, `log.jsonl`, and scalars and pictures for TensorBoard and, if asked, W&B.

A run that was killed may have told of steps after its last checkpoint; they are taken back when it goes on.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.errors import TrainingError
from ovseg_ros.offline.data.files import write_bytes
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.wandb_run import WandbProject, WandbRun

LOG_NAME = "log.jsonl"


class TrainingLog:
    """Means of the losses over `config.log_every` steps, in one place for people and for tools; a context manager.

    Attributes:
        sums: what the losses since the last line add up to.
    """

    def __init__(
        self,
        folder: Path,
        config: LoopConfig,
        name: str,
        first_step: int,
        sums: Mapping[str, float],
        *,
        quiet: bool,
        wandb: WandbProject | None = None,
    ) -> None:
        """Goes on after `first_step` steps.

        Args:
            folder: gets `log.jsonl` and `tensorboard/`.
            name: shown on the progress bar.
            quiet: sum up only, write and show nothing (all processes but the main one).
            wandb: gets what TensorBoard gets.
        """
        self._folder, self._config, self._quiet = folder, config, quiet
        self.sums = dict(sums)
        self._began = self._window_began = time.monotonic()
        self._window_steps = 0
        self._bar = tqdm(total=config.steps, initial=first_step, desc=name, unit="step", mininterval=5, disable=quiet)
        if not quiet:
            # It takes a second to import, which nothing but a training should wait for.
            from torch.utils.tensorboard import SummaryWriter

            self._began -= _take_back(folder / LOG_NAME, first_step)
            self._lines = (folder / LOG_NAME).open("a", encoding="utf-8")
            self._board = SummaryWriter(folder / "tensorboard", purge_step=first_step + 1, flush_secs=30)
            self._wandb = WandbRun(wandb, folder, first_step) if wandb is not None else None

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        self._bar.close()
        if not self._quiet:
            self._lines.close()
            self._board.close()
            if self._wandb is not None:
                self._wandb.close(failed=error is not None)

    def add(self, step: int, losses: Mapping[str, float], *, learning_rate: float, gradient_norm: float) -> None:
        """Take in a step (counted from 1); writes a line at every `log_every`-th.

        Raises:
            TrainingError: the log cannot be written.
        """
        every = self._config.log_every
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value / every
        self._window_steps += 1
        self._bar.update()
        if step % every:
            return
        if not self._quiet:
            self._tell(step, {"learning_rate": learning_rate, "gradient_norm": gradient_norm})
        self.sums = {}
        self._window_began, self._window_steps = time.monotonic(), 0

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Keep pictures, uint8 RGB (H, W, 3), by name; the main process only."""
        for name, picture in pictures.items():
            self._board.add_image(name, picture, step, dataformats="HWC")
        if self._wandb is not None:
            self._wandb.show(pictures, step)

    def validated(
        self, step: int, of: str, figures: Mapping[str, float], pictures: Mapping[str, np.ndarray], took: float
    ) -> None:
        """Keep what a validation found on what `of` says: figures and pictures by name; the main process only.

        `took`: seconds, in which no image was learned from.

        Raises:
            TrainingError: the log cannot be written.
        """
        self._window_began += took
        record = {"step": step, "seconds": round(time.monotonic() - self._began, 1), "of": of, "val": dict(figures)}
        self._write(step, record, {f"val/{name}": value for name, value in figures.items()})
        self.show(step, {f"val/{name}": picture for name, picture in pictures.items()})

    def _tell(self, step: int, scalars: dict[str, float]) -> None:
        now = time.monotonic()
        record: dict[str, object] = {"step": step, "seconds": round(now - self._began, 1)}
        record.update({key: round(value, 4) for key, value in self.sums.items()})
        images = self._window_steps * self._config.batch_size
        scalars["images_per_second"] = images / max(now - self._window_began, 1e-9)
        scalars.update({f"loss/{key}": value for key, value in self.sums.items()})
        self._write(step, record, scalars)
        self._bar.set_postfix({key: f"{value:.3f}" for key, value in self.sums.items()})

    def _write(self, step: int, record: Mapping[str, object], scalars: Mapping[str, float]) -> None:
        try:
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
            for key, value in scalars.items():
                self._board.add_scalar(key, value, step)
        except OSError as error:
            raise TrainingError(
                f"cannot write the log of step {step} in {self._folder}: {error}; the last checkpoint is kept. Free "
                "some space and run the same command again"
            ) from error
        if self._wandb is not None:
            self._wandb.tell(scalars, step)


def _take_back(path: Path, steps_done: int) -> float:
    """Drop the lines of later steps, and a line that a kill cut short; returns the seconds that the last one tells."""
    if not path.exists():
        return 0.0
    kept, seconds = [], 0.0
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= steps_done:
            kept.append(line + "\n")
            seconds = record["seconds"]
    write_bytes(path, "".join(kept).encode())
    return seconds
