"""The validations of a run, as its log tells them: which was the best, and whether the run overfits.

The log is all that is known of them, so a run that goes on knows what an unbroken one does.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Validated(NamedTuple):
    """A validation as the log tells it.

    Attributes:
        step: after which it was.
        score: PQ, or mean IoU where the truth has no segments, in percent; None if nothing was counted.
        loss: the training's, its mean since the validation before; NaN if the log does not say.
    """

    step: int
    score: float | None
    loss: float


def score_of(figures: Mapping[str, float]) -> float | None:
    """What validations are compared by; see `Validated`."""
    return figures.get("pq", figures.get("miou"))


def read_history(log: Path, of: str, steps: int) -> list[Validated]:
    """The validations of a run so far, up to `steps` steps, in `log.jsonl`, on what `of` says."""
    history, losses = list[Validated](), list[float]()
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # cut short by a kill
        if record["step"] > steps:
            break
        if "val" not in record:
            losses.append(record["total"])
        elif record["of"] == of:
            before = history[-1].loss if history else float("nan")
            loss = sum(losses) / len(losses) if losses else before
            history.append(Validated(record["step"], score_of(record["val"]), loss))
            losses = []
    return history


def best_of(history: Sequence[Validated]) -> Validated | None:
    """The validation with the highest score, the first of equals; None if there is no score."""
    return max((one for one in history if one.score is not None), key=lambda one: one.score or 0.0, default=None)


def overfitting(history: Sequence[Validated], patience: int) -> str | None:
    """What to say of a run whose score has not risen for `patience` validations while its training loss fell; None if
    there is nothing to say after the last of them, or it was said since the best."""
    best = best_of(history)
    if best is None or not best.score:
        return None  # nothing is found yet
    since = [one for one in history[history.index(best) + 1 :] if one.score is not None]
    falls = [one.loss < best.loss for one in since[patience - 1 :]]
    if not falls or not falls[-1] or any(falls[:-1]):
        return None
    now = since[-1]
    return (
        f"it seems to overfit: the score was {best.score:.2f} at step {best.step} and has not risen in {len(since)} "
        f"validations, {now.score:.2f} now, at step {now.step}, while the training loss fell from {best.loss:.4g} to "
        f"{now.loss:.4g}. More data or augmentation, fewer steps or a lower rate may help; best.pt keeps "
        f"step {best.step}"
    )
