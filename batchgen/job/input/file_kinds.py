"""Files that are not rows of JSON or Parquet, known by their beginning and refused before a row.

Without this an archive, UTF-16 or pretty-printed JSON gives an error row a line, and no word about
the file. Magic numbers: those that `file` (libmagic) goes by.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8, getincrementaldecoder
from pathlib import PurePath

from batchgen.errors import BatchgenError, InputUnreadableError, InvalidDataError

__all__ = [
    "HEAD_BYTES", "compression_by_head",
    "is_array", "refuse_container", "refuse_text", "refuse_wide",
]  # fmt: skip

HEAD_BYTES = 1 << 16

_LINES = "write its rows as JSONL, json.dumps(row) a line"


def _python(table: str) -> str:
    """The command that writes a table, which this Python makes, as Parquet."""
    return f"python -c \"{table}.to_parquet('rows.parquet')\""


def _by_pandas(call: str) -> str:
    return _python(f"import pandas; pandas.{call}")


_PICKLED = _by_pandas("DataFrame(pandas.read_pickle({path!r}))")
_CONTAINERS: tuple[tuple[bytes, int, str, str], ...] = (
    (b"PK\x03\x04", 0, "a zip archive", "unzip {name}"),
    (b"PK\x05\x06", 0, "an empty zip archive", "name the file that you meant"),
    (b"ustar", 257, "a tar archive", "tar -xf {name}"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "7z x {name}"),
    (b"Rar!", 0, "a rar archive", "unrar x {name}"),
    (b"PARE", 0, "a Parquet file with an encrypted footer", "write it again without encryption"),
    (b"ARROW1", 0, "an Arrow or Feather file", _by_pandas("read_feather({path!r})")),
    (b"FEA1", 0, "a Feather file", _by_pandas("read_feather({path!r})")),
    (
        b"\xff\xff\xff\xff",
        0,
        "an Arrow stream",
        _python("from datasets import Dataset; Dataset.from_file({path!r})"),
    ),
    (b"\x1f\x9d", 0, "a file of `compress`", "gzip -d {name}"),
    (b"LZIP", 0, "an lzip file", "lzip -d {name}"),
    (b"Obj\x01", 0, "an Avro file", "write it as Parquet"),
    (b"ORC", 0, "an ORC file", "write it as Parquet"),
    (
        b"SQLite format 3",
        0,
        "an SQLite database",
        "sqlite3 -json {name} 'SELECT * FROM your_table' > rows.json",
    ),
    (b"\x89HDF", 0, "an HDF5 file", "write it as Parquet"),
    (
        b"\x93NUMPY",
        0,
        "a NumPy array",
        _python("import numpy, pandas; pandas.DataFrame({{'prompt': numpy.load({path!r})}})"),
    ),
    (b"%PDF-", 0, "a PDF document", "write its text as JSONL"),
    (b"GGUF", 0, "a model", "name it with --model"),
    (b"\x89PNG\r\n", 0, "a picture", "write its text as JSONL"),
    (b"\xff\xd8\xff", 0, "a picture", "write its text as JSONL"),
    *((b"\x80" + bytes([protocol]), 0, "a Python pickle", _PICKLED) for protocol in range(2, 6)),
    (b"version https://git-lfs.github.com/spec/", 0, "a pointer of Git LFS", "git lfs pull"),
)
_ZIPPED = {
    ".xlsx": ("a spreadsheet", _by_pandas("read_excel({path!r})")),
    ".ods": ("a spreadsheet", _by_pandas("read_excel({path!r})")),
    ".npz": ("an archive of NumPy arrays", "write one of them as Parquet"),
    ".pt": ("a file of torch.save", _LINES),
    ".pth": ("a file of torch.save", _LINES),
}
"""Endings of names of zip archives that are not to be unzipped."""
_YAML = (
    'python -c "import json, yaml; '
    '[print(json.dumps(row)) for row in yaml.safe_load(open({path!r}))]" > rows.jsonl'
)
_WRITTEN = {
    ".yaml": ("YAML", _YAML),
    ".yml": ("YAML", _YAML),
    ".toml": ("TOML", _LINES),
    ".xml": ("XML", _LINES),
}
"""Endings of names of text that holds no row a line."""
_COMPRESSED = (
    (re.compile(rb"\x1f\x8b"), "gz"),
    (re.compile(rb"\x28\xb5\x2f\xfd"), "zst"),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bz2"),
    (re.compile(rb"\xfd7zXZ\x00"), "xz"),
    (re.compile(rb"\x04\x22\x4d\x18"), "lz4"),
)
_WIDE = (
    (re.compile(rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff"), "UTF-32"),
    (re.compile(rb"\xff\xfe[^\x00]\x00|\xfe\xff\x00[^\x00]"), "UTF-16"),
    (re.compile(rb"[\[{]\x00[\s\"}{]\x00"), "UTF-16LE"),
    (re.compile(rb"\x00[\[{]\x00[\s\"}{]"), "UTF-16BE"),
)
_PAGE = re.compile(rb"\s*<(!doctype html|html|\?xml)\b", re.IGNORECASE)
_LINES_LOOKED_AT = 5
_HEADER = re.compile(rb'"?[\w ]+"?( , "?[\w ]+"?)+')
_JSON = (b"{", b"[", b'"', b"\0")
_NO_TEXT = re.compile(rb"[\x01-\x08\x0e-\x1d\x1f\x7f-\xc1\xf5-\xff]")
"""Bytes that no text in UTF-8 begins with; zeros are what a torn write leaves of a line."""
_ARRAY = re.compile(rb"\[\s*(\{|\]\s*\Z|\Z)")

_BARE = re.compile(rb'\[\s*\n\s*("|\[)')
"""A list of texts or of lists over several lines."""


def refuse_container(name: str, head: bytes) -> None:
    """Raises InputUnreadableError where a file that begins so holds something else than rows, and
    InvalidDataError for lines of JSON under Parquet's name."""
    for magic, place, what, mend in _CONTAINERS:
        if head[place : place + len(magic)] == magic:
            raise _unreadable(name, *_ZIPPED.get(PurePath(name).suffix.lower(), (what, mend)))
    stem, _, suffix = name.rpartition(".")
    if suffix in ("parquet", "pq") and head.lstrip().startswith((b"{", b"[")):
        raise InvalidDataError(
            f"input {name} holds JSON, not Parquet", f"mv {name} {stem}.jsonl, and run again"
        )


