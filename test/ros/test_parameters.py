"""What the parameters' validation refuses without a node."""

import sys

import pytest
from rclpy.parameter import Parameter

from ovseg_ros.ros.node.parameters import validate


def test_masks_in_the_segments_are_refused_where_pycocotools_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Parameter("mask_rle", value=True)]
    assert validate(asked).successful
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    result = validate(asked)
    assert not result.successful and "pip install pycocotools" in result.reason
    assert validate([Parameter("mask_rle", value=False)]).successful
