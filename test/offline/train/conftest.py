"""A few rendered images, and a whole training on them in miniature."""

from pathlib import Path

import pytest
from tiny_training import EOMT_RECIPE, run

from ovseg_ros.offline.data.tabletop_dataset import DatasetConfig, write_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tabletop")
    write_dataset(DatasetConfig("train", count=3, width=96, height=64), folder, workers=1)
    return folder


@pytest.fixture(scope="session")
def eomt(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole training in miniature."""
    folder = tmp_path_factory.mktemp("eomt")
    assert run(folder, EOMT_RECIPE, data) == 0
    return folder
