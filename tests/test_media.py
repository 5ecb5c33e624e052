"""A row that has a picture, a sound or a film is not answered by its text alone without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen import LLM
from batchgen.errors import ErrorCode, InvalidDataError
from batchgen.job.input.reader import Reader
from batchgen.job.rows import InputRow
from batchgen.job.spec import InputSpec

FILE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURE = {"bytes": b"\x89PNG", "path": "a.png"}
LEFT_OUT = "is not read"


def read(path: Path, **flags: Any) -> list[InputRow]:
    return list(Reader(InputSpec((str(path),), **flags)))


def line(folder: Path, row: dict[str, Any]) -> Path:
    (folder / "in.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "in.jsonl"


BESIDE: list[dict[str, Any]] = [
    {"image": "coco/train2017/000000033471.jpg"},
    {"images": ["iVBORw0KGgo" * 30]},
    {"image_url": {"url": "https://example.com/cat?size=2"}},
    {"image_urls": ["https://example.com/cat?size=2"]},
    {"audio_file": "data:audio/wav;base64,UklGRg=="},
    {"image": {"bytes": None, "path": "x.png"}},
    {"pixel_values": [[0.1, 0.2]]},
    {"audio": {"path": "a.wav", "array": [0.0], "sampling_rate": 16000}},
    {"videos": [{"url": "https://example.com/a.mp4"}]},
    {"seen": "data:image/png;base64,iVBORw0KGgo="},
]


@pytest.mark.parametrize("beside", BESIDE, ids=lambda one: next(iter(one)))
@pytest.mark.parametrize(
    "text", [{"prompt": "What is it?"}, {"messages": [{"role": "user", "content": "<image>"}]}]
)
def test_a_column_of_media_beside_a_text_is_that_rows_error(
    tmp_path: Path, beside: dict[str, Any], text: dict[str, Any]
) -> None:
    (row,) = read(line(tmp_path, text | beside))
    assert row.error is not None
    assert row.error.code is ErrorCode.UNSUPPORTED_SETTING
    (name,) = beside
    assert f'column "{name}" holds a picture' in row.error.message
    assert f"--keep-columns {name}" in row.error.message


@pytest.mark.parametrize("flags", [{"keep_columns": "image"}, {"template": "{{ prompt }}"}])
def test_a_column_of_media_that_is_only_carried_along_is_named_as_not_read(
    tmp_path: Path, flags: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    source = line(tmp_path, {"prompt": "p", "image": "cat.png"})
    (row,) = read(source, **flags)
    assert row.error is None
    assert row.kept == {"image": "cat.png"}
    (said,) = (one.getMessage() for one in caplog.records if LEFT_OUT in one.getMessage())
    assert said.startswith(f'{source}:1: column "image" holds a picture')


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_no_picture_is_no_error(
    tmp_path: Path, value: object, caplog: pytest.LogCaptureFixture
) -> None:
    (row,) = read(line(tmp_path, {"prompt": "p", "image": value, "video": value}))
    assert row.error is None
    assert LEFT_OUT not in caplog.text


@pytest.mark.parametrize(
    "beside", ['"image": "a red house"', '"image_url": "https://example.com/shop/7.jpg"']
)
def test_what_is_only_named_like_a_picture_or_is_where_one_lies_is_said_once(
    tmp_path: Path, beside: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(f'{{"prompt": "p", {beside}}}\n' * 3)
    assert [row.error for row in read(source)] == [None] * 3
    assert caplog.text.count(LEFT_OUT) == 1


TYPED = {
    "image": pa.array([PICTURE, None], FILE),
    "images": pa.array([[PICTURE], []], pa.list_(FILE)),
    "frames": pa.array([{"clip": PICTURE}, None], pa.struct([("clip", FILE)])),
    "png": pa.array([b"\x89PNG", None], pa.binary()),
}


@pytest.mark.parametrize("name", TYPED)
def test_a_typed_column_of_media_refuses_its_file_until_somebody_says_what_to_keep(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    columns = {"prompt": pa.array(["a", "b"]), "note": pa.array(["x", "y"]), name: TYPED[name]}
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(InvalidDataError, match=f"column '{name}' holds pictures") as caught:
        read(tmp_path / "in.parquet")
    assert caught.value.exit_code == 65
    flag, keep = str(caught.value.hint).split()[-2:]
    assert (flag, keep) == ("--keep-columns", "note")
    rows = read(tmp_path / "in.parquet", keep_columns=keep)
    assert [(row.error, row.kept) for row in rows] == [(None, {"note": "x"}), (None, {"note": "y"})]
    assert f"column '{name}' holds pictures" in caplog.text
    with pytest.raises(InvalidDataError, match="--template reads it"):
        read(tmp_path / "in.parquet", template="{{ prompt }} {{ X }}".replace("X", name))


def test_a_folder_of_datasets_with_an_image_is_refused_as_a_file_of_it_is(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"prompt": datasets.Value("string"), "seen": datasets.Image()})
    table = pa.table({"prompt": ["a"], "seen": pa.array([PICTURE], FILE)})
    datasets.Dataset(table.cast(features.arrow_schema)).save_to_disk(tmp_path / "d")
    with pytest.raises(InvalidDataError, match="column 'seen' holds pictures"):
        read(tmp_path / "d")


def test_a_part_of_text_that_has_a_picture_too_is_an_error(tmp_path: Path) -> None:
    part = {"type": "text", "text": "What is it?", "image_url": {"url": "https://example.com/a"}}
    (row,) = read(line(tmp_path, {"messages": [{"role": "user", "content": [part]}]}))
    assert row.error is not None
    assert "has a text part with image_url" in row.error.message


class Picture:
    """As PIL's is: an object that no file of rows holds."""


@pytest.mark.parametrize("value", [Picture(), [Picture()], {"image": Picture()}, np.ones((2, 2))])
def test_a_picture_that_a_script_hands_over_is_that_rows_error(value: object) -> None:
    with LLM(engine="echo") as llm:
        rows = [{"prompt": "What is it?", "images": value}, {"prompt": "b", "images": 5}]
        bad, good = llm.generate(rows)
    assert bad.error_code == "unsupported_setting"
    assert good.ok
