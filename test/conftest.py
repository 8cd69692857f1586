"""For all tests: no verdict of a property test may hang on how busy the machine is, and helper modules can be found."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def without_exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody has exported on this machine would run presets under "auto"."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
