"""For all tests: no verdict of a property test may hang on how busy the machine is."""

from hypothesis import settings

settings.register_profile("without_deadline", deadline=None)
settings.load_profile("without_deadline")
