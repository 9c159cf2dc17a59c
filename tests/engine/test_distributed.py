"""Two processes over gloo against one at the same global batch, in the modes of reuse."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from det_transfer import run_folder
from det_transfer.reuse import frozen_tensors, read_checkpoint

ROOT = Path(__file__).parent.parent.parent

# Every anchor and every proposal is taken and each image has as many of them, so that the mean
# over two processes is the mean over all; and no draw depends on how images are spread.
ALL_TAKEN = [
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100000, "MODEL.RPN.POSITIVE_FRACTION", 1.0),
    *("MODEL.RPN.NMS_THRESH", 1.0, "MODEL.RPN.PRE_NMS_TOPK_TRAIN", 20),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 1000, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0),
    *("MODEL.ROI_HEADS.PROPOSAL_APPEND_GT", False, "MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
    *(
        "SOLVER.IMS_PER_BATCH",
        4,
        "DATASETS.TEST",
        "()",
        "SOLVER.MAX_ITER",
        3,
        "SOLVER.STEPS",
        "(2,)",
    ),
]
MODES = {
    "frozen": [],
    "adapters": [],
    "partial": ["MODEL.REUSE.STAGES", 2, "MODEL.REUSE.NORM", "GN"],
    "finetune": ["MODEL.REUSE.NORM", "GN"],  # batch statistics are those of a process
    "finetune_adapters": ["MODEL.REUSE.NORM", "GN"],
    "scratch": ["MODEL.REUSE.NORM", "GN"],
}
# Detectron2's, which works on the CPU and with processes that have different numbers of RoIs.
NAIVE = "naiveSyncBN_N"
SYNCHRONISED = [
    *("MODEL.FPN.NORM", NAIVE, "MODEL.ROI_BOX_HEAD.NORM", NAIVE),
    *("MODEL.ROI_BOX_HEAD.NUM_CONV", 1, "MODEL.ROI_BOX_HEAD.CONV_DIM", 8),
]


def slow_but(*quick):
    return [m if m in quick else pytest.param(m, marks=pytest.mark.slow) for m in MODES]


@pytest.mark.parametrize("mode", slow_but("adapters"))
def test_two_processes_are_one(train, arguments, tmp_path, mode):
    compare(train, arguments, tmp_path, ["MODEL.REUSE.MODE", mode, *MODES[mode]])


@pytest.mark.slow
def test_two_processes_with_synchronised_norms_are_one(train, arguments, tmp_path):
    # Detectron2's keeps the biased variance and no count, where torch's keeps the unbiased one.
    compare(train, arguments, tmp_path, SYNCHRONISED, but=("running_var", "num_batches_tracked"))


@pytest.mark.slow
def test_two_machines_are_one(train, arguments, tmp_path, free_port):
    url = f"tcp://127.0.0.1:{free_port}"
    machines = [
        ["--num-gpus", "1", "--num-machines", "2", "--machine-rank", str(k), "--dist-url", url]
        for k in range(2)
    ]
    compare(train, arguments, tmp_path, ["MODEL.REUSE.MODE", "frozen"], machines=machines)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def compare(
    train,
    arguments,
    tmp_path,
    opts,
    but=(),
    machines=(("--num-gpus", "2", "--dist-url", "auto"),),
):
    opts = [*ALL_TAKEN, *opts]
    one = train(*opts, output="one")
    args = arguments(*opts, output="two")
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "tools/train_net.py",
                "--config-file",
                args.config_file,
                *flags,
                *args.opts,
            ],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for flags in machines
    ]
    for process in running:
        _, words = process.communicate(timeout=300)
        assert process.returncode == 0, words[-3000:]
    assert run_folder.read_json(tmp_path / "two" / "run.json")["processes"] == 2
    start = torch.load(tmp_path / "one" / "model_0000001.pth")["model"]
    two = read_checkpoint(tmp_path / "two" / "model_final.pth")["model"]
    expected = one.model.state_dict()
    assert two.keys() == expected.keys()
    worst = {
        name: (two[name] - expected[name]).abs().max().item()
        for name in two
        if not name.endswith(but)
    }
    assert max(worst.values()) <= 1e-5, max(worst, key=worst.get)
    # Something was learnt in between, or the comparison would say nothing.
    assert any((start[n] - expected[n]).abs().max() > 1e-3 for n in start)
    losses = [run_folder.read_metrics(tmp_path / name)[-1]["total_loss"] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    still = frozen_tensors(one.model)
    assert all(torch.equal(two[name], tensor) for name, tensor in still.items())


def test_only_what_is_trained_is_reduced(train, monkeypatch):
    """DistributedDataParallel's buckets hold the trained parameters and nothing else."""
    import torch.distributed as dist

    from det_transfer.engine import trainer as trainer_module

    wrapped = {}

    def record(model, **options):
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        wrapped["bytes"] = parallel._get_ddp_logging_data()["total_parameter_size_bytes"]
        return model

    monkeypatch.setattr(trainer_module, "create_ddp_model", record)
    try:
        for mode in ("frozen", "adapters"):
            model = train("MODEL.REUSE.MODE", mode, "DATASETS.TEST", "()", output=mode).model
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            assert wrapped["bytes"] == 4 * trained
            assert trained < sum(p.numel() for p in model.parameters())
    finally:
        dist.destroy_process_group()
