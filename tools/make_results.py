#!/usr/bin/env python3
"""Measured numbers: from run folders to docs/results/*.json, and from these to the page.

    python tools/make_results.py                 # write docs/results/README.md and other tables
    python tools/make_results.py --check         # say what is not up to date; exit 1 if anything is
    python tools/make_results.py collect quickstart --title "The first run" \\
        --question "What does a pretrained backbone bring?" \\
        --group "frozen, pretrained=*/frozen_*" --group "frozen, random=*/random_*" output/*_seed?
    python tools/make_results.py collect quickstart --add ... output/*_seed3     # later, elsewhere
    python tools/make_results.py join modes_intervals --title "Frozen minus fine-tuned" \\
        "on cells=cells.json" "on rooms=rooms.json"     # of tools/compare_runs.py --output-json
    python tools/make_results.py ranking which_backbone output/ranking \\
        --title "Which backbone?" --question "Do scores order backbones as accuracies do?"
    python tools/make_results.py transferability transferability_tiny output/transferability \\
        --title "How transferable?" --question "Where is a network general?"

Exit codes: 0 done, 1 not up to date, 2 a mistake in files or command line.
"""

import argparse
import re
import shlex
import sys
from pathlib import Path

from det_transfer.errors import UserError, exit_code, raise_all
from det_transfer.report import transferability
from det_transfer.report.collect import KIND, collect
from det_transfer.report.comparison import joined
from det_transfer.report.conditions import Said, relative
from det_transfer.report.growth_results import collect_analysis, collect_growth
from det_transfer.report.ranking_results import collect_ranking
from det_transfer.report.results import FOLDER, copy_pictures, render, stale, write
from det_transfer.run_folder import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]


def make_page(args: argparse.Namespace) -> int:
    if not args.check:
        for path in write(args.root):
            print(f"wrote {path}")
        return 0
    old = stale(args.root, render(args.root))
    for path in old:
        print(f"{path} is not what {FOLDER}/*.json give: run make results, do not edit it by hand")
    return 1 if old else 0


def make_json(args: argparse.Namespace) -> int:
    check_name(args.name)
    earlier = collected_before(args) if args.add else {}
    missing = [name for name in ("title", "question") if not (getattr(args, name) or earlier)]
    raise_all(f"--{name} is missing; only --add takes it from the json" for name in missing)
    said = Said(
        args.title or earlier["title"],
        args.question or earlier["question"],
        args.note,
        args.machine,
        shlex.join(sys.argv),
    )
    if args.growth_table:
        if len(args.runs) > 1 or args.add:
            raise UserError("--growth-table takes the folder of one plan, and no --add")
        return save(args, collect_growth(args.runs[0], args.root, said))
    if args.growth_analysis:
        if len(args.runs) > 1 or args.add:
            raise UserError("--growth-analysis takes the folder of one analysis, and no --add")
        content = collect_analysis(args.runs[0], args.root, said)
        args.pictures = len(content["captions"])
    else:
        content = collect(args.runs, args.root, said, groups=args.group, earlier=earlier)
    shown = args.pictures_from or next((r for r in args.runs if has_pictures(r)), None)
    if args.pictures and shown is None:
        print("no run has pictures: tools/draw_predictions.py RUN makes them")
    elif args.pictures:
        if not has_pictures(shown):
            raise UserError(
                f"{shown} has no pictures: tools/draw_predictions.py {shown} makes them"
            )
        content["pictures"] = copy_pictures(args.name, shown, args.pictures, args.root)
    return save(args, content)


def save(args: argparse.Namespace, content: dict) -> int:
    write_json(args.root / FOLDER / f"{args.name}.json", content)
    print(f"wrote {FOLDER}/{args.name}.json; make results writes the page")
    return 0


def collected_before(args: argparse.Namespace) -> dict:
    path = args.root / FOLDER / f"{args.name}.json"
    if not path.is_file():
        raise UserError(f"--add: there is no {path}; leave --add out and give --title, --question")
    content = read_json(path)
    if content.get("kind") != KIND:
        raise UserError(f"--add: {path} was not collected from run folders")
    return content


def make_transferability(args: argparse.Namespace) -> int:
    check_name(args.name)
    said = Said(args.title, args.question, args.note, args.machine, shlex.join(sys.argv))
    content = transferability.collect(args.folder, args.root, said, made_by=args.made_by)
    return save(args, content)


