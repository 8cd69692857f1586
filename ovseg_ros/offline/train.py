"""`ovseg train`: a recipe file -> the checkpoints of a preset, in one seeded and resumable run."""

from dataclasses import dataclass
from pathlib import Path

from ovseg_ros.core.build import load_preset
from ovseg_ros.core.checkpoint import save_half
from ovseg_ros.core.config import from_mapping, load_yaml
from ovseg_ros.core.errors import ConfigError
from ovseg_ros.core.resources import config_dir
from ovseg_ros.offline.train_clip import ClipTrainingConfig, train_clip
from ovseg_ros.offline.train_eomt import EoMTTrainingConfig, train_eomt


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe file, `config/training/NAME.yaml`: which preset's architectures to train, and how."""

    preset: str
    eomt: EoMTTrainingConfig
    clip: ClipTrainingConfig


def recipe_path(recipe: str) -> Path:
    """File of a recipe, given its name or a path to a YAML file.

    Raises:
        ConfigError: if there is no such file, with the names that exist.
    """
    folder = config_dir() / "training"
    path = Path(recipe).expanduser() if recipe.endswith((".yaml", ".yml")) else folder / f"{recipe}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(
            f"there is no recipe {recipe!r} (looked for {path}); choose one of {names} or give a .yaml file"
        )
    return path


def train(recipe: str, *, out: Path, data: Path) -> None:
    """Train a recipe's preset; each of its loops goes on where a stopped run left it.

    Args:
        recipe: name of a bundled recipe or path to a YAML file.
        out: gets one folder of training state for each stage, and the preset's checkpoints in half precision.
        data: rendered views; kept, so that a second run does not render again.

    Raises:
        ConfigError, CheckpointError, DatasetError: for a bad recipe, a foreign training state or a broken shard.
    """
    path = recipe_path(recipe)
    config = from_mapping(Recipe, load_yaml(path), path.name)
    preset = load_preset(config.preset)
    generator = train_eomt(preset.eomt, config.eomt, data, out)
    save_half(generator, out / preset.eomt_checkpoint)
    tower = train_clip(preset.clip, config.clip, generator, data, out)
    save_half(tower, out / preset.clip_checkpoint)
    print(f"wrote {preset.eomt_checkpoint} and {preset.clip_checkpoint} to {out}")
