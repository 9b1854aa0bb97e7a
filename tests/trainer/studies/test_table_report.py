import math

import pytest
from PIL import Image

from common.intervals import standard_error
from trainer.studies.table import TableRow
from trainer.studies.table_report import draw_table, format_csv, format_markdown

ROWS = [
    TableRow("contrastive", "resnet50", (60.0, 62.0, 61.0), (67.61, 0.04)),
    TableRow("contrastive-contracam", "resnet50", (60.0,), (67.71, None)),
    TableRow("another", "resnet34", (50.0, 52.0), None),
]


def test_table_shows_means_with_standard_errors_next_to_those_of_the_paper(tmp_path):
    assert standard_error((60.0, 62.0, 61.0)) == pytest.approx(1 / math.sqrt(3))
    lines = format_markdown(ROWS).splitlines()
    assert lines[2] == "| contrastive | resnet50 | 3 | 61.00 ± 0.58 | 67.61 ± 0.04 |"
    assert lines[3] == "| contrastive-contracam | resnet50 | 1 | 60.00 | 67.71 |"
    assert lines[4] == "| another | resnet34 | 2 | 51.00 ± 1.00 |  |"
    assert format_csv(ROWS).splitlines()[3] == "another,resnet34,2,51.0000,1.0000,,,50.0000 52.0000"
    draw_table(ROWS, str(tmp_path / "table.png"))
    assert Image.open(tmp_path / "table.png").size[1] > 100
