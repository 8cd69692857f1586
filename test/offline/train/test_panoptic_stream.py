"""Training samples: a function of seed, step and number; every image once an epoch; damaged images named."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from numbered_images import Numbered
from PIL import Image

from ovseg_ros.core.errors import ConfigError, DatasetError
from ovseg_ros.offline.data.types import PanopticDataset, PanopticSample
from ovseg_ros.offline.train.augmentation import JitterConfig, View
from ovseg_ros.offline.train.data import (
    PanopticData,
    PanopticStream,
    SegmentedView,
    open_data,
    open_semantic,
    segmented_view,
)
from ovseg_ros.offline.train.engine import Engine, Run
from ovseg_ros.offline.train.eomt import each_segment
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.offline.train.masks import to_targets


def stream_of(dataset: PanopticDataset, *, steps: int = 40, seed: int = 0, on_error: str = "skip"):  # type: ignore[no-untyped-def]
    loop = LoopConfig(steps=steps, batch_size=4, learning_rate=1.0, seed=seed)
    data = PanopticData(on_error=on_error, workers=3)

    def prepare(sample: PanopticSample, view: View) -> tuple[str, View]:
        return sample.name, view

    return PanopticStream(dataset, data, JitterConfig((16, 16)), loop, prepare)


def test_a_sample_is_a_function_of_seed_step_and_number() -> None:
    streams = [stream_of(Numbered(10)), stream_of(Numbered(10)), stream_of(Numbered(10), seed=1)]
    one, same, other = ([stream.batch(step, range(4)) for step in range(6)] for stream in streams)
    assert one == same and one != other
    late, shares = stream_of(Numbered(10)), stream_of(Numbered(10))
    assert late.batch(5, range(4)) == one[5]  # as after a resume
    assert shares.batch(5, range(2, 4)) + shares.batch(5, range(2)) == one[5][2:] + one[5][:2]  # as on two processes
    for stream in (*streams, late, shares):
        stream.close()


def test_an_epoch_shows_every_image_once_in_another_order() -> None:
    stream = stream_of(Numbered(8))
    epochs = [[name for step in (2 * e, 2 * e + 1) for name, _ in stream.batch(step, range(4))] for e in range(3)]
    stream.close()
    assert all(sorted(epoch) == [f"folder/image{n}.jpg" for n in range(8)] for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_so_many_samples_are_read_ahead_that_no_thread_waits() -> None:
    together = threading.Barrier(3)

    def prepare(sample: PanopticSample, view: View) -> str:
        together.wait(timeout=60)  # until all three threads have a sample
        return sample.name

    loop = LoopConfig(steps=40, batch_size=1, learning_rate=1.0)
    stream = PanopticStream(Numbered(10), PanopticData(workers=3), JitterConfig((16, 16)), loop, prepare)
    try:
        assert len(stream.batch(0, range(1))) == 1
    finally:
        together.abort()
        stream.close()


def test_the_one_good_image_is_found_from_anywhere_in_an_epoch() -> None:
    stream = stream_of(Numbered(6, damaged=(0, 1, 2), void=(4, 5)))
    assert {name for step in range(12) for name, _ in stream.batch(step, range(4))} == {"folder/image3.jpg"}
    stream.close()


def test_damaged_images_are_named_counted_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    stream = stream_of(Numbered(6, damaged=(2, 4), void=(1,)))
    names = {name for step in range(12) for name, _ in stream.batch(step, range(4))}
    stream.close()
    assert names == {f"folder/image{n}.jpg" for n in (0, 3, 5)}
    assert stream.skipped == {f"folder/image{n}.jpg": f"image{n} is torn" for n in (2, 4)}
    assert "skipped the image folder/image2.jpg" in caplog.text
    assert "2 images were skipped: folder/image2.jpg, folder/image4.jpg" in caplog.text


def test_damaged_images_stop_the_run_when_asked() -> None:
    stream = stream_of(Numbered(6, damaged=(2,)), on_error="stop")
    with pytest.raises(DatasetError, match="image2 is torn"):
        for step in range(3):
            stream.batch(step, range(4))
    stream.close()


def test_nothing_but_void_and_damage_is_an_error() -> None:
    stream = stream_of(Numbered(3, damaged=(0,), void=(1, 2)))
    with pytest.raises(DatasetError, match="no image of numbered train in nowhere can be trained on"):
        stream.batch(0, range(1))
    stream.close()


def test_targets_leave_out_crowds_and_what_the_view_does_not_show() -> None:
    sample = Numbered(1)[0]
    whole = segmented_view(sample, View((12, 16), 0, 0, (16, 16), flipped=False))
    assert whole.image.shape == (3, 16, 16) and whole.ids.tolist() == [70_000]
    assert whole.categories.tolist() == [3]

    def masks_of(view: SegmentedView) -> torch.Tensor:
        return to_targets(view, each_segment(view, torch.arange(19)), None, torch.device("cpu")).masks

    masks = masks_of(whole)
    assert masks.shape == (1, 16, 16) and masks[0, :12, :8].all() and masks.sum() == 96
    right = segmented_view(sample, View((12, 16), 0, 8, (12, 8), flipped=False))
    assert right.ids.tolist() == [] and masks_of(right).shape == (0, 12, 8)


def write_coco_stuff(root: Path) -> Run:
    """An image of two trees (value 168), a person (0) between them, and a pixel without a category; and an
    image without any. Returns a run on them."""
    for name, values in {"a": [[168, 0, 168, 255]], "b": [[255] * 4]}.items():
        for folder in ("train2017", "stuffthingmaps/train2017"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((1, 4, 3), 7, np.uint8)).save(root / "train2017" / f"{name}.png")
        Image.fromarray(np.array(values, np.uint8)).save(root / "stuffthingmaps/train2017" / f"{name}.png")
    return Run(root, root / "out", Engine("cpu"))


def test_of_categories_alone_each_is_one_segment(tmp_path: Path) -> None:
    dataset = open_semantic(PanopticData("coco_stuff_download"), write_coco_stuff(tmp_path))
    sample = dataset[0]
    tree = next(category.index for category in dataset.categories if category.name == "tree")
    assert sample.segment_ids.tolist() == [[tree + 1, 1, tree + 1, 0]] and sample.segment_ids.dtype == np.int32
    found = {segment.id: (segment.category, segment.is_thing, segment.area) for segment in sample.segments}
    assert found == {1: (0, True, 1), tree + 1: (tree, False, 2)}
    assert (sample.name, dataset.name_of(1), len(dataset), dataset[1].is_void) == ("a", "b", 2, True)
    view = segmented_view(sample, View((1, 4), 0, 0, (1, 5), flipped=False))
    assert (view.categories.tolist(), view.segment_ids.tolist()) == ([0, tree], [[tree + 1, 1, tree + 1, 0, 0]])


def test_what_needs_instances_refuses_a_set_without(tmp_path: Path) -> None:
    config = PanopticData("coco_stuff_download")
    with pytest.raises(ConfigError, match="coco_stuff_download has no panoptic ground truth; choose one of ade20k_pan"):
        open_data(config, write_coco_stuff(tmp_path))
