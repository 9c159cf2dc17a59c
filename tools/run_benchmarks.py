#!/usr/bin/env python3
"""All benchmarks of tools/benchmarks, one after the other, and a page of bars: `make benchmark`.

    python tools/run_benchmarks.py                            # sizes for two cores: hours
    python tools/run_benchmarks.py --device cuda              # what has sizes for a GPU
    python tools/run_benchmarks.py --only reuse_modes checkpoints
    python tools/run_benchmarks.py --page-only                # from the json files that are there

Each writes OUTPUT/benchmark_NAME.json and a log beside it; the page is OUTPUT/benchmarks.html. The
jsons of a machine that nothing else uses can be copied to docs/results (make results).

Exit codes: 0 all were measured, 1 one has failed, 2 a mistake in the command.
"""

import argparse
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from det_transfer.data.catalog import datasets_root
from det_transfer.engine.launch import run
from det_transfer.errors import UserError
from det_transfer.report.benchmarks import write_page
from det_transfer.run_folder import read_json

ROOT = Path(__file__).resolve().parents[1]
# Pictures with masks, for what needs some.
DRAWN = shlex.quote(str(Path(datasets_root()) / "openmoji"))


@dataclass(frozen=True)
class Benchmark:
    """Attributes:
    script: in tools/benchmarks
    cpu, cuda: its arguments; None: not for such a machine
    """

    script: str
    cpu: str | None = ""
    cuda: str | None = None


SUITE = {
    "reuse_modes": Benchmark("reuse_modes", cuda="--device cuda --batch 16 --size 1024"),
    "step_profile": Benchmark(
        "step_profile", cuda="--device cuda --batch 8 --size 1024 --rois 512"
    ),
    "nasfpn": Benchmark("nasfpn", cuda="--device cuda --batch 16 --compile"),
    "scale": Benchmark(
        "scale", f"--photos {DRAWN}/train --annotations {DRAWN}/openmoji_lvis_train.json"
    ),
    "shared_backbone": Benchmark("shared_backbone", cuda="--device cuda --size 1024"),
    "cost_growth": Benchmark(
        "cost_growth",
        cuda="--parts classes objects repeats --device cuda --batch 8 --size 1024 --rois 512",
    ),
    "evaluation": Benchmark("evaluation", "--repeats 2"),
    "evaluation_lvis_val": Benchmark(
        "evaluation", "--images 19809 --ours-only --only lvis/bbox lvis/segm --repeats 3"
    ),
    "checkpoints": Benchmark("checkpoints"),
    "cold_start": Benchmark("cold_start"),
    "data_loading": Benchmark(
        "data_loading", f"speed --json {DRAWN}/openmoji_lvis_train.json --photos {DRAWN}/train"
    ),
    "annotations": Benchmark("data_loading", "annotations"),
    "dataset_check": Benchmark("dataset_check"),
    "growth": Benchmark("growth", "--runs"),
    "transferability": Benchmark("transferability"),
    "plan_overhead": Benchmark("plan_overhead"),
    "reports": Benchmark("reports"),
}


def main(args: argparse.Namespace) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    chosen = {name: getattr(SUITE[name], args.device) for name in args.only or SUITE}
    chosen = {name: words for name, words in chosen.items() if words is not None}
    if not chosen:
        raise UserError(f"--only {' '.join(args.only)}: none has sizes for --device {args.device}")
    failed = {}
    if not args.page_only:
        subprocess.run([sys.executable, ROOT / "datasets/prepare_openmoji.py"], check=True)
        failed = {n: why for n, words in chosen.items() if (why := measure(n, words, args.output))}
    files = {name: args.output / f"benchmark_{name}.json" for name in SUITE}
    reports = {n: read_json(f) for n, f in files.items() if f.is_file() and n not in failed}
    write_page(args.output / "benchmarks.html", reports, failed)
    print(f"wrote {args.output / 'benchmarks.html'}")
    sys.exit(bool(failed))


def measure(name: str, words: str, output: Path) -> str:
    """Run one; why it could not, or nothing."""
    json, log = output / f"benchmark_{name}.json", output / f"benchmark_{name}.log"
    script = ROOT / f"tools/benchmarks/{SUITE[name].script}.py"
    print(f"begins  {name}", flush=True)
    began = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [sys.executable, str(script), *shlex.split(words), "--output", str(json)],
            stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    if done.returncode:
        last = (log.read_text(encoding="utf-8", errors="replace").splitlines() or [""])[-1]
        print(f"failed  {name}: {last}")
        return f"{last} ({log})"
    print(f"done    {name} in {time.monotonic() - began:.0f} s", flush=True)
    return ""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SUITE, metavar="NAME", help=", ".join(SUITE))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--output", type=Path, default=Path("output/benchmarks"))
    parser.add_argument("--page-only", action="store_true", help="measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(main, parse()))
