"""What a process on a CPU does without until it is asked for: modules, and pages of libraries."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from batchgen.engine.kernels.outputs import empty_rows
from batchgen.startup import lazy_modules, library_pages

NAMES = ("idle", "idle.part", "idle_open", "idle_slow", "idle_broken", "idle_circle", "idle_user")
SOURCES = {
    "idle/__init__.py": "import sys\nsys.idle_ran.append(__name__)\n__all__ = ['a']\na = b = 1\n",
    "idle/part.py": "import sys\nassert sys.modules['idle'].b == 1\nc = 3\n",
    "idle_open.py": "def __getattr__(name):\n    return name * 2\n",
    "idle_slow.py": "import sys, time\nsys.idle_ran.append(1)\ntime.sleep(0.05)\ndone = True\n",
    "idle_broken.py": "raise RuntimeError('no such thing')\n",
    "idle_circle.py": "import idle_user\nd = 4\ntold = idle_user.told()\n",
    "idle_user.py": "import idle_circle\ndef told():\n    return getattr(idle_circle, 'd', 0)\n",
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Which of `SOURCES` ran; they are run later."""
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found: list[str] = []
    monkeypatch.setattr(sys, "idle_ran", found, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    lazy_modules.run_later(frozenset(set(NAMES) - {"idle.part", "idle_user"}))
    yield found
    for name in NAMES:
        sys.modules.pop(name, None)


def test_a_module_runs_once_it_is_asked_for_something(ran: list[str], tmp_path: Path) -> None:
    idle = importlib.import_module("idle")
    assert not ran
    assert idle.__file__ == str(tmp_path / "idle" / "__init__.py")
    assert not hasattr(idle, "__warningregistry__")
    assert not ran
    assert (idle.a, idle.b, ran) == (1, 1, ["idle"])
    assert type(idle) is type(sys)
    assert not lazy_modules.wake("idle")
    with pytest.raises(AttributeError, match="no attribute 'z'"):
        _ = idle.z


def test_a_part_has_its_package_run_first(ran: list[str]) -> None:
    importlib.import_module("idle")
    part = importlib.import_module("idle.part")
    assert (part.c, ran) == (3, ["idle"])
    assert sys.modules["idle"].part is part


def test_all_names_of_a_module_are_there_for_who_wants_all(ran: list[str]) -> None:
    space: dict[str, object] = {}
    exec("from idle import *", space)
    assert space["a"] == 1
    assert "b" not in space
    assert "b" in dir(sys.modules["idle"])


def test_a_module_answers_by_its_own_function_once_it_ran(ran: list[str]) -> None:
    assert importlib.import_module("idle_open").ab == "abab"


def test_threads_that_ask_at_once_wait_for_one_run(ran: list[str]) -> None:
    slow = importlib.import_module("idle_slow")
    told: list[object] = []
    threads = [threading.Thread(target=lambda: told.append(slow.done)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (told, ran) == ([True] * 4, [1])


def test_modules_in_a_circle_see_what_is_there_so_far(ran: list[str]) -> None:
    assert importlib.import_module("idle_circle").told == 4


def test_a_module_that_fails_says_so_where_it_is_used(ran: list[str]) -> None:
    broken = importlib.import_module("idle_broken")
    with pytest.raises(RuntimeError, match="no such thing"):
        _ = broken.anything


def test_work_that_lacked_a_module_is_done_again_with_all_of_them(ran: list[str]) -> None:
    importlib.import_module("idle")

    def work() -> str:
        if not ran:
            raise RuntimeError("must be imported first")
        return "done"

    assert lazy_modules.or_whole(work) == "done"
    ran.clear()
    with pytest.raises(RuntimeError, match="must be imported first"):
        lazy_modules.or_whole(work)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_pages_of_files_go_and_come_back_and_written_ones_stay(tmp_path: Path) -> None:
    size = 1 << 20
    file = tmp_path / "library"
    file.write_bytes(bytes(range(256)) * (size // 256))
    with file.open("r+b") as opened:
        read = mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ)
        both = mmap.PROT_READ | mmap.PROT_WRITE
        written = mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE, both)
    written[5] = 200
    start = ctypes.addressof(ctypes.c_char.from_buffer(written))
    assert not ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), size, mmap.PROT_READ)
    assert sum(read[::4096]) == sum(written[::4096])
    assert _held(file) == [size >> 10] * 2
    library_pages.let_go_of_library_pages()
    assert sorted(_held(file)) == [0, size >> 10]
    assert (read[4101], written[5], written[4101]) == (5, 200, 5)


def _held(file: Path) -> list[int]:
    """KiB in memory of each mapping of the file."""
    maps = re.split(r"(?m)^(?=[0-9a-f]+-)", Path("/proc/self/smaps").read_text())
    mine = [text for text in maps if str(file) in text]
    return [int(found[1]) for text in mine if (found := re.search(r"Rss: +(\d+)", text))]


def test_mappings_that_have_written_pages_in_memory_or_swapped_out_stay_whole() -> None:
    text = (
        "1000-2000 {} 00000000 fe:00 12    {}\nSize: 4 kB\nRss: {} kB\nAnonymous: {} kB\n"
        "Swap: {} kB\nVmFlags: rd ex mr\n"
    )
    clean = ("r-xp", "/lib/a file.so", 512, 0, 0)
    others = [
        ("rw-p", *clean[1:]), ("r--s", *clean[1:]), ("r-xp", "[vdso]", 512, 0, 0),
        (*clean[:2], 4, 0, 0), (*clean[:3], 4, 0), (*clean[:4], 4),
    ]  # fmt: skip
    assert [*library_pages._clean(text.format(*clean))] == [(0x1000, 0x2000)]
    assert [*library_pages._clean("".join(text.format(*one) for one in others))] == []


def test_large_answers_lie_where_those_of_some_more_rows_fit() -> None:
    for rows, room in ((7, 64), (63, 64), (65, 128)):
        out = empty_rows(1, rows, 49152, dtype=torch.float32)
        assert out.shape == (1, rows, 49152)
        assert out.is_contiguous()
        assert out.untyped_storage().nbytes() == room * 49152 * 4
    for rows in (2, 1000):
        out = empty_rows(rows, 9000, dtype=torch.float32)
        assert out.untyped_storage().nbytes() == rows * 9000 * 4
