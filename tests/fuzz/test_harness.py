"""That the harness sees what it is there for, whatever a reader catches itself."""

import time

import numpy as np
import pytest
import torch
from damage import BYTES, DidNotComeBackError, no_longer_than, told

from det_transfer.errors import UserError


def fails_as_a_user_error(do):
    def read():
        try:
            do()
        except Exception as error:
            raise UserError("the file is broken") from error

    return read


def test_a_reader_that_does_not_come_back():
    def wait():
        time.sleep(10)

    read = fails_as_a_user_error(wait)
    with pytest.raises(DidNotComeBackError, match=r"in 0\.1 s"), no_longer_than(0.1):
        read()


def test_a_reader_that_lets_nothing_through():
    def stubborn():
        try:
            time.sleep(10)
        except BaseException:
            return

    with pytest.raises(DidNotComeBackError), no_longer_than(0.1):
        stubborn()


@pytest.mark.parametrize(
    "take",
    [
        lambda: bytearray(2 * BYTES),
        lambda: np.zeros(2 * BYTES, np.uint8),
        lambda: torch.empty(2 * BYTES, dtype=torch.uint8),
    ],
    ids=["python", "numpy", "torch"],
)
def test_a_reader_that_fills_the_memory(take):
    with pytest.raises(AssertionError, match="bytes were asked for"):
        told(fails_as_a_user_error(take))


def test_a_readers_own_words_are_no_matter():
    assert told(fails_as_a_user_error(lambda: int("x"))) is None
