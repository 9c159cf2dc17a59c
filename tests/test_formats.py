"""Contents held to a schema: what does not fit is said with its place, in few words."""

import pytest

from det_transfer.errors import UserError
from det_transfer.formats import FEATURES, RUN, check, misfits


def places(content, schema=RUN):
    return [place for place, _ in misfits(content, schema)]


def test_what_fits_is_silent():
    assert places({}) == []
    assert places({"seed": 3, "results": {"bbox": {"AP": 1.0, "AP-cat": None}}}) == []
    assert places({"reuse": ({"module": "a", "parameters": 3, "trainable": 0},)}) == []


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ({"seed": 1.5}, ("seed",)),
        ({"seed": True}, ("seed",)),
        ({"processes": -1}, ("processes",)),
        ({"seconds": {"training": float("nan")}}, ("seconds", "training")),
        ({"seconds": {"training": 10**400}}, ("seconds", "training")),
        ({"reuse": [{"module": "a", "parameters": 3}]}, ("reuse", 0)),
        ({"results": {"bbox": {"AP": "high"}}}, ("results",)),
    ],
)
def test_what_does_not_fit_is_named(content, place):
    (found,) = places(content)
    assert found[: len(place)] == place


def test_the_error_says_where_and_stays_short():
    content = {"stages": [{"stage": "res4", "cka": "x" * 10_000}]}
    with pytest.raises(UserError) as caught:
        check(content, FEATURES, "features.json")
    assert str(caught.value).startswith("features.json: stages[0].cka: ")
    assert len(str(caught.value)) < 300
