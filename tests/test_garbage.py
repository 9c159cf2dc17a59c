import gc
import weakref

import pytest

from det_transfer.documents import read_json
from det_transfer.engine.launch import run
from det_transfer.garbage import keep_imports, not_looked_for, without_garbage


class Node:
    def __init__(self):
        self.me = self


def is_in(generation, thing):
    return any(one is thing for one in gc.get_objects(generation))


@pytest.fixture
def nothing_frozen():
    gc.unfreeze()
    yield
    gc.unfreeze()


@pytest.fixture
def looks():
    seen = []
    gc.callbacks.append(note := lambda phase, info: seen.append(phase))
    yield seen
    gc.callbacks.remove(note)


@pytest.mark.parametrize("to_stay", [False, True])
def test_it_is_not_looked_for_and_found_afterwards(nothing_frozen, looks, to_stay):
    gc.collect()
    looks.clear()
    with not_looked_for(to_stay=to_stay):
        made = weakref.ref(Node())
        kept = [[] for _ in range(10 * gc.get_threshold()[0])]
        assert not looks
        assert is_in(0, kept)
        assert made() is not None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    assert is_in(2, kept) == to_stay
    gc.collect()
    assert made() is None


def test_a_program_that_never_looks_goes_on_so():
    gc.disable()
    try:
        with not_looked_for():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_after_an_import_that_fails_it_is_looked_for_again():
    with pytest.raises(ImportError), not_looked_for():
        raise ImportError
    assert gc.isenabled()


def test_what_another_froze_stays_frozen(nothing_frozen):
    gc.freeze()
    frozen = gc.get_freeze_count()
    with not_looked_for(to_stay=True):
        pass
    assert gc.get_freeze_count() >= frozen - 100  # but for what has ended


def test_without_garbage_no_page_of_what_is_alive_is_touched(nothing_frozen, looks):
    gone = weakref.ref(Node())
    with without_garbage():
        assert gone() is None
        assert gc.get_freeze_count() > 1000
        assert not any(isinstance(o, Node) for o in gc.get_objects())
    assert gc.get_freeze_count() == 0


def test_imports_are_kept_once(nothing_frozen):
    keep_imports.cache_clear()
    keep_imports()
    assert gc.get_freeze_count() > 1000
    gc.unfreeze()
    keep_imports()  # of a second run in one process: what the first left behind must go
    assert gc.get_freeze_count() == 0


def test_a_json_is_read_without_looking(tmp_path, looks):
    path = tmp_path / "large.json"
    path.write_text("[" + ", ".join(["[]"] * 10_000) + "]")
    gc.collect()
    looks.clear()
    assert len(read_json(path)) == 10_000
    assert looks.count("start") <= 1  # afterwards; else a dozen


def test_a_program_keeps_what_it_begins_with(nothing_frozen):
    keep_imports.cache_clear()
    run(lambda: None)
    assert gc.get_freeze_count() > 1000
