"""Training samples of a panoptic data set: shuffled, jittered, read ahead by threads.

Sample i of step n is a function of (seed, n, i), so every process of a run, and every resumed run, agrees on it. An
epoch shows every image once.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.train.augmentation import JitterConfig, View, draw_view_with_segments
from ovseg_ros.offline.train.loop_config import LoopConfig

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PanopticDataConfig:
    """What to train on.

    Attributes:
        jitter: size and scale of the views.
        dataset, split: as `open_dataset` takes them; a data set with panoptic ground truth.
        on_error: "skip" leaves out a damaged image, named and counted, and takes another; "stop" ends the training.
        workers: threads that read ahead, in each process.
    """

    jitter: JitterConfig
    dataset: str = "coco_panoptic"
    split: str = "train"
    on_error: str = "skip"
    workers: int = 8

    def __post_init__(self) -> None:
        if self.on_error not in ("skip", "stop"):
            raise ValueError(f"on_error must be skip or stop, got {self.on_error!r}")
        if self.workers < 1:
            raise ValueError(f"workers must be 1 or more, got {self.workers}")


class PanopticStream(Generic[T]):
    """Batches of a training, one step read ahead.

    Args:
        prepare: makes of a sample and its view what the training wants; called by several threads at once.

    Attributes:
        skipped: name -> reason of every image left out.
    """

    def __init__(
        self,
        dataset: PanopticDataset,
        config: PanopticDataConfig,
        loop: LoopConfig,
        prepare: Callable[[PanopticSample, View], T],
    ) -> None:
        self._dataset, self._config, self._loop, self._prepare = dataset, config, loop, prepare
        self._pool = ThreadPoolExecutor(config.workers, thread_name_prefix="samples")
        self._ahead: dict[tuple[int, int], Future[T]] = {}
        self._lock = threading.Lock()
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))
        self.skipped: dict[str, str] = {}

    def batch(self, step: int, samples: range) -> list[T]:
        """These samples of a step's batch.

        Raises:
            DatasetError: a damaged image, unless such are skipped; or nothing but damaged images.
        """
        wanted = [self._future(step, sample) for sample in samples]
        if step + 1 < self._loop.steps:
            for sample in samples:
                self._ahead[step + 1, sample] = self._future(step + 1, sample)
        return [future.result() for future in wanted]

    def close(self) -> None:
        """End the threads, and say what was skipped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self.skipped:
            logger.warning("%d images were skipped: %s", len(self.skipped), ", ".join(sorted(self.skipped)[:8]))

    def _future(self, step: int, sample: int) -> "Future[T]":
        return self._ahead.pop((step, sample), None) or self._pool.submit(self._make, step, sample)

    def _make(self, step: int, sample: int) -> T:
        loaded = self._read(step * self._loop.batch_size + sample)
        rng = np.random.default_rng([self._loop.seed, step, sample])
        wanted = np.array([segment.id for segment in loaded.segments if not segment.is_crowd], dtype=np.int64)
        view = draw_view_with_segments(loaded.segment_ids, wanted, self._config.jitter, rng)
        return self._prepare(loaded, view)

    def _read(self, number: int) -> PanopticSample:
        """The image whose turn it is, or the next one that can be read."""
        for turn in range(number, number + len(self._dataset)):
            index = self._index(turn)
            try:
                sample = self._dataset[index]
            except DatasetError as error:
                if self._config.on_error == "stop":
                    raise
                name = self._dataset.name_of(index)
                with self._lock:
                    if name not in self.skipped:
                        self.skipped[name] = str(error)
                        logger.warning("skipped the image %s, number %d so far: %s", name, len(self.skipped), error)
                continue
            if not sample.is_void:
                return sample
        raise DatasetError(
            f"no image of {self._dataset.name} {self._dataset.split} in {self._dataset.root} can be trained on; "
            "ovseg check-dataset says why"
        )

    def _index(self, turn: int) -> int:
        """The image of a turn: epochs are permutations of the data set."""
        epoch, place = divmod(turn, len(self._dataset))
        with self._lock:
            if self._epoch[0] != epoch:
                self._epoch = (epoch, np.random.default_rng([self._loop.seed, epoch]).permutation(len(self._dataset)))
            return int(self._epoch[1][place])
