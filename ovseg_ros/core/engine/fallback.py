"""A run by the first of several engines that works."""

from collections.abc import Callable, Sequence

from torch import Tensor

from ovseg_ros.core.engine.part import Part, Run
from ovseg_ros.core.errors import ImageSizeError


class Fallback:
    """Runs a part by an engine, and from its first failure on by the next one; the call that failed is made again.

    Images of a size that an engine was not made for go to the next one too, and others stay with it.

    Attributes:
        engine: the name of the one that runs the part now.
        is_checking: whether outputs that are not finite count as a failure, if the part's own are. It is so until it is
            set to False, as the host waits for that.
    """

    def __init__(self, part: Part, engines: Sequence[tuple[str, Run]], tell: Callable[[str], None]) -> None:
        """`engines`: by name, the preferred first; after them all comes the part's module, "eager".

        `tell` is told of a failure, and of images of another size, once.
        """
        self._part, self._tell, self._told_size = part, tell, False
        self._engines: list[tuple[str, Run]] = [*engines, ("eager", part.module)]
        self.is_checking = True

    @property
    def engine(self) -> str:
        """See the class."""
        return self._engines[0][0]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """As the part. What the module itself raises is no engine's failure, and is raised."""
        faults = []
        for place, (name, run) in enumerate(self._engines[:-1]):
            try:
                outputs = run(*tensors)
            except ImageSizeError as error:
                self._tell_size(name, error)
                continue
            except Exception as error:  # the traceback, which holds memory, ends here
                faults.append(f"{name}: {shortened(error)}")
                continue
            if self.is_checking and self._is_spoiled(outputs, tensors):
                faults.append(f"{name}: outputs that are not finite")
                continue
            self._settle(place, faults)
            return outputs
        outputs = self._part.module(*tensors)
        self._settle(len(self._engines) - 1, faults)
        return outputs

    def _settle(self, place: int, faults: list[str]) -> None:
        """Drops the engines before one, which frees their memory, and says so."""
        if faults:
            self._engines = self._engines[place:]
            self._tell(f"{self._part.name} is run by {self.engine} from now on, as others failed: {'; '.join(faults)}")

    def _tell_size(self, engine: str, error: ImageSizeError) -> None:
        if not self._told_size:
            self._told_size = True
            self._tell(f"images of some sizes are not run by {engine}, which was not made for them: {error}")

    def _is_spoiled(self, outputs: Sequence[Tensor], tensors: Sequence[Tensor]) -> bool:
        if all(bool(output.isfinite().all()) for output in outputs if output.is_floating_point()):
            return False
        own = self._part.module(*tensors)
        return any(spoils(output, wanted) for output, wanted in zip(outputs, own, strict=True))


def spoils(found: Tensor, wanted: Tensor) -> bool:
    """Whether anything is not finite that should be."""
    return found.is_floating_point() and bool((~found.isfinite() & wanted.isfinite()).any())


def shortened(error: Exception) -> str:
    """Of what kind, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return text if len(text) <= 300 else f"{text[:297]}..."
