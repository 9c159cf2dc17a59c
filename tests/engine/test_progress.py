"""Plain lines where there is no terminal."""

import sys

from det_transfer.engine.progress import watched


def test_a_line_now_and_then(monkeypatch, capsys):
    times = iter([0.0, 10.0, 31.0, 50.0, 62.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    assert list(watched("abcd", total=8, unit="image")) == list("abcd")
    assert capsys.readouterr().err.splitlines() == [
        "2 of 8 images, 15.5 s each, about 93 s to go",
        "4 of 8 images, 15.5 s each, about 62 s to go",
    ]


def test_an_unknown_end(monkeypatch, capsys):
    times = iter([0.0, 40.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    list(watched("a", total=0, unit="frame"))
    assert capsys.readouterr().err == "1 frames, 40.0 s each\n"


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(watched("abcd", total=4, unit="image")) == list("abcd")
    assert "4/4" in capsys.readouterr().err
