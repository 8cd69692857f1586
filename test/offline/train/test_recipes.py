"""Every recipe that comes with the package: it loads, and what it trains is what it says."""

import pytest

from ovseg_ros.core.backbones.open_clip_model import build_open_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.presets import load_preset
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.train.optimization import parameter_groups
from ovseg_ros.offline.train.run import load_recipe

NAMES = sorted(path.stem for path in (config_dir() / "training").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_and_names_data_that_are_known(name: str) -> None:
    recipe = load_recipe(name)
    for part in (recipe.eomt_panoptic, recipe.fisa_panoptic):
        if part is not None:
            info = dataset_info(part.data.dataset)
            assert part.data.split in info.splits
            assert part.checkpoint.endswith(".safetensors")
    if recipe.eomt_panoptic is not None:
        assert recipe.eomt_panoptic.architecture.num_classes == len(
            dataset_info(recipe.eomt_panoptic.data.dataset).dataset_ids
        )
    if recipe.fisa_panoptic is not None:
        preset = load_preset(recipe.fisa_panoptic.preset)
        assert preset.fisa is not None and preset.fisa_checkpoint == recipe.fisa_panoptic.checkpoint


@pytest.mark.parametrize(("name", "trained", "view"), [("fisa_l_coco", 26.1e6, 1024), ("fisa_b_coco", 7.58e6, 736)])
def test_fisa_trains_as_in_the_paper(name: str, trained: float, view: int) -> None:
    """Sec. 5.3; nothing is allocated."""
    recipe = load_recipe(name).fisa_panoptic
    assert recipe is not None
    loop = recipe.loop
    assert (loop.steps, loop.batch_size, loop.learning_rate, loop.weight_decay) == (25_000, 16, 1e-4, 0.05)
    assert (recipe.data.jitter.size, recipe.data.jitter.scale) == ((view, view), (0.1, 2.0))
    assert (recipe.loss.class_weight, recipe.loss.bce_weight, recipe.loss.dice_weight) == (2, 5, 5)
    preset = load_preset(recipe.preset)
    assert preset.open_clip is not None and preset.fisa is not None
    assert preset.fisa.input_size == pytest.approx(view * 896 / 1024, abs=8)
    clip, _ = build_open_clip(preset.open_clip, device="meta")
    classifier = FisaClassifier(
        clip.visual,
        preset.fisa,
        text_width=clip.text.output_dim,
        logit_scale=clip.logit_scale,
        mean=preset.open_clip.mean,
        std=preset.open_clip.std,
    )
    groups = parameter_groups(classifier, loop)
    slow = sum(p.numel() for group in groups if group.factor == 0.1 for p in group.parameters)
    total = sum(p.numel() for group in groups for p in group.parameters)
    width, layers = clip.visual.class_embedding.shape[0], len(clip.visual.transformer.resblocks)
    assert slow == layers * (width * width + width)
    assert total == sum(value.numel() for value in classifier.trained_state_dict().values())
    assert total == pytest.approx(trained, abs=0.2e6)


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no recipe 'eomt_xl'.*eomt_l_coco, fisa_b_coco, fisa_l_coco"):
        load_recipe("eomt_xl")
