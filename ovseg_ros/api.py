"""What a program needs: `from ovseg_ros.api import ...`. The package itself imports nothing, since ROS shares it."""

import warnings
from pathlib import Path

import numpy as np

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.draw import draw_overlay, draw_segments
from ovseg_ros.core.engine.options import EngineOptions
from ovseg_ros.core.errors import OvsegError
from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.tracking.appearance import segment_appearance
from ovseg_ros.core.tracking.tracker import Tracker
from ovseg_ros.core.types import PanopticResult, Segment
from ovseg_ros.core.vocabulary import Vocabulary, parse_vocabulary
from ovseg_ros.offline.data import files, images

__all__ = [
    "EngineOptions",
    "MergeConfig",
    "OvsegError",
    "PanopticResult",
    "PanopticSegmenter",
    "Segment",
    "Tracker",
    "Vocabulary",
    "build_segmenter",
    "draw_overlay",
    "draw_segments",
    "read_image",
    "segment_appearance",
    "words",
    "write_image",
]


def words(text: str) -> Vocabulary:
    """A vocabulary of "red cube, blue ball, table", of a file's path, or of a bundled vocabulary such as "street".

    What may not be as it was meant is a UserWarning; what the model cannot read is in `remarks` of its prompt.

    Raises:
        VocabularyError: a name or the file is refused; the message says why.
    """
    remarks: list[str] = []
    specs = parse_vocabulary(text, tell=remarks.append)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return Vocabulary.build(specs)


def read_image(path: str | Path) -> np.ndarray:
    """An image file of any usual format as uint8 RGB (H, W, 3), upright by its EXIF orientation.

    Raises:
        ImageError: the file is missing, damaged or has no 8-bit meaning.
    """
    return images.load_image(Path(path))


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write uint8 RGB (H, W, 3), or uint8 or uint16 grey (H, W), in the format of the suffix, such as .png.

    Raises:
        ImageError: OpenCV writes no such image under this suffix.
    """
    files.write_image(Path(path), image)
