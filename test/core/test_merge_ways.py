"""The merge's two ways, of a CPU and of a GPU, against the plain way and against each other."""

import contextlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_support import CUP, VOCABULARY, cases, classes, reference
from waits import counted_waits

from ovseg_ros.core.merge import Candidates, MergeConfig, merge_panoptic, start_merge
from ovseg_ros.core.types import PanopticResult
from ovseg_ros.offline.tools.bench_peers import blobs


def maps(result: PanopticResult) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return result.segment_ids, result.category_ids, result.confidence


@settings(derandomize=True, max_examples=200)
@given(cases(), st.sampled_from([0.0, 4.0, 9.0]))
def test_what_is_not_looked_at_could_have_won_nothing(
    case: tuple[torch.Tensor, torch.Tensor, tuple[int, int], MergeConfig], outside: float
) -> None:
    mask_logits, classification_logits, size, config = case
    mask_logits = mask_logits * 2 - outside
    result = merge_panoptic(mask_logits, classification_logits, VOCABULARY, size, config)
    for ours, plain in zip(maps(result), reference(mask_logits, classification_logits, size, config), strict=True):
        np.testing.assert_allclose(ours.astype(int), plain.astype(int), atol=1 if ours.dtype == np.uint8 else 0)


@settings(derandomize=True, max_examples=100)
@given(cases(), st.sampled_from([0.0, 4.0]), st.integers(1, 3), st.sampled_from([1, 3, 64]))
def test_a_gpu_says_the_same_and_the_host_waits_for_it_once(
    case: tuple[torch.Tensor, torch.Tensor, tuple[int, int], MergeConfig], outside: float, images: int, most: int
) -> None:
    """Its way is taken by tensors that pretend; with fewer candidates than are kept it is taken twice."""
    mask_logits, classification_logits, size, config = case
    mask_logits = torch.stack([(mask_logits * 2 - outside).roll(shift, 0) for shift in range(images)])
    classification_logits = torch.stack([classification_logits.roll(2 * shift, 0) for shift in range(images)])
    embeddings = torch.randn(*mask_logits.shape[:2], 3, generator=torch.Generator().manual_seed(0))
    traits = torch.from_numpy(VOCABULARY.traits)
    arguments = (mask_logits, classification_logits, VOCABULARY, size, config, embeddings, traits)
    on_cpu = start_merge(*arguments)()
    candidates = Candidates(most)
    with counted_waits() as waits:
        finish = start_merge(*arguments, candidates)
        assert not waits.found
        on_gpu = finish()
    scores = classification_logits.softmax(dim=2)[..., :-1].amax(dim=2)
    kept = int((scores > config.object_threshold).sum(dim=1).max()) if mask_logits.shape[1] else 0
    assert len(waits.found) == (0 if mask_logits.shape[1] == 0 else 1 if kept <= most else 2), waits.found
    assert kept <= candidates.most  # as the next images have as many, the host waits once for them
    assert len(on_gpu) == len(on_cpu) == images
    for gpu, cpu in zip(on_gpu, on_cpu, strict=True):
        assert gpu.segments == cpu.segments
        assert gpu.vocabulary_version == cpu.vocabulary_version
        np.testing.assert_array_equal(gpu.segment_ids, cpu.segment_ids)
        np.testing.assert_array_equal(gpu.category_ids, cpu.category_ids)
        np.testing.assert_allclose(gpu.confidence.astype(int), cpu.confidence.astype(int), atol=1)
        np.testing.assert_allclose(gpu.embeddings, cpu.embeddings, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "kept", "dtype"),
    [
        ((480, 640), 40, torch.float32),
        ((1080, 1920), 12, torch.float32),
        ((243, 317), 140, torch.float32),  # no whole number of cells, more than the candidates of a GPU
        ((480, 640), 30, torch.float16),
        ((480, 640), 30, torch.bfloat16),
    ],
)
def test_scenes_come_out_as_by_the_plain_way(size: tuple[int, int], kept: int, dtype: torch.dtype) -> None:
    cells = (round(size[0] / max(size) * 160), round(size[1] / max(size) * 160))
    mask_logits, class_logits = (part.to(dtype) for part in blobs(kept, cells, kept + 5, len(VOCABULARY.categories)))
    config = MergeConfig(min_area=5)
    arguments = (mask_logits, class_logits, VOCABULARY, size, config)
    result = merge_panoptic(*arguments)
    assert len(result.segments) >= 5
    plain = reference(mask_logits, class_logits, size, config)
    with counted_waits():
        on_gpu = merge_panoptic(*arguments)
    for other in (plain, maps(on_gpu)):
        for name, ours, theirs in zip(("segments", "categories", "confidence"), maps(result), other, strict=True):
            share = (abs(ours.astype(int) - theirs.astype(int)) <= (name == "confidence")).mean()
            assert share >= 0.999999, name


@pytest.mark.parametrize("way", ["cpu", "device"])
def test_many_kept_masks_of_a_large_image_stay_within_the_bound(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    sigmoid = torch.Tensor.sigmoid_

    def observed(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return sigmoid(tensor)

    monkeypatch.setattr(torch.Tensor, "sigmoid_", observed)
    monkeypatch.setattr("ovseg_ros.core.merge.device._CHUNK_ELEMENTS", 3 * 512 * 512)
    mask_logits = torch.full((40, 8, 8), -5.0)
    for query in range(39):
        mask_logits[query, query // 8, query % 8] = 5.0
    mask_logits[39] = -0.1  # no pixel's own, but a rival everywhere
    mask_logits[39, -1, -1] = 5.0
    with counted_waits() if way == "device" else contextlib.nullcontext():
        result = merge_panoptic(
            mask_logits, classes(*[(CUP, 0.9)] * 40), VOCABULARY, (512, 512), MergeConfig(min_area=1)
        )
    assert len(result.segments) == 40
    assert 0 < max(sizes) <= (3 * 512 * 512 if way == "device" else 1 << 15)
    assert way == "device" or sum(sizes) < 5 * 512 * 512  # of 40
