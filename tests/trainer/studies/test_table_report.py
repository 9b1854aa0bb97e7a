import csv
import json
import math

import pytest
from PIL import Image
from scipy import stats

from common.errors import UserError
from common.intervals import standard_error
from common.settings import load_settings
from trainer.studies.config import TableSettings
from trainer.studies.table import TableRow
from trainer.studies.table_report import draw_table, format_csv, format_markdown, save_table

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


def table_settings(folder, *flags):
    return load_settings(TableSettings, [f"--output={folder}", *flags])


def test_saved_table_compares_rows_with_the_baseline_by_seed(tmp_path):
    rows = [
        TableRow("contrastive", "resnet18", (60.0, 62.0, 61.0), None),
        TableRow("contrastive-attn-teacher", "resnet18", (60.5, 63.0, 61.7), None),
        TableRow("contrastive-self-mask", "resnet18", (40.0, 50.0), None),
    ]
    text = save_table(rows, table_settings(tmp_path))
    assert text == (tmp_path / "table.md").read_text()
    test = stats.ttest_rel(rows[1].accuracies, rows[0].accuracies)
    low, high = test.confidence_interval(0.95)
    interval = f"+0.73 | [{low:+.2f}, {high:+.2f}]"
    assert f"| contrastive-attn-teacher | contrastive | 3 | {interval} | {test.pvalue:.2g} |" in text
    assert "contrastive-self-mask - contrastive: 1 seed that only one of them has excluded: 2." in text

    plain, guided, mask = csv.DictReader((tmp_path / "table.csv").open())
    assert (plain["accuracies"], plain["baseline"]) == ("60.0000 62.0000 61.0000", "")
    assert float(guided["p"]) == pytest.approx(test.pvalue, rel=1e-4)
    assert float(guided["p_holm"]) == pytest.approx(min(2 * test.pvalue, 1), rel=1e-4)
    assert (mask["seeds_compared"], float(mask["difference"])) == ("2", -16)
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"][0]["accuracies"] == [60.0, 62.0, 61.0]
    assert saved["comparisons"][0]["ci95"] == pytest.approx([low, high])
    assert Image.open(tmp_path / "table.png").size[0] > 1000


def test_named_baseline_is_compared_with_all_other_rows(tmp_path):
    rows = [TableRow(name, "resnet18", (60.0, 62.0), None) for name in ("supervised", "contrastive", "byol")]
    text = save_table(rows, table_settings(tmp_path, "--baseline=byol"))
    assert "| supervised | byol | 2 |" in text
    assert "| contrastive | byol | 2 |" in text
    assert "baseline" not in save_table(rows, table_settings(tmp_path))
    with pytest.raises(UserError, match=r"--baseline vicreg: expected one of .*, supervised, contrastive, byol"):
        save_table(rows, table_settings(tmp_path, "--baseline=vicreg"))
