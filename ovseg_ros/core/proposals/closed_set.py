"""The categories that a proposer was trained with: what its own class logits mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.vocabulary import find_vocabulary, load_vocabulary_file, normalize_name

# Number of classes -> bundled vocabulary in the order of the classes. COCO's instance task has the 80 things that the
# panoptic order begins with.
_VOCABULARIES = {80: "coco_133", 133: "coco_133", 150: "ade20k_150"}


def class_names(num_classes: int, settings: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Names in the order of `MaskProposals.class_logits`, without "no object".

    They are those of the checkpoint's config.json, or of the dataset that has as many.

    Args:
        num_classes: without "no object".
        settings: config.json's content; placeholders ("LABEL_0") in its id2label do not count.
        where: the checkpoint, for errors.

    Raises:
        CheckpointError: id2label does not fit, or nothing is known about so many classes.
    """
    labels = settings.get("id2label")
    if isinstance(labels, Mapping) and labels and not str(next(iter(labels.values()))).startswith("LABEL_"):
        by_index = {str(index): str(name) for index, name in labels.items()}
        expected = [str(index) for index in range(num_classes)]
        if set(by_index) != set(expected):
            raise CheckpointError(
                f"{where}: id2label in config.json has {len(by_index)} entries, expected 0 to {num_classes - 1}"
            )
        return tuple(by_index[index] for index in expected)
    if num_classes not in _VOCABULARIES:
        raise CheckpointError(
            f"{where} has {num_classes} classes without names; expected an id2label in its config.json, or one of the "
            f"known sets of {', '.join(map(str, _VOCABULARIES))} classes"
        )
    specs = load_vocabulary_file(find_vocabulary(_VOCABULARIES[num_classes]))
    return tuple(spec.name for spec in specs[:num_classes])


def names_of_classes(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Every name of each class: its own, and the synonyms that the data set with as many classes has for it."""
    known: dict[str, tuple[str, ...]] = {}
    if len(names) in _VOCABULARIES:
        specs = load_vocabulary_file(find_vocabulary(_VOCABULARIES[len(names)]))
        known = {normalize_name(spec.name): spec.synonyms for spec in specs}
    return [(name, *known.get(normalize_name(name), ())) for name in names]