def refuse_text(name: str, head: bytes) -> None:
    """The same of text, once it is decompressed. Raises InvalidDataError too, where the text is one
    that a single command makes rows of."""
    refuse_container(name, head)
    refuse_wide(name, head)
    text = head.removeprefix(BOM_UTF8)
    if _PAGE.match(text):
        raise _unreadable(name, "a page of HTML or XML", "fetch the file itself")
    if text.startswith(b"{") and b"\r" in text and b"\n" not in text:
        raise _invalid(name, "text whose lines end with CR alone", "tr '\\r' '\\n' <")
    if _is_table(text):
        raise InvalidDataError(
            f"input {name} looks like CSV, not one JSON object a line",
            f"name it .csv (mv {name} {name.rpartition('.')[0] or name}.csv), and run again",
        )
    if kind := _WRITTEN.get(PurePath(name).suffix.lower()):
        raise _unreadable(name, *kind)
    if bare := _BARE.match(text):
        item = "prompt" if bare[1] == b'"' else "messages"
        command = f"jq -c '.[] | {{{item}: .}}'"
        raise _invalid(name, f"a list of {item}, not of JSON objects", command)
    is_prose = _is_prose(text)
    if _NO_TEXT.match(text) or (is_prose and not _is_utf8(text)):
        raise _unreadable(name, "binary data of a kind not known", "name the file you meant")
    if is_prose:
        raise _invalid(name, "plain text, not one JSON object a line", "jq -Rc '{prompt: .}'")
    if _is_pretty(text):
        raise _invalid(name, "JSON over several lines, not one object a line", "jq -c .")


