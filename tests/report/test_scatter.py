"""Pictures of points, a panel a network."""

import io

import numpy as np
from PIL import Image

from det_transfer.report.scatter import scatter


def test_a_panel_a_network_and_a_colour_a_class():
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(60, 2)), np.arange(60) % 3
    one = Image.open(io.BytesIO(scatter([("FT", points, labels)])))
    two = scatter([("FT", points, labels), ("WA", 2 * points, labels)])
    wide = Image.open(io.BytesIO(two))
    assert wide.height == one.height
    assert wide.width == 2 * one.width
    colours = {tuple(pixel) for pixel in np.asarray(one.convert("RGB")).reshape(-1, 3)}
    vivid = {c for c in colours if max(c) - min(c) > 80}
    assert len({np.argmax(c) for c in vivid}) > 1
    assert scatter([("FT", points, labels), ("WA", 2 * points, labels)]) == two
