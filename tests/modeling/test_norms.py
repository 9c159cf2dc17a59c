"""Synchronised batch norm in half precision, by two processes over gloo."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.layers import NaiveSyncBatchNorm, get_norm
from detectron2.utils import comm
from small_detector import SMALL, build
from torch import nn

from det_transfer.config import load_config
from det_transfer.engine.detection import DetectionTrainer
from det_transfer.modeling import Float32SyncBatchNorm, float32_statistics

CHANNELS = 32
NAMES = ("naiveSyncBN", "naiveSyncBN_N")


def inputs(rank):
    """(2, C, 16, 16), mean 10 and deviation 1, as the 8 bits of bfloat16 hold it."""
    generator = torch.Generator().manual_seed(rank)
    return (10 + torch.randn(2, CHANNELS, 16, 16, generator=generator)).bfloat16()


def both_norms(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    found = {}
    for name in NAMES:
        norm = float32_statistics(nn.Sequential(get_norm(name, CHANNELS)))
        found[name] = norm(inputs(rank)).detach(), norm.state_dict()
    torch.save(found, f"{folder}/{rank}.pth")


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("norms")
    # Forked, they need not import torch again; a backward would not go behind a fork.
    mp.start_processes(both_norms, args=(str(folder),), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_in_bfloat16_are_one_in_float32(of_two_processes, name):
    reference = nn.BatchNorm2d(CHANNELS)
    expected = reference(torch.cat([inputs(k) for k in range(2)]).float())
    y = torch.cat([found[name][0] for found in of_two_processes])
    assert y.dtype == torch.bfloat16
    assert y.float().std() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=2**-8)
    for found in of_two_processes:
        torch.testing.assert_close(found[name][1]["0.running_mean"], reference.running_mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_one_process_and_inference_are_torchs(dtype):
    norm, reference = (
        float32_statistics(get_norm("naiveSyncBN", CHANNELS)),
        nn.BatchNorm2d(CHANNELS),
    )
    for x in (inputs(0).to(dtype), inputs(1).to(dtype)):
        y = norm(x)
        assert y.dtype == dtype
        assert torch.equal(y, reference(x))
    assert torch.equal(norm.eval()(x), reference.eval()(x))


def test_every_model_for_training_has_them_under_the_same_names():
    options = {"MODEL.FPN.NORM": "naiveSyncBN", "MODEL.ROI_BOX_HEAD.NAME": "TransferBoxHead"}
    options["MODEL.ROI_BOX_HEAD.FC_NORM"] = "naiveSyncBN_N"
    words = [str(word) for pair in {**SMALL, **options}.items() for word in pair]
    model = DetectionTrainer.build_model(load_config(None, words).cfg)
    norms = [m for m in model.modules() if isinstance(m, NaiveSyncBatchNorm)]
    assert len(norms) == 6 + 3  # lateral and output of three levels, one a stage
    assert all(type(norm) is Float32SyncBatchNorm for norm in norms)
    assert {norm._stats_mode for norm in norms} == {"", "N"}
    stock = build(**{key.replace(".", "__"): value for key, value in options.items()})
    assert list(stock.state_dict()) == list(model.state_dict())
