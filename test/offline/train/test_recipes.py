"""Every recipe that comes with the package: it loads, and what it trains is what it says."""

from dataclasses import replace

import pytest
import torch

from ovseg_ros.core.backbones.beit3 import Beit3
from ovseg_ros.core.backbones.open_clip_model import OpenClipConfig, build_open_clip
from ovseg_ros.core.classification.fisa.classifier import FisaClassifier
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.joint.omtseg.network import OMTSegNetwork
from ovseg_ros.core.presets import load_preset, preset_folder, scored_section
from ovseg_ros.core.resources import config_dir
from ovseg_ros.core.sections import FisaSection, SentenceClipSection
from ovseg_ros.offline.data.open import dataset_info
from ovseg_ros.offline.tools.count_scorer import scorer_shapes
from ovseg_ros.offline.train.augmentation import JitterConfig, ShortSideConfig
from ovseg_ros.offline.train.clip import ClipTraining
from ovseg_ros.offline.train.color_jitter import ColorJitterConfig
from ovseg_ros.offline.train.data import PanopticData
from ovseg_ros.offline.train.eomt import EoMTTraining, class_map, network_for
from ovseg_ros.offline.train.fisa import FisaTraining
from ovseg_ros.offline.train.lmseg import LMSegTraining, lmseg_checkpoint
from ovseg_ros.offline.train.loop_config import Multiplier
from ovseg_ros.offline.train.losses import MaskLossConfig
from ovseg_ros.offline.train.omtseg import OMTSegTraining, omtseg_checkpoint
from ovseg_ros.offline.train.optimization import parameter_groups
from ovseg_ros.offline.train.pmp import PmpTraining, guided_checkpoint
from ovseg_ros.offline.train.questions import QuestionConfig
from ovseg_ros.offline.train.run import load_recipe

