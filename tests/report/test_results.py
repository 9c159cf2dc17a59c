"""The page says what the json files say, and nothing else."""

import json
import re
import sys
from pathlib import Path

import pytest
from made_up_runs import make_run
from PIL import Image

from det_transfer.errors import UserError
from det_transfer.report.collect import collect
from det_transfer.report.conditions import Said
from det_transfer.report.curve import loss_curve
from det_transfer.report.results import copy_pictures, render, stale, write
from det_transfer.run_folder import write_json

pytest.importorskip("matplotlib")
ROOT = Path(__file__).parents[2]
PAGE = Path("docs/results/README.md")
CURVE = Path("docs/results/pictures/demo_loss.svg")


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one json, of four runs in two groups."""
    aps = {"frozen_seed1": 31.234, "frozen_seed2": 33.0, "frozen_seed3": 32.0, "random_seed1": 9.87}
    runs = [make_run(tmp_path / "output" / n, int(n[-1]), ap) for n, ap in aps.items()]
    content = collect(runs, tmp_path, Said("A demo", "Which?", ["Mind *this*."]))
    write_json(tmp_path / "docs/results/demo.json", content)
    return tmp_path


def row(text, label):
    """The cells of the first table row that begins with `label`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_numbers_on_the_page_are_those_of_the_json(checkout):
    text = render(checkout)[PAGE].decode()
    head = row(text, "")
    cells = dict(zip(head, row(text, "frozen"), strict=True))
    json_ap = json.loads((checkout / "docs/results/demo.json").read_text())["groups"][0]
    ap = json_ap["results"]["made_up"]["bbox"]["AP"]
    assert cells["AP"] == f"{ap['mean']:.1f} ± {ap['std']:.1f}" == "32.1 ± 0.9"
    assert cells["seeds"] == "3"
    assert cells["trained"] == "1 of 4 M"
    assert cells["training"] == "1 min 42 s"
    assert cells["ms a step"] == "250 ± 0"
    assert cells["memory"] == "2.0 GB"
    assert "APs" not in head  # null everywhere
    assert {"APm", "APl"} < set(head)
    assert dict(zip(head, row(text, "random"), strict=True))["AP"] == "9.9"
    for expected in ("## A demo", "Which?", "Mind *this*.", "torch 2.14.1", "2026-01-02"):
        assert expected in text
    assert text.count("tools/train_net.py OUTPUT_DIR output/") == 4


def test_a_changed_number_changes_the_page(checkout):
    write(checkout)
    path = checkout / "docs/results/demo.json"
    path.write_text(path.read_text().replace("9.87", "8.87"))
    assert stale(checkout, render(checkout)) == [PAGE]
    write(checkout)
    assert "8.9" in (checkout / PAGE).read_text()


def test_two_seeds_stand_side_by_side(tmp_path):
    runs = [make_run(tmp_path / f"a_seed{i}", i, 10.0 + i) for i in (1, 2)]
    write_json(tmp_path / "docs/results/x.json", collect(runs, tmp_path, Said("T", "Q")))
    assert "11.5 (11.0, 12.0)" in render(tmp_path)[PAGE].decode()


def test_frequencies_take_the_place_of_sizes(tmp_path):
    metrics = {"AP": 30.0, "AP50": 50.0, "APs": 1.0, "APr": 2.0, "APc": None, "APf": 4.0}
    run = make_run(tmp_path / "a", results={"bbox": metrics})
    write_json(tmp_path / "docs/results/x.json", collect([run], tmp_path, Said("T", "Q")))
    head = row(render(tmp_path)[PAGE].decode(), "")
    assert {"APr", "APf"} < set(head)
    assert not {"APs", "APc"} & set(head)


def test_same_input_same_bytes(checkout):
    files = render(checkout)
    assert render(checkout) == files
    svg = files[CURVE]
    assert len(svg) < 60_000
    assert b"<dc:date>" not in svg
    assert b"frozen" in svg  # text is text
    assert svg.count(b"#1f77b4") >= 3  # first group's colour: three runs


