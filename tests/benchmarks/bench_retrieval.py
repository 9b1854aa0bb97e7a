"""Exact search among 45,000 images for 5,000 (ImageNet's val, paper 4.5), against sorting the database for each query.

Both give precision and recall at every k, on all cores, or on the GPU where there is one. Features are random, of
ResNet-50's width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import against, medians, table
from torch import Tensor

from trainer.evaluate.suites.retrieval import precision_recall

IMAGES, QUERIES, CHANNELS, CLASSES = 50_000, 5_000, 2048, 1000
SECONDS = 60  # on two cores; a GPU needs one or two
SORTED = 250  # queries whose database is sorted: a part, because it takes long


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(IMAGES, CHANNELS, generator=generator)).to(device)
    labels = (torch.arange(IMAGES) % CLASSES).to(device)
    queries, query_labels, database, database_labels = (
        rows[:QUERIES],
        labels[:QUERIES],
        rows[QUERIES:],
        labels[QUERIES:],
    )
    cases: dict[str, Callable[[], object]] = {
        "ours": lambda: precision_recall(queries, query_labels, database, database_labels).precision,
        "part": lambda: precision_recall(queries[:SORTED], query_labels[:SORTED], database, database_labels).precision,
        "sorted": lambda: by_sorting(queries[:SORTED], query_labels[:SORTED], database, database_labels).cpu(),
    }
    seconds = medians(1, **cases)
    ratio = seconds["sorted"] / seconds["part"]
    rows_of_table = [
        (f"{QUERIES:,} queries in {IMAGES - QUERIES:,}", *against(seconds["ours"], SECONDS, "s", most=True)),
        (f"sorting / ours, {SORTED} queries", *against(ratio, 1)),
    ]
    table(f"retrieval on {device.type}", rows_of_table)


def by_sorting(queries: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor) -> Tensor:
    """Mean precision at every k, the direct way."""
    order = (queries @ database.T).argsort(1, descending=True)
    hits = (database_labels[order] == query_labels[:, None]).double().cumsum(1)
    precision: Tensor = (hits / torch.arange(1, len(database) + 1, device=hits.device)).mean(0)
    return precision


if __name__ == "__main__":
    main()
