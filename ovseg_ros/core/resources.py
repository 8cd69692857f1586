"""Where the files that come with the package are: presets, vocabularies and bundled checkpoints."""

from pathlib import Path

from ovseg_ros.core.errors import ConfigError

_PACKAGE = Path(__file__).parent.parent


def config_dir() -> Path:
    """Folder that holds `models/` (presets), `training/` (recipes) and `vocabularies/`.

    It lies inside the installed package (`pip install`, `colcon build`) and beside it in a source checkout.

    Raises:
        ConfigError: neither is there.
    """
    candidates = (_PACKAGE / "config", _PACKAGE.parent / "config")
    for candidate in candidates:
        if (candidate / "models").is_dir():
            return candidate
    tried = " and ".join(str(candidate / "models") for candidate in candidates)
    raise ConfigError(f"the presets are missing: looked for {tried}; install ovseg_ros again")


def interfaces_dir() -> Path:
    """Folder of the package's message definitions (*.msg), for reading and writing bags without ROS.

    Raises:
        ConfigError: it is not there.
    """
    candidates = (_PACKAGE / "interfaces", _PACKAGE.parent / "msg")
    for candidate in candidates:
        if (candidate / "Segment.msg").is_file():
            return candidate
    tried = " and ".join(str(candidate) for candidate in candidates)
    raise ConfigError(f"the message definitions are missing: looked for {tried}; install ovseg_ros again")


def weights_dir() -> Path:
    """Folder of the checkpoints that come with the package, in safetensors format."""
    return _PACKAGE / "weights"
