#!/usr/bin/env python3
"""What the papers' recipes cost on 1, 8 and 64 GPUs, reckoned from what was measured.

    python tools/estimate_scale.py                            # write the tables of docs/scale.md
    python tools/estimate_scale.py --check                    # exit 1 where they are not up to date
    python tools/estimate_scale.py --show time limits --gpus-per-machine 4 --cores 32
    python tools/estimate_scale.py --show time --machine mine.json --output-json mine_costs.json

Measured rates and counts come from json files in docs/results; what is assumed of the machines is
in docs/scale.md with its sources, and each number has an option or a key in --machine's json. With
other numbers or columns than the defaults the page is not written: --show prints tables.

Exit codes: 0 done, 1 not up to date, 2 a mistake in files or command line.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from det_transfer.errors import UserError, exit_code
from det_transfer.report.scale.estimate import PAIRS, Estimate, numbers
from det_transfer.report.scale.inputs import read_networks, read_rates, read_recipes, read_zoo
from det_transfer.report.scale.machine import ASSUMPTIONS, option, read_machine
from det_transfer.report.scale.page import TABLES, blocks, fill
from det_transfer.report.scale.recipe import Recipe
from det_transfer.run_folder import replacing, write_json

DEFAULT_GPUS = (1, 8, 64)
ROOT = Path(__file__).resolve().parents[1]
RESULTS = "docs/results"
# What is measured -> the json with it.
SOURCES = {
    "loading": f"{RESULTS}/benchmark_data_loading.json",
    "coco_evaluation": f"{RESULTS}/benchmark_evaluation.json",
    "lvis_evaluation": f"{RESULTS}/benchmark_evaluation_lvis_val.json",
    "counts": f"{RESULTS}/benchmark_scale.json",
    "runs": f"{RESULTS}/reuse_modes_bccd.json",
}


def estimate(args: argparse.Namespace) -> Estimate:
    files = {name: getattr(args, name) for name in SOURCES}
    given = {a.name: getattr(args, a.name) for a in ASSUMPTIONS}
    given = {name: value for name, value in given.items() if value is not None}
    machine = read_machine(args.machine, given)
    default = read_machine(None, {})
    recipes = read_recipes(files["counts"])
    missing = sorted(
        path for sides in PAIRS.values() for path in sides if path and path not in recipes
    )
    if missing:
        raise UserError(f"{files['counts']}: it has no counts of {', '.join(missing)}")
    _check_shares(recipes, args.gpus)
    return Estimate(
        recipes=recipes,
        caffenet=read_networks(files["counts"]),
        zoo=read_zoo(files["counts"]),
        rates=read_rates(**files),
        machine=machine,
        sources={name: str(_relative(path)) for name, path in files.items()},
        given=frozenset(
            a.name for a in ASSUMPTIONS if getattr(machine, a.name) != getattr(default, a.name)
        ),
        gpus=tuple(args.gpus),
    )


def _check_shares(recipes: Mapping[str, Recipe], gpus: Sequence[int]) -> None:
    """Detectron2 gives each GPU as many images as any other."""
    for n in gpus:
        uneven = {path: r.batch for path, r in recipes.items() if r.batch % n}
        if uneven:
            path, batch = next(iter(uneven.items()))
            raise UserError(
                f"--gpus {n}: the {batch} images of a step of {path} cannot be shared evenly; take "
                "numbers that divide the batch of every recipe"
            )


def _relative(path: Path) -> Path:
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def main(args: argparse.Namespace) -> int:
    of = estimate(args)
    tables = blocks(of)
    if args.output_json:
        write_json(args.output_json, numbers(of))
    if args.show:
        print("\n\n".join(f"{name}\n\n{tables[name]}" for name in args.show))
        return 0
    if args.output_json and not args.check:
        return 0
    if of.given or of.gpus != DEFAULT_GPUS:
        raise UserError("the page has the default machine and columns: use --show or --output-json")
    return write_page(args.page, tables, args.check)


def write_page(page: Path, tables: dict[str, str], check: bool) -> int:
    if not page.is_file():
        raise UserError(f"{page} does not exist: it is written by hand, but for its tables")
    text = page.read_text(encoding="utf-8")
    filled = fill(text, tables, str(page))
    if text == filled:
        return 0
    if check:
        print(f"{page} is not what {RESULTS}/*.json give: run make results, do not edit its tables")
        return 1
    with replacing(page) as temporary:
        temporary.write_text(filled, encoding="utf-8")
    print(f"wrote {page}")
    return 0


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, see above")
    parser.add_argument("--show", nargs="+", choices=TABLES, metavar="TABLE", default=[])
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="all numbers")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "scale.md")
    parser.add_argument("--gpus", type=count, nargs="+", default=list(DEFAULT_GPUS), metavar="N")
    for name, path in SOURCES.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, type=Path, default=ROOT / path, metavar="JSON")
    machine = parser.add_argument_group("the assumed machine")
    machine.add_argument("--machine", metavar="JSON", help="names as below with _ -> value")
    for a in ASSUMPTIONS:
        machine.add_argument(option(a.name), dest=a.name, type=float, metavar="N", help=a.text)
    return parser.parse_args(argv)


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is no number of GPUs")
    return value


if __name__ == "__main__":
    sys.exit(exit_code(main, parse()))
