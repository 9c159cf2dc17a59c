"""Plans: what they say, how far their runs are, and that they are carried out whatever happens."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from det_transfer.engine.plan import LocalSlots, Status, carry_out, look_at, read_plan, write_tables
from det_transfer.engine.plan.runner import blocked, locked
from det_transfer.engine.plan.state import orphans
from det_transfer.errors import UserError
from tools import run_plan

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parent / "fake_program.py"
TINY = Path(__file__).parent / "tiny.yaml"


@pytest.fixture
def plan(tmp_path):
    """Write a plan for the fake program and read it."""

    def make(text, name="plan.yaml", **kwargs):
        path = tmp_path / name
        head = f"program: {FAKE}\noutput: {tmp_path / 'runs'}\n"
        path.write_text(head + textwrap.dedent(text))
        return read_plan(path, **kwargs)

    return make


TWO_STAGES = """
    options: {SOLVER.MAX_ITER: 3, SOLVER.BASE_LR: 0.001}
    seeds: [1, 2]
    runs:
      second: {needs: first, options: {MODEL.WEIGHTS: "{first}/model_final.pth"}}
      first: {}
"""


def names(plan):
    return [run.name for run in plan.runs]


def statuses(states):
    return {name: state.status for name, state in states.items()}


def results(plan):
    return list(csv.DictReader((plan.output / "results.csv").open()))


# What a plan says --------------------------------------------------------------------------------


def test_a_grid_with_seeds(plan):
    made = plan("""
        seeds: [1, 2]
        options: {SOLVER.MAX_ITER: 3}
        grid:
          data: {a: {SOLVER.GAMMA: 0.5}, b: {}}
          mode: {x: {MODEL.REUSE.MODE: finetune}, y: }
        exclude: [{data: b, mode: x}]
    """)
    assert names(made) == ["a_x_s1", "a_x_s2", "a_y_s1", "a_y_s2", "b_y_s1", "b_y_s2"]
    first = made.runs[0]
    assert first.labels == {"data": "a", "mode": "x", "seed": 1}
    assert first.cfg.MODEL.REUSE.MODE == "finetune"
    assert first.cfg.SOLVER.GAMMA == 0.5
    assert first.cfg.SEED == 1
    assert made.runs[-1].cfg.SOLVER.GAMMA == 0.1
    assert first.folder == made.output / "a_x_s1"


def test_runs_with_needs_go_by_matching_axes(plan):
    made = plan(TWO_STAGES)
    assert names(made) == ["first_s1", "first_s2", "second_s1", "second_s2"]
    assert made.runs[2].needs == ("first_s1",)
    assert made.runs[3].options["MODEL.WEIGHTS"] == f"{made.output}/first_s2/model_final.pth"


def test_a_grid_of_layers_on_one_base(plan):
    """As the transferability experiments have it: AnB for several n from the same base."""
    made = plan("""
        options: {SOLVER.MAX_ITER: 3}
        runs:
          base: {}
          AnB:
            needs: base
            grid: {n: {1: {MODEL.REUSE.NORM: GN}, 2: }}
            options: {MODEL.WEIGHTS: "{base}/model_final.pth"}
    """)
    assert names(made) == ["base", "AnB_1", "AnB_2"]
    assert {run.needs for run in made.runs[1:]} == {("base",)}


def test_values_reach_the_program_as_they_are(plan):
    made = plan("options: {SOLVER.STEPS: [3, 5], DATASETS.CUSTOM: [[a, b c, 'd']]}")
    words = made.runs[0].command(resume=True)
    assert words[:2] == [str(FAKE), "--resume"]
    assert words[words.index("SOLVER.STEPS") + 1] == "[3, 5]"
    assert words[words.index("DATASETS.CUSTOM") + 1] == "[['a', 'b c', 'd']]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optoins: {}", r"there is no key optoins; there is options"),
        ("runs: {a: {need: b}}", r"run a: there is no key need; there is needs"),
        ("options: {SOLVER.MAX_ITR: 3}", r"run run: .*no config key SOLVER\.MAX_ITR; did you mean"),
        ("options: {SOLVER.STEPS: [5, 3]}", r"run run: SOLVER\.STEPS \(5, 3\) must increase"),
        ("runs: {a: {needs: b}}", r"run a: needs b, which is no run; there is a"),
        ("runs: {a: {needs: b}, b: {needs: a}}", r"runs need each other: "),
        (
            "runs: {a: {options: {MODEL.WEIGHTS: '{b}/x'}}, b: }",
            r"run a: \{b\} is used but not in needs",
        ),
        ("runs: {a: {needs: b}, b: {seeds: [1, 2]}}", r"needs b, of which 2 runs fit"),
        ("grid: {a: [1, 2]}", r"grid.a: \[1, 2\] is not of type 'object'"),
        ("seeds: 3", r"seeds: 3 is not of type 'array', 'null'"),
        ("runs: {a/b: {}}", r"run a/b: a name has letters"),
        ("config: nowhere.yaml", r"config file nowhere\.yaml does not exist"),
        ("program: nowhere.py", r"program nowhere\.py does not exist"),
        ("seeds: [1, 1]", r"two runs are called s1"),
        ("[", r"cannot be read"),
    ],
)
def test_a_wrong_plan(plan, text, message):
    with pytest.raises(UserError, match=message):
        plan(text)


def test_all_that_is_wrong_at_once(plan):
    with pytest.raises(UserError) as error:
        plan("runs: {a: {needs: x}, b: {options: {SOLVER.GAMA: 1}}}")
    assert len(str(error.value).splitlines()) == 2


def test_a_mistake_of_all_runs_is_said_once(plan):
    with pytest.raises(UserError) as error:
        plan(TWO_STAGES.replace("0.001}", "0.001, SOLVER.MAX_ITRE: 2}"))
    (line,) = str(error.value).splitlines()
    assert "run second_s1 and 3 more: " in line
    assert "SOLVER.MAX_ITRE" in line


def test_only_some_of_them_and_what_they_need(plan):
    made = plan(TWO_STAGES)
    assert names(made.only("second_s2")) == ["first_s2", "second_s2"]
    assert names(made.only("second_s2", "first_*")) == ["first_s1", "first_s2", "second_s2"]
    with pytest.raises(UserError, match=r"--only thrid.*no such run"):
        made.only("first_*", "thrid*")


def test_only_is_given_several_times():
    args = run_plan.argument_parser().parse_args(["p.yaml", "--only", "a_*", "--only", "b_*"])
    assert args.only == ["a_*", "b_*"]


def test_a_part_of_a_plan_keeps_the_rows_of_the_others(plan):
    made = plan(TWO_STAGES)
    carry_out(made.only("first_s1"), LocalSlots())
    carry_out(made.only("first_s2"), LocalSlots())
    found = {row["run"]: row["status"] for row in results(made)}
    assert found == dict.fromkeys(("first_s1", "first_s2"), "finished") | dict.fromkeys(
        ("second_s1", "second_s2"), "to do"
    )
    assert len((made.output / "times.csv").read_text().splitlines()) == 3


# Carrying it out ---------------------------------------------------------------------------------


def test_runs_are_carried_out_once(plan):
    made = plan(TWO_STAGES)
    said = []
    states = carry_out(made, LocalSlots(), say=said.append)
    assert set(statuses(states).values()) == {Status.FINISHED}
    assert [line.split()[1] for line in said if line.startswith("begins")] == names(made)
    rows = results(made)
    assert [row["run"] for row in rows] == names(made)
    assert all(float(row["bbox/AP"]) > 0 for row in rows)
    assert rows[0]["seed"] == "1"
    assert "bbox/AP-cat" not in rows[0]
    times = list(csv.DictReader((made.output / "times.csv").open()))
    assert {"training_s", "evaluation_s", "peak_memory_host_bytes"} <= times[0].keys()
    said.clear()
    carry_out(made, LocalSlots(), say=said.append)
    assert said == []  # nothing is repeated
    assert all((run.folder / "starts.txt").read_text() == "0\n" for run in made.runs)


FAILING = """
    options: {SOLVER.MAX_ITER: 2, SOLVER.BASE_LR: 0.001}
    runs:
      mistake: {}
      bug: {}
      after: {needs: bug}
      after_that: {needs: after}
      fine: {}
