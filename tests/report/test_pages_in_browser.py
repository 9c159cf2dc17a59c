"""The pages in a real browser: complete, quiet, readable on a phone and in the dark.

The screenshots stay in output/test_screenshots. Without a Chromium these tests are skipped; with CI
set they fail.
"""

import os
import re
from pathlib import Path

import pytest
from browser import Browser, find_browser
from made_up_plans import make_plan
from made_up_transfer import make_experiment

from det_transfer.report import transferability
from det_transfer.report.comparison import compare
from det_transfer.report.comparison_page import comparison_page
from det_transfer.report.growth_page import write_page, write_relations
from det_transfer.report.growth_relations import examine
from det_transfer.report.html import render
from det_transfer.report.run_page import make_report
from det_transfer.report.runs import read_run

SCREENSHOTS = Path(__file__).parents[2] / "output" / "test_screenshots"

# The lowest contrast of all words with what lies behind them. Source: WCAG 2.2, 1.4.3.
CONTRAST = """(() => {
  const read = text => text.match(/[0-9.]+/g).map(Number);
  const light = c => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) => {
    const v = c[k] / 255;
    return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const behind = node => {
    for (let n = node; n; n = n.parentElement) {
      const c = read(getComputedStyle(n).backgroundColor);
      if (c.length === 3 || c[3] > 0) return c;
    }
    return [255, 255, 255];
  };
  let worst = [99, ""];
  const words = "p, h1, h2, h3, td, th, a, li, summary, figcaption, svg text, .value, .label";
  for (const node of document.querySelectorAll(words)) {
    if (!node.textContent.trim() || !node.getClientRects().length) continue;
    const style = getComputedStyle(node);
    const ink = read(node.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(node))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst[0]) worst = [ratio, node.tagName + ": " + node.textContent.slice(0, 40)];
  }
  return worst;
})()"""


@pytest.fixture(scope="module")
def browser():
    program = find_browser()
    if program is None:
        said = "no Chromium: apt-get install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(said)
    with Browser(program) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(evaluated, tmp_path_factory):
    """Name -> file."""
    folder = tmp_path_factory.mktemp("pages")
    runs = [read_run(evaluated / f"{m}_s{s}") for m in ("frozen", "finetune") for s in (1, 2)]
    comparison = folder / "comparison.html"
    comparison.write_text(render(comparison_page(compare(runs, draws=50))), encoding="utf-8")
    report = make_report(evaluated / "frozen_s1", folder / "report.html")
    experiment = make_experiment(
        folder / "plan", ("random0", "dissimilar"), skip=["random0_A3B_s1"]
    )
    plan = make_plan(folder, 1, runs=True)
    findings = write_relations([plan], examine([plan]), folder)
    return {
        "report": report,
        "comparison": comparison,
        "transferability": transferability.write(experiment),
        "growth": write_page(plan)[-1],
        "relations": findings,
    }


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("report", 9),
        ("comparison", 9),
        ("transferability", 9),
        ("growth", 0),
        ("relations", 0),
    ],
)
def test_page(browser, pages, name, images, width, dark):
    browser.open(pages[name], width=width, dark=dark)
    assert browser.complaints() == []
    assert browser.requests() == []
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert browser.evaluate("document.images.length") >= images
    assert browser.evaluate(broken) == 0
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('svg, img, p, h1, h2, h3, .tile')]"
    beyond = f"{shown}.filter(n => n.getBoundingClientRect().right > {width} + 0.5).length"
    assert browser.evaluate(beyond) == 0
    # No word of a drawing is too small to read.
    heights = (
        "[...document.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)"
    )
    small = f"Math.min(...{heights})"
    assert browser.evaluate(small) >= 9
    contrast, words = browser.evaluate(CONTRAST)
    assert contrast >= 4.5, words
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = max(map(int, re.findall(r"\d+", paper)[:3]))
    assert (brightness < 80) == dark
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    browser.screenshot(SCREENSHOTS / f"{name}_{width}_{'dark' if dark else 'light'}.png", width)


def test_the_checks_can_fail(browser, tmp_path):
    """A page that does all that ours must not."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<body style='background:#fff'><p style='color:#ccc; width: 900px'>pale and wide</p>"
        "<img src='https://example.invalid/x.png'><script>console.error('x')</script>"
    )
    browser.open(page, width=390, dark=False)
    assert browser.complaints()
    assert browser.requests()
    assert browser.evaluate("document.documentElement.scrollWidth") > 390
    assert browser.evaluate(CONTRAST)[0] < 4.5