def test_an_edited_curve_is_seen_where_it_can_be(checkout):
    write(checkout)
    svg = (checkout / CURVE).read_bytes()
    (checkout / CURVE).write_bytes(svg.replace(b"#1f77b4", b"#000000"))
    assert stale(checkout, render(checkout)) == [CURVE]
    # Another matplotlib draws otherwise: its file is left alone.
    (checkout / CURVE).write_bytes(svg.replace(b"Matplotlib v", b"Matplotlib v0."))
    assert stale(checkout, render(checkout)) == []
    # Another processor gives the clip paths other names.
    name = re.search(rb"p[0-9a-f]{10}", svg)[0]
    (checkout / CURVE).write_bytes(svg.replace(name, b"p0123456789"))
    assert stale(checkout, render(checkout)) == []


def test_more_groups_than_colours_stay_apart():
    loss = {"iteration": [1, 2], "total_loss": [2.0, 1.0]}
    few, many = (
        loss_curve([{"group": f"g{k}", "loss": loss} for k in range(count)]) for count in (10, 11)
    )
    assert b"stroke-dasharray" not in few
    assert b"stroke-dasharray" in many


def test_tables_between_markers_and_nothing_else(checkout):
    before, after = "# Top\n<!-- results:demo -->\n", "<!-- /results -->\nEnd 12.3\n"
    (checkout / "README.md").write_text(before + "| typed | 99.9 |\n" + after)
    (checkout / "docs/use.md").write_text(before + after)
    (checkout / "docs/other.md").write_text("no marker\n")
    changed = write(checkout)
    assert set(changed) == {PAGE, CURVE, Path("README.md"), Path("docs/use.md")}
    text = (checkout / "README.md").read_text()
    assert text.startswith(before)
    assert text.endswith(after)
    assert "32.1 ± 0.9" in text
    assert "99.9" not in text
    for path in (checkout / "README.md", checkout / "docs/use.md"):
        link = re.search(r"\[Commands and curves\]\((.*?)\)", path.read_text())[1]
        assert (path.parent / link).is_file()
    assert write(checkout) == []


def test_marker_without_json(checkout):
    (checkout / "README.md").write_text("<!-- results:demos -->\n<!-- /results -->\n")
    with pytest.raises(UserError, match=r"README.md asks for the results demos.*there are: demo"):
        render(checkout)


def test_json_of_another_shape(checkout):
    results = [
        {"task": "bbox", "ours": {"call_s": {"median": 0.5, "min": 0.4, "max": 0.6}}, "times": 71},
        {"task": "segm", "ours": {"call_s": {"median": 2.0, "min": 2.0, "max": 2.0}}},
    ]
    rates = {"GB/s of copies": {"median": 9.5, "min": 8.0, "max": 9.75}}
    machine = {"cpu": "a fast one", "cores_used": 1, "rates": rates}
    content = {"command": "python bench.py", "machine": machine, "results": results}
    write_json(checkout / "docs/results/a_benchmark.json", content)
    text = render(checkout)[PAGE].decode()
    assert text.index("## A demo") < text.index("## A benchmark")
    text = text[text.index("## A benchmark") :]
    assert row(text, "") == ["", "bbox", "segm"]
    assert row(text, "ours call s") == ["ours call s", "0.5 (0.4 to 0.6)", "2"]
    assert row(text, "times") == ["times", "71", "-"]
    assert "a fast one; 1 core; 9.5 (8 to 9.75) GB/s of copies." in text
    assert "python bench.py" in text


def table_of(checkout, results):
    content = {"command": "x", "machine": {"cpu": "fast", "cores": 1}, "results": results}
    write_json(checkout / "docs/results/named.json", content)
    text = render(checkout)[PAGE].decode()
    return text[text.index("## Named") :]


