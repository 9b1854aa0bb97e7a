import pytest

from trainer.config import TrainConfig
from trainer.loop import make_schedule, warn_of_slow_bfloat16
from trainer.optim import Schedule


def test_learning_rate_rises_linearly_and_falls_along_a_cosine():
    schedule = Schedule(2.0, 100, 10)
    rates = [schedule.learning_rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(1.0)
    assert rates[99] < 0.002
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_peak_learning_rate_follows_simclrs_rule_unless_it_is_given():
    assert make_schedule(TrainConfig(batch_size=256, epochs=20), 5) == Schedule(1.2, 100, 50)
    assert make_schedule(TrainConfig(batch_size=256, epochs=20, learning_rate=0.3, warmup_epochs=0), 5) == Schedule(
        0.3, 100, 0
    )


def test_warns_of_bfloat16_only_on_cpus_that_emulate_it(capsys):
    warn_of_slow_bfloat16("AVX512")
    assert capsys.readouterr().err == ""
    warn_of_slow_bfloat16("AVX2")
    assert "--precision bfloat16: this CPU (AVX2)" in capsys.readouterr().err