def refuse_wide(name: str, head: bytes, *, is_table: bool = False) -> None:
    """Raises InvalidDataError for text of two or four bytes a character."""
    for begin, encoding in _WIDE:
        if begin.match(head):
            rows = "rows.csv" if is_table else "rows.jsonl"
            command = f"iconv -f {encoding} -t UTF-8"
            raise _invalid(name, f"text in {encoding}, not UTF-8", command, rows)


def is_array(head: bytes) -> bool:
    """Whether the text is one JSON array of objects, in place of a line for each; no more lines
    follow that are arrays too."""
    text = head.removeprefix(BOM_UTF8).lstrip()
    first, _, rest = text.partition(b"\n")
    if first.rstrip().endswith(b"]") and rest.lstrip().startswith(b"[") and _is_json(first):
        return False
    return _ARRAY.match(text) is not None


def _is_table(head: bytes) -> bool:
    """Whether the first lines have equal numbers of commas or tabs, and a header of plain names."""
    lines = head.split(b"\n")[:-1] or [head]
    lines = [line.strip() for line in lines[:_LINES_LOOKED_AT] if line.strip()]
    if len(lines) < 2 or any(line.startswith((b"{", b"[", b'"{')) for line in lines):
        return False
    for mark in (b",", b"\t"):
        if _HEADER.fullmatch(lines[0].replace(mark, b" , ")) and lines[0].count(mark):
            return all(line.count(mark) >= lines[0].count(mark) for line in lines[1:])
    return False


def _is_prose(head: bytes) -> bool:
    """Whether none of the first lines is JSON, nor was meant to be."""
    lines = [line.strip() for line in head.split(b"\n")[:_LINES_LOOKED_AT]]
    lines = [line for line in lines if line]
    return bool(lines) and not any(line.startswith(_JSON) or _is_json(line) for line in lines)


def _is_utf8(text: bytes) -> bool:
    """Whether what begins so may be; its last character may be cut."""
    try:
        getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
    return True


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_pretty(head: bytes) -> bool:
    """One object that goes on, indented, after its first line: no such line is JSON by itself."""
    first, newline, rest = head.lstrip().partition(b"\n")
    if not first.startswith(b"{") or not newline or rest[:1] not in (b" ", b"\t", b'"', b"\r"):
        return False
    if first.strip() == b"{":
        return True
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos >= len(first.rstrip().decode("utf-8", "replace"))
    except ValueError:
        return False
    return False


def _unreadable(name: str, what: str, mend: str) -> BatchgenError:
    return InputUnreadableError(
        f"input {name} is {what}, not JSONL or Parquet", _mended(mend, name)
    )


def _invalid(name: str, what: str, command: str, rows: str = "rows.jsonl") -> BatchgenError:
    return InvalidDataError(f"input {name} is {what}", f"{command} {name} > {rows}")


def _mended(mend: str, name: str) -> str:
    command = mend.format(name=name, path=name)
    if command == mend or "rows." in mend:
        return command
    return f"{command}, and name what is in it"


def compression_by_head(head: bytes, name: str) -> str | None:
    """Of a file that begins so, as endings of names say it: gz, zst, bz2, xz, lz4. None: it is as
    it is. The name decides where nothing is seen but what zstandard and LZ4 both pass over."""
    begin, head = head, _without_skippable(head)
    if begin and not head:
        return "lz4" if name.lower().endswith(".lz4") else "zst"
    return next((ending for magic, ending in _COMPRESSED if magic.match(head)), None)


def _without_skippable(head: bytes) -> bytes:
    """From the first frame with content: zstandard and LZ4 pass over frames that begin with
    0x184D2A50 to 0x184D2A5F and the length of what follows (pzstd writes one first)."""
    while head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50:
        head = head[8 + int.from_bytes(head[4:8], "little") :]
    return head