def test_named_results_of_the_same_numbers_are_a_grid(checkout):
    spread = {"median": 0.5, "min": 0.25, "max": 1.0}
    text = table_of(checkout, {"a": {"AP": spread, "AP50": 2}, "b:": {"AP": 3, "AP50": 4}})
    assert row(text, "") == ["", "AP", "AP50"]
    assert row(text, "a") == ["a", "0.5 (0.25 to 1)", "2"]
    assert row(text, "b") == ["b", "3", "4"]
    text = table_of(checkout, {n: {"AP": k, "AP50": k, "s": 3 * k} for k, n in enumerate("ab")})
    assert row(text, "") == ["", "a", "b"]  # the shorter side lies on top
    assert row(text, "s") == ["s", "0", "3"]


@pytest.mark.parametrize(
    ("results", "label"),
    [
        ({"a": {"AP": 1, "AP50": 2}, "b": {"AP": 3}}, "a AP50"),  # not the same numbers
        ({"a": {"AP": 1, "AP50": 2}}, "a AP50"),  # one alone
        ({"a": {"AP": 1}, "b": {"AP": 3}}, "b AP"),
        ({"a": {"median": 1, "min": 0, "max": 2}, "b": {"median": 1, "min": 1, "max": 1}}, "b"),
    ],
)
def test_other_named_results_are_a_list(checkout, results, label):
    text = table_of(checkout, results)
    assert row(text, "") == ["", ""]
    assert row(text, label)


def test_broken_json(checkout):
    (checkout / "docs/results/bad.json").write_text("{")
    with pytest.raises(UserError, match="is not json"):
        render(checkout)


def test_pictures_are_small_and_evenly_spread(tmp_path):
    run = make_run(tmp_path / "run", pictures=6)
    shown = copy_pictures("demo", run, 4, tmp_path)
    assert shown == [f"pictures/demo_{i}.jpg" for i in (1, 2, 3, 4)]
    folder = tmp_path / "docs/results"
    for path in shown:
        assert (folder / path).stat().st_size < 60_000
        with Image.open(folder / path) as picture:
            assert picture.width / picture.height == pytest.approx(2, rel=0.02)
    (folder / "pictures/demo_two_1.jpg").write_bytes(b"another set's")
    assert copy_pictures("demo", run, 2, tmp_path) == shown[:2]
    left = sorted(path.name for path in (folder / "pictures").iterdir())
    assert left == ["demo_1.jpg", "demo_2.jpg", "demo_two_1.jpg"]


def test_missing_picture(checkout):
    path = checkout / "docs/results/demo.json"
    write_json(path, {**json.loads(path.read_text()), "pictures": ["pictures/demo_1.jpg"]})
    with pytest.raises(UserError, match=r"demo.json shows pictures/demo_1.jpg, which is missing"):
        render(checkout)


