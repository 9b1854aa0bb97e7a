"""What all tests share. None of them joins a cluster, needs a network, or needs the data that only developers have."""

import os
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("RAY_ADDRESS", "local")

# the same examples in every run, however slow the machine
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real photographs, eye tracking and weights beside the checkout; tests that use them skip without."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder}, which is not part of the project")
    return folder
