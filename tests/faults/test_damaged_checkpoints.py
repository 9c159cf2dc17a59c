"""A damaged checkpoint is never loaded in part, and the one before it is offered."""

import random
import shutil

import pytest
import torch
from programs import train

from det_transfer.engine.checkpoint import TransferCheckpointer, find_checkpoint
from det_transfer.errors import UserError
from det_transfer.reuse import read_checkpoint

OPTIONS = ["DATASETS.TEST", "()", "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2]
TRIES = 20


@pytest.fixture(scope="module")
def run(tiny_coco, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    program = train(folder / "log", tiny_coco, folder / "run", *OPTIONS)
    assert program.wait() == 0, program.said[-3000:]
    return folder / "run"


def damages(content, rng):
    """The content cut off, and with a bit flipped, at random places."""
    for _ in range(TRIES):
        place = rng.randrange(len(content))
        yield content[:place]
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.randrange(8)
        yield bytes(flipped)


def of_a_run(run, folder):
    shutil.copytree(run, folder / "run")
    return folder / "run/model_0000003.pth"


def of_others(run, folder):
    """As Detectron2, torchvision and timm write it: weights, and nothing that is ours."""
    content = torch.load(run / "model_0000003.pth", weights_only=True)
    path = folder / "foreign.pth"
    torch.save({"model": content["model"]}, path)
    return path


@pytest.mark.parametrize("made", [of_a_run, of_others])
def test_nothing_damaged_is_taken(made, run, tmp_path):
    """Either the error says so, or the damage is in no value: between the parts of the file."""
    path = made(run, tmp_path)
    sound, content = read_checkpoint(path), path.read_bytes()
    refused = 0
    for damaged in damages(content, random.Random(0)):
        path.write_bytes(damaged)
        try:
            found = read_checkpoint(path)
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017
            refused += 1
            continue
        for name, tensor in sound.pop("model").items():
            assert torch.equal(tensor, found["model"][name]), name
        assert str(sound) == str({key: found[key] for key in sound})
        sound["model"] = found["model"]
    assert refused > 1.5 * TRIES


def test_a_damaged_frozen_part_is_not_taken(run, tmp_path):
    checkpoint = of_a_run(run, tmp_path)
    (path,) = (tmp_path / "run").glob("frozen-*.pth")
    sound = read_checkpoint(checkpoint)
    content = path.read_bytes()
    damaged_ones = 0
    for damaged in damages(content, random.Random(1)):
        path.write_bytes(damaged)
        found = read_checkpoint(checkpoint)
        if said := found["frozen"].get("damaged"):
            assert str(path) in said
            assert not found["model"].keys() & set(found["frozen"]["tensors"])
            damaged_ones += 1
        else:
            assert all(torch.equal(v, found["model"][k]) for k, v in sound["model"].items())
    assert damaged_ones > 1.5 * TRIES


def test_a_file_without_sums_is_read(tmp_path):
    state = {"a": torch.arange(100.0)}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"model": state}, tmp_path / "unsummed.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    assert torch.equal(read_checkpoint(tmp_path / "unsummed.pth")["model"]["a"], state["a"])


def test_the_one_before_is_offered_and_serves(run, tiny_coco, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    broken = tmp_path / "run" / (tmp_path / "run/last_checkpoint").read_text()
    whole = read_checkpoint(broken)["model"]
    broken.write_bytes(broken.read_bytes()[:1000])
    resume = {"flags": ["--resume"]}
    refused = train(tmp_path / "log", tiny_coco, tmp_path / "run", *OPTIONS, **resume)
    assert refused.wait() == 2
    assert f"{broken} cannot be read as weights" in refused.said
    assert "the checkpoint before it is model_0000003.pth: write this name into" in refused.said
    (tmp_path / "run/model_0000003.pth").unlink()  # this too was of the last iteration
    (tmp_path / "run/last_checkpoint").write_text("model_0000001.pth")
    resumed = train(tmp_path / "log", tiny_coco, tmp_path / "run", *OPTIONS, **resume)
    assert resumed.wait() == 0, resumed.said[-3000:]
    found = read_checkpoint(broken)["model"]
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.fixture
def resume(tmp_path):
    from det_transfer.config import load_config

    cfg = load_config(None, ["OUTPUT_DIR", str(tmp_path)]).cfg
    model = torch.nn.Linear(1, 1)
    return lambda: TransferCheckpointer(model, str(tmp_path), cfg=cfg).resume_or_load("")


def test_where_none_is_before_it_says_so(resume, tmp_path):
    (tmp_path / "model_final.pth").write_bytes(b"nothing")
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    with pytest.raises(UserError, match="there is no checkpoint before it"):
        resume()


NO_NAMES = [b"", b"\n", b"\0" * 17, b"\xff\xfe", b"model_0000", b"model_0000009.pth", b".", b"/"]


@pytest.mark.parametrize("damaged", NO_NAMES)
def test_a_damaged_last_checkpoint(resume, tmp_path, damaged):
    """The file that names it: as a power cut leaves it, or with a name of what is not there."""
    (tmp_path / "model_0000001.pth").touch()
    (tmp_path / "last_checkpoint").write_bytes(damaged)
    for use in (resume, lambda: find_checkpoint(tmp_path)):
        with pytest.raises(UserError) as caught:
            use()
        said = str(caught.value)
        assert f"{tmp_path / 'last_checkpoint'} names" in said
        assert "no such checkpoint; the checkpoint before it is model_0000001.pth" in said
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth\n")
    assert find_checkpoint(tmp_path) == tmp_path / "model_0000001.pth"


def test_a_format_without_checksums_is_read(run, tmp_path):
    content = torch.load(run / "model_0000003.pth", weights_only=True)
    path = tmp_path / "old.pth"
    content["frozen"]["joined"] = True  # so that nothing is looked for beside it
    torch.save(content, path, _use_new_zipfile_serialization=False)
    found = read_checkpoint(path)["model"]
    assert all(torch.equal(value, found[name]) for name, value in content["model"].items())
