"""What the tests of the merge are given, and the plain way to merge."""

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from ovseg_ros.core.merge import MergeConfig
from ovseg_ros.core.types import NO_CATEGORY
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

CUP, PLATE, WALL, HAND = range(4)
VOCABULARY = Vocabulary.build(
    [
        CategorySpec("cup"),
        CategorySpec("plate"),
        CategorySpec("wall", is_thing=False),
        CategorySpec("hand", negative=True),
    ]
)


def classes(*winners: tuple[int, float], vocabulary: Vocabulary = VOCABULARY) -> torch.Tensor:
    """One (category index, probability) a query; the rest goes to "no object": (Q, K + 1) logits."""
    probabilities = torch.full((len(winners), len(vocabulary.categories) + 1), 1e-9)
    for query, (index, probability) in enumerate(winners):
        probabilities[query, index] = probability
        probabilities[query, -1] = 1 - probability
    return probabilities.log()


@st.composite
def cases(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int], MergeConfig]:
    queries, height, width = draw(st.integers(0, 12)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    mask_logits = torch.randn(queries, height, width, generator=generator) * 4
    classification_logits = torch.randn(queries, len(VOCABULARY.categories) + 1, generator=generator) * 4
    size = (draw(st.integers(1, 24)), draw(st.integers(1, 24)))
    fractions = st.floats(0, 1)
    config = MergeConfig(draw(fractions), draw(fractions), draw(fractions), draw(st.integers(0, 40)))
    return mask_logits, classification_logits, size, config


def reference(
    mask_logits: torch.Tensor, classification_logits: torch.Tensor, size: tuple[int, int], config: MergeConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment ids, category ids and confidence by the plain way: every mask at every pixel, one query after another."""
    scores, names = classification_logits.float().softmax(dim=1)[:, :-1].max(dim=1)
    kept = [
        query
        for query, (score, name) in enumerate(zip(scores.tolist(), names.tolist(), strict=True))
        if score > config.object_threshold and score >= VOCABULARY.categories[name].threshold
    ]
    segment_ids, category_ids = np.zeros(size, np.uint16), np.full(size, NO_CATEGORY, np.uint16)
    confidence = np.zeros(size, np.uint8)
    if not kept:
        return segment_ids, category_ids, confidence
    logits = mask_logits[kept].float().nan_to_num(nan=-1e4).clamp(-1e4, 1e4)
    probabilities = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].sigmoid()
    best, winner = (probabilities * scores[kept, None, None]).max(dim=0)
    parts: dict[object, np.ndarray] = {}
    for place, query in enumerate(kept):
        category = VOCABULARY.categories[int(names[query])]
        mask = (probabilities[place] >= config.mask_threshold).numpy()
        own = mask & (winner == place).numpy()
        if own.any() and own.sum() >= config.overlap_threshold * mask.sum() and not category.negative:
            segment = ("thing", query, category.id) if category.is_thing else ("stuff", category.id)
            parts[segment] = parts.get(segment, np.zeros(size, bool)) | own
    published = [(segment, part) for segment, part in parts.items() if part.sum() >= config.min_area]
    # Equal areas in query order, which is that of the first query of a category, whether it survived or not.
    first = {}
    for query in kept:
        category = VOCABULARY.categories[int(names[query])]
        first.setdefault(("thing", query, category.id) if category.is_thing else ("stuff", category.id), query)
    published.sort(key=lambda entry: (-int(entry[1].sum()), first[entry[0]]))
    for number, (segment, part) in enumerate(published, 1):
        segment_ids[part], category_ids[part] = number, segment[-1]
        confidence[part] = (best * 255).round().to(torch.uint8).numpy()[part]
    return segment_ids, category_ids, confidence
