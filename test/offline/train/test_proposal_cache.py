"""Proposals on disk: the same read as computed, computed once, torn ones again, damaged images passed over."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_images import Numbered
from torch import nn

from ovseg_ros.core.errors import DatasetError, TrainingError
from ovseg_ros.core.types import MaskProposals
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.train.proposal_cache import ProposalCache, weights_hash, words_hash

KEY = ("abc", "coco_panoptic/train", (32, 48))


class Generator:
    """Random proposals, the same for the same grey, and which greys it was asked for."""

    def __init__(self, queries: int = 5, *, classes: bool = True) -> None:
        self.asked: list[int] = []
        self.queries, self.classes = queries, classes

    def __call__(self, image: np.ndarray) -> MaskProposals:
        self.asked.append(int(image[0, 0, 0]))
        generator = torch.Generator().manual_seed(self.asked[-1])
        logits = 6 * torch.randn(1, self.queries, 8, 12, generator=generator)
        classes = torch.randn(1, self.queries, 4, generator=generator) if self.classes else None
        return MaskProposals(logits, torch.zeros(1, self.queries, 3), classes)


def opened(folder: Path) -> ProposalCache:
    return ProposalCache(folder, *KEY)


@pytest.mark.parametrize("queries", [0, 1, 7])
@pytest.mark.parametrize("classes", [True, False])
def test_proposals_come_back_as_they_were(tmp_path: Path, queries: int, classes: bool) -> None:
    true = Generator(queries, classes=classes)(np.zeros((1, 1, 3), np.uint8))
    opened(tmp_path).write("a/b.jpg", true)
    found = opened(tmp_path).read("a/b.jpg")
    assert found.mask_logits.shape == (1, queries, 8, 12)
    assert torch.equal(found.mask_logits > 0, true.mask_logits > 0)
    assert torch.allclose(found.mask_logits, true.mask_logits.clamp(-12, 12), atol=0.1)
    assert found.query_embeddings.shape == (1, queries, 0)
    assert found.word_logits is None
    if classes:
        assert torch.allclose(found.class_logits, true.class_logits, atol=2e-3)
    else:
        assert found.class_logits is None
    guided = replace(true, word_logits=torch.randn(1, queries, 3))
    opened(tmp_path).write("guided", guided)
    again = opened(tmp_path).read("guided")
    assert again.word_logits is not None and torch.allclose(again.word_logits, guided.word_logits, atol=2e-3)
    assert torch.allclose(again.objectness, guided.objectness, atol=2e-3)


def test_the_smallest_positive_logit_stays_inside(tmp_path: Path) -> None:
    cache, logits = opened(tmp_path), torch.tensor([1e-6, -1e-6, 0.0, 1e9, -1e9]).reshape(1, 1, 1, 5)
    cache.write("a", MaskProposals(logits, torch.zeros(1, 1, 1)))
    found = cache.read("a").mask_logits
    assert (found > 0).flatten().tolist() == [True, False, False, True, False]
    assert found.abs().max() == 12


def test_every_image_is_computed_once_whoever_asks_again(tmp_path: Path) -> None:
    dataset, generate = Numbered(7), Generator()
    assert opened(tmp_path).fill(dataset, [4, 0, 2], generate, threads=2) == 0
    assert opened(tmp_path).fill(dataset, range(7), generate, threads=3) == 0
    assert sorted(generate.asked) == list(range(7))
    cache, again = opened(tmp_path), Generator()
    for index in range(7):
        true = again(dataset[index].image)
        found = cache.read(dataset.name_of(index))
        assert torch.equal(found.mask_logits > 0, true.mask_logits > 0)


def test_damaged_and_void_images_are_counted_and_have_no_proposals(tmp_path: Path) -> None:
    dataset, generate, cache = Numbered(6, damaged=(1, 4), void=(5,)), Generator(), opened(tmp_path)
    assert cache.fill(dataset, range(6), generate) == 3
    assert sorted(generate.asked) == [0, 2, 3]
    assert cache.fill(dataset, range(6), generate) == 3 and len(generate.asked) == 3
    with pytest.raises(DatasetError, match=r"cannot read the proposals of folder/image4.jpg .* delete .*npz and run"):
        cache.read(dataset.name_of(4))
    with pytest.raises(DatasetError, match="image1 is torn"):
        cache.fill(dataset, range(6), generate, skip_damaged=False)


def test_a_stopped_pass_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    dataset, generate = Numbered(9), Generator()

    def until_the_fifth(image: np.ndarray) -> MaskProposals:
        if len(generate.asked) == 5:
            raise KeyboardInterrupt
        return generate(image)

    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path).fill(dataset, range(9), until_the_fifth)
    done = [index for index in range(9) if dataset.name_of(index) in opened(tmp_path)]
    assert 4 <= len(done) <= 5
    rest = Generator()
    opened(tmp_path).fill(dataset, range(9), rest)
    assert sorted(rest.asked + done) == list(range(9))


@pytest.mark.parametrize("tear", [lambda content: b"", lambda content: content[:-9], lambda content: b"x" * 40])
def test_a_torn_file_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tear: Callable[[bytes], bytes]
) -> None:
    dataset, cache, generate = Numbered(1), opened(tmp_path), Generator()
    cache.fill(dataset, [0], generate)
    true = cache.read(dataset.name_of(0))
    path = next(cache.folder.rglob("*.npz"))
    path.write_bytes(tear(path.read_bytes()))
    with pytest.raises(DatasetError, match="cannot read the proposals of folder/image0.jpg"):
        cache.read(dataset.name_of(0))
    cache.fill(dataset, [0], generate)
    assert generate.asked == [0, 0] and "is torn" in caplog.text and str(path) in caplog.text
    assert torch.equal(cache.read(dataset.name_of(0)).mask_logits, true.mask_logits)
    cache.fill(dataset, [0], generate)
    assert generate.asked == [0, 0]


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, dataset = opened(tmp_path), Numbered(1)

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(TrainingError, match="cannot keep the proposals of folder/image0.jpg in .*No space left"):
            cache.fill(dataset, [0], Generator())
    assert dataset.name_of(0) not in cache
    assert not list(cache.folder.rglob("*.npz")) + list(cache.folder.rglob("*.tmp"))
    cache.fill(dataset, [0], Generator())
    assert dataset.name_of(0) in cache


def test_another_generator_data_set_or_size_has_another_folder(tmp_path: Path) -> None:
    keys = [KEY, ("abd", *KEY[1:]), ("abc", "x", KEY[2]), (*KEY[:2], (48, 32)), (*KEY, "def"), (*KEY, "deg")]
    assert len({ProposalCache(tmp_path, *key).folder for key in keys}) == 6


def test_folders_of_plain_generators_are_called_as_ever(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    assert cache.folder.name == "1330bc1473132ca1-32x48" and "words" not in json.loads(
        (cache.folder / "key.json").read_text()
    )


def test_the_hash_of_words_follows_names_synonyms_and_their_order() -> None:
    cup, floor = CategorySpec("cup", synonyms=("mug",)), CategorySpec("floor", is_thing=False)
    lists = [(cup, floor), (floor, cup), (cup,), (CategorySpec("cup"), floor), (CategorySpec("mug", ("cup",)), floor)]
    hashes = [words_hash(Vocabulary.build(specs)) for specs in lists]
    assert len(set(hashes)) == len(lists) and hashes[0] == words_hash(Vocabulary.build((cup, floor)))
    assert all(len(digest) == 64 for digest in hashes)


def test_a_folder_of_another_key_is_refused(tmp_path: Path) -> None:
    path = opened(tmp_path).folder / "key.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "proposer": "other"}))
    with pytest.raises(DatasetError, match="holds the proposals of .*other.*delete it"):
        opened(tmp_path)
    path.write_text("{")
    with pytest.raises(DatasetError, match="delete it"):
        opened(tmp_path)


def test_the_hash_follows_names_and_values() -> None:
    torch.manual_seed(0)
    one, other = nn.Linear(2, 3), nn.Linear(2, 3)
    assert weights_hash(one) != weights_hash(other) and weights_hash(one) != weights_hash(nn.Sequential(one))
    other.load_state_dict(one.state_dict())
    assert weights_hash(one) == weights_hash(other)
    assert weights_hash(nn.BatchNorm1d(2)) == weights_hash(nn.BatchNorm1d(2))  # has a scalar among its buffers
