"""What Weights & Biases and MLflow are told, by stand-ins that have the API we use."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from det_transfer import run_folder
from det_transfer.config import leaves, load_config, validate
from det_transfer.config.validation import _SERVICES
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.engine.tracking import SERVICES, MlflowTracker
from det_transfer.errors import UserError

WANDB = ("TRACKING.SERVICES", "['wandb']")
MLFLOW = ("TRACKING.SERVICES", "['mlflow']")


class FakeWandb:
    """wandb, as far as it is called; ``runs`` by id, as the service would keep them."""

    def __init__(self):
        self.runs = {}

    def init(self, *, project, name, dir, config, id, resume):
        assert resume == "allow"
        assert Path(dir).is_dir()
        run = self.runs.setdefault(id or f"w{len(self.runs)}", SimpleNamespace(rows=[], ends=[]))
        run.project, run.name, run.config, run.summary = project, name, config, {}
        run.id = next(key for key, value in self.runs.items() if value is run)
        run.define_metric = lambda name, step_metric: setattr(run, "step", (name, step_metric))
        run.log = lambda row: run.rows.append(row)
        run.finish = lambda exit_code: run.ends.append(exit_code)
        return run


class FakeMlflow:
    """mlflow's client, as far as it is called."""

    def __init__(self):
        self.experiments, self.runs = {}, {}
        self.entities = SimpleNamespace(
            Param=lambda key, value: (key, value),
            Metric=lambda key, value, timestamp, step: (key, value, step),
        )

    def MlflowClient(self):
        return self

    def get_experiment_by_name(self, name):
        number = self.experiments.get(name)
        return number and SimpleNamespace(experiment_id=number)

    def create_experiment(self, name):
        return self.experiments.setdefault(name, f"e{len(self.experiments)}")

    def create_run(self, experiment_id, run_name):
        key = f"m{len(self.runs)}"
        self.runs[key] = SimpleNamespace(
            experiment=experiment_id, name=run_name, params={}, metrics=[], tags={}, statuses=[]
        )
        return SimpleNamespace(info=SimpleNamespace(run_id=key))

    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100
        assert len(metrics) <= 1000
        assert not self.runs[run_id].params.keys() & {key for key, _ in params}
        assert all(isinstance(value, str) and len(value) <= 500 for _, value in params)
        self.runs[run_id].params.update(params)
        self.runs[run_id].metrics += metrics

    def set_tag(self, run_id, key, value):
        self.runs[run_id].tags[key] = value

    def update_run(self, run_id, status):
        self.runs[run_id].statuses.append(status)

    set_terminated = update_run


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())
    return sys.modules["wandb"]


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow())
    return sys.modules["mlflow"]


def equal(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def rows_of_metrics(folder):
    return {int(row.pop("iteration")): row for row in run_folder.read_metrics(folder)}


def test_wandb_has_what_the_run_folder_has(train, wandb):
    trainer = train(*WANDB, "TRACKING.PROJECT", "birds", "TEST.EVAL_PERIOD", 2)
    ((key, run),) = wandb.runs.items()
    folder = trainer.cfg.OUTPUT_DIR
    assert (run.project, run.name) == ("birds", "run")
    assert run.config == dict(leaves(trainer.cfg))
    assert run.step == ("*", "iteration")
    told = {}
    for row in run.rows:
        told.setdefault(row["iteration"], {}).update(row)
    expected = rows_of_metrics(folder)
    assert told.keys() == expected.keys()
    assert {"total_loss", "lr", "bbox/AP"} <= set().union(*expected.values())
    for iteration, row in expected.items():
        assert row.keys() == told[iteration].keys() - {"iteration"}
        assert all(equal(value, told[iteration][name]) for name, value in row.items())
    record = run_folder.read_json(Path(folder) / "run.json")
    assert record["tracking"] == {"wandb": key}
    assert run.summary["status"] == "finished"
    assert run.summary["bbox/AP50"] == pytest.approx(record["results"]["bbox"]["AP50"])
    assert run.summary["seconds/training"] == record["seconds"]["training"]
    assert run.ends == [0]


def test_mlflow_has_what_the_run_folder_has(train, mlflow):
    trainer = train(*MLFLOW, "TRACKING.NAME", "first")
    ((key, run),) = mlflow.runs.items()
    assert mlflow.experiments == {"det_transfer": run.experiment}
    assert run.name == "first"
    assert run.params == {k: str(v)[:500] for k, v in leaves(trainer.cfg)}
    expected = {
        (name, iteration)
        for iteration, row in rows_of_metrics(trainer.cfg.OUTPUT_DIR).items()
        for name in row
    }
    assert expected <= {(name, step) for name, _, step in run.metrics}
    assert run.tags == {"status": "finished"}
    assert run.statuses == ["FINISHED"]
    record = run_folder.read_json(Path(trainer.cfg.OUTPUT_DIR) / "run.json")
    assert record["tracking"] == {"mlflow": key}


def test_a_resumed_run_goes_on_in_the_same_place(train, wandb, mlflow):
    both = ("TRACKING.SERVICES", "['wandb', 'mlflow']")
    train(*both, "SOLVER.MAX_ITER", 2, "SOLVER.STEPS", "()")
    train(*both, "SOLVER.MAX_ITER", 4, "SOLVER.STEPS", "()", resume=True)
    assert len(wandb.runs) == len(mlflow.runs) == 1
    assert {row["iteration"] for row in wandb.runs["w0"].rows} >= {1, 3}
    assert wandb.runs["w0"].ends == [0, 0]
    assert mlflow.runs["m0"].statuses == ["FINISHED", "RUNNING", "FINISHED"]
    assert mlflow.runs["m0"].params["SOLVER.MAX_ITER"] == "2"  # parameters are written once


def test_another_run_is_another_one_there(train, wandb):
    train(*WANDB, output="a")
    train(*WANDB, output="b")
    assert [run.name for run in wandb.runs.values()] == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "status", "mlflows"),
    [
        (RuntimeError("a bug"), "failed", "FAILED"),
        (UserError("a mistake"), "failed", "FAILED"),
        (KeyboardInterrupt(), "interrupted", "KILLED"),
    ],
)
def test_how_a_run_ended_badly_is_told(train, wandb, mlflow, monkeypatch, error, status, mlflows):
    def test(*args):
        raise error

    monkeypatch.setattr(DetectionTrainer, "test", test)
    with pytest.raises(type(error)):
        train("TRACKING.SERVICES", "['wandb', 'mlflow']")
    assert wandb.runs["w0"].ends == [1]
    assert wandb.runs["w0"].summary["status"] == status
    assert mlflow.runs["m0"].statuses == [mlflows]


