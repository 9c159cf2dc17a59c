"""tools/bootstrap.py, without a network and without installing anything."""

import ast
import base64
import hashlib
import importlib.util
import subprocess
import sys
import textwrap
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "bootstrap.py"


@pytest.fixture
def bootstrap():
    spec = importlib.util.spec_from_file_location("bootstrap", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(tmp_path, bootstrap, monkeypatch):
    """A checkout that has what the stamp depends on, and nothing installed."""
    root = tmp_path / "a checkout"  # a space in the path must not matter
    for name in (*bootstrap.Place(root).inputs, "det_transfer/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{name}\n")
    (root / "det_transfer/__init__.py").write_text('__version__ = "1.2"\n')
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py"])
    return root


@pytest.fixture
def place(bootstrap, root):
    return bootstrap.Place(root)


@pytest.fixture
def venv(root):
    """A .venv whose Python is this one and whose pip is what `fake_pip` writes."""
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "tmp").mkdir()
    return root / ".venv"


def fake_python(venv, code):
    """Put a program in the place of .venv's Python; `sys.argv` is what it was called with."""
    python = venv / "bin" / "python"
    python.write_text(f"#!{sys.executable}\nimport sys\n{textwrap.dedent(code)}")
    python.chmod(0o755)


def test_an_old_python_can_read_it():
    ast.parse(SCRIPT.read_text(), feature_version=(3, 7))  # the oldest that every ast still knows
    names = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert names <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("version", [(3, 10, 0), (3, 11, 2), (3, 14, 1)])
def test_python_that_the_lock_knows(bootstrap, version):
    bootstrap.check_python(bootstrap.Place(SCRIPT.parent), version)


@pytest.mark.parametrize(
    ("version", "why"),
    [((2, 7, 18), "old"), ((3, 6, 15), "old"), ((3, 9, 18), "old"), ((3, 15, 0), "new")],
)
def test_python_too_old_or_too_new(bootstrap, version, why, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    line = rf"^Python \d\.\d+\.\d+ is too {why}.*install one and name it: make PYTHON="
    with pytest.raises(bootstrap.Stop, match=line):
        bootstrap.check_python(bootstrap.Place(SCRIPT.parent), version)


def test_the_wrong_python_names_one_that_is_here(bootstrap, monkeypatch):
    monkeypatch.setattr(bootstrap, "KNOWN", ("python9.9", "python9.8", "python9.7"))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: name != "python9.9")
    monkeypatch.setattr(bootstrap, "_runs", lambda name, *_: name == "python9.7")
    with pytest.raises(bootstrap.Stop, match=r"has one: make PYTHON=python9\.7 "):
        bootstrap.check_python(bootstrap.Place(SCRIPT.parent), (3, 9, 0))


def one_line(capsys):
    """What the program said on stderr, which must be a single line."""
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_floor_in_a_venv_of_its_own(bootstrap, root, monkeypatch):
    found = []
    monkeypatch.setattr(bootstrap, "set_up", found.append)
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--floor"])
    assert bootstrap.main() == 0
    (place,) = found
    assert place.root == root
    assert place.venv == root / ".venv-floor"
    assert "requirements/floor.txt" in place.inputs
    assert "requirements/lock.txt" not in place.inputs
    bootstrap.check_python(place, (3, 13, 0))
    with pytest.raises(bootstrap.Stop, match=r"the locked set is for 3\.10 to 3\.13"):
        bootstrap.check_python(place, (3, 14, 0))


def test_not_linux(bootstrap, root, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.sys, "platform", "darwin")
    assert bootstrap.main() == 2
    assert "darwin" in one_line(capsys)
    assert not (root / ".venv").exists()


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_no_venv_module(bootstrap, root, monkeypatch, capsys, module):
    find = bootstrap.importlib.util.find_spec
    monkeypatch.setattr(
        bootstrap.importlib.util, "find_spec", lambda name: None if name == module else find(name)
    )
    assert bootstrap.main() == 2
    line = one_line(capsys)
    assert f"no module {module}" in line
    assert "apt install python{}.{}-venv".format(*sys.version_info) in line


Usage = namedtuple("Usage", "total used free")


