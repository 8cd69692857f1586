"""What a training tells Weights & Biases (`ovseg train --wandb PROJECT`), beside its own log and TensorBoard.

It is a service elsewhere: whatever fails there is said, and the training goes on without it.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.offline.data.files import write_bytes

_ID_NAME = "wandb_id"
_PATIENCE_S = 60
"""How long to wait at the end of a loop, for what is still to be sent."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WandbProject:
    """Where the loops of a training are shown.

    Attributes:
        name: of the project; account, server and mode are as the environment (WANDB_*) or `wandb login` has them.
        config: what the training is begun with.
    """

    name: str
    config: Mapping[str, Any]

    @staticmethod
    def require() -> None:
        """ConfigError if the package is not installed."""
        try:
            # A name of it: without the package, a folder of W&B's logs in the current one would pass for it.
            from wandb import init  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "--wandb needs the Python package wandb; install it (pip install wandb), or leave --wandb out"
            ) from error


class WandbRun:
    """A loop as one run of W&B; a loop that goes on continues its run, whose id is kept in the loop's folder."""

    def __init__(self, project: WandbProject, folder: Path, first_step: int) -> None:
        """Goes on after `first_step` steps; W&B keeps what it was told of later ones."""
        self._run: Any = None
        self._failed = False
        self._try(lambda: self._begin(project, folder, first_step))

    def tell(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._run.log(dict(values), step=step))

    def show(self, pictures: Mapping[str, np.ndarray], step: int) -> None:
        """uint8 RGB (H, W, 3) by name."""

        def show() -> None:
            from wandb import Image

            self._run.log({name: Image(picture) for name, picture in pictures.items()}, step=step)

        self._try(show)

    def close(self, *, failed: bool) -> None:
        self._try(lambda: self._run.finish(exit_code=int(failed)))

    def _begin(self, project: WandbProject, folder: Path, first_step: int) -> None:
        import wandb

        kept = folder / _ID_NAME
        self._run = wandb.init(
            project=project.name,
            group=folder.parent.name,
            name=f"{folder.parent.name}/{folder.name}",
            id=kept.read_text() if first_step and kept.exists() else None,
            resume="allow",
            config=dict(project.config),
            dir=folder,
            settings=wandb.Settings(finish_timeout=_PATIENCE_S),
        )
        write_bytes(kept, self._run.id.encode())

    def _try(self, act: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:  # a service elsewhere may fail in any way
            self._failed = True
            logger.warning("W&B fails, and the training goes on without it: %s: %s", type(error).__name__, error)