def test_a_service_that_is_lost_does_not_end_the_training(train, wandb, mlflow):
    def lost(*args, **kwargs):
        raise ConnectionError("no route\nto host")

    mlflow.set_tag = lost
    log_batch = mlflow.log_batch
    mlflow.log_batch = lambda run_id, metrics=(), params=(): (
        lost() if metrics else log_batch(run_id, params=params)
    )
    trainer = train("TRACKING.SERVICES", "['mlflow', 'wandb']")
    log = (Path(trainer.cfg.OUTPUT_DIR) / "log.txt").read_text()
    assert log.count("is lost") == 1
    assert "mlflow is lost: ConnectionError: no route; training goes on, metrics.json has" in log
    assert trainer.record.status == "finished"
    assert wandb.runs["w0"].ends == [0]


def test_a_service_that_does_not_let_us_in_stops_the_run_at_once(train, wandb, tmp_path):
    def init(**options):
        raise RuntimeError("api_key not configured\nlong story")

    wandb.init = init
    with pytest.raises(UserError, match=r"'wandb', which does not begin: .*api_key not configured"):
        train(*WANDB)
    assert not (tmp_path / "run/metrics.json").exists() or not run_folder.read_metrics(
        tmp_path / "run"
    )


def test_a_service_that_is_not_installed(train, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"TRACKING\.SERVICES has 'wandb'.*pip install wandb"):
        train(*WANDB)


def test_names_that_mlflow_refuses(mlflow):
    tracker = MlflowTracker(mlflow, project="p", name="n", folder=".")
    tracker.begin({"a": ""})
    tracker._log({"bbox/AP-cat (2)": 1}, 5)
    assert mlflow.runs["m0"].metrics == [("bbox/AP-cat _2_", 1.0, 5)]


def test_the_config_knows_the_services():
    assert tuple(SERVICES) == _SERVICES
    cfg = load_config(None, ["TRACKING.SERVICES", "['wand', 'mlflow']"]).cfg
    with pytest.raises(UserError, match=r"TRACKING\.SERVICES has 'wand'; it can hold wandb$"):
        validate(cfg)
    cfg = load_config(None, ["TRACKING.SERVICES", "['mlflow']", "TRACKING.PROJECT", ""]).cfg
    with pytest.raises(UserError, match=r"TRACKING\.PROJECT is empty"):
        validate(cfg)


def test_without_services_nothing_is_tracked_but_tensorboard(train):
    trainer = train()
    assert trainer.trackers == []
    assert "tracking" not in run_folder.read_json(Path(trainer.cfg.OUTPUT_DIR) / "run.json")
    assert list(Path(trainer.cfg.OUTPUT_DIR).glob("events.out.tfevents.*"))
