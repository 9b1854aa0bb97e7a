"""Train a vision model on labelled shards.

python -m trainer.run --data DATASET --recipe NAME --output RUN
"""

from common.errors import run_program
from common.settings import load_settings
from trainer.config import TrainSettings


def main(argv: list[str] | None = None) -> int:
    """Run a training job. Raises UserError."""
    settings = load_settings(TrainSettings, argv)
    from trainer.job import train_and_keep

    print(f"the run lies in {train_and_keep(settings)}")
    return 0


if __name__ == "__main__":
    run_program(main)
