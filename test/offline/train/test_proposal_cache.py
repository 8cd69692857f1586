"""Proposals on disk: the same whether read or computed, once for each image, torn files computed again."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from ovseg_ros.core.errors import DatasetError, TrainingError
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.offline.train.proposal_cache import CacheKey, ProposalCache, weights_hash

KEY = CacheKey("abc", "coco_panoptic/train", (32, 48))


class Generator:
    """Random proposals, and how often it was asked."""

    def __init__(self, queries: int = 5, *, classes: bool = True) -> None:
        self.calls, self.queries, self.classes = 0, queries, classes

    def __call__(self) -> MaskProposals:
        self.calls += 1
        generator = torch.Generator().manual_seed(0)
        logits = 6 * torch.randn(1, self.queries, 8, 12, generator=generator)
        classes = torch.randn(1, self.queries, 4, generator=generator) if self.classes else None
        return MaskProposals(logits, torch.zeros(1, self.queries, 3), classes)


@pytest.mark.parametrize("queries", [0, 1, 7])
@pytest.mark.parametrize("classes", [True, False])
def test_proposals_come_back_as_they_were(tmp_path: Path, queries: int, classes: bool) -> None:
    generate = Generator(queries, classes=classes)
    first = ProposalCache(tmp_path, KEY).get("a/b.jpg", generate)
    again = ProposalCache(tmp_path, KEY).get("a/b.jpg", generate)
    assert generate.calls == 1
    true = Generator(queries, classes=classes)()
    assert first.mask_logits.shape == (1, queries, 8, 12) and torch.equal(first.mask_logits, again.mask_logits)
    assert torch.equal(first.mask_logits > 0, true.mask_logits > 0)
    assert torch.allclose(first.mask_logits, true.mask_logits.clamp(-12, 12), atol=0.1)
    assert first.query_embeddings.shape == (1, queries, 0)
    if classes:
        assert torch.allclose(again.class_logits, true.class_logits, atol=2e-3)
    else:
        assert again.class_logits is None


def test_the_smallest_positive_logit_stays_inside(tmp_path: Path) -> None:
    logits = torch.tensor([1e-6, -1e-6, 0.0, 1e9, -1e9]).reshape(1, 1, 1, 5)
    found = ProposalCache(tmp_path, KEY).get("a", lambda: MaskProposals(logits, torch.zeros(1, 1, 1)))
    assert (found.mask_logits > 0).flatten().tolist() == [True, False, False, True, False]
    assert found.mask_logits.abs().max() == 12


@pytest.mark.parametrize("tear", [lambda content: b"", lambda content: content[:-9], lambda content: b"x" * 40])
def test_a_torn_file_is_computed_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, tear) -> None:
    cache, generate = ProposalCache(tmp_path, KEY), Generator()
    true = cache.get("a", generate)
    path = next(cache.folder.rglob("*.npz"))
    path.write_bytes(tear(path.read_bytes()))
    found = cache.get("a", generate)
    assert generate.calls == 2 and "is torn" in caplog.text and str(path) in caplog.text
    assert torch.equal(found.mask_logits, true.mask_logits)
    cache.get("a", generate)
    assert generate.calls == 2


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ProposalCache(tmp_path, KEY)

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(TrainingError, match="cannot keep the proposals of a in .*No space left"):
            cache.get("a", Generator())
    assert "a" not in cache and not list(cache.folder.rglob("*.npz")) + list(cache.folder.rglob("*.tmp"))
    cache.get("a", Generator())
    assert "a" in cache


def test_another_generator_data_set_or_size_has_another_folder(tmp_path: Path) -> None:
    keys = [
        KEY,
        CacheKey("abd", KEY.dataset, KEY.size),
        CacheKey("abc", "x", KEY.size),
        CacheKey("abc", KEY.dataset, (48, 32)),
    ]
    assert len({ProposalCache(tmp_path, key).folder for key in keys}) == 4


def test_a_folder_of_another_key_is_refused(tmp_path: Path) -> None:
    path = ProposalCache(tmp_path, KEY).folder / "key.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "generator": "other"}))
    with pytest.raises(DatasetError, match="holds the proposals of .*other.*delete it"):
        ProposalCache(tmp_path, KEY)
    path.write_text("{")
    with pytest.raises(DatasetError, match="delete it"):
        ProposalCache(tmp_path, KEY)


def test_the_hash_follows_names_and_values() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    assert weights_hash(one) != weights_hash(other) and weights_hash(one) != weights_hash(nn.Sequential(one))
    other.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(other)
    assert weights_hash(nn.BatchNorm1d(2)) == weights_hash(nn.BatchNorm1d(2))  # has a scalar among its buffers
