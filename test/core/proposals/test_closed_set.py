"""What class logits mean: names of config.json, or of the dataset with as many classes, in the published order."""

import pytest

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.closed_set import ClosedSet, closed_set

# `stuff_classes` of the authors' configurations for ADE20K panoptic.
ADE20K_STUFF = [
    *[0, 1, 2, 3, 4, 5, 6, 9, 11, 13, 16, 17, 21, 25, 26, 28, 29, 34, 40, 46, 48, 51, 52, 54, 59, 60, 61, 63, 68, 77],
    *[79, 84, 91, 94, 96, 99, 100, 101, 105, 106, 109, 113, 114, 117, 122, 128, 131, 140, 141, 145],
]


def test_coco_panoptic_has_80_things_and_then_53_kinds_of_stuff():
    found = closed_set(133, {}, "a file")
    assert found.is_thing == (True,) * 80 + (False,) * 53
    assert (found.names[0], found.names[79], found.names[80]) == ("person", "toothbrush", "banner")
    assert found.names[132].startswith("rug") and "coco_133" in found.origin


def test_coco_instance_is_the_beginning_of_it():
    assert closed_set(80, {}, "a file").names == closed_set(133, {}, "a file").names[:80]


def test_ade20k_has_its_stuff_where_the_checkpoints_have_it():
    found = closed_set(150, {}, "a file")
    assert [index for index, is_thing in enumerate(found.is_thing) if not is_thing] == ADE20K_STUFF
    assert found.names[0] == "wall" and found.names[12] == "person" and found.names[149] == "flag"


def test_names_of_the_config_come_first_and_things_are_known_where_the_dataset_is_recognised():
    names = list(closed_set(133, {}, "a file").names)
    renamed = {
        str(index): name for index, name in enumerate([*names[:100], *[f"{name} (sic)" for name in names[100:]]])
    }
    found = closed_set(133, {"id2label": renamed}, "a file")
    assert found.names[132].endswith("(sic)") and found.is_thing == (True,) * 80 + (False,) * 53
    mine = closed_set(80, {"id2label": {str(index): f"part {index}" for index in range(80)}}, "a file")
    assert mine.names[7] == "part 7" and mine.is_thing is None and mine.origin == "config.json"


def test_placeholders_are_no_names():
    placeholders = {str(index): f"LABEL_{index}" for index in range(133)}
    assert closed_set(133, {"id2label": placeholders}, "a file").names[0] == "person"
    with pytest.raises(CheckpointError, match="7 classes without names; expected an id2label"):
        closed_set(7, {"id2label": {str(index): f"LABEL_{index}" for index in range(7)}}, "a file")


def test_as_many_answers_as_names():
    with pytest.raises(ValueError, match="must have 2 entries, got 1"):
        ClosedSet(("cup", "mug"), (True,), "made up")