@pytest.fixture
def main(monkeypatch, capsys):
    """The tool in this process: (exit code, what it printed)."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import make_results

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tools/make_results.py", *map(str, arguments)])
        code = make_results.main()
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_tool_from_run_to_page(main, tmp_path):
    run = make_run(tmp_path / "output/a_seed1", pictures=1)
    words = ["--title", "T", "--question", "Q?", "--note", "N", "--group", "A=*/a_*"]
    code, printed = main("--root", tmp_path, "collect", "demo", *words, run)
    assert code == 0, printed
    assert main("--root", tmp_path, "--check")[0] == 1
    assert main("--root", tmp_path)[0] == 0
    assert main("--root", tmp_path, "--check")[0] == 0
    assert main("--root", tmp_path, "page", "--check")[0] == 0
    text = (tmp_path / PAGE).read_text()
    assert "pictures/demo_1.jpg" in text
    assert "tools/make_results.py --root" in text
    assert str(tmp_path) not in text
    (tmp_path / PAGE).write_text(text.replace("30.0", "39.9"))
    code, printed = main("--root", tmp_path, "--check")
    assert code == 1
    assert "docs/results/README.md" in printed


def test_tool_refuses_in_words(main, tmp_path):
    run = make_run(tmp_path / "half", status="interrupted")
    words = ["--title", "T", "--question", "Q?"]
    code, printed = main("--root", tmp_path, "collect", "demo", *words, run)
    assert code == 2
    assert printed.startswith(f"error: {run} is not finished (its status is interrupted)")
    assert not (tmp_path / "docs").exists()
    run = make_run(tmp_path / "plain")
    code, printed = main("--root", tmp_path, "collect", "x", *words, "--pictures-from", run, run)
    assert code == 2
    assert "has no pictures: tools/draw_predictions.py" in printed
    code, printed = main("--root", tmp_path, "collect", "../x", *words, run)
    assert code == 2


def test_differences_of_several_comparisons_are_joined(main, tmp_path):
    def part(name, cpu, **differences):
        machine = {"cpu": cpu, "cores": 2, "devices": [cpu]}
        content = {"title": name, "note": "To frozen.", "command": f"compare {name}"}
        results = {
            k: {m: {"median": v, "min": 0, "max": 9} for m in ("AP", "AP50")}
            for k, v in differences.items()
        }
        write_json(tmp_path / name, {**content, "machine": machine, "results": results})
        return tmp_path / name

    one, two = part("1.json", "X", a=1), part("2.json", "Y", b=2, c=3)
    words = ["join", "both", "--title", "T", "--note", "First.", f"n = 1={one}", f"other={two}"]
    code, printed = main("--root", tmp_path, *words)
    assert code == 0, printed
    content = json.loads((tmp_path / "docs/results/both.json").read_text())
    found = {name: values["AP"]["median"] for name, values in content["results"].items()}
    assert found == {"n = 1: a": 1, "other: b": 2, "other: c": 3}
    assert content["collected_by"].startswith("tools/make_results.py --root")
    assert str(tmp_path) not in content["collected_by"]
    assert all(values.keys() == {"AP", "AP50"} for values in content["results"].values())
    assert main("--root", tmp_path, *words, "--metrics", "AP")[0] == 0
    fewer = json.loads((tmp_path / "docs/results/both.json").read_text())["results"]
    assert fewer == {k: {"AP": values["AP"]} for k, values in content["results"].items()}
    code, printed = main("--root", tmp_path, *words, "--metrics", "AP,APx")
    assert code == 2
    assert "n = 1: a has no APx; it has AP, AP50" in printed
    assert content["note"] == "First. To frozen."
    assert content["command"] == "compare 1.json\ncompare 2.json"
    assert content["machine"] == {"cpu": "X, Y", "devices": ["X", "Y"]}
    whole = json.loads(one.read_text())

    def odd_file(content):
        path = tmp_path / f"odd_{len(list(tmp_path.glob('odd_*')))}.json"
        write_json(path, content)
        return path

    code, printed = main("--root", tmp_path, *words, f"other={one}")
    assert (code, "the label other already" in printed) == (2, True)
    for odd, said in (
        (str(one), "is not LABEL=FILE"),
        (f"n = 1={tmp_path / 'docs/results/none.json'}", "none.json"),
        (f"n = 1={odd_file([1])}", "n = 1 has not what tools/compare_runs.py --output-json writes"),
        (f"n = 1={odd_file({**whole, 'results': [1]})}", "has not what"),
        (f"n = 1={odd_file({**whole, 'results': {'a': {'AP': 1}}})}", "has not what"),
        (f"n = 1={odd_file({**whole, 'machine': {'cpu': 'X'}})}", "has not what"),
        (f"n = 1={odd_file({k: v for k, v in whole.items() if k != 'command'})}", "has not what"),
    ):
        code, printed = main("--root", tmp_path, "join", "x", "--title", "T", odd)
        assert code == 2
        assert said in printed


def test_nobody_edits_the_page_of_this_checkout(main):
    """Whoever adds a json in docs/results runs `make results`."""
    code, printed = main("--check")
    assert code == 0, printed
