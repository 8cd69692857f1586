"""How well masks fit what was asked for: objects, groups of objects as one mask, one phrase at a time or many."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_ros.core.metrics.bootstrap import bootstrap_interval
from ovseg_ros.sim import categories as tabletop

Segments = Sequence[tuple[int, str]]
"""An image's things: ids and category names."""
Ask = Callable[[tuple[tuple[str, ...], ...]], tuple[Tensor, Tensor]]
"""Questions of as many words each -> mask logits (B, Q, h, w) and word logits (B, Q, K + 1), the last "no object"."""

_INSTANCES = 3
METRICS = {
    "proposed_instances": "instances, best of all masks",
    "proposed_groups": "groups, best of all masks",
    "phrase_instances": "instances, best-scored mask",
    "phrase_groups": "groups, best-scored mask",
    "phrase_one": "one of several, best-scored mask",
}


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words, and which segments of an image they mean: each of them, or all as one."""

    text: str
    meant: tuple[int, ...]
    is_group: bool
    is_seen: bool


def phrases_about(segments: Segments) -> dict[str, list[Phrase]]:
    """What can be asked about an image, by metric of one phrase; of its instances the first three.

    A group has two members or more. It is unseen if any member is: such a group was never a mask in training.
    """
    pairs = {name for _, name in segments}
    found: dict[str, list[Phrase]] = {"phrase_instances": [], "phrase_groups": [], "phrase_one": []}
    for noun, group in tabletop.things_by_noun(segments).items():
        meant, seen = tuple(segment for segment, _ in group), all(name in tabletop.SEEN for _, name in group)
        if noun in pairs and len(found["phrase_instances"]) < _INSTANCES:
            found["phrase_instances"].append(Phrase(noun, meant, is_group=False, is_seen=seen))
        if len(group) > 1:
            found["phrase_groups"].append(Phrase(plural(noun), meant, is_group=True, is_seen=seen))
            if noun not in pairs:
                found["phrase_one"].append(Phrase(noun, meant, is_group=False, is_seen=seen))
    return found


def plural(noun: str) -> str:
    """All that a noun means, such as "red cup" or "cup", at once."""
    return tabletop.group_names("", noun)[0]


def whole_questions() -> dict[str, tuple[str, ...]]:
    """Questions that name no image's truth: every category, every colour's things, every shape's."""
    stuff = tuple(word.name for word in tabletop.STUFF)
    return {
        "instances": (*tabletop.THINGS, *stuff),
        "colors": (*(plural(f"{color.name} thing") for color in tabletop.COLORS), *stuff),
        "shapes": (*(plural(shape.name) for shape in tabletop.SHAPES), *stuff),
    }


def askable(names: Iterable[str]) -> list[str]:
    """Every phrase about some categories of things, singular and plural."""
    nouns = sorted(tabletop.things_by_noun(enumerate(names)))
    return [*nouns, *(plural(noun) for noun in nouns)]


def other_words(asked: Sequence[str], pool: Sequence[str], rng: np.random.Generator) -> list[str]:
    """As many words of a pool as are asked for, but none that is."""
    others = sorted(set(pool) - set(asked))
    return [others[index] for index in rng.choice(len(others), len(asked), replace=len(others) < len(asked))]


@dataclass(slots=True)
class PhraseQuality:
    """Sums of IoUs and how many there are, of each image, by metric and by whether words were seen in training."""

    sums: dict[str, dict[str, list[tuple[float, int]]]] = field(
        default_factory=lambda: {metric: {"seen": [], "unseen": []} for metric in METRICS}
    )

    def add(self, ask: Ask, segments: Segments, segment_ids: np.ndarray) -> None:
        """Ask about an image, all at once and one phrase after the other.

        A singular phrase's IoU is that of the mask and the object that it means and fits best; one that means several
        objects is not about all of them.
        """
        truth = torch.from_numpy(segment_ids)
        phrases = phrases_about(segments)
        groups = phrases["phrase_groups"]
        scores: dict[str, list[tuple[bool, float]]] = {metric: [] for metric in METRICS}
        for kind, words in whole_questions().items():
            asked = groups
            if kind == "instances":
                asked = [Phrase(name, (i,), is_group=True, is_seen=name in tabletop.SEEN) for i, name in segments]
            asked = [phrase for phrase in asked if phrase.text in words]
            if asked:
                fits = ious(ask((words,))[0][0], union_masks(truth, asked)).amax(dim=0).tolist()
                metric = "proposed_instances" if kind == "instances" else "proposed_groups"
                scores[metric] += [(phrase.is_seen, fit) for phrase, fit in zip(asked, fits, strict=True)]
        asked = list(chain.from_iterable(phrases.values()))
        if asked:
            masks, logits = ask(tuple((phrase.text,) for phrase in asked))
            best = (logits[..., 0] - logits[..., 1]).argmax(dim=1)
            for metric, phrase in ((metric, phrase) for metric, some in phrases.items() for phrase in some):
                place = asked.index(phrase)
                meant = [phrase] if phrase.is_group else [Phrase("", (i,), True, True) for i in phrase.meant]
                fit = ious(masks[place, best[place]][None], union_masks(truth, meant)).max()
                scores[metric].append((phrase.is_seen, float(fit)))
        for metric, found in scores.items():
            for kind, seen in (("seen", True), ("unseen", False)):
                mine = [fit for is_seen, fit in found if is_seen == seen]
                self.sums[metric][kind].append((sum(mine), len(mine)))


def union_masks(segment_ids: Tensor, phrases: Sequence[Phrase]) -> Tensor:
    """(T, H, W) bool: all that each phrase means."""
    return torch.stack([torch.isin(segment_ids, torch.tensor(phrase.meant)) for phrase in phrases])


def ious(mask_logits: Tensor, truth: Tensor) -> Tensor:
    """IoU (Q, T) of masks (Q, h, w), scaled up, with true ones (T, H, W) bool."""
    scaled = F.interpolate(mask_logits[None].float(), size=truth.shape[-2:], mode="bilinear", align_corners=False)[0]
    masks, wanted = (scaled > 0).flatten(1).float(), truth.flatten(1).float()
    shared = masks @ wanted.T
    return shared / (masks.sum(dim=1)[:, None] + wanted.sum(dim=1) - shared).clamp(min=1)


def mean_iou(sums: Sequence[Sequence[tuple[float, int]]]) -> float:
    """Over all phrases of all images of some runs, in percent; NaN without any."""
    total, count = np.array(sums, dtype=np.float64).reshape(-1, 2).sum(axis=0)
    return float(100 * total / count) if count else float("nan")


def interval(
    sums: Sequence[Sequence[tuple[float, int]]], minus: Sequence[Sequence[tuple[float, int]]] | None = None
) -> tuple[float, float]:
    """Percentile-bootstrap interval of 95 % over images of `mean_iou`, or of a difference, on the same images.

    `sums`: of runs on the same images, (runs, images, 2).
    """
    mine = np.array(sums, dtype=np.float64).mean(axis=0)  # (images, 2)
    other = None if minus is None else np.array(minus, dtype=np.float64).mean(axis=0)

    def figure(weights: np.ndarray) -> np.ndarray:
        of = [100 * (weights @ part[:, 0]) / (weights @ part[:, 1]) for part in (mine, other) if part is not None]
        return of[0] if len(of) == 1 else of[0] - of[1]

    return bootstrap_interval(figure, len(mine), 0.95, 1000, 0)
