"""Uploads and downloads, on tensors that pretend to be a GPU's."""

import numpy as np
import pytest
import torch
from waits import counted_waits

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.transfers import start_download, start_upload
from ovseg_ros.core.images import to_tensors
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary

CUDA = torch.device("cuda")


def test_parts_of_all_types_come_in_one_copy_and_one_wait() -> None:
    large, odd = torch.arange(6).view(2, 3) * 2**40, torch.arange(30, dtype=torch.uint8).view(2, 3, 5)
    real, ids = torch.tensor([[0.5], [-1.5]]), torch.tensor([[40000, 65535], [0, 1]]).to(torch.int16)
    with counted_waits() as waits:
        arrays = start_download([(large, np.int64), (odd, np.uint8), (real, np.float32), (ids, np.uint16)])
        assert not waits.found
        got = arrays()
    assert len(waits.found) == 1 and "event.synchronize" in waits.found[0]
    assert [array.dtype for array in got] == [np.int64, np.uint8, np.float32, np.uint16]
    for array, wanted in zip(got, (large, odd, real, torch.tensor([[40000, 65535], [0, 1]])), strict=True):
        np.testing.assert_array_equal(array, wanted.numpy())


def test_images_of_any_memory_are_uploaded_without_a_wait() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    read_only = image.copy()
    read_only.flags.writeable = False
    images = [image, image[:, ::-1], image.transpose(1, 0, 2).copy().transpose(1, 0, 2), read_only]
    on_cpu = to_tensors(images, torch.device("cpu"))
    assert torch.equal(on_cpu, torch.cat([to_tensors([one], torch.device("cpu")) for one in images]))
    with counted_waits() as waits:
        uploaded = to_tensors(images, CUDA)
    assert not waits.found
    assert torch.equal(uploaded, on_cpu)


def test_pageable_memory_blocks_and_a_download_is_not_read_early() -> None:
    """What the model of a GPU knows of transfers."""
    with counted_waits() as waits:
        torch.from_numpy(np.zeros(3)).to(CUDA, non_blocking=True)
        torch.zeros(3).copy_(torch.zeros(3, device=CUDA), non_blocking=True)
        assert len(waits.found) == 2
        torch.from_numpy(np.zeros(3)).pin_memory().to(CUDA, non_blocking=True)
        start_upload([np.zeros(3, np.uint8)], CUDA)
        staged = torch.empty(3, pin_memory=True)
        staged.copy_(torch.zeros(3, device=CUDA), non_blocking=True)
        assert len(waits.found) == 2
        with pytest.raises(AssertionError, match="before it has waited"):
            staged.numpy()
        torch.cuda.Event().synchronize()
        staged.numpy()


@pytest.mark.parametrize("size", [(1, 1), (3, 7), (120, 200)])
def test_a_segmenter_waits_once_beside_its_model(size: tuple[int, int]) -> None:
    segmenter = build_segmenter("tabletop", "cpu")
    prompt = segmenter.prepare(Vocabulary.build([CategorySpec("ball"), CategorySpec("table", is_thing=False)]))
    images = list(np.random.default_rng(0).integers(0, 255, (2, *size, 3), dtype=np.uint8))
    on_cpu = segmenter.segment_batch(images, prompt)
    segmenter.device = CUDA
    ours = ("core/merge/", "core/segmenter.py", "core/engine/transfers.py")
    with counted_waits() as waits:
        pending = segmenter.start(images, prompt)
        queued = len(waits.found)
        on_gpu = pending.results()
    assert [found for found in waits.found if found.startswith(ours) or "to_tensor" in found] == waits.found[queued:]
    assert len(waits.found) == queued + 1
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.segments == cpu.segments
        np.testing.assert_array_equal(gpu.segment_ids, cpu.segment_ids)
        np.testing.assert_array_equal(gpu.category_ids, cpu.category_ids)
