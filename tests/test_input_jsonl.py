"""JSONL: every line that is no row becomes an error row, and no line is ever lost."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.errors import ErrorCode, InputUnreadableError, RowError
from batchgen.job.input import jsonl
from batchgen.job.input.jsonl import JsonlRows, decode_row
from batchgen.job.input.sources import find_sources

LINES = b'{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n'


def compress_zst(data: bytes) -> bytes:
    with pa.BufferOutputStream() as sink:
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()


def read(tmp_path: Path, data: bytes, name: str = "rows.jsonl") -> list[tuple[int, bytes]]:
    path = tmp_path / name
    path.write_bytes(data)
    (source,) = find_sources([str(path)])
    return list(JsonlRows(source))


def code_of(line: bytes) -> ErrorCode:
    with pytest.raises(RowError) as caught:
        decode_row(line)
    return caught.value.code


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("rows.jsonl", bytes),
        ("rows.jsonl.gz", gzip.compress),
        ("rows.jsonl.zst", compress_zst),
        ("named_plain_but_gzip.jsonl", gzip.compress),
        ("no_suffix", compress_zst),
    ],
)
def test_plain_gzip_and_zstandard_give_the_same_rows(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes]
) -> None:
    rows = read(tmp_path, pack(LINES), name)
    assert [(n, decode_row(line)["prompt"]) for n, line in rows] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]


@pytest.mark.parametrize("pack", [gzip.compress, compress_zst])
def test_concatenated_members_are_one_file(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    assert len(read(tmp_path, pack(LINES) + pack(LINES))) == 6


def test_bom_crlf_blank_lines_and_a_missing_last_newline_change_nothing(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"prompt": "a"}\r\n\r\n   \n\n{"prompt": "b"}\r\n\t\n{"prompt": "c"}'
    rows = read(tmp_path, data)
    assert [(n, decode_row(line)["prompt"]) for n, line in rows] == [(1, "a"), (5, "b"), (7, "c")]


@pytest.mark.parametrize("data", [b"", b"\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r\n", b" \n \n"])
def test_a_file_without_rows_gives_none(tmp_path: Path, data: bytes) -> None:
    assert read(tmp_path, data) == []


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b'{"prompt": "a"} x',
        b'{"prompt": "a"}{"prompt": "b"}',
        b"\x00",
        b'{"prompt": "a\x00b"}',
        b'{"prompt": "\xff\xfe"}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b"{'prompt': 1}",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": ' + b"1" * 10_000 + b"}",
    ],
)
def test_what_is_no_json_is_invalid_json(line: bytes) -> None:
    assert code_of(line) is ErrorCode.INVALID_JSON


@pytest.mark.parametrize("line", [b"[1]", b'"text"', b"1", b"true", b"null", b"[{}]"])
def test_json_that_is_no_object_is_an_invalid_row(line: bytes) -> None:
    assert code_of(line) is ErrorCode.INVALID_ROW


@pytest.mark.parametrize(
    "line", [rb'{"prompt": "\ud83d"}', rb'{"\udc00": 1}', rb'{"a": [{"b": "x\uDBFFy"}]}']
)
def test_a_lone_surrogate_is_an_invalid_row(line: bytes) -> None:
    assert code_of(line) is ErrorCode.INVALID_ROW


def test_a_surrogate_pair_and_an_escaped_nul_are_text() -> None:
    assert decode_row(rb'{"prompt": "\ud83d\ude00 \u0000"}') == {"prompt": "😀 \x00"}


def test_of_equal_keys_the_last_counts() -> None:
    assert decode_row(b'{"prompt": "a", "prompt": "b"}') == {"prompt": "b"}


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("extra", [-3, -2, -1, 0, 1, 2, 5000])
def test_an_overlong_line_is_one_bad_row_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: bytes, extra: int
) -> None:
    monkeypatch.setattr(jsonl, "MAX_LINE_BYTES", 4096)
    monkeypatch.setattr(jsonl, "_BUFFER_BYTES", 256)
    long = json.dumps({"prompt": "x" * (4096 - 14 + extra)}).encode()
    rows = read(tmp_path, LINES + long + ending + (LINES if ending else b""))
    assert [number for number, _ in rows] == list(range(1, 8 if ending else 5))
    if len(long) > 4096:
        assert code_of(rows[3][1]) is ErrorCode.INVALID_JSON
    if len(long) < 4095:
        assert decode_row(rows[3][1])["prompt"].startswith("xxx")


@pytest.mark.parametrize("pack", [gzip.compress, compress_zst])
@pytest.mark.parametrize("damage", ["cut", "flip", "tail"])
def test_a_damaged_file_says_where_and_ends_with_66(
    tmp_path: Path, pack: Callable[[bytes], bytes], damage: str
) -> None:
    whole = pack(b"".join(b'{"prompt": "%d"}\n' % (i * 7919) for i in range(20_000)))
    middle = len(whole) // 2
    data = {
        "cut": whole[:-20],
        "flip": whole[:middle] + bytes(64) + whole[middle + 64 :],
        "tail": whole + b"not compressed",
    }[damage]
    where = r"rows\.jsonl is damaged (after line \d+|within its first line)"
    with pytest.raises(InputUnreadableError, match=where) as e:
        read(tmp_path, data)
    assert e.value.exit_code == 66
    assert e.value.hint


def readable(path: Path, pack: str) -> bytes:
    """What can be had of it, byte by byte."""
    read = bytearray()
    with pa.input_stream(str(path), compression=pack) as stream, suppress(OSError):
        while data := stream.read(1):
            read += data
    return bytes(read)


def first_half(data: bytes, pack: str) -> bytes:
    """A file as a copy that broke off left it."""
    with pa.BufferOutputStream() as sink:
        with pa.CompressedOutputStream(sink, pack) as stream:
            for start in range(0, len(data), 300):
                stream.write(data[start : start + 300])
                stream.flush()
        packed = sink.getvalue().to_pybytes()
    return packed[: len(packed) // 2]


@pytest.mark.parametrize("rows", [40, 20_000])
@pytest.mark.parametrize("pack", ["gzip", "zstd", "lz4"])
def test_every_whole_line_of_a_file_cut_short_is_given_and_the_hint_takes_as_many(
    tmp_path: Path, pack: str, rows: int
) -> None:
    lines = [b'{"prompt": "%d and %d"}\n' % (i * 7919, i**3) for i in range(rows)]
    path = tmp_path / "misnamed.jsonl"
    path.write_bytes(first_half(b"".join(lines), pack))
    (source,) = find_sources([str(path)])
    given: list[tuple[int, bytes]] = []
    with pytest.raises(InputUnreadableError) as caught:
        given.extend(JsonlRows(source))
    whole = readable(path, pack).count(b"\n")
    assert 0 < whole < rows
    assert given == [(n + 1, line.strip()) for n, line in enumerate(lines[:whole])]
    assert f"damaged after line {whole}: " in str(caught.value)
    command = str(caught.value.hint).partition("whole: ")[2]
    assert command.endswith(f"| head -n {whole} > rows.jsonl")
    if shutil.which(command.split()[0]):
        subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.DEVNULL, check=True)
        assert (tmp_path / "rows.jsonl").read_bytes() == b"".join(lines[:whole])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
json_lines = st.dictionaries(st.text(max_size=5), json_values, max_size=4).map(
    lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | json_lines | st.text().map(lambda t: t.encode("utf-16")))
def test_any_bytes_are_an_object_or_a_typed_error(line: bytes) -> None:
    codes: list[ErrorCode] = []
    try:
        row = decode_row(line)
    except RowError as error:
        codes.append(error.code)
        error.message.encode()
    else:
        assert isinstance(row, dict)
        json.dumps(row, ensure_ascii=False).encode()
    assert not set(codes) - {ErrorCode.INVALID_JSON, ErrorCode.INVALID_ROW}


@settings(max_examples=200, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=12),
    newline=st.sampled_from([b"\n", b"\r\n"]),
)
def test_no_line_is_lost(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], newline: bytes
) -> None:
    rows = read(tmp_path_factory.mktemp("lines"), b"[]" + newline + newline.join(lines))
    expected = [(n, line.strip()) for n, line in enumerate(lines, 2) if line.strip()]
    assert rows[1:] == expected
