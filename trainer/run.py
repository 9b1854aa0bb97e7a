"""Train a vision model on labelled shards.

python -m trainer.run --data DATASET --recipe NAME --output RUN
"""

from typing import Any

from common.errors import run_program
from common.settings import load_settings
from trainer.config import TrainSettings


def main(argv: list[str] | None = None) -> int:
    """Run a training job. Raises UserError."""
    settings = load_settings(TrainSettings, argv)
    from trainer.job import run_training

    result = run_training(settings)
    if result is not None:
        print(f"{format_result(result)}\nthe run lies in {settings.output_folder()}")
    return 0


def format_result(result: dict[str, Any]) -> str:
    """What a run has learnt, as a small table: means over its last epoch."""
    rows = [
        (name.replace("_", " ").removesuffix(" cc"), f"{result[name]:.4g}", beside)
        for name, beside in (
            ("loss", ""),
            ("contrastive", ""),
            ("kld", ""),
            ("nss", ""),
            ("attention_cc", "correlation with the teacher's maps; 0 is chance"),
            ("human_kld", ""),
            ("human_nss", ""),
            ("human_attention_cc", "correlation with people's maps; 0 is chance"),
            ("probe_accuracy", f"chance is {result['chance']:.4g}" if result["chance"] else ""),
        )
        if name in result
    ]
    lines = [f"{name:18}{figure:>8}  {beside}".rstrip() for name, figure, beside in rows]
    return "\n".join([f"{result['recipe']}, the last of {result['epochs']:,} epochs:", *lines])


if __name__ == "__main__":
    run_program(main)
