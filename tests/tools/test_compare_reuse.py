"""tools/compare_reuse.py: what it makes of modes and budgets, with stand-ins for the training."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from det_transfer.engine.launch import run
from tools import compare_reuse, run_plan

QUICK = "configs/quickstart.yaml"
STEP_S = {"frozen": 0.1, "adapters": 0.2, "finetune": 0.4, "scratch": 0.5, "partial": 0.3}


def ended(main):
    """The exit code of a program."""
    try:
        return run(main)
    except SystemExit as end:
        return end.code


@pytest.fixture
def call(monkeypatch, capfd, tmp_path):
    """The program, with a made-up measurement; gives exit code, stdout and stderr."""
    asked = []

    def start(program, *words):
        if program == compare_reuse.RUN_PLAN:  # in this process, which has imported all that
            return ended(lambda: run_plan.main(run_plan.parse_args(list(words))))
        assert program == "tools/compare_runs.py"
        page = Path(words[words.index("--output") + 1])
        page.write_text(json.dumps(words))
        return 0

    def measure(config_file, words, log):
        options = dict(zip(words[::2], words[1::2], strict=True))
        asked.append(options)
        return {"step_s": STEP_S[options["MODEL.REUSE.MODE"]], "evaluation_s": 1.0}

    monkeypatch.setattr(compare_reuse, "measure", measure)
    monkeypatch.setattr(compare_reuse, "call", start)
    monkeypatch.setattr(compare_reuse, "TRAIN", "tests/engine/fake_program.py")

    def program(*words, config=QUICK, output=tmp_path / "out"):
        given = ["--config-file", str(config), "--output", str(output), *map(str, words)]
        monkeypatch.setattr(sys, "argv", ["compare_reuse.py", *given])

        code = ended(lambda: compare_reuse.main(compare_reuse.parse()))
        said = capfd.readouterr()
        return code, said.out, said.err

    program.asked = asked
    return program


def plan_of(tmp_path):
    return yaml.safe_load((tmp_path / "out/plan.yaml").read_text())


def test_equal_time_is_more_iterations_for_quicker_modes(call, tmp_path):
    words = ["--modes", "scratch", "finetune", "frozen", "adapters", "--budget", "20s"]
    code, out, err = call(*words, "--seeds", 3, "--dry-run")
    assert code == 0, err
    plan = plan_of(tmp_path)
    assert plan["seeds"] == [1, 2, 3]
    axis = plan["grid"]["mode"]
    assert {mode: options["SOLVER.MAX_ITER"] for mode, options in axis.items()} == {
        "scratch": 40,
        "finetune": 50,
        "frozen": 200,
        "adapters": 100,
    }
    assert axis["frozen"]["SOLVER.STEPS"] == [140, 180]
    assert axis["scratch"]["SOLVER.WARMUP_ITERS"] == 4
    assert axis["scratch"]["MODEL.WEIGHTS"] == ""
    assert "MODEL.WEIGHTS" not in axis["frozen"]
    assert "12 runs: 3 of each mode" in out
    assert not list((tmp_path / "out").glob("*/"))  # nothing was trained


def test_equal_iterations_need_no_measurement(call, tmp_path):
    code, _, err = call("--modes", "frozen", "finetune", "--budget", "60it", "--dry-run")
    assert code == 0, err
    axis = plan_of(tmp_path)["grid"]["mode"]
    assert [options["SOLVER.MAX_ITER"] for options in axis.values()] == [60, 60]
    assert call.asked == []


def test_it_trains_and_compares_and_goes_on_where_it_was(call, tmp_path):
    words = ["--modes", "frozen", "finetune", "--budget", "8s", "SOLVER.BASE_LR", "0.0001"]
    code, _, err = call(*words)
    assert code == 0, err
    names = ["finetune_s1", "finetune_s2", "frozen_s1", "frozen_s2"]
    folders = [tmp_path / "out" / name for name in names]
    assert [folder.name for folder in sorted((tmp_path / "out").glob("*/"))] == names
    given = json.loads((tmp_path / "out/comparison.html").read_text())
    assert set(given[:4]) == set(map(str, folders))
    assert given[4:] == ["--output", str(tmp_path / "out/comparison.html")]
    starts = [(folder / "starts.txt").read_text() for folder in folders]
    assert starts == ["0\n"] * 4
    # Once more: what is finished stays, nothing is measured again, one more mode is added.
    (tmp_path / "out/frozen_s1/run.json").write_text('{"status": "interrupted"}')
    again = ["--modes", "frozen", "finetune", "adapters", *words[3:]]
    code, _, err = call(*again)
    assert code == 0, err
    assert [options["MODEL.REUSE.MODE"] for options in call.asked] == [
        "frozen",
        "finetune",
        "adapters",
    ]
    starts = [(folder / "starts.txt").read_text() for folder in folders]
    assert starts == ["0\n", "0\n", "0\n80\n", "0\n"]
    assert len(json.loads((tmp_path / "out/comparison.html").read_text())) == 8


def test_other_options_are_measured_anew_and_nothing_is_overwritten(call, tmp_path):
    words = ["--modes", "frozen", "finetune", "--budget", "8s", "--seeds", 1]
    assert call(*words, "SOLVER.BASE_LR", "0.0001")[0] == 0
    before = (tmp_path / "out/frozen_s1/run.json").read_bytes()
    code, out, err = call(*words, "SOLVER.BASE_LR", "0.0002")
    assert code == 2
    assert len(call.asked) == 4
    assert "SOLVER.BASE_LR was 0.0001 and is 0.0002" in out + err
    assert (tmp_path / "out/frozen_s1/run.json").read_bytes() == before


def test_a_failed_run_is_left_out_of_the_page(call, tmp_path, monkeypatch):
    words = ["--modes", "frozen", "finetune", "adapters", "--budget", "8s", "--seeds", 1]
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    out_of_order = tmp_path / "program.py"
    out_of_order.write_text(
        "import sys, runpy\n"
        "if 'adapters' in ' '.join(sys.argv): sys.exit('error: out of memory')\n"
        "runpy.run_path('tests/engine/fake_program.py', run_name='__main__')\n"
    )
    monkeypatch.setattr(compare_reuse, "TRAIN", str(out_of_order))
    code, out, _ = call(*words, "SOLVER.BASE_LR", "0.0001")
    assert code == 1
    assert "adapters_s1" in out
    given = json.loads((tmp_path / "out/comparison.html").read_text())
    assert [Path(word).name for word in given[:2]] == ["frozen_s1", "finetune_s1"]


def test_nothing_to_compare(call, monkeypatch, tmp_path):
    program = tmp_path / "program.py"
    program.write_text("import sys; sys.exit('error: no')\n")
    monkeypatch.setattr(compare_reuse, "TRAIN", str(program))
    code, _, err = call("--modes", "frozen", "finetune", "--budget", "8s", "--seeds", 1)
    assert code == 1
    assert "fewer than two modes have finished" in err
    assert not (tmp_path / "out/comparison.html").exists()


def test_keys_that_only_some_modes_may_have(call, tmp_path):
    words = ["--modes", "frozen", "adapters", "partial", "--budget", "9s", "--dry-run"]
    given = ["MODEL.ADAPTERS.KIND", "series", "MODEL.REUSE.FAST", "True"]
    code, _, err = call(*words, *given, "MODEL.REUSE.STAGES", "3")
    assert code == 0, err
    axis = plan_of(tmp_path)["grid"]["mode"]
    keys = ("MODEL.ADAPTERS.KIND", "MODEL.REUSE.FAST", "MODEL.REUSE.STAGES")
    assert {mode: [options.get(key) for key in keys] for mode, options in axis.items()} == {
        "frozen": [None, "True", 0],
        "adapters": ["series", False, 0],
        "partial": [None, False, "3"],
    }
    assert plan_of(tmp_path)["options"] == {}
    for options in call.asked:  # it was measured as it will be trained
        mode = options.pop("MODEL.REUSE.MODE")
        for key, value in options.items():
            assert str(axis[mode][key]) == value


def test_a_config_with_adapters_is_told_where_to_put_their_keys(call, tmp_path):
    config = tmp_path / "adapters.yaml"
    config.write_text(f"_BASE_: {Path(QUICK).resolve()}\nMODEL: {{ADAPTERS: {{KIND: series}}}}\n")
    code, _, err = call("--modes", "frozen", "adapters", config=str(config))
    assert code == 2
    assert "has MODEL.ADAPTERS.KIND, which only modes with adapters may have" in err
    code, _, err = call(
        "--modes", "adapters", "finetune_adapters", "--budget", "99it", "--dry-run", config=config
    )
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--modes", "frosen", "finetune"], "--modes: 'frosen' does not exist; did you mean froz"),
        (["--modes", "frozen", "frozen"], "--modes: name at least two to compare"),
        (["--seeds", 0], "--seeds 0: it must be at least 1"),
        (["--budget", "20"], "budget '20': write 90s, 20m, 1.5h or 500it"),
        (["--budget", "5it"], "--budget 5it is 5 iterations of mode scratch, and a schedule"),
        (["--budget", "5s"], "is 10 iterations of mode scratch, and a schedule needs 20: take at"),
        (["--budget", "5s"], "take at least 11s"),
        (["--seeds", 1, "SOLVER.MAX_ITER", 9], "SOLVER.MAX_ITER is for --budget to say"),
        (["--seeds", 1, "SEED", 9], "SEED is for --seeds to say"),
        (["--seeds", 1, "MODEL.WEIGHTS", ""], "MODEL.WEIGHTS is empty: finetune, frozen, adapt"),
        (["--seeds", 1, "SOLVER.MAX_ITR", 9], "did you mean SOLVER.MAX_ITER?"),
        (["--seeds", 1, "SOLVER.BASE_LR", "-1.0"], "SOLVER.BASE_LR is -1.0; it must be > 0"),
    ],
)
def test_mistakes(call, tmp_path, words, message):
    code, _, err = call(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not list((tmp_path / "out").glob("*_s1"))


def test_a_step_is_really_measured(tiny_coco, tmp_path):
    words = ["DATASETS.CUSTOM", repr([["tiny", *map(str, tiny_coco)]])]
    words += ["OUTPUT_DIR", str(tmp_path / "run"), "MODEL.REUSE.MODE", "finetune"]
    log = tmp_path / "log.txt"
    found = compare_reuse.take_steps("tests/engine/tiny.yaml", words, str(log))
    assert 0 < found["step_s"] < 60
    assert found["evaluation_s"] > 0
    assert "Dry run" in log.read_text()
    assert not (tmp_path / "run").exists()
