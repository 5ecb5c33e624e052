"""GGUF files that are damaged, or of a kind that is not served: two lines and 2, before torch."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from echo_runs import write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from test_model_files import write_gguf
from tiny_gguf import CASES, write

from batchgen.cli.main import cli
from batchgen.errors import ModelRefusedError
from batchgen.gguf.architectures import ARCHITECTURES
from batchgen.gguf_header import read_gguf_header
from batchgen.job.model import gguf_support
from batchgen.job.model.files import resolve_model

gguf = pytest.importorskip("gguf")
NAMES = sorted({*gguf.MODEL_ARCH_NAMES.values(), "mistral3", "olmo3"} - {"clip", *ARCHITECTURES})


def check(path: Path) -> None:
    """What a run does before it makes anything."""
    files = resolve_model(str(path))
    files.check_supported()
    files.check_loadable()


def refusal(path: Path) -> str:
    with pytest.raises(ModelRefusedError) as caught:
        check(path)
    assert caught.value.hint
    return caught.value.message


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def whole(folder: Path) -> bytes:
    return write(folder / "m.gguf", CASES["llama"]).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_an_architecture_that_is_not_served_is_named(tmp_path: Path, name: str) -> None:
    tokens = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>"]}
    path = write_gguf(tmp_path / "m.gguf", {"general.architecture": name, **tokens})
    assert f"architecture {name!r} is not served; served: arcee, " in refusal(path)


@pytest.mark.parametrize(
    ("begin", "words"),
    [
        (struct.pack("<I", 1), "version 1"),
        (struct.pack("<I", 4), "version 4"),
        (struct.pack(">I", 3), "big-endian"),
    ],
)
def test_a_file_of_another_version_says_which(tmp_path: Path, begin: bytes, words: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + begin + bytes(40))
    assert words in refusal(path)


def test_a_file_of_version_2_is_read(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole[:4] + struct.pack("<I", 2) + whole[8:])
    check(path)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20_000,
        struct.pack("<IIQ", 9, 9, 2**50),
        struct.pack("<IIQ", 9, 4, 2**62),
        struct.pack("<IQ", 8, 2**62),
        struct.pack("<I", 77),
    ],
)
def test_values_without_end_are_refused_at_once(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a.b") + value)
    assert "not a whole GGUF file" in refusal(path)


HUGE = 6 << 30
"""Bytes of a file that holds zeros but for its beginning; none of them is written to the disk."""


@pytest.mark.parametrize(
    ("tensors", "keys", "more", "words"),
    [
        (2**40, 0, b"", "the tensor '' twice"),
        (0, 2**40, b"", "its metadata hold '' twice"),
        (0, 1, text("a.b") + struct.pack("<IIQ", 9, 8, 2**29), "at byte 51: the value of a.b"),
        (0, 1, text("a.b") + struct.pack("<IIQ", 9, 0, 5 * 10**9), "the value of a.b"),
        (0, 1, text("a.b") + struct.pack("<IIQ", 9, 7, 10**9), "the value of a.b"),
        (0, 1, text("a.b") + struct.pack("<IIQ", 9, 9, 2**29), "the value of a.b"),
        (0, 1, text("a.b") + struct.pack("<IQ", 8, 5 * 10**9), "the value of a.b"),
        (0, 1, struct.pack("<Q", 5 * 10**9), "the name of key 1 of 1"),
        (1, 0, struct.pack("<Q", 5 * 10**9), "the name of tensor 1 of 1"),
        (1, 0, text("a.weight") + struct.pack("<I", 2**29), "the tensor a.weight"),
    ],
)
def test_a_large_file_that_lies_about_sizes_is_refused_at_once_and_says_where(
    tmp_path: Path, tensors: int, keys: int, more: bytes, words: str
) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + more)
        file.truncate(HUGE)
    begin = time.process_time()
    tracemalloc.start()
    said = refusal(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in said
    assert time.process_time() - begin < 2
    assert most < 20 << 20


def changed(whole: bytes, name: str, **fields: int) -> bytes:
    """The file with another `kind`, `offset` or first size (`inner`) of a tensor."""
    data, place = bytearray(whole), whole.index(text(name)) + len(text(name))
    (sizes,) = struct.unpack_from("<I", data, place)
    places = {"inner": place + 4, "kind": place + 4 + 8 * sizes, "offset": place + 8 + 8 * sizes}
    for field, value in fields.items():
        struct.pack_into("<I" if field == "kind" else "<Q", data, places[field], value)
    return bytes(data)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": 26}, "blk.0.attn_q.weight is in ggml's I32, in which no weight is"),
        ({"kind": 15}, "blk.0.attn_q.weight is in ggml's Q8_K"),
        ({"kind": 99}, "blk.0.attn_q.weight has ggml's type 99, which is not known"),
        ({"kind": 41}, "type 41, which is not known"),
        ({"kind": 12}, "blk.0.attn_q.weight has rows that are no whole blocks"),
        ({"kind": 1}, "blk.0.attn_k.weight is not where the one before it ends"),
        ({"inner": 0}, "blk.0.attn_k.weight is not where the one before it ends"),
        ({"inner": 2**62}, "cut off: the tensor blk.0.attn_q.weight lies beyond its end"),
        ({"offset": 2**63}, "blk.0.attn_q.weight is not where the one before it ends"),
    ],
)
def test_a_tensor_that_lies_is_named_before_weights_are_read(
    tmp_path: Path, whole: bytes, fields: dict[str, int], words: str
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(changed(whole, "blk.0.attn_q.weight", **fields))
    assert words in refusal(path)


@pytest.mark.parametrize("name", ["a\x1b[31m", "a\nb"])
def test_names_that_a_terminal_would_obey_are_refused_as_text(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m.gguf"
    pair = text(name) + struct.pack("<II", 4, 1)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + pair)
    assert repr(name) in refusal(path)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text(name) + pair * 3)
    assert repr(name) in refusal(path)


def test_a_tensor_that_stands_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    one = text("a.weight") + struct.pack("<IQIQ", 1, 32, 0, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + one * 2)
    assert "it holds the tensor a.weight twice" in refusal(path)


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    pair = text("a.b") + struct.pack("<II", 4, 1)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + pair * 2)
    assert "a.b twice" in refusal(path)


def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(whole)
    check(path)
    end = read_gguf_header(path).data_start
    for length in (*range(0, 64, 5), *range(64, end, 997), end - 1, end + 100, len(whole) - 8):
        path.write_bytes(whole[:length])
        assert "whole GGUF file" in refusal(path) or "cut off" in refusal(path)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(4, 9000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    whole: bytes, folder: Path, changes: list[tuple[int, int]]
) -> None:
    data, path = bytearray(whole), folder / "damaged.gguf"
    for place, byte in changes:
        data[place] = byte
    path.write_bytes(data)
    with suppress(ModelRefusedError):
        check(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.rope.freq_base", 0.0),
        ("llama.rope.freq_base", -10000.0),
        ("llama.rope.freq_base", float("nan")),
        ("llama.rope.freq_base", "10000"),
        ("llama.rope.freq_base", [1.0, 2.0]),
        ("llama.rope.scaling.factor", -2.0),
        ("llama.embedding_length", 0),
        ("llama.block_count", 2**31 - 1),
        ("llama.block_count", 0),
        ("llama.context_length", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.layer_norm_rms_epsilon", float("inf")),
        ("general.architecture", ["llama"]),
        ("general.alignment", "32"),
        ("split.count", "2"),
        ("split.no", [1]),
        ("tokenizer.ggml.pre", ["default"]),
        ("tokenizer.ggml.tokens", ["a", "b"]),
        ("tokenizer.chat_template", 5),
        ("general.sampling.top_p", [0.5]),
    ],
)
def test_a_value_that_cannot_be_applied_is_named(tmp_path: Path, key: str, value: Any) -> None:
    case = CASES["llama"]
    if key == "general.architecture":
        path = write_gguf(tmp_path / "m.gguf", {key: value, "tokenizer.ggml.model": "llama"})
    else:
        path = write(tmp_path / "m.gguf", case, **{key: value})
    with pytest.raises(ModelRefusedError) as caught:
        check(path)
    assert caught.value.hint


def test_tensors_that_overlap_are_refused(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "m.gguf"
    name = text("output_norm.weight")
    place = whole.index(name) + len(name) + 4 + 8 + 4
    path.write_bytes(whole[:place] + struct.pack("<Q", 64) + whole[place + 8 :])
    assert "output_norm.weight is not where the one before it ends" in refusal(path)


def run(path: Path, out: Path, *more: str) -> Any:
    rows = write_rows(out.parent / "in.jsonl", [{"prompt": "a"}])
    words = ["run", "--in", str(rows), "--out", str(out), "--model", str(path), *more]
    return CliRunner().invoke(cli, words)


@pytest.mark.parametrize("why", ["package", "device", "key", "merges"])
def test_a_refused_run_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    more: dict[str, Any] = {"key": {"llama.new": 1}, "merges": {"tokenizer.ggml.merges": ["a z"]}}
    path = write(tmp_path / "m.gguf", CASES["llama"], **more.get(why, {}))
    if why == "package":
        monkeypatch.setattr(gguf_support, "find_spec", lambda name: None)
        monkeypatch.setattr(gguf_support, "_PLAIN_KINDS", ())
    out = tmp_path / "made" / "out.parquet"
    out.parent.mkdir()
    device = ("--device", "cuda:99") if why == "device" else ("--device", "cpu")
    result = run(path, out, *device)
    assert getattr(result.exception, "exit_code", result.exit_code) == 2
    assert [one.name for one in out.parent.iterdir()] == ["in.jsonl"]


def test_inspect_says_which_package_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "m.gguf", CASES["llama"])
    assert CliRunner().invoke(cli, ["inspect", str(path)]).exit_code == 0
    monkeypatch.setattr(gguf_support, "find_spec", lambda name: None)
    monkeypatch.setattr(gguf_support, "_PLAIN_KINDS", ())
    result = CliRunner().invoke(cli, ["inspect", str(path)])
    assert result.exit_code == 2
    assert "takes gguf, not installed here" in result.output
    assert "pip install 'gguf>=" in result.output
    assert "applied       llama.block_count" in result.output
