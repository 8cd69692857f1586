"""One root for every error that the package raises on purpose.

A message says what was wrong, what was expected and what to do next, with the values in it.
"""


class OvsegError(Exception):
    """Root of all errors raised on purpose by ovseg_ros."""


class ConfigError(OvsegError):
    """A preset or configuration file is missing, malformed or contradicts itself."""


class ImageSizeError(ConfigError):
    """What runs the model was made for images of other sizes."""


class CheckpointError(OvsegError):
    """A checkpoint is missing, unreadable or does not fit the architecture."""


class VocabularyError(OvsegError):
    """A vocabulary was refused; the message carries the reason."""


class ImageError(OvsegError):
    """An image cannot be decoded or has a shape or type that the segmenter does not take."""


class TrainingError(OvsegError):
    """A training cannot go on; its last good checkpoint is kept."""


class DatasetError(OvsegError):
    """A dataset is missing files or its annotations are malformed."""


class DepthError(OvsegError):
    """A depth image or its calibration cannot be used with the image that it should belong to."""
