"""Does a phrase get what it asks for? One phrase at a time on the simulated tabletop, as `~/query` is asked.

In the singular a phrase asks for each of its objects, in the plural for all of them as one mask. How well a wanted mask
is found, is its IoU with the segment that fits it best; how good the first answer is, that of the segment of highest
score, which is the query's `mask`, with what it fits best of what was wanted.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import REPRODUCIBLE
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.metrics.bootstrap import bootstrap_interval
from ovseg_ros.core.model import Prompt, TwoStagePrompt
from ovseg_ros.core.proposals.prompt_guidance import GuidingWords
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.core.vocabulary import Vocabulary
from ovseg_ros.core.vocabulary.words import named_spec
from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, RenderedTabletop
from ovseg_ros.offline.data.types import PanopticSample
from ovseg_ros.offline.evaluate.output import shown, write_figures
from ovseg_ros.offline.words import say
from ovseg_ros.sim import categories as tabletop

_COLUMNS = {
    "phrases": "phrases",
    "masks wanted": "wanted",
    "found": "segments",
    "best": "iou",
    "95 %": "iou_ci95",
    "first answer": "first_iou",
    "95 % ": "first_iou_ci95",
}


@dataclass(frozen=True, slots=True)
class Phrase:
    """What is asked of an image.

    Attributes:
        text: as a person would say it.
        kind: which figures it counts for.
        answers: of each mask that is wanted, the true segments that it consists of; empty where there is nothing.
    """

    text: str
    kind: str
    answers: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """How a phrase was answered.

    Attributes:
        best: of each wanted mask, the IoU with the segment that fits it best.
        first: of the segment of highest score, the highest IoU with any wanted mask.
        segments: how many were found.
    """

    best: tuple[float, ...]
    first: float
    segments: int


def phrases_of(objects: Sequence[tuple[int, str]], rng: np.random.Generator) -> Iterator[Phrase]:
    """The phrases that are true of an image's objects, ids and category names, and two that are not.

    Groups are asked for where they have two members or more. A shape is unseen if no training mask showed it; a pair,
    if none showed it in that colour.
    """
    meant = tabletop.things_by_noun(objects)
    for noun, group in meant.items():
        members = tuple(member for member, _ in group)
        kind = _kind(noun)
        yield Phrase(noun, f"{kind}, each", tuple((member,) for member in members))
        if len(members) > 1 and "pairs" not in kind:
            yield Phrase(tabletop.group_names("", noun)[0], f"{kind}, as one", (members,))
    for nouns in ([f"{color.name} thing" for color in tabletop.COLORS], [shape.name for shape in tabletop.SHAPES]):
        if absent := [noun for noun in nouns if noun not in meant]:
            yield Phrase(absent[rng.integers(len(absent))], "absent", ())


def _kind(noun: str) -> str:
    """What a noun is of, and whether training masks showed it: a shape at all, a pair in its colour."""
    if noun.endswith(" thing"):
        return "things of a colour"
    if noun in tabletop.WORDS:
        return "unseen shapes" if noun in tabletop.UNSEEN_SHAPES else "seen shapes"
    return "unseen pairs" if noun in tabletop.UNSEEN else "seen pairs"


def answer_of(result: PanopticResult, truth: np.ndarray, answers: Sequence[Sequence[int]]) -> Answer:
    """How a result answers a phrase.

    Args:
        truth: (H, W), the true segments, of which each of `answers` names some.
    """
    areas = np.bincount(result.segment_ids.ravel())
    areas[0] = 0
    overlaps = np.zeros((len(answers), max(len(areas), len(result.segments) + 1)))  # by wanted mask and segment id
    for row, members in zip(overlaps, answers, strict=True):
        wanted = np.isin(truth, members)
        shared = np.bincount(result.segment_ids[wanted], minlength=len(areas)) * (areas > 0)
        row[: len(areas)] = shared / np.maximum(areas + wanted.sum() - shared, 1)
    if not answers or not result.segments:
        return Answer((0.0,) * len(answers), 0.0, len(result.segments))
    first = max(result.segments, key=lambda segment: segment.score)
    return Answer(tuple(overlaps.max(axis=1).tolist()), float(overlaps[:, first.id].max()), len(result.segments))


def told_other_words(prompt: Prompt, other: Prompt) -> Prompt:
    """A prompt whose masks are guided by the words of another, and named by its own.

    Raises:
        ConfigError: words do not guide the masks of this model.
    """
    if not isinstance(prompt, TwoStagePrompt) or not isinstance(prompt.proposer, GuidingWords):
        raise ConfigError("--other-words needs a preset whose proposer is of kind prompt_guided, such as tabletop_pmp")
    assert isinstance(other, TwoStagePrompt)  # of the same model
    return replace(prompt, proposer=replace(prompt.proposer, layers=other.proposer.layers))


def evaluate_phrases(
    config: DatasetConfig,
    *,
    preset: str,
    other_words: bool = False,
    device: str = "auto",
    json_path: Path | None = None,
) -> int:
    """Ask every image for what it shows, one phrase at a time, print the figures and write them; the exit code, 0.

    Args:
        other_words: as a control, masks are guided by another phrase of the same image.

    Raises:
        OvsegError: the preset or its checkpoint is wrong, or words do not guide its masks, but others are to.
    """
    segmenter, dataset = build_segmenter(preset, device, REPRODUCIBLE), RenderedTabletop(config)
    prompts: dict[str, Prompt] = {}
    images: dict[str, list[list[Answer]]] = defaultdict(list)
    for index in tqdm(range(len(dataset)), desc="evaluate-phrases", unit="image"):
        sample = dataset[index]
        of_image: dict[str, list[Answer]] = defaultdict(list)
        rng = np.random.default_rng([config.seed, index])
        phrases = list(phrases_of(_objects(dataset, sample), rng))
        for phrase in phrases:
            if phrase.text not in prompts:
                prompts[phrase.text] = segmenter.prepare(Vocabulary.build([named_spec(phrase.text, "the phrase")]))
        for place, phrase in enumerate(phrases):
            prompt = prompts[phrase.text]
            if other_words:
                other = phrases[(place + rng.integers(1, len(phrases))) % len(phrases)]
                prompt = told_other_words(prompt, prompts[other.text])
            result = segmenter.segment(sample.image, prompt)
            of_image[phrase.kind].append(answer_of(result, sample.segment_ids, phrase.answers))
        for kind, answers in of_image.items():
            images[kind].append(answers)
    misread = [text for text, prompt in prompts.items() if prompt.remarks]
    if misread:
        say(
            f"{len(misread)} of {len(prompts)} phrases are not read as they are meant, such as {misread[0]!r}: "
            f"{prompts[misread[0]].remarks[0]}"
        )
    report = {kind: _report(images[kind], config.seed) for kind in sorted(images)}
    facts = {
        "preset": preset,
        "other_words": other_words,
        "split": config.split,
        "images": config.count,
        **config.scenes,
    }
    write_figures(json_path, {**facts, "phrases": report})
    told = ", masks told other words" if other_words else ""
    print(
        f"preset {preset} on {config.count} images of the tabletop's split {config.split}, one phrase at a time{told}"
    )
    print(f"{'IoU, percent':28}" + "".join(f"{title:>15}" for title in _COLUMNS))
    for kind, row in report.items():
        print(f"{kind:28}" + "".join(f"{shown(row[key]):>15}" for key in _COLUMNS.values()))
    return 0


def _objects(dataset: RenderedTabletop, sample: PanopticSample) -> list[tuple[int, str]]:
    named = [(segment.id, dataset.categories[segment.category]) for segment in sample.segments]
    return [(segment, category.name) for segment, category in named if category.is_thing]


def _report(images: Sequence[Sequence[Answer]], seed: int) -> dict[str, Any]:
    """Of a kind of phrases, by image; shares in percent, intervals of 95 % by bootstrap over images."""
    phrases, wanted, segments = (
        np.array([sum(count(answer) for answer in answers) for answers in images])
        for count in (lambda _: 1, lambda answer: len(answer.best), lambda answer: answer.segments)
    )
    figures: dict[str, Any] = {
        "phrases": int(phrases.sum()),
        "wanted": int(wanted.sum()),
        "segments": int(segments.sum()),
    }
    best = np.array([sum(sum(answer.best) for answer in answers) for answers in images])
    first = np.array([sum(answer.first for answer in answers if answer.best) for answers in images])
    for name, sums, counts in (("iou", best, wanted), ("first_iou", first, phrases * (wanted > 0))):

        def mean(weights: np.ndarray, sums: np.ndarray = sums, counts: np.ndarray = counts) -> np.ndarray:
            values: np.ndarray = 100 * (weights @ sums) / (weights @ counts)
            return values

        with np.errstate(invalid="ignore"):
            figures[name] = float(mean(np.ones((1, len(images))))[0])
        figures[f"{name}_ci95"] = list(bootstrap_interval(mean, len(images), 0.95, 1000, seed))
    return figures
