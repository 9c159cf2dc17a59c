"""Nothing reaches for the network by itself: not an import, not --help, not a test."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ELSEWHERE = "192.0.2.1"  # for documentation, RFC 5737: nobody has it


@pytest.mark.parametrize(
    "reach",
    [
        lambda: socket.create_connection((ELSEWHERE, 80), timeout=1),
        lambda: socket.getaddrinfo("example.com", 80),
        lambda: socket.gethostbyname("example.com"),
        lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", (ELSEWHERE, 53)),
    ],
)
def test_the_network_is_barred(reach, no_network):
    with pytest.raises(ConnectionRefusedError, match="tests work without a network"):
        reach()
    (line,) = no_network.read().splitlines()  # read here, or it would fail this test
    assert ELSEWHERE in line or "example.com" in line


def test_also_to_a_program(no_network):
    code = f"import socket\nsocket.create_connection(({ELSEWHERE!r}, 80))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "tests work without a network" in ran.stderr
    assert no_network.read().count(ELSEWHERE) == 1


def test_this_machine_is_not(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        socket.create_connection(("localhost", server.getsockname()[1])).close()
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(str(tmp_path / "socket"))
        server.listen()
        client.connect(str(tmp_path / "socket"))


def test_a_name_that_cannot_be_found():
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("nowhere.invalid", 80)


WATCH = """
import sys
reached = []
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        reached.append((event, args[1:] if event == "socket.connect" else args))
sys.addaudithook(watch)
"""

IMPORTS = """
import importlib, pkgutil
import det_transfer
names = ["det_transfer"]
names += [m.name for m in pkgutil.walk_packages(det_transfer.__path__, "det_transfer.")]
for name in names:
    importlib.import_module(name)
print(len(names), "imported")
"""

HELPS = """
import contextlib, io, runpy
for path in sys.argv[1:]:
    sys.argv, sys.path[0] = [path, "--help"], path.rpartition("/")[0]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        assert not end.code, (path, end.code)
    assert "usage:" in said.getvalue(), path
    print(path)
"""


def unreached(code, *args):
    """What `code` prints in a Python of its own, where nothing may ask for an address."""
    code = f"{WATCH}{code}\nassert not reached, reached"
    ran = subprocess.run(
        [sys.executable, "-c", code, *args], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_no_import_reaches_for_the_network():
    modules = [p for p in (ROOT / "det_transfer").rglob("*.py") if p.name != "__init__.py"]
    assert int(unreached(IMPORTS).split()[0]) > len(modules)


def test_no_help_reaches_for_the_network():
    folders = ("tools", "tools/benchmarks", "datasets")
    programs = [
        str(path)
        for folder in folders
        for path in sorted((ROOT / folder).glob("*.py"))
        if 'if __name__ == "__main__":' in path.read_text()
    ]
    assert len(programs) > 30
    assert unreached(HELPS, *programs).split("\n")[:-1] == programs


def test_watching_sees():
    with pytest.raises(AssertionError, match=r"socket\.getaddrinfo"):
        unreached("import socket; socket.getaddrinfo('localhost', 80)")
