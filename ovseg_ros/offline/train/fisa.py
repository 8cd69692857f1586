"""A place for FISA's trainer."""

from typing import Literal

from pydantic.dataclasses import dataclass as pydantic_dataclass

from ovseg_ros.core.config import STRICT
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.task import Run


@pydantic_dataclass(frozen=True, slots=True, config=STRICT)
class FisaTraining:
    """A stage that trains the FISA of a preset."""

    preset: str
    loop: LoopConfig
    kind: Literal["fisa"] = "fisa"


def train_fisa(config: FisaTraining, run: Run) -> None:
    """Train."""
    raise NotImplementedError
