import pytest

from trainer.evaluate.glance import section, summarize_models
from trainer.evaluate.suites import load_headlines

HEADLINES = load_headlines()


def result(name, recipe="contrastive", cc=None, top1=None, step=10, settings="default"):
    """Return the content of results.json for one model."""
    content = {"checkpoint": {"image_size": 64, "trained": {"recipe": recipe, "settings": settings, "step": step}}}
    if cc is not None:
        content["alignment"] = {name: {"cc": cc}, "teacher": {"cc": 1.0}}
    if top1 is not None:
        content["linear"] = {"top1": top1, "concurrent": {"top1": top1}}
    return {name: content}


def test_runs_that_differ_only_in_their_seed_are_averaged():
    results = {
        **result("contrastive seed 0", cc=0.1, top1=0.4),
        **result("contrastive seed 1", cc=0.3, top1=0.5),
        **result("contrastive seed 2", cc=0.2),
        **result("contrastive seed 3", cc=0.9, step=20),
        **result("resnet18", recipe=None, cc=0.4),
    }
    first, longer, plain = summarize_models(results, HEADLINES)
    assert (first["model"], first["runs"]) == ("contrastive", 3)
    assert first["cc_with_people"] == pytest.approx(0.2)
    assert first["cc_with_people_se"] == pytest.approx(0.1 / 3**0.5)
    assert (first["concurrent_top1"], first["offline_top1"]) == (pytest.approx(0.45), None)
    assert (longer["model"], longer["cc_with_people"], longer["cc_with_people_se"]) == ("contrastive seed 3", 0.9, None)
    assert (plain["model"], plain["runs"]) == ("resnet18", 1)
    page = section(HEADLINES, [first, longer, plain])
    assert "0.200 ± 0.058" in page
    assert "45.00 ± 5.00" in page
    assert "offline" not in page


def test_runs_with_other_settings_are_not_averaged_together():
    default = {**result("seed 0 a", cc=0.1), **result("seed 1 a", cc=0.3)}
    rows = summarize_models({**default, **result("seed 0 b", cc=0.9, settings="kld_weight 5")}, HEADLINES)
    assert [(row["model"], row["cc_with_people"]) for row in rows] == [("contrastive", 0.2), ("seed 0 b", 0.9)]
    other = {**result("seed 0 b", cc=0.7, settings="other"), **result("seed 1 b", cc=0.9, settings="other")}
    assert [row["model"] for row in summarize_models({**default, **other}, HEADLINES)] == [
        "seed 0 a, seed 1 a",
        "seed 0 b, seed 1 b",
    ]
