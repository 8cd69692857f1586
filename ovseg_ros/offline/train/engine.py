"""Where a training runs: one process or many, on which device, in which precision, between which folders.

Started by `torchrun` or `accelerate launch`, every process finds its rank in the environment; started plainly, it is
alone. Nothing else in the package asks how many processes there are.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, broadcast, gather_object
from torch import Tensor

from ovseg_ros.core.devices import pick_device
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.weights.strict import save_state_half
from ovseg_ros.offline.data.files import check_outputs
from ovseg_ros.offline.train.cpu_bfloat16 import SingleWhereSlow
from ovseg_ros.offline.train.wandb_run import WandbProject

T = TypeVar("T")
PRECISIONS = ("no", "bf16", "fp16")
_STARTED = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where launchers say how many processes they start."""
_TIMEOUT = timedelta(hours=2)
"""One process may render data or fill a cache while the others wait."""

logger = logging.getLogger(__name__)


class Engine:
    """Device, precision and processes of one training run, which may consist of several loops.

    Samples of a batch are numbered from 0 to batch size - 1 over all processes and accumulation parts together, so a
    batch is the same whatever the number of processes.

    Args:
        device: "auto" (the first GPU of this process, else the CPU), "cpu", "cuda" or "cuda:N".
        mixed_precision: one of `PRECISIONS`; None = what `accelerate launch` was told, else "no".
        wandb: where the main process shows each loop besides, if anywhere.

    Attributes:
        device: where this process's tensors belong.
        rank, world: number of this process, from 0, and how many there are.
        is_main: whether this is the one process that writes files and speaks.

    Raises:
        ConfigError: the device is not there, or it cannot compute in that precision.
    """

    def __init__(
        self, device: str = "auto", mixed_precision: str | None = None, wandb: WandbProject | None = None
    ) -> None:
        self.wandb = wandb
        target = pick_device(device)
        if target.index is not None:
            torch.cuda.set_device(target)
        self._use_cpu, self._mixed_precision = target.type == "cpu", mixed_precision
        if mixed_precision is not None and mixed_precision not in PRECISIONS:
            raise ConfigError(f"unknown mixed precision {mixed_precision!r}; expected one of {', '.join(PRECISIONS)}")
        if mixed_precision == "fp16" and self._use_cpu:
            raise ConfigError(
                "mixed precision fp16 needs a GPU, and this run is on a CPU; add --mixed-precision no (or bf16)"
            )
        try:
            self._accelerator = self.accelerator()
        except ValueError as error:
            raise ConfigError(f"cannot train on {device!r} in mixed precision {mixed_precision!r}: {error}") from error
        self.device: torch.device = self._accelerator.device
        self.rank: int = self._accelerator.process_index
        self.world: int = self._accelerator.num_processes
        self.is_main: bool = self._accelerator.is_main_process
        self._warn_if_alone()

    @property
    def words(self) -> str:
        """Device and precision, for people."""
        name = f" ({torch.cuda.get_device_name(self.device)})" if self.device.type == "cuda" else ""
        mixed = self.precision != "no"
        return f"{self.device}{name}, {f'mixed precision {self.precision}' if mixed else 'single precision'}"

    @property
    def precision(self) -> str:
        """One of `PRECISIONS`."""
        return str(self._accelerator.mixed_precision)

    def _warn_if_alone(self) -> None:
        """Say so where a launcher was to start several processes, and none of them knows of another."""
        if self.world > 1:
            return
        told = [name for name in _STARTED if os.environ.get(name, "1") not in ("", "0", "1")]
        if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ:
            told.append("accelerate launch")  # which sets an address for several processes, but starts one on a CPU
        if told:
            logger.warning(
                "%s says that there are several processes, but this one trains alone, on the whole batch; start it "
                "by torchrun --nproc-per-node=N -m ovseg_ros.offline.cli train ...",
                told[0],
            )

    def shares(self, batch_size: int, parts: int) -> list[range]:
        """Which samples of a batch this process computes, one range for each of its accumulation parts.

        Raises:
            ConfigError: the batch does not divide evenly.
        """
        shares = self.world * parts
        if batch_size % shares:
            raise ConfigError(
                f"a batch of {batch_size} does not divide over {self.world} processes x {parts} accumulation parts; "
                f"make batch_size a multiple of {shares}"
            )
        size, first = batch_size // shares, self.rank * parts
        return [range(share * size, (share + 1) * size) for share in range(first, first + parts)]

    def computing(self) -> AbstractContextManager[object]:
        """What the forward pass of a training runs in."""
        slow = self.device.type == "cpu" and self.precision == "bf16"
        return SingleWhereSlow() if slow else nullcontext()

    def main_first(self) -> AbstractContextManager[None]:
        """The main process does the block before the others, for files that all read and one has to make."""
        return self._accelerator.main_process_first()

    def wait(self) -> None:
        """Until every process is here."""
        self._accelerator.wait_for_everyone()

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over the processes; the same shape."""
        return values if self.world == 1 else self._accelerator.reduce(values, reduction="sum")

    def gather(self, values: Sequence[T]) -> list[T]:
        """Those of all processes, in the processes' order; each may have another number of them."""
        return list(values) if self.world == 1 else list(gather_object(list(values)))

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Fill tensors of one shape in all processes with the main process's."""
        if self.world > 1:
            broadcast(list(tensors))

    def close(self) -> None:
        """Leave the process group, if there is one."""
        self._accelerator.end_training()

    def accelerator(self) -> Accelerator:
        """What one training loop computes with: a new one, with a gradient scaler of its own; processes stay joined."""
        return Accelerator(
            cpu=self._use_cpu,
            mixed_precision=self._mixed_precision,
            kwargs_handlers=[
                InitProcessGroupKwargs(timeout=_TIMEOUT),
                # A batch may leave a head without a gradient, as when no image in it has a segment.
                DistributedDataParallelKwargs(find_unused_parameters=True),
            ],
        )


