"""Going through a data set whose files may be damaged: skip and count, or stop."""

from collections.abc import Iterable, Iterator
from typing import Generic, Literal

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data.types import Dataset, Sample

OnError = Literal["skip", "stop"]


class SampleReader(Generic[Sample]):
    """Reads samples and keeps account of those that cannot be used.

    Args:
        dataset: what to read.
        on_error: "skip" leaves out a sample with a fault and notes it; "stop" raises its DatasetError.
        indices: which samples, in this order; all of them if None.
        keep_void: whether samples without a labelled pixel are given too. They are no fault: nothing stops for them.

    Attributes:
        skipped: name -> reason of every sample left out for a fault.
        void: names of the samples left out because no pixel of them has a label.
    """

    def __init__(
        self,
        dataset: Dataset[Sample],
        *,
        on_error: OnError = "skip",
        indices: Iterable[int] | None = None,
        keep_void: bool = False,
    ) -> None:
        if on_error not in ("skip", "stop"):
            raise ConfigError(f"on_error is {on_error!r}; expected 'skip' or 'stop'")
        self._dataset: Dataset[Sample] = dataset
        self._on_error = on_error
        self._indices = range(len(dataset)) if indices is None else tuple(indices)
        self._keep_void = keep_void
        self.skipped: dict[str, str] = {}
        self.void: list[str] = []

    def __len__(self) -> int:
        """How many samples are tried; fewer may come out."""
        return len(self._indices)

    def __iter__(self) -> Iterator[Sample]:
        for index in self._indices:
            sample = self.read(index)
            if sample is not None:
                yield sample

    def read(self, index: int) -> Sample | None:
        """Sample `index`, or None when it is left out.

        Raises:
            DatasetError: the sample has a fault and `on_error` is "stop".
        """
        try:
            sample = self._dataset[index]
        except DatasetError as error:
            if self._on_error == "stop":
                raise
            self.skipped[self._dataset.name_of(index)] = str(error)
            return None
        if sample.is_void and not self._keep_void:
            if sample.name not in self.void:
                self.void.append(sample.name)
            return None
        return sample

    def summary(self) -> str:
        """One line for a log, such as "2 of 5000 images skipped: a (reason); b (reason)"; empty if none was."""
        parts = []
        if self.skipped:
            first = "; ".join(f"{name} ({reason})" for name, reason in list(self.skipped.items())[:3])
            more = f"; and {len(self.skipped) - 3} more" if len(self.skipped) > 3 else ""
            parts.append(f"{len(self.skipped)} of {len(self)} images skipped: {first}{more}")
        if self.void:
            parts.append(f"{len(self.void)} of {len(self)} images have no labelled pixel, the first {self.void[0]}")
        return "; ".join(parts)
