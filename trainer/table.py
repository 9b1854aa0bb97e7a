"""Table 1: train what is missing, then tabulate.

python -m trainer.table --data DATASET --recipes contrastive,contrastive-attn-teacher --seeds 3 --output FOLDER
"""

from common.errors import run_program
from common.extras import require_extra
from common.settings import load_settings
from trainer.studies.config import TableSettings


def main(argv: list[str] | None = None) -> int:
    """Make the table. Raises UserError."""
    settings = load_settings(TableSettings, argv)
    require_extra("eval", "a table")
    from trainer.studies.format_table import save_table
    from trainer.studies.rows import make_rows

    print(save_table(make_rows(settings), settings))
    return 0


if __name__ == "__main__":
    run_program(main)
