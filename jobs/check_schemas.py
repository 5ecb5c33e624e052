"""Completions under generated JSON Schemas, judged by another library.

    python jobs/check_schemas.py --model SmolLM2-135M-Instruct.Q4_1.gguf --count 300 --keep DIR

Runs `batchgen run` over one row a schema and checks each completion with `jsonschema`, formats
included. A schema may be refused by name (`invalid_schema`) before its row runs; of one accepted
the completion must be valid, even where max_tokens would have cut it (counted as `led`: the model
goes on without end, the grammar does not). Exit code 1 for any other end, 75 where `--time-limit`
stopped it: with `--keep` the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batchgen.job.flow.results import STEERED

Schema = dict[str, Any]
_WORDS = ["name", "age", "city", "tags", "price", "unit", "notes", "kind", "is_new", "score"]
_PATTERNS = ["^[A-Z]{2,4}-[0-9]{3}$", "^(red|green|blue)$", "^\\d{4}$", "^[a-z]+(_[a-z]+)?$", "ab"]
_FORMATS = ["date", "date-time", "time", "email", "uuid", "ipv4", "hostname", "uri"]


def random_schema(seed: int) -> Schema:
    """An object with nested objects, arrays, enums, patterns, formats, bounds and references."""
    draw = random.Random(seed)
    schema = _object(draw, 2)
    if draw.random() < 0.4:
        schema["$defs"] = {"part": _object(draw, 1)}
        name = draw.choice(_WORDS)
        schema["properties"][name] = {"$ref": "#/$defs/part"}
        schema["required"] = sorted({*schema["required"], name})
    if draw.random() < 0.06:
        schema |= draw.choice([{"not": {"required": ["zz"]}}, {"if": {}, "then": {}}])
    return schema


def _any(draw: random.Random, depth: int) -> Schema:
    kinds = [_string, _pattern, _format, _integer, _number, _enum, _simple, _union]
    kinds += [_object, _array] * (depth > 0)
    return draw.choice(kinds)(draw, depth)


def _object(draw: random.Random, depth: int) -> Schema:
    names = draw.sample(_WORDS, draw.randint(1, 4))
    required = draw.sample(names, draw.randint(1, len(names)))
    return {
        "type": "object",
        "properties": {name: _any(draw, depth - 1) for name in names},
        "required": sorted(required),
        "additionalProperties": False,
    }


def _array(draw: random.Random, depth: int) -> Schema:
    low = draw.randint(0, 2)
    schema: Schema = {"type": "array", "minItems": low, "maxItems": low + draw.randint(0, 2)}
    if draw.random() < 0.2:
        first = [_any(draw, depth - 1) for _ in range(2)]
        return schema | {"prefixItems": first, "items": False, "minItems": 1, "maxItems": 2}
    if draw.random() < 0.1:
        schema["uniqueItems"] = True
    return schema | {"items": _any(draw, depth - 1)}


def _string(draw: random.Random, depth: int) -> Schema:
    low = draw.randint(0, 6)
    return {"type": "string", "minLength": low, "maxLength": low + draw.randint(0, 9)}


def _pattern(draw: random.Random, depth: int) -> Schema:
    return {"type": "string", "pattern": draw.choice(_PATTERNS), "maxLength": 12}


def _format(draw: random.Random, depth: int) -> Schema:
    return {"type": "string", "format": draw.choice(_FORMATS)}


def _integer(draw: random.Random, depth: int) -> Schema:
    low = draw.randint(-500, 500)
    bounds = draw.choice([("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")])
    schema = {"type": "integer", bounds[0]: low, bounds[1]: low + draw.randint(3, 5000)}
    return schema | ({"multipleOf": draw.choice([2, 5])} if draw.random() < 0.15 else {})


def _number(draw: random.Random, depth: int) -> Schema:
    low = round(draw.uniform(-50, 50), 2)
    return {"type": "number", "minimum": low, "maximum": round(low + draw.uniform(1, 900), 1)}


def _enum(draw: random.Random, depth: int) -> Schema:
    return {"enum": draw.sample(["small", "große", 'a "quoted" one', 7, 1.5, None, True, []], 3)}


def _simple(draw: random.Random, depth: int) -> Schema:
    return draw.choice([{"type": "boolean"}, {"type": "null"}, {"const": "fixed"}])


def _union(draw: random.Random, depth: int) -> Schema:
    name = draw.choice(["anyOf", "oneOf"])
    return {name: [_integer(draw, 0), draw.choice([_string, _pattern])(draw, 0)]}


def judge(schema: Schema, row: dict[str, Any]) -> str:
    """valid, refused, cut, or what is wrong."""
    import jsonschema

    if row["status"] == "error":
        return "refused" if row["error_code"] == "invalid_schema" else str(row["error_message"])
    if row["finish_reason"] == "length" and row["stop_reason"] != STEERED:
        return "cut"
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    try:
        errors = [error.message for error in validator.iter_errors(json.loads(row["completion"]))]
    except ValueError as error:
        errors = [f"no JSON: {error}"]
    return f"INVALID: {errors[0]}" if errors else "valid"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="seed of the first schema")
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--time-limit", default="100d")
    parser.add_argument("--keep", type=Path, help="folder of the run, which goes on there")
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.count)
    schemas = [random_schema(seed) for seed in seeds]
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if stopped := _run(folder, schemas, asked):
            return stopped
        rows = pq.read_table(folder / "out.parquet").to_pylist()
    return _report(seeds, schemas, rows)


def _report(seeds: Sequence[int], schemas: list[Schema], rows: list[dict[str, Any]]) -> int:
    ends = [judge(schema, row) for schema, row in zip(schemas, rows, strict=True)]
    for seed, schema, end, row in zip(seeds, schemas, ends, rows, strict=True):
        if end == "refused":
            print(f"seed {seed}: {row['error_message']}")
        elif end != "valid":
            print(f"seed {seed}: {end}\n  {json.dumps(schema)}\n  {row['completion']!r}")
    counts = Counter(end.split(":")[0] for end in ends)
    print(dict(counts), "led:", sum(row["stop_reason"] == STEERED for row in rows))
    return int(any(end not in ("valid", "refused") for end in ends))


def _run(folder: Path, schemas: list[Schema], asked: argparse.Namespace) -> int:
    """75: stopped, to be continued."""
    chat = [{"role": "user", "content": "Make up an example as JSON."}]
    lines = [{"messages": chat, "guided_json": schema} for schema in schemas]
    source, out = folder / "in.jsonl", folder / "out.parquet"
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if not source.exists() or source.read_text() != text:
        source.write_text(text)
    command = [sys.executable, "-m", "batchgen", "run", "-i", source, "-o", out, "-q"]
    command += ["--model", asked.model, "--max-failures", "100%"]
    command += ["--temperature", asked.temperature, "--time-limit", asked.time_limit]
    command += ["--max-tokens", asked.max_tokens]
    done = subprocess.run([str(word) for word in command])
    if done.returncode not in (0, 75):
        raise SystemExit(f"batchgen run ended with {done.returncode}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
