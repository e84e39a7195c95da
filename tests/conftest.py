"""Property tests draw the same examples everywhere and have no time limit of their own."""

from hypothesis import settings

settings.register_profile("lab", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("lab")