def test_no_disk_space(bootstrap, root, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.shutil, "disk_usage", lambda path: Usage(0, 0, 3 * 2**30))
    assert bootstrap.main() == 2
    line = one_line(capsys)
    assert "3.0 are free" in line
    assert f"{bootstrap.PEAK_GIB:.1f} GiB are needed" in line


def test_disk_needed_falls_with_what_is_there(bootstrap, root, place, monkeypatch):
    monkeypatch.setattr(bootstrap, "FULL_GIB", 1 / 64)  # 16 MiB
    site = root / ".venv/lib/python3.10/site-packages"
    site.mkdir(parents=True)
    assert bootstrap.disk_needed(place) == bootstrap.PEAK_GIB
    (site / "half").write_bytes(bytes(8 * 2**20))
    assert bootstrap.disk_needed(place) == pytest.approx(bootstrap.PEAK_GIB / 2, rel=0.01)
    (site / "more").write_bytes(bytes(9 * 2**20))
    assert bootstrap.disk_needed(place) == 0


# The stamp ---------------------------------------------------------------------------------------
@pytest.fixture
def done(bootstrap, root, place, venv):
    fake_python(venv, "")
    (venv / "bootstrap.done").write_text(bootstrap.digest(place) + "\n")
    assert bootstrap.is_done(place)
    return root


def test_nothing_is_done_twice(bootstrap, done, monkeypatch, capsys):
    def forbidden(*_, **__):
        raise AssertionError("a program was started")

    monkeypatch.setattr(bootstrap.subprocess, "run", forbidden)
    monkeypatch.setattr(bootstrap.subprocess, "Popen", forbidden)
    assert bootstrap.main() == 0
    assert capsys.readouterr() == ("", "")


def test_every_input_counts(bootstrap, done, place):
    for name in place.inputs:
        text = (done / name).read_text()
        (done / name).write_text(text + "x")
        assert not bootstrap.is_done(place), name
        (done / name).write_text(text)
    assert bootstrap.is_done(place)


def test_our_version_counts_and_the_rest_of_the_file_does_not(bootstrap, done, place):
    ours = done / "det_transfer/__init__.py"
    ours.write_text('"""New words."""\n__version__ = "1.2"\n')
    assert bootstrap.is_done(place)
    ours.write_text('__version__ = "1.3"\n')
    assert not bootstrap.is_done(place)


def test_a_moved_checkout_is_not_done(bootstrap, done, place):
    assert not bootstrap.is_done(place._replace(root=done.rename(done.with_name("moved"))))


def test_a_python_that_is_gone_is_not_done(bootstrap, done, place):
    python = done / ".venv/bin/python"
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert not bootstrap.is_done(place)


# .venv -------------------------------------------------------------------------------------------
def test_a_venv_of_somebody_else_is_not_removed(bootstrap, place, venv):
    (venv / "precious").touch()
    with pytest.raises(bootstrap.Stop, match=r"rm -r .*venv"):
        bootstrap.make_venv(place)
    assert (venv / "precious").exists()


def test_an_unfinished_venv_is_made_anew(bootstrap, place, venv, monkeypatch):
    (venv / "bootstrap.unfinished").touch()
    (venv / "half").touch()
    commands = []

    def run(command, **_):
        assert (venv / "bootstrap.unfinished").exists()  # a kill here is found the next time
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(bootstrap.subprocess, "run", run)
    bootstrap.make_venv(place)
    assert commands == [[sys.executable, "-m", "venv", str(venv)]]
    assert not (venv / "half").exists()
    assert not (venv / "bootstrap.unfinished").exists()


def test_a_venv_that_works_is_kept_and_healed(bootstrap, place, venv):
    fake_python(venv, "")
    site = venv / "lib/python3.10/site-packages"
    for name in ("whole-1.dist-info", "half-1.dist-info", "~orch", "whole"):
        (site / name).mkdir(parents=True)
        (site / name / "METADATA").touch()
    (site / "whole-1.dist-info" / "INSTALLER").touch()
    (venv / "tmp" / "left by a killed pip").touch()
    bootstrap.make_venv(place)
    assert sorted(path.name for path in site.iterdir()) == ["whole", "whole-1.dist-info"]
    assert list((venv / "tmp").iterdir()) == []


