"""What a training tells: a progress bar, `log.jsonl`, and TensorBoard's scalars and pictures.

A run that was killed may have told of steps after its last checkpoint; they are taken back when it goes on.
"""

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.errors import TrainingError
from ovseg_ros.offline.data.files import write_bytes
from ovseg_ros.offline.train.loop_config import LoopConfig


class TrainingLog:
    """Means of the losses over `config.log_every` steps, in one place for people and for tools.

    Args:
        folder: gets `log.jsonl` and `tensorboard/`.
        name: shown on the progress bar.
        first_step: steps done before; `sums`: what their losses since the last line add up to.
        quiet: sum up only, write and show nothing (all processes but the main one).
    """

    def __init__(
        self, folder: Path, config: LoopConfig, *, name: str, first_step: int, sums: Mapping[str, float], quiet: bool
    ) -> None:
        self._folder, self._config, self._quiet = folder, config, quiet
        self._first_step = first_step
        self._name = name
        self.sums = dict(sums)
        self._began = self._window_began = time.monotonic()
        self._window_steps = 0
        self._resources = ExitStack()

    def __enter__(self) -> "TrainingLog":
        self._bar = self._resources.enter_context(
            tqdm(
                total=self._config.steps,
                initial=self._first_step,
                desc=self._name,
                unit="step",
                mininterval=5,
                disable=self._quiet,
            )
        )
        if not self._quiet:
            # It takes a second to import, which nothing but a training should wait for.
            from torch.utils.tensorboard import SummaryWriter

            path = self._folder / "log.jsonl"
            _take_back(path, self._first_step)
            self._lines = self._resources.enter_context(path.open("a", encoding="utf-8"))
            self._board = self._resources.enter_context(
                SummaryWriter(self._folder / "tensorboard", purge_step=self._first_step + 1, flush_secs=30)
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

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
            self._tell(step, learning_rate, gradient_norm)
        self.sums = {}
        self._window_began, self._window_steps = time.monotonic(), 0

    def show(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Keep pictures, uint8 RGB (H, W, 3), by name."""
        if not self._quiet:
            for name, picture in pictures.items():
                self._board.add_image(name, picture, step, dataformats="HWC")

    def _tell(self, step: int, learning_rate: float, gradient_norm: float) -> None:
        now = time.monotonic()
        record = {"step": step, "seconds": round(now - self._began, 1)}
        record.update({key: round(value, 4) for key, value in self.sums.items()})
        images = self._window_steps * self._config.batch_size
        scalars = {
            **{f"loss/{key}": value for key, value in self.sums.items()},
            "learning_rate": learning_rate,
            "gradient_norm": gradient_norm,
            "images_per_second": images / max(now - self._window_began, 1e-9),
        }
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
        self._bar.set_postfix({key: f"{value:.3f}" for key, value in self.sums.items()})


def _take_back(path: Path, steps_done: int) -> None:
    """Drop the lines of later steps, and a line that a kill cut short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if record["step"] <= steps_done:
            kept.append(line + "\n")
    write_bytes(path, "".join(kept).encode())
