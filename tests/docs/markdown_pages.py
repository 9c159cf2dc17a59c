"""The pages that people read, taken apart: links, headings, blocks, commands, names."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# docs/results/README.md is made of json files, and its commands name folders of the measured runs.
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "datasets" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"\s#\s.*")


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    text: str


def blocks(page):
    return [Block(*found) for found in _FENCE.findall(page.read_text("utf-8"))]


def prose(page):
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text("utf-8"))


def command_lines(page):
    """The lines of all blocks without a language, continued ones joined, comments left out."""
    for block in blocks(page):
        if not block.language:
            yield from shell_lines(block.text)


def shell_lines(text):
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = _COMMENT.sub("", " " + line).strip()
        if line and not line.startswith("#"):
            yield line


def program_of(line):
    """(path of our program, its words) of a command line, or None where it is none of ours."""
    try:
        words = shlex.split(line)
    except ValueError:  # a folder tree, say
        return None
    for number, word in enumerate(words):
        if re.fullmatch(r"(tools|datasets|docs/examples)/[\w/]+\.py", word):
            return word, words[number + 1 :]
    return None


def commands(page):
    """(program, its words, whether they are all) of every call: in blocks, and in the text.

    Between backticks a page may leave out what a reader knows; a name alone is no call.
    """
    for line in command_lines(page):
        if found := program_of(line):
            yield *found, True
    for code in re.findall(r"`([^`]+)`", prose(page)):
        if (found := program_of(" ".join(code.split()))) and found[1]:
            yield *found, False


def links(page):
    """Targets of links and pictures that are no web addresses."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    targets += re.findall(r'(?:src|href)="([^"]+)"', prose(page))
    return [target for target in targets if "://" not in target]


def anchors(page):
    """What GitHub makes of the headings."""
    titles = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


def braces(word):
    """``a.{B,C}`` -> ``a.B``, ``a.C``, as a shell does."""
    found = re.search(r"\{([^{}]*)\}", word)
    if not found:
        return [word]
    return [
        one
        for part in found[1].split(",")
        for one in braces(word[: found.start()] + part.strip() + word[found.end() :])
    ]
