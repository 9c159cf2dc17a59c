"""Who may import whom, read from the imports themselves (docs/architecture.md has the picture)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "det_transfer"
FILES = {"documents", "formats", "machine", "segmentations", "run_folder", "run_lengths"}
BASE = {"errors", "config", "garbage", "stream"} | FILES

# Room -> the rooms of the package that it may import. A file of engine/ has a line of its own.
ALLOWED = {
    "errors": set(),
    "documents": {"errors", "garbage"},
    "formats": {"errors"},
    "machine": set(),
    "segmentations": set(),
    "run_lengths": set(),
    "run_folder": {"documents", "run_lengths"},
    "config": {"errors", "documents"},
    "garbage": set(),
    "stream": {"errors", "garbage"},
    "reuse": BASE,
    "data": BASE | {"reuse"},
    "modeling": BASE | {"reuse"},
    "evaluation": BASE | {"reuse", "data", "modeling"},
    "engine": BASE | {"reuse"},
    "engine.detection": BASE | {"reuse", "data", "modeling", "evaluation", "engine", "report"},
    "prediction": BASE | {"reuse", "data", "modeling", "evaluation", "report"},
    "classification": BASE | {"reuse", "engine"},
    "report": {"errors"} | FILES,
    "testing": {"errors"},
    "composition": BASE | {"api", "modeling", "engine"},
    "export": BASE | {"reuse", "api", "modeling"},
    "api": BASE | {"reuse", "data", "modeling", "evaluation", "engine", "engine.detection"},
}
# Room -> packages that it must do without.
FORBIDDEN = {
    "reuse": {"detectron2"},
    "stream": {"detectron2", "torchvision", "timm"},
    "report": {"detectron2", "torch", "torchvision", "timm"},
    "documents": {"detectron2", "torch", "torchvision", "timm", "numpy"},
    "run_folder": {"detectron2", "torch", "torchvision", "timm"},
    "errors": {"detectron2", "torch", "torchvision", "timm", "numpy"},
    "garbage": {"detectron2", "torch", "torchvision", "timm", "numpy"},
}


def room_of(parts):
    """("engine", "detection") -> "engine.detection"; ("data", "loader") -> "data"."""
    dotted = ".".join(parts[:2])
    return dotted if dotted in ALLOWED else parts[0]


def imports(path):
    """Absolute names of all modules that a file imports, ours as "det_transfer.x.y"."""
    package = ("det_transfer", *path.relative_to(PACKAGE).with_suffix("").parts)[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts != ("__init__",):
            yield pytest.param(path, room_of(parts), id="/".join(parts))


@pytest.mark.parametrize(("path", "room"), files())
def test_imports_go_down_only(path, room):
    assert room in ALLOWED, f"{path}: a new room; say in ALLOWED what it may import"
    for name in imports(path):
        parts = tuple(name.split("."))
        if parts[0] == "det_transfer" and len(parts) > 1:
            other = room_of(parts[1:])
            same = other.split(".")[0] == room.split(".")[0] and other != "engine.detection"
            assert same or other in ALLOWED[room], f"{path} imports {name}"
        assert parts[0] not in FORBIDDEN.get(room, ()), f"{path} imports {name}"


def test_the_reading_of_imports_is_right(tmp_path, monkeypatch):
    source = "import torch\nfrom ..data import catalog\nfrom . import hooks\nfrom .a.b import c\n"
    folder = tmp_path / "engine"
    folder.mkdir()
    (folder / "x.py").write_text(source)
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    assert list(imports(folder / "x.py")) == [
        "torch",
        "det_transfer.data.catalog",
        "det_transfer.engine.hooks",
        "det_transfer.engine.a.b.c",
    ]