"""


def test_what_fails_is_reported_and_the_rest_goes_on(plan):
    made = plan(FAILING)
    states = carry_out(made, LocalSlots())
    assert statuses(states) == {
        "mistake": Status.FAILED,
        "bug": Status.FAILED,
        "fine": Status.FINISHED,
        "after": Status.TODO,
        "after_that": Status.TODO,
    }
    assert states["mistake"].why == "a mistake: error: SOLVER.MAX_ITER is wrong"
    assert states["bug"].why == "exit code 1: RuntimeError: a bug"
    assert blocked(made, states) == {"after": ["bug"], "after_that": ["bug"]}
    assert [row["status"] for row in results(made)].count("finished") == 1
    # Again: failed runs are left, unless one asks for them.
    (made.runs[1].folder / "mended").touch()
    assert carry_out(made, LocalSlots())["bug"].status is Status.FAILED
    states = carry_out(made, LocalSlots(), retry_failed=True)
    assert states["bug"].status is states["after_that"].status is Status.FINISHED
    assert states["mistake"].status is Status.FAILED


def test_an_edited_plan_overwrites_nothing(plan):
    made = plan(TWO_STAGES)
    carry_out(made, LocalSlots())
    before = {p: p.read_bytes() for p in made.output.rglob("*") if p.is_file()}
    edited = plan(TWO_STAGES.replace("SOLVER.BASE_LR: 0.001", "SOLVER.BASE_LR: 0.002"))
    with pytest.raises(UserError) as error:
        carry_out(edited, LocalSlots())
    assert "first_s1: SOLVER.BASE_LR was 0.001 and is 0.002" in str(error.value)
    assert "nothing is overwritten" in str(error.value)
    assert before == {p: p.read_bytes() for p in made.output.rglob("*") if p.is_file()}
    # One more seed is no change; a run that is gone is named and left alone.
    grown = plan(TWO_STAGES.replace("seeds: [1, 2]", "seeds: [1, 3]"))
    assert orphans(grown) == ["first_s2", "second_s2"]
    states = carry_out(grown, LocalSlots())
    assert set(statuses(states).values()) == {Status.FINISHED}
    assert (made.output / "first_s1" / "starts.txt").read_text() == "0\n"
    assert (made.output / "first_s2").is_dir()


def test_a_folder_that_no_plan_has_made_is_left_alone(plan):
    made = plan(TWO_STAGES)
    stranger = made.output / "first_s1" / "mine.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("keep")
    with pytest.raises(UserError, match="first_s1: the folder holds something that no plan"):
        carry_out(made, LocalSlots())
    assert stranger.read_text() == "keep"


def test_two_runners_do_not_meet(plan):
    made = plan(TWO_STAGES)
    with locked(made.output), pytest.raises(UserError, match="is in use"), locked(made.output):
        pass
    with locked(made.output):  # let go with the process or the block
        pass


def test_gpus_have_one_run_each(plan, monkeypatch):
    seen = []

    def execute(command, console, environment, lock):
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
        time.sleep(0.2)
        return subprocess.run([sys.executable, *command]).returncode, ""

    monkeypatch.setattr(
        "det_transfer.engine.plan.runner.execute",
        lambda *a: __import__("det_transfer").engine.plan.runner.Outcome(*execute(*a)),
    )
    made = plan("seeds: [1, 2, 3, 4]\noptions: {SOLVER.MAX_ITER: 2, SOLVER.BASE_LR: 0.001}")
    states = carry_out(made, LocalSlots(gpus=2))
    assert set(statuses(states).values()) == {Status.FINISHED}
    assert sorted(seen) == ["0", "0", "1", "1"]


@pytest.mark.parametrize(
    ("said", "each", "threads"),
    [({}, 2, "3"), ({"OMP_NUM_THREADS": "5"}, 2, "5"), ({}, 9, "1"), ({}, 1, None)],
)
def test_runs_at_a_time_share_the_cores(plan, monkeypatch, said, each, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for key, value in said.items():
        monkeypatch.setenv(key, value)
    made = plan("seeds: [1, 2]\noptions: {SOLVER.MAX_ITER: 99, SOLVER.BASE_LR: 0.02}")
    most = []
    carry_out(
        made,
        LocalSlots(each=each),
        progress=lambda states: most.append(sum(0 < s.iterations < 99 for s in states.values())),
    )
    assert max(most) == min(each, 2)
    for run in made.runs:
        assert json.loads((run.folder / "run.json").read_text())["threads"] == threads


@pytest.mark.parametrize("words", ["--parallel 0", "--parallel two", "--parallel 2 --ray auto"])
def test_so_many_at_a_time_or_a_cluster(words):
    with pytest.raises(SystemExit) as ended:
        run_plan.parse_args(["plan.yaml", *words.split()])
    assert ended.value.code == 2


def test_progress_sees_iterations_grow(plan):
    made = plan("options: {SOLVER.MAX_ITER: 300, SOLVER.BASE_LR: 0.01}")
    seen = []
    carry_out(made, LocalSlots(), progress=lambda s: seen.append(s["run"].iterations))
    assert seen == sorted(seen)
    assert 0 < seen[0] < 300
    assert seen[-1] == 300


# Killed ------------------------------------------------------------------------------------------

LONG = """
    options: {SOLVER.MAX_ITER: 60, SOLVER.BASE_LR: 0.02}
    seeds: [1, 2]
    runs:
      first: {}
      second: {needs: first, options: {MODEL.WEIGHTS: "{first}/model_final.pth"}}
