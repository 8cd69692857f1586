"""Where the files that come with the package are: presets, vocabularies and bundled checkpoints."""

from pathlib import Path

from ovseg_ros.core.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent


def config_dir() -> Path:
    """Folder that holds `models/` (presets), `training/` (recipes), `datasets/` and `vocabularies/`.

    It lies inside the installed package (`pip install`, `colcon build`) and beside it in a source checkout; ConfigError
    if it does neither.
    """
    return _folder_with("models", "presets", _PACKAGE / "config", _PACKAGE.parent / "config")


def bundled_vocabularies() -> dict[str, Path]:
    """The vocabularies that come with the package, by name."""
    return {file.stem: file for file in sorted((config_dir() / "vocabularies").glob("*.yaml"))}


def interfaces_dir() -> Path:
    """Folder of the package's message definitions (*.msg), for bags without ROS; ConfigError if it is not there."""
    return _folder_with("Segment.msg", "message definitions", _PACKAGE / "interfaces", _PACKAGE.parent / "msg")


def weights_dir() -> Path:
    """Folder of the checkpoints that come with the package, in safetensors format."""
    return _PACKAGE / "weights"


def _folder_with(name: str, what: str, *candidates: Path) -> Path:
    for candidate in candidates:
        if (candidate / name).exists():
            return candidate
    tried = " and ".join(str(candidate / name) for candidate in candidates)
    raise ConfigError(f"the {what} are missing: looked for {tried}; install ovseg_ros again")
