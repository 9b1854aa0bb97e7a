"""Retry what failed: shards that were set aside, and images that are missing from the data set.

python -m labeler.retry DATASET
"""

from common.errors import run_program
from common.settings import load_settings
from labeler.config import RetrySettings


def main(argv: list[str] | None = None) -> int:
    """Retry failed images and shards. Returns 0 if the data set is complete, 1 if shards or too many images failed."""
    settings = load_settings(RetrySettings, argv)
    from labeler.job import retry_failures  # imports torch, which --help and the check of settings do not need

    return retry_failures(settings)


if __name__ == "__main__":
    run_program(main)
