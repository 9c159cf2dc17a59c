"""Stands in for train_net.py in tests of the plan runner: a run folder without a training.

Counts to SOLVER.MAX_ITER with a pause at each iteration, keeps its state, resumes from it, and
ends with results that depend on its options alone. OUTPUT_DIR's name decides whether it fails.
"""

import ast
import hashlib
import json
import os
import sys
import time
from pathlib import Path


def value(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def write(path, content):
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content))
    os.replace(temporary, path)


def main():
    words = sys.argv[1:]
    resume = "--resume" in words
    words = [word for word in words if word != "--resume"]
    if words[:1] == ["--config-file"]:
        words = words[2:]
    options = {key: value(text) for key, text in zip(words[::2], words[1::2], strict=True)}
    folder = Path(options["OUTPUT_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / "state.json"
    if state.exists() and not resume:
        sys.exit("error: the folder holds a run")
    if "mistake" in folder.name:
        sys.stderr.write("error: SOLVER.MAX_ITER is wrong\n")
        sys.exit(2)
    if "bug" in folder.name and not (folder / "mended").exists():
        raise RuntimeError("a bug")
    done = json.loads(state.read_text()) if state.exists() else 0
    starts = folder / "starts.txt"
    starts.write_text((starts.read_text() if starts.exists() else "") + f"{done}\n")
    total = options["SOLVER.MAX_ITER"]
    for iteration in range(done, total):
        time.sleep(options.get("SOLVER.BASE_LR", 0.01))
        with (folder / "metrics.json").open("a") as file:
            file.write(json.dumps({"iteration": iteration}) + "\n")
        write(state, iteration + 1)
        record = {"status": "running"}
        write(folder / "run.json", record)
    weights = options.get("MODEL.WEIGHTS", "")
    asked = {k: v for k, v in options.items() if k not in ("OUTPUT_DIR", "MODEL.WEIGHTS")}
    before = Path(weights).read_text() if weights else ""
    digest = hashlib.sha256((json.dumps(asked, sort_keys=True) + before).encode()).hexdigest()
    (folder / "model_final.pth").write_text(digest)
    torch = sys.modules.get("torch")  # of the process that a run is forked from
    score = int(digest[:6], 16) / 2**24 * 100
    write(
        folder / "run.json",
        {
            "status": "finished",
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "torch_threads": torch.get_num_threads() if torch else 0,
            "results": {"bbox": {"AP": score, "AP-cat": 1.0}},
            "seconds": {"training": time.perf_counter(), "evaluation": 0.1},
            "peak_memory_bytes": {"host": 1000},
        },
    )


if __name__ == "__main__":
    main()
