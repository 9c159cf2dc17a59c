from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from openmoji_plan import BadOptions, Content, frequency, plan


def train_images(images) -> Counter:
    return Counter(
        index
        for image in images
        for index in {c for c, seen in zip(image.classes, image.annotated, strict=True) if seen}
    )


def check(content: Content, splits) -> None:
    """All that a plan promises."""
    counts = train_images(splits["train"])
    letters = Counter(frequency(counts[index]) for index in range(content.classes))
    assert letters == +Counter(r=content.rare, c=content.common, f=content.frequent)
    assert min(counts.values()) >= 3
    in_val = train_images(splits["val"])
    assert min(in_val[index] for index in range(content.classes)) >= content.val_least
    assert len(splits["train"]) == content.train_images
    assert len(splits["val"]) == content.val_images
    for image in [*splits["train"], *splits["val"]]:
        shown = Counter(image.classes)
        assert content.objects[0] <= len(image.classes) <= content.objects[1]
        assert not set(image.negatives) & set(shown)
        assert len(set(image.negatives)) == min(content.negatives, content.classes - len(shown))
        annotated = Counter(
            c for c, seen in zip(image.classes, image.annotated, strict=True) if seen
        )
        # Not exhaustive says: some objects are annotated and some are not.
        partly = {c for c in shown if annotated[c] < shown[c]}
        assert partly == set(image.not_exhaustive)
        assert all(annotated[c] >= 1 for c in shown)


def test_the_default_plan_holds_lvis_thresholds():
    content = Content()
    check(content, plan(content, np.random.default_rng(0)))
    assert content.classes >= 100
    assert content.train_images >= 1200
    assert content.val_images >= 400


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rare=st.integers(0, 8),
    common=st.integers(1, 4),
    frequent=st.integers(0, 2),
    train=st.integers(110, 160),
    val=st.integers(30, 60),
    objects=st.tuples(st.integers(1, 4), st.integers(0, 5)).map(lambda t: (t[0], sum(t))),
    negatives=st.integers(0, 20),
    not_exhaustive=st.floats(0, 1),
)
def test_any_plan_that_is_made_keeps_its_promises(
    seed, rare, common, frequent, train, val, objects, negatives, not_exhaustive
):
    content = Content(rare, common, frequent, train, val, objects, 3, negatives, not_exhaustive)
    try:
        splits = plan(content, np.random.default_rng(seed))
    except BadOptions:
        assume(False)
    check(content, splits)


def test_the_seed_decides():
    content = Content(rare=3, common=8, frequent=0, train_images=60, val_images=20)
    first, again, other = (plan(content, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_what_cannot_be_is_said():
    content = Content(frequent=60, train_images=300)
    with pytest.raises(BadOptions, match="--frequent 60 needs more than 100 train images"):
        plan(content, np.random.default_rng(0))
    with pytest.raises(BadOptions, match="have room for 300 to"):
        plan(replace(content, rare=2, common=0, frequent=0), np.random.default_rng(0))
