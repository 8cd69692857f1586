"""For all tests: no verdict of a property test may hang on how busy the machine is, and helper modules can be found."""

import sys
from pathlib import Path

from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")

sys.path.insert(0, str(Path(__file__).parent))
