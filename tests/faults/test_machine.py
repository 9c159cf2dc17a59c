"""Disk full, memory gone, processes killed: one line, nothing lost, nothing hangs."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
import torch
from programs import ROOT, TINY, train

from det_transfer import run_folder
from det_transfer.engine.launch import MACHINE_FAULT

SHORT = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2]
LONG = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 100000, "SOLVER.STEPS", "(50000,)"]
LONG += ["SOLVER.BASE_LR", 1e-6, "SOLVER.CHECKPOINT_PERIOD", 100000]


def said_in_one_line(program):
    lines = [line for line in program.said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, program.said[-3000:]
    assert "Traceback" not in program.said, program.said[-3000:]
    return lines[0]


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.glob("*.pth")}


@pytest.mark.parametrize("mode", ["frozen", "finetune"])
def test_disk_full(tiny_coco, tmp_path, mode):
    """By a limit on the size of files, at which a write fails as it does on a full disk."""
    run, options = tmp_path / "run", [*SHORT, "MODEL.REUSE.MODE", mode]
    assert train(tmp_path / "log", tiny_coco, tmp_path / "whole", *options).wait() == 0
    first = train(tmp_path / "log", tiny_coco, run, *options, "SOLVER.MAX_ITER", 2)
    assert first.wait() == 0, first.said
    (run / "model_final.pth").unlink()
    (run / "last_checkpoint").write_text("model_0000001.pth")
    before = contents(run)
    limit = (run / "model_0000001.pth").stat().st_size - 1
    again = {"flags": ["--resume"], "limits": [("RLIMIT_FSIZE", limit)]}
    full = train(tmp_path / "log", tiny_coco, run, *options, **again)
    assert full.wait() == MACHINE_FAULT, full.said[-3000:]
    assert "--resume goes on" in said_in_one_line(full)
    assert contents(run) == before
    assert not list(run.glob(".*.tmp"))
    assert run_folder.read_json(run / run_folder.RUN)["status"] == "failed"
    resumed = train(tmp_path / "log", tiny_coco, run, *options, flags=["--resume"])
    assert resumed.wait() == 0, resumed.said[-3000:]
    whole = torch.load(tmp_path / "whole/model_final.pth", weights_only=True)["model"]
    found = torch.load(run / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(whole[name], found[name]) for name in whole)


FILL = """
until grep -q '{moment}' '{log}' || ! kill -0 $!; do sleep 0.1; done
cat /dev/zero > '{disk}/filler' 2> /dev/null
"""
SMALL_DISK = """
mount -t tmpfs -o size={size} none {disk} || exit 77
cd {root}
{python} tools/train_net.py {argv} OUTPUT_DIR {disk}/run > {log} 2>&1 &
{fill}
wait $!; code=$?
find {disk}/run -name '.*.tmp' > {log}.left
exit $code
"""


@pytest.mark.parametrize(
    ("size", "moment"),
    [("92k", ""), ("4m", "iter: 39")],
    ids=["at a checkpoint", "while it trains"],
)
def test_a_disk_that_is_full_for_all_files(tiny_coco, tmp_path, size, moment):
    """Not even the logs can be written, of which neither logging nor Python may complain."""
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    log.touch()
    options = LONG if moment else SHORT
    argv = ["--config-file", str(TINY), *map(str, options)]
    argv += ["DATASETS.CUSTOM", repr([["tiny", *map(str, tiny_coco)]])]
    script = SMALL_DISK.format(
        size=size,
        disk=shlex.quote(str(disk)),
        log=shlex.quote(str(log)),
        root=shlex.quote(str(ROOT)),
        python=shlex.quote(sys.executable),
        argv=shlex.join(argv),
        fill=FILL.format(moment=moment, log=log, disk=disk) if moment else "",
    )
    # In a namespace of its own: the mount is gone with it, whatever happens.
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    if not shutil.which("unshare") or subprocess.run([*command[:3], "true"]).returncode:
        pytest.skip("nothing can be mounted here")
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=150)
    if done.returncode == 77:
        pytest.skip("nothing can be mounted here")
    said = log.read_text()
    assert done.returncode == MACHINE_FAULT, said[-3000:]
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert lines == ["error: the disk is full; what was written before is whole, --resume goes on"]
    for noise in ("Traceback", "Logging error", "Exception ignored", "Exception in thread"):
        assert noise not in said
    assert (tmp_path / "log.left").read_text() == ""


def test_a_loading_process_is_killed(tiny_coco, tmp_path):
    options = [*LONG, "DATALOADER.NUM_WORKERS", 2]
    program = train(tmp_path / "log", tiny_coco, tmp_path / "run", *options)
    program.until(lambda: "iter: 19" in program.said)
    workers = program.until(program.children)
    os.kill(workers[0], signal.SIGKILL)
    assert program.wait(60) == MACHINE_FAULT, program.said[-3000:]
    assert "lower DATALOADER.NUM_WORKERS" in said_in_one_line(program)


def test_a_rank_is_lost(tiny_coco, tmp_path):
    opts = [*LONG, "SOLVER.IMS_PER_BATCH", 2]
    flags = ["--num-gpus", "2", "--dist-url", "auto"]
    program = train(tmp_path / "log", tiny_coco, tmp_path / "run", *opts, flags=flags)
    program.until(lambda: "iter: 19" in program.said, 200)
    ranks = [pid for pid in program.children() if _is_rank(pid)]
    os.kill(ranks[-1], signal.SIGKILL)
    assert program.wait(120) == MACHINE_FAULT, program.said[-3000:]
    assert re.search(r"(process \d of this run was killed|another process)", program.said)
    assert not [pid for pid in ranks if _is_rank(pid)], "a process is left behind"


def _is_rank(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return "spawn_main" in file.read()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_memory_of_the_host_runs_out(tiny_coco, tmp_path):
    """By a limit on the address space: what torch itself says of it is understood."""
    options = [*LONG, "INPUT.MIN_SIZE_TRAIN", "(4000,)", "INPUT.MAX_SIZE_TRAIN", 6000]
    limits = [("RLIMIT_AS", 8 << 30)]
    program = train(tmp_path / "log", tiny_coco, tmp_path / "run", *options, limits=limits)
    assert program.wait() == MACHINE_FAULT, program.said[-3000:]
    assert "out of memory" in said_in_one_line(program)
