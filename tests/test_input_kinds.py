"""A file of another kind is read where that is free, else refused in one line before any row."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputUnreadableError, InvalidDataError
from batchgen.job.input import json_array
from batchgen.job.input.file_kinds import HEAD_BYTES
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

ROWS = [{"id": f"r{i}", "prompt": f"Say {i}.", "tag": "ä"} for i in range(40)]
TEXT = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Path, **options: Any) -> list[InputRow]:
    return list(Reader(InputSpec((str(path),), **options)))


def by_arrow(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def skippable(content: bytes, number: int = 0) -> bytes:
    return bytes([0x50 + number]) + b"\x2a\x4d\x18" + len(content).to_bytes(4, "little") + content


def packed(path: str, add: str) -> bytes:
    buffer = io.BytesIO()
    if add == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr(path, TEXT)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz" if add == "tgz" else "w") as archive:
            info = tarfile.TarInfo(path)
            info.size = len(TEXT)
            archive.addfile(info, io.BytesIO(TEXT))
    return buffer.getvalue()


READ = {
    "bz2": bz2.compress(TEXT),
    "two bz2 streams": bz2.compress(TEXT[:200]) + bz2.compress(TEXT[200:]),
    "xz": lzma.compress(TEXT),
    "lz4": by_arrow(TEXT, "lz4"),
    "zstd after a skippable frame, as pzstd writes": skippable(b"\x01\x02\x03\x04")
    + by_arrow(TEXT, "zstd"),
    "zstd after two of them": skippable(b"") + skippable(b"x" * 99, 15) + by_arrow(TEXT, "zstd"),
    "zstd with one in between": by_arrow(TEXT[:100], "zstd")
    + skippable(b"note")
    + by_arrow(TEXT[100:], "zstd"),
    "an array": json.dumps(ROWS).encode(),
    "an array over several lines": b"\xef\xbb\xbf\n" + json.dumps(ROWS, indent=2).encode() + b"\n",
    "an array, gzip": gzip.compress(json.dumps(ROWS).encode()),
}


@pytest.mark.parametrize("kind", READ)
def test_it_gives_the_rows_that_the_lines_give(tmp_path: Path, kind: str) -> None:
    (tmp_path / "rows").write_bytes(READ[kind])
    found = read(tmp_path / "rows")
    assert [(row.id, row.prompt, row.kept) for row in found] == [
        (row["id"], row["prompt"], {"tag": "ä"}) for row in ROWS
    ]
    place = "rows: row 8" if "array" in kind else "rows:8"  # an array has no line for each
    assert found[7].origin.endswith(place)


@pytest.mark.parametrize(("name", "codec"), [("rows.jsonl.zst", "zstd"), ("rows.LZ4", "lz4")])
def test_a_frame_to_be_passed_over_may_be_longer_than_what_is_looked_at(
    tmp_path: Path, name: str, codec: str
) -> None:
    long = skippable(b"x" * (HEAD_BYTES + 5))
    (tmp_path / name).write_bytes(long + by_arrow(TEXT, codec))
    assert [row.id for row in read(tmp_path / name)] == [row["id"] for row in ROWS]
    (tmp_path / name).write_bytes(skippable(b"note"))
    assert read(tmp_path / name) == []


@pytest.mark.parametrize("chars", [1, 7, 64])
def test_an_array_may_be_cut_anywhere_by_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chars: int
) -> None:
    monkeypatch.setattr(json_array, "_CHUNK_BYTES", chars)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS, indent=1, ensure_ascii=False))
    assert [row.id for row in read(tmp_path / "rows.json")] == [row["id"] for row in ROWS]


def test_what_is_wrong_in_an_element_is_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"prompt": "a"}, 5, {"prompt": NaN}, {"prompt": "b"}]')
    found = read(tmp_path / "rows.json")
    assert [row.error and str(row.error.code) for row in found] == [
        None, "invalid_row", "invalid_json", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ['[{"prompt": "a"}, {"prompt": ', '[{"prompt": "a"} {"prompt": "b"}]', '[{"a": 1}] 5']
)
def test_a_damaged_array_names_the_element(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(InputUnreadableError, match="damaged at element 2 of its array"):
        read(tmp_path / "rows.json")


def test_a_first_line_that_is_a_list_is_a_bad_row_and_no_array(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(b"[1, 2]\n" + TEXT)
    found = read(tmp_path / "rows.jsonl")
    assert len(found) == 41
    assert found[0].error is not None


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.TSV", "t.CSV", "t.csv.gz", "t.csv.xz"])
def test_a_table_gives_text_and_typed_parameters(tmp_path: Path, name: str) -> None:
    lines = [
        "id,prompt,max_tokens,zip,temperature",
        '007,"one, ""two""\nthree",5,01234,',
        "8,b,,NA,0.5",
    ]
    text = "\n".join(lines) + "\n"
    text = text.replace(",", "\t").replace("one\t", "one,") if "tsv" in name.lower() else text
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(name[-3:], bytes)
    (tmp_path / name).write_bytes(pack(text.encode()))
    one, two = read(tmp_path / name)
    assert (one.id, one.prompt, one.params.max_tokens) == ("007", 'one, "two"\nthree', 5)
    assert (one.kept, two.kept) == ({"zip": "01234"}, {"zip": "NA"})
    assert (two.id, two.params.temperature, two.error) == ("8", 0.5, None)


def test_a_table_that_is_no_whole_xz_file_is_refused_as_that(tmp_path: Path) -> None:
    (tmp_path / "t.csv.xz").write_bytes(lzma.compress(b"prompt\na\n" * 99)[:-9])
    with pytest.raises(InputUnreadableError, match="no whole xz file") as refused:
        read(tmp_path / "t.csv.xz")
    assert "whole copy" in str(refused.value.hint)


def test_a_table_that_is_cut_short_is_damaged_and_not_to_be_mended_by_commas(
    tmp_path: Path,
) -> None:
    text = "prompt\n" + "".join(f"{number * 7919} and more\n" for number in range(99))
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode())[:-12])
    with pytest.raises(InputUnreadableError, match="is damaged somewhere after its") as refused:
        read(tmp_path / "t.csv.gz")
    assert "whole copy" in str(refused.value.hint)


PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "no": bytes}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.csv.xz"])
def test_a_table_is_unpacked_by_what_it_begins_with(tmp_path: Path, name: str, packed: str) -> None:
    (tmp_path / name).write_bytes(PACKED[packed](b"prompt\na\n"))
    assert [row.prompt for row in read(tmp_path / name)] == ["a"]


TABLE = "".join(f"r{i},Say {i}.\n" for i in range(40)).encode()
JOINED = {
    "rows.jsonl": (TEXT[:200], TEXT[200:]),
    "t.csv": (b"id,prompt\n" + TABLE[:90], TABLE[90:]),
}


@pytest.mark.parametrize("name", JOINED)
@pytest.mark.parametrize("codec", ["bz2", "xz"])
def test_a_damaged_beginning_of_a_later_stream_is_no_end_of_the_file(
    tmp_path: Path, name: str, codec: str
) -> None:
    first, second = map(PACKED[codec], JOINED[name])
    path = tmp_path / f"{name}.{codec}"
    path.write_bytes(first + b"\xff" + second[1:])
    with pytest.raises(InputUnreadableError, match="after"):
        read(path)
    path.write_bytes(first + second)
    assert len(read(path)) == 40


@pytest.mark.parametrize("name", JOINED)
def test_rows_behind_the_padding_of_xz_are_read(tmp_path: Path, name: str) -> None:
    first, second = map(lzma.compress, JOINED[name])
    (tmp_path / f"{name}.xz").write_bytes(first + b"\0" * 8 + second + b"\0" * 4)
    assert len(read(tmp_path / f"{name}.xz")) == 40


def arrow_stream() -> bytes:
    table = pa.table({"prompt": ["a", '"b', "{c"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "data", [arrow_stream(), b"\x1f\x9d\x90{", b"\xff\x06\0\0sNaPpY\n{", b'\x80\x04\x95\n"']
)
def test_bytes_that_no_text_begins_with_are_refused_before_a_row(
    tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(data)
    with pytest.raises(InputUnreadableError, match="not JSONL or Parquet"):
        read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("text", ["prompt,b\na\n", "question\na\n", ""])
def test_a_table_that_is_none_or_has_no_prompts_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((InputUnreadableError, InvalidDataError), match=r"t\.csv"):
        read(tmp_path / "t.csv")


def test_a_table_of_nothing_is_said_to_be_empty(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    with pytest.raises(InputUnreadableError, match=r"t\.csv is empty"):
        read(tmp_path / "t.csv")


def test_a_bad_value_of_a_table_is_its_own_row_s_error(tmp_path: Path) -> None:
    lines = ["id,prompt,max_tokens,ignore_eos,stop", "1,a,5,TRUE,7", "2,b,many,,", "3,c,,false,END"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    one, two, three = read(tmp_path / "t.csv")
    assert (one.params.max_tokens, one.params.ignore_eos, one.params.stop) == (5, True, ("7",))
    assert two.error is not None
    assert "max_tokens" in two.error.message
    assert (three.error, three.params.max_tokens, three.params.stop) == (None, 256, ("END",))


def test_text_of_a_table_that_is_no_utf_8_is_its_own_row_s_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,prompt\n1,caf\xe9\n2,tea\n".encode("latin-1"))
    one, two = read(tmp_path / "t.csv")
    assert one.error is not None
    assert "is not UTF-8" in one.error.message
    assert (two.prompt, two.error) == ("tea", None)


def test_a_row_with_text_that_cannot_be_read_has_its_id_and_its_other_columns(
    tmp_path: Path,
) -> None:
    lines = "id,prompt,who\nx,caf\xe9,ann\ny,tea,bob\nx,tea,eve\n"
    (tmp_path / "t.csv").write_bytes(lines.encode("latin-1"))
    one, two, three = read(tmp_path / "t.csv")
    assert (one.id, one.kept, one.origin) == ("x", {"who": "ann"}, f"{tmp_path}/t.csv: row 1")
    assert (two.id, two.error) == ("y", None)
    assert three.error is not None
    assert three.error.code == "duplicate_id"
    far = pa.array([2**62, 0], pa.timestamp("us"))
    table = {"id": ["x", "y"], "prompt": ["a", "b"], "when": far, "who": ["ann", "bob"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    one, two = read(tmp_path / "t.parquet")
    assert (one.id, one.kept) == ("x", {"when": None, "who": "ann"})
    assert one.error is not None
    assert "out of range" in one.error.message


def test_a_table_whose_names_are_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("id,prompt,caf\xe9\n1,a,b\n".encode("latin-1"))
    with pytest.raises(InvalidDataError, match="names its columns is not UTF-8") as caught:
        read(tmp_path / "t.csv")
    assert caught.value.hint is not None
    assert "iconv -f LATIN1 -t UTF-8" in caught.value.hint
    assert "rows.csv" in caught.value.hint


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_a_quote_that_nothing_closes_takes_no_rows_in(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack(b'id,prompt\n1,a\n2,"b\n3,c\n4,d\n'))
    with pytest.raises(InputUnreadableError, match="after row 1: a quote begins a value"):
        read(tmp_path / name)
    for whole in (b'"b\n3,c\n"\n', b'"b\r\n"', b'5"'):
        (tmp_path / name).write_bytes(pack(b"id,prompt\n1,a\n2," + whole))
        assert len(read(tmp_path / name)) == 2


REFUSED = {
    "UTF-16": ("\ufeff" + TEXT.decode()).encode("utf-16-le"),
    "UTF-16BE": TEXT.decode().encode("utf-16-be"),
    "UTF-32": TEXT.decode().encode("utf-32"),
    "over several lines": b"".join(json.dumps(row, indent=2).encode() + b"\n" for row in ROWS),
    "several lines": b'{"data": [\n  {"prompt": "a"},\n  {"prompt": "b"}\n]}\n',
    "zip archive": packed("rows.jsonl", "zip"),
    "tar archive": packed("rows.jsonl", "tar"),
    "a tar archive": packed("rows.jsonl", "tgz"),
    "encrypted footer": b"PARE" + bytes(100) + b"PARE",
    "looks like CSV": b'id,prompt\n1,"a, b"\n',
    "plain": b"Write a poem.\n\nSay it's late, please!\n",
    "plain text": b"# Words\n\n1;2;3\n",
    "kind not known": b"\xff\x06\0\0sNaPpY oops\n",
    "Python pickle": pickle.dumps(ROWS),
    "HTML": b"<!DOCTYPE html>\n<html><body>not found</body></html>\n",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
    "CR alone": TEXT.replace(b"\n", b"\r"),
    "picture": b"\x89PNG\r\n\x1a\n" + bytes(40),
    "Arrow or Feather": b"ARROW1\x00\x00" + bytes(40),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_by_its_kind_with_the_command_that_mends_it(
    tmp_path: Path, what: str
) -> None:
    path = tmp_path / ("rows.parquet" if "footer" in what else "rows.jsonl")
    path.write_bytes(REFUSED[what])
    with pytest.raises((InputUnreadableError, InvalidDataError), match=what) as refused:
        read(path)
    assert refused.value.exit_code in (65, 66)
    assert "\n" not in refused.value.message
    assert refused.value.hint


def test_a_table_in_utf_16_is_refused_by_its_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,prompt\n1,a\n", encoding="utf-16")
    with pytest.raises(InvalidDataError, match="UTF-16"):
        read(tmp_path / "t.csv")


def test_a_bad_first_line_does_not_make_a_file_another_kind(tmp_path: Path) -> None:
    for first in (
        b'{"prompt": "a\n',
        b"{\n",
        b'{"prompt": "cut off\n',
        b"\x00{}\n",
        b"oops\n",
        b'"a", 5\n',
    ):
        (tmp_path / "rows.jsonl").write_bytes(first + TEXT)
        found = read(tmp_path / "rows.jsonl")
        assert [row.error is None for row in found] == [False] + [True] * 40


def test_a_table_that_is_refused_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.xz"
    path.write_bytes(lzma.compress(b"prompt\na\n" * 99)[:-9])
    with pytest.raises(InputUnreadableError) as refused:
        read(path)
    held = [one for one in gc.get_objects() if isinstance(one, io.FileIO) and not one.closed]
    assert str(path) not in [str(one.name) for one in held], refused
