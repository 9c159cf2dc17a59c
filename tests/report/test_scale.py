"""What a recipe costs elsewhere: numbers worked out by hand, and what must hold for all."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from det_transfer.errors import UserError
from det_transfer.report.scale.costs import disk, evaluation, memory, run_hours, step
from det_transfer.report.scale.crossovers import (
    allreduce_limit,
    cores_a_gpu,
    evaluator_limit,
    loader_limit,
)
from det_transfer.report.scale.inputs import Rates
from det_transfer.report.scale.machine import Machine, read_machine
from det_transfer.report.scale.networks import BATCH, NETWORKS, makespan, network_costs
from det_transfer.report.scale.page import fill
from det_transfer.report.scale.recipe import Recipe

# 100 TFLOP/s reached a GPU; two links of 10 and 1 GB/s.
MACHINE = Machine(
    gpus_per_machine=4,
    peak_tflops=200.0,
    reached=0.5,
    gpu_gb=10.0,
    reserve_gb=1.0,
    gpu_link=20.0,
    machine_link=2.0,
    link_reached=0.5,
    cores=20,
    disk=100.0,
)
RATES = Rates(
    loaded={"": 10.0, "stream": 5.0, "pool": 8.0},
    view=100.0,
    evaluator={
        ("coco", "bbox"): 0.002,
        ("coco", "segm"): 0.003,
        ("lvis", "bbox"): 0.001,
        ("lvis", "segm"): 0.002,
    },
    detection_bytes={False: 40.0, True: 340.0},
)
FINETUNED = Recipe(
    name="finetuned.yaml",
    mode="finetune",
    dataset="coco_2017_train",
    iterations=36_000,
    batch=64,
    checkpoint_period=5_000,
    size=1024,
    masks=False,
    copy_paste="",
    detections=100,
    parameters=100_000_000,
    trained=100_000_000,
    forward=1e12,
    step=3e12,
    inference=2e12,
    kept=2e9,
)
FROZEN = replace(
    FINETUNED, name="frozen.yaml", mode="frozen", trained=40_000_000, step=2e12, kept=1e9
)
# Enough cores and links that nothing but computing limits.
WIDE = replace(MACHINE, cores=100_000, gpu_link=1e6, machine_link=1e6)


def test_a_step_of_one_gpu():
    s = step(FINETUNED, RATES, MACHINE, 1)
    assert s.compute == pytest.approx(64 * 3e12 / 100e12)  # 1.92 s
    assert s.backward == pytest.approx(1.28)
    assert s.loader == pytest.approx(64 / (19 * 10))  # 0.337 s: 20 cores but one
    assert s.sent == s.allreduce == 0
    assert (s.seconds, s.limit) == (pytest.approx(1.92), "compute")


def test_a_step_inside_a_machine():
    s = step(FINETUNED, RATES, MACHINE, 4)
    assert s.sent == pytest.approx(2 * 3 / 4 * 400e6)
    assert s.allreduce == pytest.approx(0.06)  # 600 MB over 10 GB/s
    assert s.loader == pytest.approx(0.4)  # 64 images, 16 cores
    assert (s.seconds, s.limit) == (pytest.approx(0.48), "compute")


def test_a_step_over_machines():
    s = step(FINETUNED, RATES, MACHINE, 8)
    assert s.compute == pytest.approx(0.24)
    assert s.allreduce == pytest.approx(0.7)  # 700 MB over 1 GB/s, of which 0.16 s behind backward
    assert s.waited == pytest.approx(0.54)
    assert (s.seconds, s.limit) == (pytest.approx(0.78), "all-reduce")


def test_a_step_that_waits_for_its_images():
    s = step(replace(FROZEN, copy_paste="stream"), RATES, MACHINE, 4)
    assert (s.seconds, s.limit) == (pytest.approx(64 / (16 * 5)), "loader")


def test_loading_goes_with_the_area():
    assert RATES.loader(replace(FROZEN, size=2048)) == pytest.approx(2.5)


def test_a_run():
    one = evaluation(FINETUNED, RATES, MACHINE, 1)
    assert run_hours(FINETUNED, RATES, MACHINE, 1) == pytest.approx(19.2 + one.seconds / 3600)


def test_memory_of_one_gpu():
    m = memory(FROZEN, MACHINE, 1)
    assert m.weights == pytest.approx(0.48e9)  # 100 M x 4 and 40 M x 2
    assert m.gradients == m.momentum == pytest.approx(0.16e9)
    assert (m.images, m.at_a_time) == (64, 8)  # 8.2 GB are left
    assert m.total == pytest.approx((0.48 + 0.16 + 0.16 + 8 + 1) * 1e9)


def test_memory_of_several_gpus_has_buckets_too():
    assert memory(FROZEN, MACHINE, 64).gradients == pytest.approx(0.32e9)
    assert memory(FROZEN, MACHINE, 64).at_a_time == 1


def test_disk():
    d = disk(FROZEN)
    assert d["count"] == 8  # after 5,000, ..., 35,000, and the last
    assert d["checkpoints"] == pytest.approx(8 * 0.32e9 + 0.24e9)
    assert d["full"] == pytest.approx(8 * 0.56e9)
    assert disk(FINETUNED)["checkpoints"] == disk(FINETUNED)["full"] == pytest.approx(8 * 0.8e9)


def test_evaluation():
    e = evaluation(FROZEN, RATES, MACHINE, 2)
    assert e.inference == pytest.approx(50)  # 5,000 x 2 TFLOP on 200 TFLOP/s
    assert e.gathered == pytest.approx(20e6)
    assert e.gather == pytest.approx(0.4)  # written and read at 100 MB/s
    assert e.evaluator == pytest.approx(10)


def test_evaluation_of_masks_takes_both():
    e = evaluation(replace(FROZEN, masks=True, dataset="lvis_v1_train"), RATES, MACHINE, 1)
    assert e.evaluator == pytest.approx(19_809 * 0.003)
    assert e.gathered == pytest.approx(19_809 * 100 * 340)


def test_where_the_loader_begins_to_limit():
    assert loader_limit(FINETUNED, RATES, MACHINE) == pytest.approx(20 * 10 / (10 + 100 / 3))
    assert cores_a_gpu(FINETUNED, RATES, MACHINE) == pytest.approx(1 + 10 / 3)


def test_where_the_all_reduce_begins_to_limit():
    single = replace(MACHINE, gpus_per_machine=1)
    assert allreduce_limit(FINETUNED, single) == pytest.approx(1 + 1.28 / 0.8)
    assert allreduce_limit(FINETUNED, MACHINE) == 4  # from the second machine on


def test_where_the_evaluator_begins_to_limit():
    assert evaluator_limit(FROZEN, RATES, MACHINE) == pytest.approx(100 / 10.4)


gpus = st.sampled_from([1, 2, 4, 8, 16, 32, 64])
recipes = st.builds(
    lambda trained, forward, backward, kept: replace(
        FINETUNED, trained=trained, forward=forward, step=forward + backward, kept=kept
    ),
    st.integers(1, 100_000_000),
    st.floats(1e9, 1e13),
    st.floats(1e9, 1e13),
    st.floats(1e6, 1e11),
)


@given(recipes, gpus, gpus)
def test_more_gpus_never_take_longer_where_computing_limits(recipe, a, b):
    few, many = sorted((a, b))
    steps = [step(recipe, RATES, WIDE, n) for n in (few, many)]
    if all(s.limit == "compute" for s in steps):
        assert steps[1].seconds <= steps[0].seconds * (1 + 1e-9)


@given(recipes, gpus)
def test_a_step_is_no_shorter_than_any_of_its_parts(recipe, n):
    s = step(recipe, RATES, MACHINE, n)
    assert s.seconds >= max(s.compute, s.loader, s.allreduce - 1e-12)
    assert s.seconds <= s.compute + s.loader + s.allreduce


@given(st.integers(1, 99_999_999), st.sampled_from([2, 8, 64]))
def test_freezing_sends_and_keeps_less(trained, n):
    frozen = replace(FINETUNED, trained=trained)
    assert step(frozen, RATES, MACHINE, n).sent < step(FINETUNED, RATES, MACHINE, n).sent
    assert disk(frozen)["checkpoints"] < disk(frozen)["full"]
    a, b = memory(frozen, MACHINE, n), memory(FINETUNED, MACHINE, n)
    assert a.total - a.activations < b.total - b.activations


@given(recipes, gpus, st.integers(2, 20))
def test_training_goes_with_the_epochs(recipe, n, times):
    rest = evaluation(recipe, RATES, MACHINE, n).seconds / 3600
    short = run_hours(recipe, RATES, MACHINE, n) - rest
    longer = replace(recipe, iterations=recipe.iterations * times)
    assert run_hours(longer, RATES, MACHINE, n) - rest == pytest.approx(times * short)


@given(recipes)
def test_at_its_limit_the_loader_takes_as_long_as_computing(recipe):
    n = loader_limit(recipe, RATES, MACHINE)
    loading = (MACHINE.cores - n) * RATES.loader(recipe)
    assert loading == pytest.approx(n * MACHINE.rate / recipe.step)


@given(recipes)
def test_at_its_limit_the_all_reduce_takes_as_long_as_backward(recipe):
    n = allreduce_limit(recipe, replace(MACHINE, gpus_per_machine=1))
    backward = recipe.batch / n * (recipe.step - recipe.forward) / MACHINE.rate
    sent = 2 * (n - 1) / n * 4 * recipe.trained
    assert sent / 1e9 == pytest.approx(backward, rel=1e-6, abs=1e-9)  # 1 GB/s between machines


@given(recipes, gpus)
def test_memory_fits_but_where_not_even_one_image_does(recipe, n):
    m = memory(recipe, MACHINE, n)
    assert m.total <= MACHINE.gpu_gb * 1e9 * (1 + 1e-9) or m.at_a_time == 1
    assert m.images % m.at_a_time == 0


def test_the_paper_trained_163_networks():
    assert sum(group.count for group in NETWORKS) == 163
    assert sum(group.count for group in NETWORKS if group.frozen) == 98


@pytest.mark.parametrize(
    ("seconds", "machines", "last"),
    [([3, 1, 2], 1, 6), ([3, 1, 2], 2, 3), ([3, 1, 2], 9, 3), ([2, 2, 2], 2, 4), ([], 3, 0)],
)
def test_makespan(seconds, machines, last):
    assert makespan(seconds, machines) == last


def test_networks_on_one_gpu():
    counted = [{"step": 4e9 - 4e8 * n} for n in range(8)]
    fast = replace(RATES, view=1e9)
    cost = network_costs(counted, fast, MACHINE, 1)
    full = (10 + 42 + 1) * 450_000 + 12 * 200_000
    by_hand = BATCH * (4e9 * full + 14 * 450_000 * sum(4e9 - 4e8 * n for n in range(1, 8)))
    assert cost["operations"] == pytest.approx(by_hand)
    assert cost["seconds"] == pytest.approx(by_hand / 100e12)
    assert cost["busy"] == pytest.approx(by_hand / 100e12)
    assert cost["spared"] == pytest.approx(14 * 450_000 * BATCH * 4e8 * 28)


def test_networks_that_wait_for_their_images():
    counted = [{"step": 1.0}] * 8
    cost = network_costs(counted, RATES, MACHINE, 4)
    assert cost["loader"] == pytest.approx(BATCH * 4 / 16 / 100)
    assert cost["busy"] == pytest.approx(cost["loader"] * (151 * 450_000 + 12 * 200_000))


def test_a_machine_of_ones_own(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"cores": 32, "reached": 0.2}')
    machine = read_machine(path, {"cores": 64.0})
    assert (machine.cores, machine.reached, machine.gpus_per_machine) == (64, 0.2, 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"core": 3}', "'core' is not known; did you mean cores"),
        ('{"cores": 0}', "cores is 0; it is a number above 0"),
        ('{"cores": 1.5}', "it is a whole number"),
        ('{"disk": "fast"}', "disk is 'fast'"),
        ('{"reached": 1.5}', "it is a share"),
        ("[]", "is no json object"),
        ("{", "is not json"),
    ],
)
def test_a_machine_that_cannot_be(tmp_path, content, said):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        read_machine(path, {})


def test_tables_go_between_their_markers():
    text = "a\n<!-- scale:time -->\nold\n<!-- /scale -->\nb\n"
    filled = fill(text, {"time": "| new |"})
    assert filled == "a\n<!-- scale:time -->\n| new |\n<!-- /scale -->\nb\n"
    assert fill(filled, {"time": "| new |"}) == filled
    with pytest.raises(UserError, match="asks for the table time; there are disk"):
        fill(text, {"disk": ""}, "scale.md")