def make_ranking(args: argparse.Namespace) -> int:
    check_name(args.name)
    said = Said(args.title, args.question, args.note, args.machine, shlex.join(sys.argv))
    return save(args, collect_ranking(args.folder, args.root, said))


def make_joined(args: argparse.Namespace) -> int:
    check_name(args.name)
    parts = {}
    for words in args.parts:
        label, equals, path = words.rpartition("=")
        if not (label and equals):
            raise UserError(f"{words} is not LABEL=FILE")
        if label in parts:
            raise UserError(f"{words}: there is a file with the label {label} already")
        parts[label] = read_json(path)
    content = joined(parts, title=args.title, note=args.note, metrics=args.metrics)
    collected_by = relative(shlex.join(sys.argv), args.root.resolve())
    return save(args, {**content, "collected_by": collected_by})


def check_name(name: str) -> None:
    if not re.fullmatch(r"[\w-]+", name):
        raise UserError(f"NAME is {name!r}; letters, digits, - and _ make a file's name")


def has_pictures(run: str) -> bool:
    return any((Path(run) / "pictures").glob("*.jpg"))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout (default: this one)")
    parser.add_argument("--check", action="store_true", help="write nothing, see above")
    parser.set_defaults(call=make_page)
    commands = parser.add_subparsers(metavar="COMMAND")

    page = commands.add_parser("page", help="write the page (what is done without a COMMAND)")
    page.add_argument("--check", action="store_true", default=argparse.SUPPRESS)

    one = commands.add_parser("collect", help=f"write {FOLDER}/NAME.json from run folders")
    one.set_defaults(call=make_json)
    add_words(one, required=False)
    one.add_argument("runs", metavar="RUN", nargs="+", help="finished run folders")
    one.add_argument(
        "--add",
        action="store_true",
        help="keep the json's runs of other seeds; notes that are given replace its notes",
    )
    one.add_argument(
        "--growth-table",
        action="store_true",
        help="RUN is the folder of a plan of tools/run_growth.py",
    )
    one.add_argument(
        "--growth-analysis",
        action="store_true",
        help="RUN is what tools/analyze_growth.py wrote",
    )
    one.add_argument(
        "--group",
        action="append",
        default=[],
        metavar="LABEL=GLOB",
        help="runs that differ in their seed alone; the first glob that fits a run counts "
        "(default: names that differ in a seed at the end)",
    )
    one.add_argument("--pictures", type=int, default=4, metavar="N", help="how many to copy")
    one.add_argument("--pictures-from", metavar="RUN", help="default: the first that has some")

    transfer = commands.add_parser(
        "transferability", help=f"write {FOLDER}/NAME.json from a transferability experiment"
    )
    transfer.set_defaults(call=make_transferability)
    add_words(transfer, required=True)
    transfer.add_argument("folder", metavar="PLAN_FOLDER", help="of tools/run_transferability.py")
    transfer.add_argument(
        "--made-by", default="", metavar="COMMAND", help="what carried the plan out, for the page"
    )

    ranking = commands.add_parser("ranking", help=f"write {FOLDER}/NAME.json from a ranking")
    ranking.set_defaults(call=make_ranking)
    add_words(ranking, required=True)
    ranking.add_argument("folder", metavar="OUT", help="of tools/rank_backbones.py")

    several = commands.add_parser(
        "join", help=f"write {FOLDER}/NAME.json from several files of tools/compare_runs.py"
    )
    several.set_defaults(call=make_joined)
    several.add_argument("name", metavar="NAME")
    several.add_argument("--title", required=True)
    several.add_argument("--note", default="", help="stands before those of the files")
    several.add_argument(
        "--metrics",
        default=[],
        type=lambda words: [word for word in words.split(",") if word],
        metavar="AP,AP50,...",
        help="that are kept (default: all)",
    )
    several.add_argument("parts", metavar="LABEL=FILE", nargs="+")
    return parser.parse_args(argv)


def add_words(parser: argparse.ArgumentParser, required: bool) -> None:
    """The name of a json, and what stands beside its numbers."""
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("--title", required=required)
    parser.add_argument("--question", required=required, help="what the runs are to answer")
    parser.add_argument("--note", action="append", default=[], help="a paragraph for the page")
    parser.add_argument("--machine", default="", help="of the runs (default: this machine's)")


def main() -> int:
    args = parse()
    return exit_code(args.call, args)


if __name__ == "__main__":
    sys.exit(main())
