"""The dataclasses that cross rooms refuse shapes and types that do not fit."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from ovseg_ros.core.types import (
    NO_CATEGORY,
    MaskProposals,
    PanopticResult,
    Prediction,
    Segment,
    TextEmbeddings,
)
from ovseg_ros.core.vocabulary import MAX_CATEGORY_ID, CategorySpec, Vocabulary

VOCABULARY = Vocabulary.build([CategorySpec("cup")])


def test_text_embeddings() -> None:
    TextEmbeddings(torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64), VOCABULARY)
    with pytest.raises(ValueError, match=r"vectors must be \(P, D\), got \(8,\)"):
        TextEmbeddings(torch.zeros(8), torch.zeros(8, dtype=torch.int64), VOCABULARY)
    with pytest.raises(ValueError, match=r"category_of_prompt must be \(3,\), got \(2,\)"):
        TextEmbeddings(torch.zeros(3, 8), torch.zeros(2, dtype=torch.int64), VOCABULARY)


@pytest.mark.parametrize("queries", [0, 1, 5])
def test_mask_proposals(queries: int) -> None:
    masks, embeddings = torch.zeros(2, queries, 4, 4), torch.zeros(2, queries, 6)
    assert MaskProposals(masks, embeddings).class_logits is None
    MaskProposals(masks, embeddings, torch.zeros(2, queries, 3))
    with pytest.raises(ValueError, match=r"mask_logits must be \(B, Q, h, w\)"):
        MaskProposals(masks[0], embeddings)
    with pytest.raises(ValueError, match=rf"query_embeddings must be \(2, {queries}\) \+ \(channels,\)"):
        MaskProposals(masks, torch.zeros(2, queries + 1, 6))
    with pytest.raises(ValueError, match="class_logits must be"):
        MaskProposals(masks, embeddings, torch.zeros(1, queries, 3))
    with pytest.raises(ValueError, match="word_logits must be"):
        MaskProposals(masks, embeddings, word_logits=torch.zeros(2, queries + 1, 3))


def test_objectness_is_what_is_left_of_no_object() -> None:
    masks, embeddings = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 6)
    assert MaskProposals(masks, embeddings).objectness.tolist() == [[1, 1]]
    logits = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.0, 50.0]]])
    torch.testing.assert_close(MaskProposals(masks, embeddings, logits).objectness, torch.tensor([[2 / 3, 0.0]]))
    # Of the words that guided the masks, if any did; closed-set classes then say nothing.
    words = torch.tensor([[[0.0, 0.0], [0.0, -50.0]]])
    for classes in (logits, None):
        found = MaskProposals(masks, embeddings, classes, words)
        torch.testing.assert_close(found.objectness, torch.tensor([[1 / 2, 1.0]]))


def test_objectness_of_half_precision_is_no_coarser_than_its_logits() -> None:
    """What is left of 1 in bfloat16 comes in steps of 1/256."""
    masks, embeddings = torch.zeros(1, 9, 4, 4), torch.zeros(1, 9, 6)
    logits = torch.stack([torch.zeros(9), torch.linspace(-9, 9, 9)], dim=-1)[None].to(torch.bfloat16)
    found, exact = (MaskProposals(masks, embeddings, some).objectness for some in (logits, logits.float()))
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("queries", [0, 1, 5])
def test_prediction(queries: int) -> None:
    parts = {
        "mask_logits": torch.zeros(2, queries, 4, 4),
        "class_logits": torch.zeros(2, queries, 3),
        "query_embeddings": torch.zeros(2, queries, 6),
        "objectness": torch.zeros(2, queries),
    }
    Prediction(**parts)
    for name, wrong in (
        ("mask_logits", torch.zeros(queries, 4, 4)),
        ("class_logits", torch.zeros(2, queries)),
        ("query_embeddings", torch.zeros(1, queries, 6)),
        ("objectness", torch.zeros(2, queries + 1)),
    ):
        with pytest.raises(ValueError, match=f"{name} must be"):
            Prediction(**{**parts, name: wrong})


def test_panoptic_result() -> None:
    images: dict[str, Any] = {
        "segment_ids": np.zeros((2, 3), np.uint16),
        "category_ids": np.full((2, 3), NO_CATEGORY, np.uint16),
        "confidence": np.zeros((2, 3), np.uint8),
    }
    result = PanopticResult(**images, segments=(), vocabulary_version=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.vocabulary_version = 2  # type: ignore[misc]
    for name, wrong in (
        ("segment_ids", np.zeros((2, 3), np.int32)),
        ("segment_ids", np.zeros((2, 3, 1), np.uint16)),
        ("category_ids", np.zeros((3, 2), np.uint16)),
        ("confidence", np.zeros((2, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match="must be"):
            PanopticResult(**{**images, name: wrong}, segments=(), vocabulary_version=1)


def test_segments_compare_by_value() -> None:
    fields = (1, 0, "cup", 0.5, True, 4, (0, 0, 2, 2))
    assert Segment(*fields) == Segment(*fields)


def test_no_category_is_no_id() -> None:
    assert NO_CATEGORY > MAX_CATEGORY_ID


def test_embeddings_have_a_row_for_every_segment() -> None:
    maps = (np.zeros((2, 3), np.uint16), np.zeros((2, 3), np.uint16), np.zeros((2, 3), np.uint8))
    assert PanopticResult(*maps, (), 1, np.zeros((0, 8), np.float32)).embeddings is not None
    with pytest.raises(ValueError, match="embeddings must be \\(0, C\\), got \\(2, 8\\)"):
        PanopticResult(*maps, (), 1, np.zeros((2, 8), np.float32))