NAMES = sorted(path.stem for path in (config_dir() / "training").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_loads_and_names_data_that_are_known(name: str) -> None:
    for stage in load_recipe(name).stages:
        if isinstance(stage, ClipTraining):
            assert isinstance(load_preset(stage.preset).model.clip, SentenceClipSection)
            continue
        categories = dataset_info("tabletop").categories()
        if isinstance(stage.data, PanopticData):
            info = dataset_info(stage.data.dataset)
            assert stage.data.split in info.splits
            categories = info.categories()
        if isinstance(stage, EoMTTraining):
            _, classes = class_map(stage.classes, categories)
            network = network_for(stage.network, "the data", len(classes))
            assert network.checkpoint.endswith(".safetensors")
            assert network.architecture.num_classes == (len(categories) if stage.classes == "categories" else 2)
        elif isinstance(stage, PmpTraining):
            assert guided_checkpoint(stage.preset) == f"{stage.preset}.safetensors"
        elif isinstance(stage, OMTSegTraining):
            assert omtseg_checkpoint(stage.preset) == f"{stage.preset}.safetensors"
        elif isinstance(stage, LMSegTraining):
            assert lmseg_checkpoint(stage.preset) == f"{stage.preset}.safetensors"
        else:
            classifier = load_preset(stage.preset).model.classifier
            assert isinstance(classifier, FisaSection) and classifier.checkpoint is not None


@pytest.mark.parametrize(("name", "trained", "view"), [("fisa_l_coco", 26.1e6, 1024), ("fisa_b_coco", 7.58e6, 736)])
def test_fisa_trains_as_in_the_paper(name: str, trained: float, view: int) -> None:
    """Sec. 5.3; nothing is allocated."""
    (recipe,) = load_recipe(name).stages
    assert isinstance(recipe, FisaTraining)
    loop = recipe.loop
    assert (loop.steps, loop.batch_size, loop.learning_rate, loop.weight_decay) == (25_000, 16, 1e-4, 0.05)
    assert recipe.augmentation == JitterConfig((view, view), (0.1, 2.0))
    assert (recipe.loss.class_weight, recipe.loss.bce_weight, recipe.loss.dice_weight) == (2, 5, 5)
    model = load_preset(recipe.preset).model
    assert isinstance(model.clip, OpenClipConfig) and isinstance(model.classifier, FisaSection)
    architecture = model.classifier.architecture
    assert architecture.input_size == pytest.approx(view * 896 / 1024, abs=8)
    clip, _ = build_open_clip(model.clip, device="meta")
    classifier = FisaClassifier(
        clip.visual,
        architecture,
        logit_scale=clip.logit_scale,
        mean=model.clip.mean,
        std=model.clip.std,
    )
    groups = parameter_groups(classifier, loop)
    slow = sum(p.numel() for (*_, factor, _), group in groups.items() if factor == 0.1 for p in group)
    total = sum(p.numel() for group in groups.values() for p in group)
    width, layers = clip.visual.class_embedding.shape[0], len(clip.visual.transformer.resblocks)
    assert slow == layers * (width * width + width)
    assert total == sum(value.numel() for value in classifier.trained_state_dict().values())
    assert total == pytest.approx(trained, abs=0.2e6)


@pytest.mark.parametrize(
    ("name", "host"), [("pmp_eomt_l_coco", "eomt_l_coco"), ("pmp_mask2former_coco", "eomt_l_coco")]
)
def test_pmp_trains_as_its_host(name: str, host: str) -> None:
    """But for words: EoMT by its own recipe, Mask2Former by its published one, whose losses are EoMT's."""
    [recipe], [own] = load_recipe(name).stages, load_recipe(host).stages
    assert isinstance(recipe, PmpTraining) and isinstance(own, EoMTTraining)
    assert recipe.loss == own.loss and recipe.questions == QuestionConfig(whole=0.5, synonyms=0.3)
    if name == "pmp_eomt_l_coco":
        assert (recipe.data, recipe.augmentation, recipe.loop) == (own.data, own.augmentation, own.loop)
        return
    assert recipe.augmentation == JitterConfig((1024, 1024), (0.1, 2.0), padding=(124, 116, 104))
    loop = recipe.loop
    assert (loop.steps, loop.batch_size, loop.learning_rate, loop.weight_decay) == (368_750, 16, 1e-4, 0.05)
    assert (loop.warmup_steps, loop.gradient_clip, loop.encoder) == (10, 0.01, None)
    assert loop.multipliers == (Multiplier("network.model.pixel_level_module.encoder.", 0.1),)


def test_omtseg_trains_as_in_the_paper_and_its_code() -> None:
    """What the paper says, and what the authors' code has where it says nothing; base as large."""
    [recipe], [base] = load_recipe("omtseg_l_coco").stages, load_recipe("omtseg_b_coco").stages
    assert isinstance(recipe, OMTSegTraining) and base == replace(recipe, preset="omtseg_b")
    assert load_recipe("omtseg_l_coco").mixed_precision == load_recipe("omtseg_b_coco").mixed_precision == "bf16"
    loop = recipe.loop
    assert (loop.optimizer, loop.learning_rate, loop.weight_decay, loop.betas) == ("lion", 3e-5, 0.15, (0.9, 0.99))
    assert (loop.steps, loop.batch_size, loop.warmup_steps, loop.gradient_clip) == (90_000, 16, 2000, 1)
    assert recipe.augmentation == ShortSideConfig((640, 640), tuple(range(320, 1281, 64)), flip=0.5, padding=(0, 0, 0))
    assert recipe.loss == MaskLossConfig(2.0, 5.0, 5.0, 0.1, points=12_544, oversample=3.0, importance=0.75)
    assert (recipe.word_weight, recipe.separators, recipe.synonyms) == (2, 3, 0)
    architecture = load_preset(recipe.preset).model.architecture
    with torch.device("meta"):
        network = OMTSegNetwork(architecture, Beit3(architecture.encoder))
    network.freeze_encoder()
    kept = [name for name, _ in network.named_parameters() if any(part in name for part in loop.not_decayed)]
    positions = "encoder.encoder.embed_positions"
    assert kept == [f"{positions}.A.weight", f"{positions}.B.weight", "decoder.places.weight"]
    trained = sum(parameter.numel() for group in parameter_groups(network, loop).values() for parameter in group)
    assert trained == 46_893_699 + 2_690_048


def test_lmseg_trains_as_cat_seg() -> None:
    """But for pixels without a category, and SAM's attention, which learns as slowly as CLIP's."""
    [recipe], [base] = load_recipe("lmseg_l_coco_stuff").stages, load_recipe("lmseg_b_coco_stuff").stages
    assert isinstance(recipe, LMSegTraining) and base == replace(recipe, preset="lmseg_b")
    assert recipe.augmentation == ShortSideConfig(
        (384, 384), (384,), flip=0.5, padding=(128, 128, 128), colors=ColorJitterConfig()
    )
    loop = recipe.loop
    assert (loop.steps, loop.batch_size, loop.learning_rate, loop.weight_decay) == (80_000, 4, 2e-4, 1e-4)
    assert (loop.schedule, loop.warmup_steps, loop.gradient_clip, loop.betas) == ("cosine", 0, 0.01, (0.9, 0.999))
    assert (recipe.max_words, recipe.ignored_is_negative) == (None, False)
    model, section = scored_section("lmseg_b")
    scorer = scorer_shapes(model.clip, section, preset_folder("lmseg_b"))
    groups = parameter_groups(scorer, loop)
    slow = sum(p.numel() for (*_, factor, _), group in groups.items() if factor == 0.01 for p in group)
    assert slow == 20_447_232 + 28_320_768  # queries and values of CLIP, SAM's attention
    total = sum(p.numel() for group in groups.values() for p in group)
    assert total == sum(value.numel() for value in scorer.trained_state_dict().values()) == 53_568_738


def test_an_unknown_recipe_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match="no recipe 'eomt_xl'.*did you mean 'eomt_l'.*there are 22, from eomt_b to tabletop_pmp",
    ):
        load_recipe("eomt_xl")
