"""Whatever the pages name is there: files, links, commands with their flags, config keys."""

import argparse
import fnmatch
import re
import runpy
import sys

import pytest
from detectron2.config import get_cfg
from markdown_pages import IDS, PAGES, ROOT, anchors, blocks, braces, commands, links, prose

from det_transfer.config import add_det_transfer_config, leaves

on_each_page = pytest.mark.parametrize("page", PAGES, ids=IDS)


@on_each_page
def test_links_lead_somewhere(page):
    broken = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_index_has_every_page():
    index = ROOT / "docs" / "README.md"
    missing = {p.name for p in (ROOT / "docs").glob("*.md")} - {*links(index), index.name}
    assert not missing


@on_each_page
def test_files_exist(page):
    """Programs, recipes, pages and tests, between backticks or in blocks."""
    text = page.read_text()
    found = re.findall(
        r"(?<![\w/.-])(?:tools|configs|datasets|docs|tests|det_transfer)/[\w/{},*-]+\.(?:py|yaml|md)",
        text,
    )
    missing = [
        name
        for word in found
        for name in braces(word)
        if not any(ROOT.glob(name)) and not any((ROOT / "det_transfer").glob(name))
    ]
    assert not missing


def test_recipes_of_the_papers_exist():
    """Where they are named without their folder."""
    text = (ROOT / "docs" / "papers.md").read_text()
    found = re.findall(r"(?<![\w/])(?:mask_rcnn|rcnn|retinanet)_[\w{},]+", text)
    names = {name for word in found for name in braces(word)}
    assert len(names) > 20
    assert not {name for name in names if not any(ROOT.glob(f"configs/*/{name}.yaml"))}


class Accepted(BaseException):
    """The words have passed the parser."""


def refusal(program, words, monkeypatch, capsys):
    """What a program of ours says to the words, "" where it takes them; it gets no further."""
    parse = argparse.ArgumentParser.parse_args

    def only_parse(*args, **kwargs):
        parse(*args, **kwargs)
        raise Accepted

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
        patch.setattr(sys, "argv", [program, *words])
        patch.setattr(sys, "path", [str((ROOT / program).parent), *sys.path])
        try:
            runpy.run_path(str(ROOT / program), run_name="__main__")
        except Accepted:
            return ""
        except SystemExit as end:
            if end.code in (0, None):  # --help
                return ""
    return " ".join([program, *words, *capsys.readouterr().err.splitlines()[-1:]])


@on_each_page
def test_programs_take_the_words(page, monkeypatch, capsys):
    refused = []
    for program, words, all_of_them in commands(page):
        said = refusal(program, [w for w in words if w != "..."], monkeypatch, capsys)
        if said and (all_of_them or "arguments are required" not in said):
            refused.append(said)
    assert not refused


# Of programs that are not ours.
OTHERS_FLAGS = {"--nproc-per-node", "--nnodes", "--node-rank", "--rdzv-backend", "--rdzv-endpoint"}
OTHERS_FLAGS |= {"--standalone", "--no-deps", "--no-index", "--require-hashes", "--upgrade"}


@pytest.fixture(scope="module")
def flags():
    """Every flag of every program of ours, and Detectron2's."""
    sources = [*ROOT.glob("tools/**/*.py"), *ROOT.glob("datasets/*.py")]
    sources += [ROOT / "det_transfer" / "engine" / "setup.py"]
    found = {f for path in sources for f in re.findall(r'"(--[a-z][\w-]*)"', path.read_text())}
    from det_transfer.engine.setup import argument_parser
    from det_transfer.report.scale.machine import ASSUMPTIONS, option

    found |= {option(assumption.name) for assumption in ASSUMPTIONS}
    return found | set(argument_parser("")._option_string_actions) | OTHERS_FLAGS


@on_each_page
def test_flags_exist(page, flags):
    spans = re.findall(r"`([^`]+)`", prose(page))
    # Of a command line of another program only a person can say.
    spans = [span for span in spans if not re.match(r"(ruff|pip|ray|mlflow|tensorboard) ", span)]
    named = {flag for span in spans for flag in re.findall(r"(?<!\S)(--[a-z][\w-]*)", span)}
    assert named <= flags


@pytest.fixture(scope="module")
def keys():
    cfg = get_cfg()
    add_det_transfer_config(cfg)
    names = {name for name, _ in leaves(cfg)}
    return names | {name.rsplit(".", n)[0] for name in names for n in range(1, name.count("."))}


@on_each_page
def test_config_keys_exist(page, keys):
    found = re.findall(
        r"(?<![\w.{])(?:MODEL|SOLVER|INPUT|DATASETS|DATALOADER|TEST|TRACKING)"
        r"(?:\.[A-Z0-9_*]+|\.\{[A-Z0-9_, *]+\})+",
        page.read_text(),
    )
    named = {name for word in found for name in braces(word)}
    missing = {name for name in named if not fnmatch.filter(keys, name)}
    assert not missing


@on_each_page
def test_targets_of_make_exist(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    code = [*re.findall(r"`([^`]+)`", prose(page)), *(block.text for block in blocks(page))]
    named = {
        target
        for text in code
        for target in re.findall(r"(?:^|\n|; )make (?:PYTHON=\S+ )?([a-z][a-z-]+)", text)
    }
    assert named <= set(targets)
