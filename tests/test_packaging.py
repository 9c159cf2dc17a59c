"""setup.py, the locks and what a tracked file must not hold."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import det_transfer

ROOT = Path(__file__).parents[1]
LOCKS = ["build.txt", "lock.txt", "floor.txt", "detectron2.txt"]


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """What setup.py tells setuptools, read where `import torch` and `import detectron2` fail."""
    poison = tmp_path_factory.mktemp("poison")
    for name in ("torch", "torchvision", "detectron2", "timm"):
        (poison / f"{name}.py").write_text("raise RuntimeError('setup.py must not import this')")
    code = f"""
import json, sys, setuptools
sys.path.insert(0, {str(poison)!r})
setuptools.setup = lambda **told: print(json.dumps(told))
sys.argv = ["setup.py", "--version"]
exec(compile(open("setup.py").read(), "setup.py", "exec"), {{"__file__": "setup.py"}})
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def names(lines):
    """Normalised project names of requirement lines."""
    found = (re.match(r"[A-Za-z0-9._-]+", line) for line in lines if line[:1].isalnum())
    return {re.sub(r"[-_.]+", "-", match.group()).lower() for match in found}


def wanted(name):
    return names((ROOT / "requirements" / name).read_text().splitlines())


def test_version_is_written_once(described):
    assert described["version"] == det_transfer.__version__


def test_version_is_in_the_changelog(described):
    assert described["version"] in (ROOT / "CHANGELOG.md").read_text()


def test_setup_asks_for_nothing_that_pip_cannot_choose(described):
    assert not names(described["install_requires"]) & {"torch", "torchvision", "detectron2"}
    assert described["python_requires"] == ">=3.10"


PROJECT = {"PIL": "pillow", "yaml": "pyyaml"}  # where the import has another name
THEIRS = {"torch", "torchvision", "detectron2"}  # that a user has; and what Detectron2 brings:
THEIRS |= {"pyyaml", "fvcore", "iopath", "omegaconf", "yacs"}


def test_setup_asks_for_whatever_the_package_imports(described):
    """At the top of a file; what is imported where it is needed is an extra."""
    imported = set()
    for path in (ROOT / "det_transfer").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported.add(node.module.split(".")[0])
    imported -= {"det_transfer", *sys.stdlib_module_names}
    assert "numpy" in imported
    projects = {PROJECT.get(name, name) for name in imported}
    assert projects - THEIRS <= names(described["install_requires"])


def test_setup_takes_our_package_alone(described):
    assert {name.split(".")[0] for name in described["packages"]} == {"det_transfer"}
    assert "det_transfer" in described["packages"]


def test_what_setup_asks_for_is_in_the_locked_set(described):
    """But for Ray, which who has a cluster has there."""
    extras = {name: asked for name, asked in described["extras_require"].items() if name != "ray"}
    asked = names(sum(extras.values(), described["install_requires"]))
    assert asked <= wanted("base.in") | wanted("build.in")


@pytest.mark.parametrize(("source", "lock"), [("base.in", "lock.txt"), ("build.in", "build.txt")])
def test_the_lock_covers_what_it_was_solved_from(source, lock):
    assert wanted(source) <= wanted(lock)


def pins(lock):
    """{name==version: the pin's whole text}, continuation lines joined."""
    text = (ROOT / "requirements" / lock).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line[:1].isalnum()]
    return {line.split()[0]: line for line in lines}


def test_both_locks_pin_the_same():
    assert pins("build.txt").keys() <= pins("lock.txt").keys()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_is_exact_and_has_hashes(lock):
    found = pins(lock)
    assert found
    for pin, text in found.items():
        assert re.fullmatch(r"[a-z0-9._-]+==[a-z0-9.]+", pin), pin
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", text), pin


def test_the_floor_is_the_oldest_that_setup_allows(described):
    extras = described["extras_require"]
    asked = [*described["install_requires"], *extras["torch"]]
    floors = dict(line.split(">=") for line in asked if ">=" in line)
    text = (ROOT / "requirements/floor.in").read_text()
    pinned = dict(re.findall(r"^([a-z]+)==([0-9.]+)", text, re.MULTILINE))
    assert floors.keys() <= pinned.keys()
    assert all((pinned[name] + ".").startswith(f"{floor}.") for name, floor in floors.items())
    locked = (ROOT / "requirements/floor.txt").read_text()
    assert all(f"\n{name}=={version} ;" in locked for name, version in pinned.items())


def test_the_floor_is_else_the_lock():
    """But for what torch asks for by exact version."""
    changed = names(pins("floor.txt").keys() - pins("lock.txt").keys())
    changed = {name for name in changed if not name.startswith("nvidia-")}
    assert changed == {"torch", "torchvision", "timm", "triton", "sympy"}


@pytest.mark.parametrize("lock", ["lock.txt", "floor.txt"])
def test_the_lock_leaves_out_what_needs_a_screen(lock):
    assert "opencv-python" not in wanted(lock)
    assert "opencv-python-headless" in wanted(lock)


@pytest.mark.parametrize("lock", ["lock.txt", "floor.txt"])
def test_the_lock_is_for_linux_alone(lock):
    assert not re.search("win32|darwin|emscripten", (ROOT / "requirements" / lock).read_text())


# In pieces, so that this file passes its own scan.
FORBIDDEN = {
    "a registry's host": r"pypi\.(python\.)?o"
    + r"rg/simple|python"
    + r"hosted\.org|/opt/p"
    + "ypi",
    "an index or a folder of wheels": r"(?<!no-emit)--?(extra-)?index" + r"-url|--find" + "-links",
    "a path of somebody's machine": r"(?<![\w.~}])/(ro"
    + r"ot|wo"
    + r"rk|ho"
    + r"me/\w+|Us"
    + r"ers/\w+)/",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_tracked_file_holds(what):
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: which files are tracked is not known")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes().decode("utf-8", errors="ignore")
            found += [f"{name}: {hit.group()}" for hit in re.finditer(FORBIDDEN[what], text)]
    assert found == []


def test_make_without_a_target_lists_the_targets():
    listed = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("quickstart", "test", "test-floor", "lint", "lock", "audit", "clean"):
        assert re.search(rf"^  {target} +\w", listed, re.MULTILINE), target
