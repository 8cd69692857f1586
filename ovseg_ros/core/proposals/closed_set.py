"""The categories that a mask generator was trained with: what its own class logits mean."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.vocabulary import find_vocabulary, load_vocabulary_file, normalize_name

_CONFIG = "config.json"

# Number of classes -> file of config/vocabularies/ in the order of the classes. COCO's instance task has the 80 things
# that the panoptic order begins with.
_VOCABULARIES = {80: "coco_133", 133: "coco_133", 150: "ade20k_150"}


@dataclass(frozen=True, slots=True)
class ClosedSet:
    """Categories in the order of `MaskProposals.class_logits`, without "no object".

    Attributes:
        names: category names, as many as there are classes.
        is_thing: thing (True) or stuff, one of each name; None where nobody says.
        origin: where the names come from, for people.
    """

    names: tuple[str, ...]
    is_thing: tuple[bool, ...] | None
    origin: str

    def __post_init__(self) -> None:
        if self.is_thing is not None and len(self.is_thing) != len(self.names):
            raise ValueError(f"is_thing must have {len(self.names)} entries, got {len(self.is_thing)}")


def closed_set(num_classes: int, settings: Mapping[str, Any], where: str) -> ClosedSet:
    """Categories of a checkpoint: those of its config.json, or of the dataset that has as many.

    Args:
        num_classes: without "no object".
        settings: config.json's content; placeholders ("LABEL_0") in its id2label do not count.
        where: the checkpoint, for errors.

    Raises:
        CheckpointError: id2label does not fit, or nothing is known about so many classes.
    """
    known = _of_dataset(num_classes)
    labels = settings.get("id2label")
    if isinstance(labels, Mapping) and labels and not str(next(iter(labels.values()))).startswith("LABEL_"):
        names = _ordered(labels, num_classes, where)
        return ClosedSet(names, known.is_thing if known is not None and _agree(names, known.names) else None, _CONFIG)
    if known is None:
        raise CheckpointError(
            f"{where} has {num_classes} classes without names; expected an id2label in its config.json, or one of the "
            f"known sets of {', '.join(map(str, _VOCABULARIES))} classes"
        )
    return known


def _ordered(labels: Mapping[Any, Any], num_classes: int, where: str) -> tuple[str, ...]:
    by_index = {str(index): str(name) for index, name in labels.items()}
    expected = [str(index) for index in range(num_classes)]
    if set(by_index) != set(expected):
        raise CheckpointError(
            f"{where}: id2label in config.json has {len(by_index)} entries, expected 0 to {num_classes - 1}"
        )
    return tuple(by_index[index] for index in expected)


def _of_dataset(num_classes: int) -> ClosedSet | None:
    if num_classes not in _VOCABULARIES:
        return None
    name = _VOCABULARIES[num_classes]
    specs = load_vocabulary_file(find_vocabulary(name))[:num_classes]
    names, is_thing = tuple(spec.name for spec in specs), tuple(spec.is_thing for spec in specs)
    return ClosedSet(names, is_thing, f"vocabularies/{name}.yaml")


def _agree(names: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Whether two lists are the same dataset's; spellings may differ ("tree-merged", "tree")."""
    same = sum(normalize_name(one) == normalize_name(other) for one, other in zip(names, others, strict=True))
    return 2 * same > len(names)
