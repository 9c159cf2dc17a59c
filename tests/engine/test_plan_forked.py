"""Runs that are forked from one process: the same runs, their words and exit codes, the lock."""

import time
from pathlib import Path

import pytest
import yaml

from det_transfer import run_folder
from det_transfer.engine.plan import ForkedSlots, LocalSlots, Status, carry_out, read_plan
from det_transfer.engine.plan.runner import locked
from det_transfer.errors import UserError

FAKE = Path(__file__).parent / "fake_program.py"
# As tools/run_transferability.py has it: a process has one fork server, which imports what the
# first one asks for.
MODULES = ["det_transfer.classification"]


@pytest.fixture
def plan(tmp_path):
    def make(runs, output="runs", **options):
        content = {
            "program": str(FAKE),
            "output": str(tmp_path / output),
            "options": {"SOLVER.MAX_ITER": 2, **options},
            "runs": runs,
        }
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(content))
        return read_plan(path)

    return make


def test_runs_are_those_of_other_slots(plan):
    runs = {
        "first": None,
        "second": {"needs": "first", "options": {"MODEL.WEIGHTS": "{first}/model_final.pth"}},
        "mistake": None,
        "bug": None,
        "after": {"needs": "bug"},
    }
    states, weights = [], []
    for output, slots in (("forked", ForkedSlots(MODULES, each=2)), ("spawned", LocalSlots())):
        made = plan(runs, output)
        states.append(carry_out(made, slots))
        weights.append((made.output / "second" / "model_final.pth").read_text())
    assert states[0] == states[1]
    assert weights[0] == weights[1]
    found = states[0]
    assert found["mistake"].why == "a mistake: error: SOLVER.MAX_ITER is wrong"
    assert found["bug"].why == "exit code 1: RuntimeError: a bug"
    assert found["after"].status is Status.TODO
    consoles = [(made.output.parent / o / "bug" / "console.txt") for o in ("forked", "spawned")]
    assert all("Traceback" in console.read_text() for console in consoles)


def test_the_folder_stays_locked_while_a_run_lives(plan, tmp_path):
    made = plan({"long": None}, **{"SOLVER.MAX_ITER": 400, "SOLVER.BASE_LR": 0.005})
    run = made.runs[0]
    run.folder.mkdir(parents=True)
    with locked(made.output) as lock:
        future = ForkedSlots(MODULES, lock=lock).submit(run, run.command(resume=False))
        while not (run.folder / "state.json").exists() and not future.done():
            time.sleep(0.01)
    if not future.done():  # the runner has let go of it, the run has not
        with pytest.raises(UserError, match="a run that it has started is still alive"):
            locked(made.output).__enter__()
    assert future.result().code == 0
    with locked(made.output):
        pass


def test_a_fork_computes_with_its_share_of_the_cores(plan, monkeypatch):
    """Though torch was imported before it, with all of them."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    made = plan({"one": None}, "shared")
    carry_out(made, ForkedSlots(MODULES, each=2))
    (run,) = made.runs
    assert run_folder.read_json(run.folder / "run.json")["torch_threads"] == 3


def test_so_many_at_a_time():
    assert (ForkedSlots(MODULES, each=3).count, LocalSlots(2, each=2).count) == (3, 4)