"""


def start(path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "tools/run_plan.py", str(path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def hear_interrupts():
    """Where the tests run in a shell's background, interrupts are ignored, by children too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, 10])
def test_killed_at_random_moments_the_table_is_that_of_an_unbroken_plan(plan, tmp_path, kills):
    made = plan(LONG)
    path = tmp_path / "plan.yaml"
    carry_out(plan(LONG, name="whole.yaml", output=tmp_path / "whole"), LocalSlots())
    whole = (tmp_path / "whole" / "results.csv").read_bytes()
    rng = random.Random(kills)

    def starts():
        return sum(len(p.read_text().split()) for p in made.output.glob("*/starts.txt"))

    for kill in range(kills):
        before = starts()
        process = start(path)
        if kill % 4 == 3:  # while the runner reads the plan
            time.sleep(rng.uniform(0.0, 3.0))
        else:  # while a run is at work, or between two
            while starts() == before and process.poll() is None:
                time.sleep(0.02)
            time.sleep(rng.uniform(0.0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)  # the runner and the run that it has started
        process.wait()
    process = start(path)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert (made.output / "results.csv").read_bytes() == whole
    resumed = [(run.folder / "starts.txt").read_text().split() for run in made.runs]
    assert any(len(starts) > 1 for starts in resumed)  # a kill has met a run
    assert all(starts == sorted(starts, key=int) for starts in resumed)


def test_by_hand_it_stops_in_good_order(plan, tmp_path):
    made = plan(LONG)
    process = start(tmp_path / "plan.yaml")
    while not list(made.output.glob("*/starts.txt")):
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "stopped by hand" in said
    assert "Traceback" not in said
    assert look_at(made.runs[0]).status is Status.INTERRUPTED
    assert results(made)[0]["status"] == "interrupted"


@pytest.mark.slow
def test_real_trainings_two_stages(tiny_coco, tmp_path):
    """Frozen, then fine-tuned from it; the same again in a plan that is interrupted."""
    text = f"""
        config: {TINY}
        options: {{DATASETS.CUSTOM: {json.dumps([["tiny", *map(str, tiny_coco)]])}}}
        runs:
          frozen: {{}}
          finetuned:
            needs: frozen
            options: {{MODEL.REUSE.MODE: finetune, MODEL.WEIGHTS: "{{frozen}}/model_final.pth"}}
    """
    path = tmp_path / "plan.yaml"
    path.write_text(textwrap.dedent(text))
    tables = []
    for output in ("whole", "broken"):
        made = read_plan(path, tmp_path / output)
        if output == "broken":
            process = subprocess.Popen(
                [sys.executable, "tools/run_plan.py", str(path), "--output", str(made.output)],
                cwd=ROOT,
                start_new_session=True,
            )
            while not list(made.output.glob("*/model_0000001.pth")):
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        states = carry_out(made, LocalSlots())
        assert set(statuses(states).values()) == {Status.FINISHED}, states
        tables.append(write_tables(made)[0].read_bytes())
    assert tables[0] == tables[1]
