"""Proposals on disk: the same read as computed, computed once, torn ones again, damaged images passed over."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_images import Numbered
from torch import nn

from ovseg_ros.core.errors import DatasetError, TrainingError
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.train.proposal_cache import ProposalCache, to_logits, weights_hash, words_hash

KEY = {
    "proposer": "abc",
    "images": "coco_panoptic/train",
    "size": (32, 48),
    "max_masks": 100,
    "min_objectness": 0.0,
}


class Generator:
    """Random masks, the same for the same grey, and which greys it was asked for."""

    def __init__(self, masks: int = 5) -> None:
        self.asked: list[int] = []
        self.masks = masks

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        self.asked.append(int(image[0, 0, 0]))
        return 6 * torch.randn(self.masks, 8, 12, generator=torch.Generator().manual_seed(self.asked[-1]))


def opened(folder: Path) -> ProposalCache:
    return ProposalCache(folder, **KEY)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_masks_come_back_as_they_were(tmp_path: Path, count: int) -> None:
    """The nearest of 23 levels, fine near 0 and coarse far from it: probabilities within 0.05; the sign is exact."""
    true = Generator(count)(np.zeros((1, 1, 3), np.uint8))
    opened(tmp_path).write("a/b.jpg", true)
    levels = opened(tmp_path).read("a/b.jpg")
    assert levels.shape == (count, 8, 12) and levels.dtype == torch.int8 and len(levels.unique()) <= 23
    found = to_logits(levels)
    assert torch.equal(found > 0, true > 0)
    assert torch.allclose(found.sigmoid(), true.sigmoid(), atol=0.05)
    opened(tmp_path).write("again", found)  # levels are kept as they are
    assert torch.equal(opened(tmp_path).read("again"), levels)


def test_the_sign_is_kept_of_the_smallest_logits_too(tmp_path: Path) -> None:
    cache, logits = opened(tmp_path), torch.tensor([1e-6, -1e-6, 0.0, 1e9, -1e9]).reshape(1, 1, 5)
    cache.write("a", logits)
    found = to_logits(cache.read("a"))
    assert torch.equal(found.sign(), logits.sign())
    assert found.abs().max() == pytest.approx(12)


def test_masks_take_less_than_a_byte_for_two_pixels(tmp_path: Path) -> None:
    rows, columns = torch.meshgrid(torch.arange(160.0), torch.arange(120.0), indexing="ij")
    centres = torch.linspace(10, 110, 20)[:, None, None]
    masks = 40 - torch.hypot(rows - centres, columns - centres.flip(0))
    cache = opened(tmp_path)
    cache.write("a", masks + torch.rand(masks.shape, generator=torch.Generator().manual_seed(0)))
    assert next(cache.folder.rglob("*.npz")).stat().st_size < masks.numel() / 4


def test_every_image_is_computed_once_whoever_asks_again(tmp_path: Path) -> None:
    dataset, generate = Numbered(7), Generator()
    assert opened(tmp_path).fill(dataset, [4, 0, 2], generate, threads=2) == 0
    assert opened(tmp_path).fill(dataset, range(7), generate, threads=3) == 0
    assert sorted(generate.asked) == list(range(7))
    cache, again = opened(tmp_path), Generator()
    for index in range(7):
        true = again(dataset[index].image)
        found = cache.read(dataset.name_of(index))
        assert torch.equal(to_logits(found) > 0, true > 0)


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

    def until_the_fifth(image: np.ndarray) -> torch.Tensor:
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
    assert torch.equal(cache.read(dataset.name_of(0)), true)
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


def test_what_decides_the_masks_decides_the_folder(tmp_path: Path) -> None:
    changes = ({}, {"proposer": "abd"}, {"images": "x"}, {"size": (48, 32)}, {"words": "def"}, {"words": "deg"})
    changes += ({"max_masks": 99}, {"min_objectness": 0.1})
    assert len({ProposalCache(tmp_path, **{**KEY, **change}).folder for change in changes}) == 8


def test_folders_of_another_packing_are_told_and_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = tmp_path / "1330bc1473132ca1-32x48"  # as it was called while all masks were kept in 8 bits
    old.mkdir()
    (old / "key.json").write_text(json.dumps({"proposer": "abc", "dataset": "coco_panoptic/train", "size": [32, 48]}))
    ProposalCache(tmp_path, **{**KEY, "words": "def"})
    cache, generate = opened(tmp_path), Generator()
    cache.fill(Numbered(2), range(2), generate)
    assert cache.folder != old and generate.asked == [0, 1]
    (told,) = caplog.messages
    assert f"kept proposals in {old.name}, below {tmp_path}" in told
    cache.fill(Numbered(2), range(2), generate)
    assert len(caplog.messages) == 1


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
