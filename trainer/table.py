"""Reproduce Table 1 of the paper: train every recipe with several seeds, and tabulate the accuracies.

python -m trainer.table --data DATASET --recipes contrastive,contrastive-attn-teacher --seeds 3 --output FOLDER
"""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.studies.config import TableSettings


def main(argv: list[str] | None = None) -> int:
    """Train the runs that are missing, then write and print the table. Raises UserError."""
    settings = load_settings(TableSettings, argv)
    require_extra("eval", "a table")
    from trainer.studies.table import make_rows  # import torch: not needed for --help
    from trainer.studies.table_report import save_table

    print(save_table(make_rows(settings), settings))
    return 0


if __name__ == "__main__":
    run_program(main)