# pip ---------------------------------------------------------------------------------------------
NO_NETWORK = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError'",
    "ERROR: Could not find a version that satisfies the requirement torch==2 (from versions: none)",
    "ERROR: No matching distribution found for torch==2",
)


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (NO_NETWORK, "no network"),
        (NO_NETWORK[1:], "the package index has no torch==2"),
        (
            ["ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM"],
            "a download differs from the locked",
        ),
        (["ERROR: [Errno 28] No space left on device"], "not enough disk space"),
        (["WARNING: a", "ERROR: b", "ERROR: something else"], "ERROR: something else"),
        ([], "pip failed"),
    ],
)
def test_pip_fails_with_one_line(bootstrap, root, place, venv, monkeypatch, capfd, said, reason):
    fake_python(
        venv,
        f"""
        if "pip" not in sys.argv: sys.exit(0)  # does this .venv work? it does
        print("Collecting torch", flush=True)
        print({chr(10).join(said)!r}, file=sys.stderr)
        sys.exit(1)
        """,
    )
    monkeypatch.setattr(bootstrap, "check_disk", lambda root: None)
    assert bootstrap.main() == 2
    out, err = capfd.readouterr()
    assert "Collecting torch" in out  # pip's own progress is seen
    assert ("does not answer" in out) == ("Retrying" in "".join(said))
    (line,) = err.splitlines()
    assert line.startswith(f"bootstrap: {reason}")
    assert str(venv / "pip.log") in line
    assert not bootstrap.is_done(place)


def test_the_steps_in_order_then_the_stamp(bootstrap, root, place, venv, monkeypatch):
    fake_python(
        venv,
        """
        if "-c" in sys.argv: sys.exit("distributions" in sys.argv[-1])  # no Detectron2 yet
        import os
        assert os.path.samefile(os.environ["TMPDIR"], os.path.dirname(sys.argv[0]) + "/../tmp")
        log = sys.argv[sys.argv.index("--log") + 1]
        for name in (log, log + ".kept"):
            with open(name, "a") as file:
                file.write(" ".join(sys.argv[1:]) + chr(10))
        if "download" in sys.argv:
            import zipfile
            folder = sys.argv[sys.argv.index("-d") + 1]
            os.makedirs(folder)
            with zipfile.ZipFile(folder + "/sal_detectron2-0.7-cp310-none-any.whl", "w") as wheel:
                wheel.writestr("detectron2/__init__.py", "")
                wheel.writestr("sal_detectron2-0.7.dist-info/LICENSE", "")
        """,
    )
    monkeypatch.setattr(bootstrap, "check_disk", lambda root: None)
    assert bootstrap.main() == 0
    assert bootstrap.is_done(place)
    assert not (venv / "tmp").exists()
    assert not (venv / "pip.log").exists()
    calls = (venv / "pip.log.kept").read_text().splitlines()
    assert [call.split()[3] for call in calls] == [*["install"] * 2, "download", *["install"] * 2]
    for call, what in zip(
        calls, ("build.txt", "lock.txt", "detectron2.txt", "detectron2-0.7-py3", "-e"), strict=True
    ):
        assert what in call
        assert "--no-deps" in call
        assert ("--require-hashes" in call) == (".txt" in call)


def test_a_detectron2_that_is_there_is_left_alone(bootstrap, place, venv, monkeypatch):
    fake_python(venv, "sys.exit(0)")
    monkeypatch.setattr(bootstrap, "pip", lambda *_: pytest.fail("pip was called"))
    bootstrap.install_detectron2(place)


@pytest.mark.parametrize(
    ("content", "there"),
    [
        ([], False),
        (["detectron2/__init__.py"], False),  # a killed pip left it
        (["detectron2/__init__.py", "detectron2-0.6.dist-info/METADATA"], True),
        (["detectron2/__init__.py", "sal_detectron2-0.7.dist-info/METADATA"], True),
        (["detectron2-0.6.dist-info/METADATA"], False),
    ],
)
def test_what_counts_as_detectron2(bootstrap, tmp_path, content, there):
    for name in content:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        dist = name.split("-")[0]
        (tmp_path / name).write_text(f"Name: {dist.replace('_', '-')}\n" if "-" in name else "")
    # with nothing on the path but the standard library and the folder, which plays site-packages
    code = f"import sys\nsys.path.insert(0, {str(tmp_path)!r}); sys.prefix = {str(tmp_path)!r}\n"
    ran = subprocess.run([sys.executable, "-IS", "-c", code + bootstrap._HAS_DETECTRON2])
    assert (ran.returncode == 0) == there


