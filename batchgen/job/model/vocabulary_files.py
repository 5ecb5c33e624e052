"""What the files of a model's folder say of its vocabulary, and a tokenizer that reads them so.

Since transformers 5 some classes make their tokenizer anew from the vocabulary alone: a unigram
model as `LlamaTokenizer` becomes BPE, which spells words in letters, and as `T5Tokenizer` it loses
its byte fallback, so that a rare letter ends the text. Seen with 5.24
(`findings/sentencepiece_without_json.sh`). The files say what the model was trained on.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from mmap import ACCESS_READ, mmap
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from batchgen.errors import ModelRefusedError
from batchgen.installed import version_of
from batchgen.job.varints import read_varint

__all__ = [
    "Vocabulary",
    "as_its_files_say",
    "missing_packages",
    "said_by_files",
    "said_by_sentencepiece",
]

_logger = logging.getLogger(__name__)
_KINDS = {1: "Unigram", 2: "BPE"}
"""Of a SentencePiece model; words and letters alone are not served by transformers either."""
_SENTENCEPIECES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_READERS = ("sentencepiece", "protobuf")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MODEL = re.compile(rb'"model"\s*:\s*\{\s*"type"\s*:\s*"(\w+)"')
_TRAINER, _MODEL_TYPE, _BYTE_FALLBACK, _UNKNOWN = 2, 3, 35, 40  # of sentencepiece_model.proto


class Vocabulary(NamedTuple):
    """`kind`: as `tokenizers` names its models. `falls_back`: what is no token becomes bytes.
    `unknown`: the id of what is no token, of a unigram model."""

    kind: str
    falls_back: bool = False
    unknown: int | None = None


def said_by_files(folder: Path) -> Vocabulary | None:
    """None where no file says it."""
    if (found := folder / "tokenizer.json").is_file():
        kind = _kind(found)
        if kind == "Unigram":
            return _of_json(json.loads(found.read_bytes()))
        return None if kind is None else Vocabulary(kind)
    path = _sentencepiece(folder)
    return None if path is None else said_by_sentencepiece(path.read_bytes())


def said_by_sentencepiece(model: bytes) -> Vocabulary | None:
    """Of a serialised `ModelProto`; None for other bytes, such as a table of tiktoken's."""
    try:
        trainer = next(value for field, value in _fields(model) if field == _TRAINER)
        if not isinstance(trainer, bytes):
            return None
        said = dict(_fields(trainer))
    except (IndexError, ValueError, StopIteration):
        return None
    kind = _KINDS.get(int(said.get(_MODEL_TYPE, 1)))
    if kind is None:
        return None
    unknown = int(said.get(_UNKNOWN, 0)) if kind == "Unigram" else None
    return Vocabulary(kind, bool(said.get(_BYTE_FALLBACK, 0)), unknown)


def _kind(tokenizer: Path) -> str | None:
    """Of a tokenizer.json, which has up to 30 MB: what stands behind it is not read."""
    with tokenizer.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as text:
        found = _MODEL.search(text)
        return None if found is None else found[1].decode()


def _of_json(tokenizer: Mapping[str, Any]) -> Vocabulary:
    model = tokenizer["model"]
    return Vocabulary(model["type"], bool(model.get("byte_fallback")), model.get("unk_id"))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a protobuf message; only integers and bytes mean something."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        if tag & 7 == 0:
            value, at = read_varint(message, at)
            yield tag >> 3, value
            continue
        size, at = read_varint(message, at) if tag & 7 == 2 else ({1: 8, 5: 4}.get(tag & 7, -1), at)
        if size < 0 or at + size > len(message):
            raise ValueError("no protobuf message")
        yield tag >> 3, message[at : at + size]
        at += size


def _sentencepiece(folder: Path) -> Path | None:
    return next((path for name in _SENTENCEPIECES if (path := folder / name).is_file()), None)


def as_its_files_say(folder: Path, name: str, backend: Any) -> Any:
    """`backend`, a `tokenizers.Tokenizer`, if it has the kind of vocabulary that the files have,
    else one that has, which begins and ends texts as `backend` does. Raises ModelRefusedError where
    none can be made."""
    said = said_by_files(folder)
    if said is None or _agrees(said, backend):
        return backend
    try:
        right = _without_class(folder)
    except Exception as error:  # transformers raises many kinds here
        raise _refused(name, said, str(error)) from error
    if not _agrees(said, right):
        raise _refused(name, said, "without its class it is no other")
    right.post_processor = backend.post_processor
    _logger.warning(
        "%s: transformers makes another tokenizer of its %s vocabulary; prompts are made by its "
        "own files", name, said.kind,
    )  # fmt: skip
    return right


def missing_packages(folder: Path) -> str | None:
    """How to get what transformers reads the folder's SentencePiece model with, if that is not
    installed: it asks for tiktoken then."""
    if (folder / "tokenizer.json").is_file() or said_by_files(folder) is None:
        return None
    missing = [name for name in _READERS if version_of(name) is None]
    return f"pip install {' '.join(missing)}" if missing else None


def _agrees(said: Vocabulary, backend: Any) -> bool:
    if type(backend.model).__name__ != said.kind:
        return False
    if not said.falls_back and said.unknown is None:
        return True
    found = _of_json(json.loads(backend.to_str()))
    return found.falls_back >= said.falls_back and said.unknown in (None, found.unknown)


def _without_class(folder: Path) -> Any:
    """The tokenizer of the same files, by no class in particular."""
    from transformers import PreTrainedTokenizerFast

    read: Any = PreTrainedTokenizerFast.from_pretrained
    if (folder / "tokenizer.json").is_file():
        return read(str(folder)).backend_tokenizer
    path = _sentencepiece(folder)
    assert path is not None
    with TemporaryDirectory(prefix="batchgen-vocabulary-") as copy:
        Path(copy, "tokenizer.model").write_bytes(path.read_bytes())
        for setting in _SETTINGS:
            if (source := folder / setting).is_file():
                Path(copy, setting).write_text(_classless(source), encoding="utf-8")
        return read(copy).backend_tokenizer


def _classless(path: Path) -> str:
    settings = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({key: settings[key] for key in settings if key != "tokenizer_class"})


def _refused(name: str, said: Vocabulary, why: str) -> ModelRefusedError:
    fallback = " with byte fallback" if said.falls_back else ""
    return ModelRefusedError(
        f"{name}: transformers makes another tokenizer of its {said.kind} vocabulary{fallback}: "
        f"prompts would be tokens that it was not trained on ({' '.join(why.split())[:200]})",
        "give the folder a tokenizer.json, and no tokenizer_class in tokenizer_config.json",
    )
