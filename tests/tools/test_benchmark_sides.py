"""Sides of a benchmark take turns, and one that ends does not leave the others waiting."""

import os
import time
from functools import partial

import pytest
from sides import SideEndedError, take_turns


def waits(seconds):
    return partial(time.sleep, seconds)


def breaks_at_once():
    raise ValueError("there is no such model")


def is_killed_in_its_first_turn():
    return partial(os._exit, 9)


def test_turns_are_counted_after_two_rounds():
    turns = take_turns({"short": partial(waits, 0.01), "long": partial(waits, 0.05)}, rounds=3)
    assert [len(turn.seconds) for turn in turns.values()] == [3, 3]
    assert turns["long"].summary()["min"] >= 0.05 > turns["short"].summary()["median"] >= 0.01
    assert all(turn.peak > 1e6 for turn in turns.values())
    assert max(turns["long"].cpu) < 0.05  # it slept


@pytest.mark.parametrize(
    ("makers", "said"),
    [
        ({"broken": breaks_at_once}, "broken ended with exit code 1"),
        (
            {"good": partial(waits, 0.01), "killed": is_killed_in_its_first_turn},
            "killed ended with exit code 9",
        ),
    ],
    ids=["broken", "killed"],
)
def test_a_side_that_ends_is_named(makers, said):
    with pytest.raises(SideEndedError, match=said):
        take_turns(makers, rounds=2)
