"""Exact retrieval of 5,000 queries among 45,000 images (ImageNet's val, paper 4.5), against sorting all similarities.

Both compute precision and recall at every k, on all cores, or on the GPU if there is one. Features are random and as
wide as ResNet-50's.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import Row, print_table, ratios, time_cases
from torch import Tensor

from trainer.evaluate.neighbors import precision_recall

IMAGES, QUERIES, CHANNELS, CLASSES = 50_000, 5_000, 2048, 1000
BAR_SECONDS = 60  # on two cores; a GPU takes one or two seconds
SORTED_QUERIES = 250  # a subset, because sorting takes long


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
        "part": lambda: (
            precision_recall(
                queries[:SORTED_QUERIES], query_labels[:SORTED_QUERIES], database, database_labels
            ).precision
        ),
        "sorted": lambda: sort_database(
            queries[:SORTED_QUERIES], query_labels[:SORTED_QUERIES], database, database_labels
        ).cpu(),
    }
    seconds = time_cases(3, **cases)
    print_table(
        f"retrieval on {device.type}",
        [
            Row(f"{QUERIES:,} queries in {IMAGES - QUERIES:,}", seconds["ours"], "s", at_most=BAR_SECONDS),
            Row(f"sorting / ours, {SORTED_QUERIES} queries", ratios(seconds["sorted"], seconds["part"]), "x", 1),
        ],
    )


def sort_database(queries: Tensor, query_labels: Tensor, database: Tensor, database_labels: Tensor) -> Tensor:
    """Compute mean precision at every k by sorting the database for each query."""
    order = (queries @ database.T).argsort(1, descending=True)
    hits = (database_labels[order] == query_labels[:, None]).double().cumsum(1)
    precision: Tensor = (hits / torch.arange(1, len(database) + 1, device=hits.device)).mean(0)
    return precision


if __name__ == "__main__":
    main()
