"""What to do about a failed row, by its error code: the next step beside the first error shown."""

from __future__ import annotations

from pathlib import PurePath

from batchgen.errors import ErrorCode

__all__ = ["MENDED_APART", "advice_for"]

MENDED_APART = (
    "finished rows stand for these flags and this input, but for rows that failed: once those are "
    "mended where they stand, --retry failed computes them; other flags take an --out of their own"
)
"""Beside advice to change something, where there are finished rows: the same --out refuses it."""
_LOOK = "look at the row, and mend it"
_ADVICE = {
    ErrorCode.INVALID_JSON: (
        "write one JSON object a line; of a file with one prompt a line, "
        "jq -Rc '{prompt: .}' FILE > rows.jsonl makes such rows"
    ),
    ErrorCode.INVALID_ROW: _LOOK,
    ErrorCode.MISSING_PROMPT: (
        "name the column that holds the prompt with --prompt-column (chats: --messages-column), "
        "or make prompts of several columns with --template"
    ),
    ErrorCode.EMPTY_PROMPT: "fill the prompt in, or leave the row out",
    ErrorCode.DUPLICATE_ID: (
        "give each row an id of its own, or take another column with --id-column (id,sample where "
        "an output with several samples is read)"
    ),
    ErrorCode.UNKNOWN_PARAM: "correct the parameter's name, or remove it from the row",
    ErrorCode.INVALID_PARAM: "correct the parameter's value, or remove it from the row",
    ErrorCode.INVALID_SCHEMA: "mend the schema: what cannot be enforced is refused before it runs",
    ErrorCode.UNSUPPORTED_SETTING: (
        "remove the setting; where it is a column of yours, keep that with --keep-columns NAME"
    ),
    ErrorCode.TEMPLATE_ERROR: (
        "`batchgen preview` shows how rows are rendered; mend the messages or the template"
    ),
    ErrorCode.PROMPT_TOO_LONG: (
        "--overlong truncate-left (or truncate-right, skip) says what becomes of long prompts"
    ),
    ErrorCode.MODEL_MISMATCH: (
        "--ignore-model accepts any name in body.model, --served-model-name NAME this one"
    ),
    ErrorCode.UNSUPPORTED_URL: "send the row to /v1/chat/completions or /v1/completions",
    ErrorCode.ROW_TIMEOUT: "give rows more time with --row-timeout, then --retry failed",
    ErrorCode.OOM: "a lower --max-num-seqs or --max-model-len needs less; then --retry failed",
    ErrorCode.NAN_LOGITS: "try --dtype float32 into another --out; the weights may be damaged",
    ErrorCode.NO_ALLOWED_TOKEN: (
        "loosen what the row forbids: its schema, allowed tokens, bad words and biases leave none"
    ),
    ErrorCode.ENGINE_CRASH: "--retry failed tries these rows again; `batchgen doctor` looks around",
    ErrorCode.INTERNAL: "--retry failed tries these rows again; report it if it stays",
}
"""Each code has a line: a test holds that."""
_PAIRS = (
    "make a row of each pair, its prompt by --template, with --choices yes,no: choice_probs is its "
    "score"
)
_OF_MESSAGES = {
    "is not a JSON number": "write null where there is no number (pandas: to_json does)",
    "more text after the object": (
        "one object a line, and no comma behind it: sed 's/,$//' FILE | jq -c . > rows.jsonl"
    ),
    ', not {"0": ': (
        "it holds columns, not rows: of pandas df.to_json(FILE, orient='records', lines=True) "
        "writes rows"
    ),
    '/embeddings" is not served': "texts are generated, chosen and scored here: no embeddings",
    '/rerank" is not served': _PAIRS,
    '/score" is not served': _PAIRS,
    "as Python writes it": (
        "where the file is made, write JSON: df['messages'] = df['messages'].map(json.dumps)"
    ),
    "more than one of": (
        "say which one is asked: --prompt-column messages --keep-columns none reads the chats alone"
        ", --template '{{ prompt }}' the prompts"
    ),
    "stand in its list": "make them lines as said, and give that file with --in",
    "makes rows of them": "make rows as said, and give that file with --in",
    "rows stand under its keys": "make them lines as said, and give that file with --in",
    "FILE lifts them": "lift them as said, and give that file with --in",
}
"""More than the code tells."""


_UNPACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}


def advice_for(code: str, message: str = "", origin: str = "") -> str:
    """What to do about rows of this code, the first of which failed with this message in the file
    and line of `origin`."""
    if message.endswith("is not UTF-8"):
        return _in_utf8(origin, is_column=message.startswith("column"))
    for part, advice in _OF_MESSAGES.items():
        if part in message:
            return advice
    return _ADVICE.get(ErrorCode(code), _LOOK)


def _in_utf8(origin: str, *, is_column: bool) -> str:
    endings = PurePath(origin.rpartition(":")[0].lower()).suffixes
    rows = next((end for end in (".csv", ".tsv") if end in endings), None)
    if is_column and rows is None:
        return "write that column as text where the file is made: its bytes are not UTF-8"
    tool = next((_UNPACKED[end] for end in endings if end in _UNPACKED), None)
    command = "iconv -f LATIN1 -t UTF-8"
    command = f"{command} FILE" if tool is None else f"{tool} -dc FILE | {command}"
    return f"{command} > rows{rows or '.jsonl'}, or what else the file is in"
