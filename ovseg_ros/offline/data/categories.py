"""The categories of every data set: names from `config/vocabularies`, ids as the data set's own files have them."""

from collections.abc import Sequence

from ovseg_ros.core.errors import DatasetError
from ovseg_ros.core.vocabulary import find_vocabulary, load_vocabulary_file
from ovseg_ros.offline.data.types import DatasetCategory

# The 80 things keep their ids of COCO's detection set, 1 to 90 with gaps; the 53 kinds of stuff follow, 92 to 200.
# fmt: off
_PANOPTIC_STUFF_IDS = (
    92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151, 154, 155,
    156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201),
)
# fmt: on
_COCO_THING_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO_IDS = (*(i for i in range(1, 91) if i not in _COCO_THING_GAPS), *_PANOPTIC_STUFF_IDS)
"""COCO's category ids in the order of `coco_133.yaml`."""

# COCO-Stuff's ids are 1 to 182 with these gaps, and 91, a hair brush, another; its label maps hold one less, and 255.
COCO_STUFF_VALUES = tuple(i - 1 for i in range(1, 183) if i not in (*_COCO_THING_GAPS, 91))
"""Values in COCO-Stuff's label maps as downloaded, 0 to 181, in the order of `coco_stuff_171.yaml`."""

CITYSCAPES_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Cityscapes' label ids (not train ids, which are 0 to 18) in the order of `cityscapes.yaml`."""


def load_categories(vocabulary: str, dataset_ids: Sequence[int]) -> tuple[DatasetCategory, ...]:
    """The categories in `config/vocabularies/VOCABULARY.yaml` with their ids in the data set.

    Raises:
        DatasetError: the file has another number of categories than there are ids.
    """
    path = find_vocabulary(vocabulary)
    specs = load_vocabulary_file(path)
    if len(specs) != len(dataset_ids):
        raise DatasetError(
            f"{path} has {len(specs)} categories, but the data set has {len(dataset_ids)}; "
            "copy your changes to another file and restore this one"
        )
    return tuple(
        DatasetCategory(index, dataset_id, spec.name, spec.synonyms, spec.is_thing)
        for index, (dataset_id, spec) in enumerate(zip(dataset_ids, specs, strict=True))
    )