# Detectron2 as a pure wheel ----------------------------------------------------------------------
@pytest.fixture
def source_wheel(tmp_path):
    path = tmp_path / "sal_detectron2-0.7.2-cp310-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {
            "detectron2/__init__.py": "__version__ = '0.7.2'\n",
            "detectron2/model_zoo/configs/a.yaml": "A: 1\n",
            "detectron2/_C.cpython-310-x86_64-linux-gnu.so": "binary",
            "tools/__init__.py": "",
            "sal_detectron2-0.7.2.dist-info/LICENSE": "Apache\n",
            "sal_detectron2-0.7.2.dist-info/METADATA": "Name: sal-detectron2\n",
        }.items():
            wheel.writestr(name, text)
    return path


def test_repack_keeps_python_and_licence_alone(bootstrap, source_wheel, tmp_path):
    wheel = bootstrap.repack(source_wheel, tmp_path)
    assert wheel.name == "detectron2-0.7.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as files:
        assert sorted(files.namelist()) == [
            "detectron2-0.7.2.dist-info/LICENSE",
            "detectron2-0.7.2.dist-info/METADATA",
            "detectron2-0.7.2.dist-info/RECORD",
            "detectron2-0.7.2.dist-info/WHEEL",
            "detectron2/__init__.py",
            "detectron2/model_zoo/configs/a.yaml",
        ]
        assert files.read("detectron2/__init__.py") == b"__version__ = '0.7.2'\n"
        assert files.read("detectron2-0.7.2.dist-info/LICENSE") == b"Apache\n"
        record = files.read("detectron2-0.7.2.dist-info/RECORD").decode().splitlines()
        for name, digest, size in (line.split(",") for line in record[:-1]):
            sha = base64.urlsafe_b64encode(hashlib.sha256(files.read(name)).digest()).decode()
            assert (digest, int(size)) == (
                f"sha256={sha.rstrip('=')}",
                files.getinfo(name).file_size,
            )
        assert record[-1] == "detectron2-0.7.2.dist-info/RECORD,,"


def test_pip_takes_the_repacked_wheel(bootstrap, source_wheel, tmp_path):
    wheel = bootstrap.repack(source_wheel, tmp_path)
    pip = [sys.executable, "-I", "-m", "pip"]
    install = [*pip, "install", "-q", "--no-index", "--no-deps", "--target", tmp_path / "site"]
    subprocess.run([*install, wheel], check=True)
    listed = subprocess.run(
        [*pip, "list", "--path", tmp_path / "site"], capture_output=True, text=True, check=True
    )
    assert "detectron2 0.7.2" in " ".join(listed.stdout.split())
    assert not (tmp_path / "site" / "tools").exists()


# One at a time -----------------------------------------------------------------------------------
def test_a_second_one_waits(bootstrap, tmp_path):
    """Also for a child that the first one left behind, as a killed set-up leaves its pip."""
    code = f"""
        import importlib.util, subprocess, sys
        spec = importlib.util.spec_from_file_location("bootstrap", {str(SCRIPT)!r})
        bootstrap = importlib.util.module_from_spec(spec); spec.loader.exec_module(bootstrap)
        bootstrap.__file__ = {str(tmp_path / "lock")!r}
        with bootstrap._one_at_a_time():
            if sys.argv[1:]:  # its child waits for a line; it itself ends at once
                child = "import sys; sys.stdin.readline(); print('child', flush=True)"
                subprocess.Popen([sys.executable, "-c", child], close_fds=False)
            else:
                print("second", flush=True)
    """
    (tmp_path / "lock").touch()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    first = subprocess.Popen([*command, "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    first.wait(timeout=300)
    second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "waiting" in second.stdout.readline()
    assert second.poll() is None
    first.stdin.write(b"\n")
    first.stdin.close()
    assert first.stdout.read() == b"child\n"
    first.stdout.close()
    assert second.communicate(timeout=300)[0] == "second\n"
