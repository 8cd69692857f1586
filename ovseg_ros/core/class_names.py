"""Which words are classes of a mask generator's closed set: by any name or synonym that they share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.vocabulary import Category, find_vocabulary, load_vocabulary_file, normalize_name


def class_phrases(classes: Sequence[Sequence[str]], vocabulary: str | None) -> list[tuple[str, ...]]:
    """Every name of each class: those that it has, and those of the vocabulary's category at the same place.

    Args:
        classes: N, each its own name and its synonyms.
        vocabulary: name or path; None adds nothing.
    """
    if vocabulary is None:
        return [tuple(phrases) for phrases in classes]
    path = find_vocabulary(vocabulary)
    specs = load_vocabulary_file(path)[: len(classes)]
    described = [(spec.name, *spec.synonyms) for spec in specs]
    known = [{normalize_name(phrase) for phrase in phrases} for phrases in described]
    agreeing = sum(normalize_name(names[0]) in phrases for names, phrases in zip(classes, known, strict=False))
    if len(described) != len(classes) or 2 * agreeing < len(classes):
        first = classes[0][0] if classes else "none"
        raise ConfigError(
            f"synonyms: {path} does not describe the mask generator's {len(classes)} classes ({first}, ...): "
            f"{agreeing} of its {len(described)} categories agree; name another vocabulary, or null"
        )
    return [(*names, *phrases) for names, phrases in zip(classes, described, strict=True)]


def match_classes(categories: Sequence[Category], class_phrases: Sequence[Sequence[str]]) -> Tensor:
    """Which classes of the proposer are which categories, by any name or synonym that they share.

    Args:
        categories: K, with their synonyms.
        class_phrases: N, each the names of one class.

    Returns:
        (N, K) float32: the share of a class's probability that a category receives. A class that fits several
        categories is shared equally among them; a class that fits none has a row of zeros. A category is *seen* if its
        column is not zero.
    """
    owners: dict[str, set[int]] = {}
    for index, category in enumerate(categories):
        for phrase in (category.name, *category.synonyms):
            owners.setdefault(normalize_name(phrase), set()).add(index)
    shares = torch.zeros(len(class_phrases), len(categories))
    for row, phrases in enumerate(class_phrases):
        fitting = sorted(set().union(*(owners.get(normalize_name(phrase), set()) for phrase in phrases)))
        if fitting:
            shares[row, fitting] = 1 / len(fitting)
    return shares