@dataclass(frozen=True, slots=True)
class Run:
    """Where the stages of a training read, write and compute.

    Attributes:
        data: the data set's folder (None = as `dataset_root` says); if all data are rendered, where they are kept for
            a second run (None = `out`/data).
        out: gets a folder of training state for each loop, and the checkpoints in half precision.
        only_rendered: whether no stage reads a data set.
        begins: called before each loop, when all that it needs is there.
    """

    data: Path | None
    out: Path
    engine: Engine
    only_rendered: bool = True
    begins: Callable[[], None] = lambda: None

    @property
    def views(self) -> Path:
        """Folder of rendered views: never a data set's."""
        return (self.data if self.only_rendered else None) or self.out / "data"

    def result(self, checkpoint: str) -> Path:
        """Where the result of a stage belongs: never where the preset has its own, whose path may lead anywhere."""
        return self.out / Path(checkpoint).name

    def save(self, checkpoint: str, tensors: Mapping[str, Tensor]) -> None:
        """Write what was trained as the checkpoint of a preset, or of a network, is called, and say so."""
        if self.engine.is_main:
            path = self.result(checkpoint)
            save_state_half(tensors, path)
            print(f"wrote {path.name} to {self.out}")
        self.engine.wait()

    def check_results(self, checkpoints: Mapping[str, str], *, begun: bool) -> None:
        """Refuse, before hours are spent, results that could not be written or would replace another's file.

        Args:
            checkpoints: by stage, what its result is called.
            begun: whether `out` is this run's own already.

        Raises:
            ConfigError, OutputError: with the name, and what it should be.
        """
        taken: dict[Path, str] = {}
        for stage, name in checkpoints.items():
            what = f"the checkpoint of the stage {stage}"
            if Path(name).suffix != ".safetensors" or "\0" in name:
                shown = repr(name if len(name) <= 60 else f"{name[:57]}...")
                raise ConfigError(f"{what} is called {shown}; expected the name of a file such as {stage}.safetensors")
            path = self.result(name)
            check_outputs(files={what: path})
            if path in taken:
                raise ConfigError(
                    f"the checkpoints of the stages {taken[path]} and {stage} are both called {path.name}, and the "
                    "second would replace the first; rename one of them, or give each stage a recipe and an --out"
                )
            if path.exists() and not begun:
                raise ConfigError(
                    f"{path} is there already, and not of a run in {self.out}; choose another --out, or move it away"
                )
            taken[path] = stage
