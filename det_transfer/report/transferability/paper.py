"""The numbers of "How transferable are features in deep neural networks?", to be laid under ours.

Source: Yosinski, Clune, Bengio and Lipson, NIPS 2014; curves computed from the authors' released
logs with their own rule, the mean of the ten best validation accuracies of a run. ImageNet in two
halves of 500 classes, an eight-layer network; random features on all 1,000 classes.
"""

from collections.abc import Mapping

__all__ = [
    "BOOST",
    "DIFFERENCES",
    "LAYERS",
    "PAIRED_BOOST",
    "PAIRED_BOOST_SELF",
    "SHARES",
    "TOP1",
    "at",
]

LAYERS = 8

# Treatment -> top-1 in percent at n = 0 ... 7. Figure 2. The means of BnB+ and AnB+ are over
# different targets and must not be subtracted from one another.
TOP1 = {
    "BnB": (62.51, 62.67, 62.35, 62.11, 60.48, 59.35, 61.88, 62.32),
    "BnB+": (62.51, 61.77, 62.15, 63.13, 62.87, 63.01, 62.76, 62.66),
    "AnB": (62.51, 62.82, 62.39, 61.89, 59.98, 57.80, 58.06, 54.25),
    "AnB+": (62.51, 63.73, 63.58, 64.26, 63.98, 64.46, 64.60, 64.65),
}
_RANDOM = (57.63, 49.17, 40.26, 0.11, 1.91, 4.99, 1.45, 1.46)  # Figure 3

# (treatment, kind of split) -> points above the base of the same target, at n = 1 ... 7.
DIFFERENCES: Mapping[tuple[str, str], tuple[float, ...]] = {
    ("BnB", "random"): (0.35, 0.03, -0.21, -1.85, -2.97, -0.45, 0.00),
    ("AnB", "random"): (0.31, -0.12, -0.62, -2.53, -4.71, -4.45, -8.26),
    ("AnB", "dissimilar"): (0.3, -0.9, -3.2, -7.3, -13.0, -16.6, -25.0),
    ("random", "random"): tuple(round(value - _RANDOM[0], 2) for value in _RANDOM[1:]),
}
# Treatment -> accuracy in percent of that of the base, at n = 1 ... 7.
SHARES = {
    "random": tuple(100 * value / _RANDOM[0] for value in _RANDOM[1:]),
    **{t: tuple(100 * v / TOP1[t][0] for v in TOP1[t][1:]) for t in ("BnB", "AnB")},
}

# Table 1: first layer of the range -> boost of AnB+ over the base, and over BnB+, in points.
BOOST = {1: (1.6, 1.4), 3: (1.8, 1.4), 5: (2.1, 1.7)}
# The same over the base from the released logs, within targets. Of AnB+ over BnB+ there is none:
# no target has logs of both.
PAIRED_BOOST = {1: 0.97, 3: 1.16, 5: 1.16}
PAIRED_BOOST_SELF = {1: 0.94, 3: 1.13, 5: 1.03}  # BnB+ over the base


def at(values: tuple[float, ...], layers: int, first: int = 1) -> tuple[list[float], list[float]]:
    """Values at each n from `first` on as a curve over our cuts, n stretched to our depth."""
    return [n * layers / LAYERS for n in range(first, first + len(values))], list(values)
