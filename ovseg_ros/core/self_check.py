"""What a segmenter makes of the images that come with the package, to compare what runs it."""

import cv2
import numpy as np
import torch
from torch import nn

from ovseg_ros.core.engine.agreement import Sight
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary, normalize_name, parse_vocabulary

_WORDS = "tabletop"


def frames() -> list[np.ndarray]:
    """Uint8 RGB (H, W, 3) of the simulated tabletop, each of another scene; ConfigError if they are missing."""
    folder = config_dir() / "self_check"
    images = [cv2.imread(str(path)) for path in sorted(folder.glob("*.jpg"))]
    found = [np.ascontiguousarray(image[..., ::-1]) for image in images if image is not None]
    if not found or len(found) < len(images):
        raise ConfigError(f"the images in {folder} are missing or damaged; install ovseg_ros again")
    return found


def look(segmenter: PanopticSegmenter, size: tuple[int, int] | None = None, words: str = _WORDS) -> list[Sight]:
    """All of `frames` under a vocabulary, scaled to (width, height) unless that is None.

    A model that knows its own words alone is asked for those.
    """
    predictions: list[Prediction] = []

    def keep(module: nn.Module, given: object, made: Prediction) -> None:
        predictions.append(made)

    images = [image if size is None else cv2.resize(image, size) for image in frames()]
    own = {normalize_name(word): CategorySpec(word) for word in segmenter.model.own_words}
    specs = tuple(own.values()) or parse_vocabulary(words)
    prompt = segmenter.prepare(Vocabulary.build(specs, max_categories=len(specs)))
    handle = segmenter.model.register_forward_hook(keep)
    try:
        results = [segmenter.segment(image, prompt) for image in images]
    finally:
        handle.remove()
    return [
        Sight(
            result.category_ids,
            prediction.mask_logits[0],
            prediction.class_logits[0],
            _best(prediction.class_logits[0]) > segmenter.merge.object_threshold,
        )
        for result, prediction in zip(results, predictions, strict=True)
    ]


def _best(class_logits: torch.Tensor) -> torch.Tensor:
    """(Q, K + 1) -> (Q,): the probability of the best category."""
    return class_logits.float().softmax(dim=-1)[:, :-1].amax(dim=-1)
