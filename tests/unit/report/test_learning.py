from pathlib import Path

import pandas as pd
from tests.fake_run import fake_run

from milscope.report._gather import gather
from milscope.report._learning import pretraining, training


def test_every_quantity_of_the_logs_is_drawn(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run"))
    assert len(list(pretraining(run.pretraining))) == 6
    assert [chart.title for chart in training(run.training)] == [
        "Loss of abmil-gated", "Loss of pamil", "Slides told apart (validation)"]


def test_a_training_end_to_end_is_drawn_with_the_smoothing_of_its_attention(tmp_path: Path):
    run = gather(fake_run(tmp_path / "run", joint=True))
    titles = ["Loss of abmilx", "Slides told apart (validation)", "How far like cells share their attention"]
    assert [chart.title for chart in training(run.training)] == titles
    assert [chart.title for chart in training(run.training.assign(alpha=float("nan")))] == titles[:2]


def test_an_empty_log_draws_nothing():
    assert list(pretraining(pd.DataFrame())) == []
    assert list(training(pd.DataFrame({"epoch": []}))) == []


def test_a_quantity_that_was_not_logged_is_left_out(tmp_path: Path):
    log = gather(fake_run(tmp_path / "run")).pretraining.drop(columns=["feature_std", "cosine", "conflict_share"])
    assert len(list(pretraining(log))) == 4


def test_conflict_within_parts_of_the_encoder(tmp_path: Path):
    log = gather(fake_run(tmp_path / "run")).pretraining
    parts = {f"cosine.blocks{place}": -0.1 * place for place in range(9)}
    chart = list(pretraining(log.assign(**parts)))[-1]
    assert "conflict" in chart.title
    assert [name in str(chart.svg) for name in ("blocks0", "blocks1", "blocks8")] == [True, False, True]
