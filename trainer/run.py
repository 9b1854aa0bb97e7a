"""Train a vision model on labeled shards.

python -m trainer.run --data DATASET --recipe NAME --output RUN
"""

from typing import Any

from common.errors import run_program
from common.settings import load_settings
from common.torchrun import report_to_torchrun
from trainer.config import TrainSettings


def main(argv: list[str] | None = None) -> int:
    """Run a training job and print its result. Raises UserError."""
    settings = load_settings(TrainSettings, argv)
    from trainer.job import run_training  # both import torch: not needed for --help, nor to reject settings
    from trainer.run_page.page import PAGE

    result = run_training(settings)
    if result is not None:  # None in all processes of torchrun but the first
        output = settings.output_folder().rstrip("/")
        print(f"{format_result(result)}\ncheckpoints and metrics are in {output}")
        print(f"open {output}/{PAGE} in a browser to see curves and attention maps")
    return 0


def format_result(result: dict[str, Any]) -> str:
    """Format the content of a run's `result.json` as a table: a line per metric, each the mean over the last epoch."""
    remarks = {
        "loss": "",
        "contrastive": "",
        "vicreg": "",
        "byol": "",
        "kld": "",
        "nss": "",
        "attention_cc": "correlation with the target maps; 0 is chance",
        "human_kld": "",
        "human_nss": "",
        "human_attention_cc": "correlation with human attention maps; 0 is chance",
        "probe_accuracy": f"chance is {result['chance']:.4g}" if result["chance"] else "",
    }
    lines = [
        f"{name.replace('_', ' ').removesuffix(' cc'):18}{result[name]:>8.4g}  {remark}".rstrip()
        for name, remark in remarks.items()
        if name in result
    ]
    heading = f"{result['recipe']}, means over epoch {result['epochs']:,} of {result['epochs']:,}:"
    return "\n".join([heading, *lines])


if __name__ == "__main__":
    run_program(report_to_torchrun(main))
