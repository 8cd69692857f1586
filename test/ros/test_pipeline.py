"""What the worker thread does with the frames of several cameras."""

from typing import Any, cast

import numpy as np

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.outputs import OutputOptions
from ovseg_ros.core.region import Region
from ovseg_ros.ros.node.parameters import Settings
from ovseg_ros.ros.node.pipeline import alike
from ovseg_ros.ros.node.publishing import PreparedFrame


def prepared(side: int, threshold: float) -> PreparedFrame:
    image = np.zeros((side, side, 3), np.uint8)
    settings = Settings(MergeConfig(object_threshold=threshold), Region(0, 0, 0, 0), OutputOptions(), False)
    return PreparedFrame(cast(Any, None), frozenset(), settings, image, image)


def test_frames_go_together_only_with_their_own_thresholds_and_size() -> None:
    first, other, second, larger = prepared(4, 0.5), prepared(4, 0.9), prepared(4, 0.5), prepared(8, 0.5)
    assert alike([first, other, second, larger]) == [[first, second], [other], [larger]]
