"""On a GPU the pipeline says what it says on the CPU: `make test-gpu`, on a machine that has one.

float32 convolutions may run in TF32 there, so logits agree to a few hundredths and not to the last digit.
"""

import numpy as np
import pytest
import torch

from ovseg_ros.core.build import build_segmenter
from ovseg_ros.core.engine.options import REPRODUCIBLE, EngineOptions
from ovseg_ros.core.images import IMAGENET_MEAN, IMAGENET_STD, normalize, to_tensor
from ovseg_ros.core.proposals.eomt.network import EoMT, EoMTConfig
from ovseg_ros.core.segmenter import PanopticSegmenter
from ovseg_ros.core.types import Prediction
from ovseg_ros.core.vocabulary import CategorySpec, Vocabulary
from ovseg_ros.offline.train.engine import Engine
from ovseg_ros.offline.train.loop import Task, run_loop
from ovseg_ros.offline.train.loop_config import LoopConfig
from ovseg_ros.sim.categories import TABLETOP_SPECS
from ovseg_ros.sim.simulator import TabletopSimulator

DEVICE = "cuda"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA")]
VOCABULARY = Vocabulary.build(TABLETOP_SPECS)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    with TabletopSimulator(0, split="val") as simulator:
        return simulator.render().image


@pytest.fixture(scope="module", params=["tabletop", "tabletop_fisa", "tabletop_pmp"])
def pair(request: pytest.FixtureRequest) -> tuple[PanopticSegmenter, PanopticSegmenter]:
    return build_segmenter(request.param, "cpu"), build_segmenter(request.param, DEVICE)


def predict(segmenter: PanopticSegmenter, image: np.ndarray) -> Prediction:
    return segmenter.predict([image], segmenter.prepare(VOCABULARY))


def test_masks_agree(pair: tuple[PanopticSegmenter, PanopticSegmenter], image: np.ndarray) -> None:
    expected, found = (predict(segmenter, image).mask_logits.cpu() for segmenter in pair)
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def test_pixels_get_the_same_words(pair: tuple[PanopticSegmenter, PanopticSegmenter], image: np.ndarray) -> None:
    expected, found = (segmenter.segment(image, segmenter.prepare(VOCABULARY)) for segmenter in pair)
    assert expected.segments
    assert (expected.category_ids == found.category_ids).mean() >= 0.99


def test_a_batch_is_its_images_one_by_one(pair: tuple[PanopticSegmenter, PanopticSegmenter], image: np.ndarray) -> None:
    segmenter = pair[1]
    text = segmenter.prepare(VOCABULARY)
    images = [image, image[:, ::-1].copy(), np.zeros_like(image)]
    for together, one in zip(segmenter.segment_batch(images, text), images, strict=True):
        alone = segmenter.segment(one, text)
        assert (together.category_ids == alone.category_ids).mean() >= 0.99


def test_no_mask_and_a_tiny_image(pair: tuple[PanopticSegmenter, PanopticSegmenter]) -> None:
    segmenter = pair[1]
    text = segmenter.prepare(VOCABULARY)
    for shape in ((1, 1, 3), (7, 900, 3)):
        assert segmenter.segment(np.zeros(shape, np.uint8), text).segment_ids.shape == shape[:2]


def test_bfloat16_masks_overlap_those_of_float32(image: np.ndarray) -> None:
    segmenter = build_segmenter("tabletop", DEVICE, REPRODUCIBLE)
    expected = predict(segmenter, image).mask_logits > 0
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = predict(segmenter, image).mask_logits > 0
    likely = predict(segmenter, image).objectness > 0.5
    both, either = (expected & found)[likely].sum(), (expected | found)[likely].sum()
    assert both / either >= 0.95


@pytest.mark.parametrize("preset", ["tabletop", "tabletop_fisa", "tabletop_lmseg", "tabletop_pmp"])
@pytest.mark.parametrize("engine", ["eager", "cuda_graph"])
def test_a_frame_is_queued_without_a_wait(preset: str, engine: str, image: np.ndarray) -> None:
    """PyTorch itself says where the host would wait; the download, which is waited for later, is no such place."""
    segmenter = build_segmenter(preset, DEVICE, EngineOptions(engine, "float16"))
    text = segmenter.prepare(VOCABULARY)
    expected = [segmenter.segment(image, text) for _ in range(2)][-1]  # graphs and memory are there from then on
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = segmenter.start([image], text)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    (found,) = pending.results()
    assert (found.category_ids == expected.category_ids).mean() >= 0.99


@pytest.mark.parametrize("preset", ["tabletop_fisa", "tabletop_lmseg"])
def test_graphs_say_what_eager_mode_says(preset: str, image: np.ndarray) -> None:
    """Frame after frame, on two streams, while vocabularies change; and no frame changes what an earlier one gave."""
    graphs, eager = (
        build_segmenter(preset, DEVICE, EngineOptions(name, "float32")) for name in ("cuda_graph", "eager")
    )
    names = [f"thing {number}" for number in range(40)]
    made = []
    for frame in range(12):
        words = Vocabulary.build([CategorySpec("mug"), *map(CategorySpec, names[: (1, 39, 5)[frame % 3]])])
        picture = np.roll(image, 7 * frame, axis=1)
        made.append([one.predict([picture], one.prepare(words)) for one in (eager, graphs)])
    for expected, found in made:
        for name in ("mask_logits", "objectness", "query_embeddings"):
            one, other = getattr(expected, name), getattr(found, name)
            assert (one - other).abs().max() <= 0.02 * one.abs().max(), name
        chosen, others = (prediction.class_logits.softmax(dim=-1) for prediction in (expected, found))
        assert (chosen - others).abs().median() <= 0.01


class PaintedMasks(Task):
    """Masks that cover everything; remembers its losses."""

    def __init__(self, pixels: torch.Tensor) -> None:
        torch.manual_seed(0)
        self.name = "test"
        self.model = EoMT(
            EoMTConfig((64, 64), width=32, depth=2, heads=2, num_queries=4, num_classes=2, joint_blocks=1)
        )
        self.pixels = pixels
        self.seen: list[float] = []

    def losses(self, step: int, samples: range, counts: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (self.model(self.pixels).mask_logits - 1).square().mean()
        self.seen.append(float(loss.detach()))
        return {"square": loss}


def test_training_lowers_the_loss_and_resumes(image: np.ndarray, tmp_path) -> None:
    engine = Engine(DEVICE)
    pixels = normalize(to_tensor(image, engine.device), IMAGENET_MEAN, IMAGENET_STD)[..., :64, :64]

    def train(steps: int) -> list[float]:
        task = PaintedMasks(pixels)
        config = LoopConfig(steps=steps, batch_size=1, learning_rate=1e-2, warmup_steps=2, checkpoint_every=10)
        run_loop(task, config, tmp_path, engine=engine)
        return task.seen

    seen = train(20) + train(40)
    assert len(seen) == 40  # the second run went on where the first had ended
    assert seen[-1] < 0.5 * seen[0]
