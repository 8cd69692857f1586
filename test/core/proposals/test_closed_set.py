"""What class logits mean: names of config.json, or of the dataset with as many classes, in the published order."""

import pytest

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.closed_set import class_names


def test_coco_panoptic_has_its_things_first_and_coco_instance_is_the_beginning_of_it():
    found = class_names(133, {}, "a file")
    assert (found[0], found[79], found[80]) == ("person", "toothbrush", "banner")
    assert len(found) == 133 and found[132].startswith("rug")
    assert class_names(80, {}, "a file") == found[:80]


def test_ade20k_has_its_classes_where_the_checkpoints_have_them():
    found = class_names(150, {}, "a file")
    assert found[0] == "wall" and found[12] == "person" and found[149] == "flag"


def test_names_of_the_config_come_first():
    labels = {str(index): f"part {index}" for index in range(80)}
    assert class_names(80, {"id2label": labels}, "a file")[7] == "part 7"


def test_placeholders_are_no_names():
    placeholders = {str(index): f"LABEL_{index}" for index in range(133)}
    assert class_names(133, {"id2label": placeholders}, "a file")[0] == "person"
    with pytest.raises(CheckpointError, match="7 classes without names; expected an id2label"):
        class_names(7, {"id2label": {str(index): f"LABEL_{index}" for index in range(7)}}, "a file")
