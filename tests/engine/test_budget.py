"""Budgets in words, and schedules that keep their form."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from det_transfer.config import load_config, validate
from det_transfer.engine.plan.budget import FEWEST_ITERATIONS, Budget, scaled_schedule
from det_transfer.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds", "iterations"),
    [("90s", 90, 0), ("20m", 1200, 0), ("1.5h", 5400, 0), ("500it", 0, 500)],
)
def test_words(text, seconds, iterations):
    budget = Budget.parse(text)
    assert (budget.seconds, budget.iterations) == (seconds, iterations)


@pytest.mark.parametrize("text", ["", "20", "20 m", "m", "-5m", "0s", "0it", "2d", "1.5it", "1e3s"])
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match=f"budget {text!r}: "):
        Budget.parse(text)


def test_iterations_of_a_time():
    assert Budget.parse("60s").iterations_at(0.25) == 240
    assert Budget.parse("60s").iterations_at(0.7) == 85  # never more than the budget
    assert Budget.parse("1s").iterations_at(30.0) == 1
    assert Budget.parse("500it").iterations_at(30.0) == 500


def config(*words):
    return load_config("configs/quickstart.yaml", [str(word) for word in words]).cfg


WHOLE = config()


def test_the_form_is_kept():
    cfg = config("TEST.EVAL_PERIOD", 100)
    assert scaled_schedule(cfg, 800) == {
        "SOLVER.MAX_ITER": 800,
        "SOLVER.STEPS": [560, 720],
        "SOLVER.WARMUP_ITERS": 80,
        "SOLVER.CHECKPOINT_PERIOD": 200,
        "TEST.EVAL_PERIOD": 200,
    }
    assert scaled_schedule(config(), 40)["TEST.EVAL_PERIOD"] == 0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(FEWEST_ITERATIONS, 100_000),
    st.integers(20, 300_000),
    st.lists(st.floats(0.01, 1.2), max_size=4),
    st.integers(0, 1000),
)
def test_every_scaled_schedule_is_a_valid_one(iterations, whole, shares, warmup):
    steps = tuple(sorted({int(share * whole) for share in shares}))
    cfg = WHOLE.clone()
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = whole, steps, warmup
    for key, value in scaled_schedule(cfg, iterations).items():
        group, name = key.split(".")
        cfg[group][name] = tuple(value) if isinstance(value, list) else value
    validate(cfg)
    assert iterations == cfg.SOLVER.MAX_ITER
    assert cfg.SOLVER.CHECKPOINT_PERIOD >= 1
