import csv
import json

from PIL import Image

from trainer.studies.search import Trial
from trainer.studies.search_report import save_trials


def test_trials_are_saved_as_csv_json_and_a_plot(tmp_path):
    trials = [
        Trial(1.0, 0.1, (0.5, 0.75), False),
        Trial(0.2, 0.5, (0.5, 0.7), False),
        Trial(4.0, 0.02, (0.4, 0.6), False),
        Trial(0.1, 1.0, (0.3,), True),
    ]
    assert "--kld-weight 1.0 --nss-weight 0.1, accuracy 75.00%" in save_trials(trials, str(tmp_path))
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert [(row["held_out_accuracy"], row["epochs"], row["stopped"]) for row in rows][2:] == [
        ("0.600000", "2", "False"),
        ("0.300000", "1", "True"),
    ]
    assert json.loads((tmp_path / "trials.json").read_text())[0]["accuracies"] == [0.5, 0.75]
    assert Image.open(tmp_path / "surface.png").size[0] > 500


def test_single_trial_is_drawn_without_contours(tmp_path):
    save_trials([Trial(1.0, 0.1, (0.5, 0.75), False)], str(tmp_path))
    assert Image.open(tmp_path / "surface.png").size[0] > 500
