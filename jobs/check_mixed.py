"""Rows that differ from their neighbours in every parameter: each must equal the same row alone.

    python jobs/check_mixed.py --count 400

Runs generated rows (sampling, seeds, stops, bias, bad words, n-grams, n, logprobs, grammars,
choices, questions, chats, templates' settings, prefills, token ids and adapters, drawn anew for
each row) on one model in float32, packed with all others, and again one by one, without prefix
cache and folding. Every sample's tokens, text and end must be the same, and no row may fail. Two
random adapters are made, unless `--adapter a=DIR --adapter b=DIR` names some; `--no-adapters`: none
of it, so that the last layer answers for few tokens. Exit code 1 where a row differs or fails,
naming it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batchgen import LLM, Result
from batchgen.job.model.files import resolve_model

Row = dict[str, Any]
SAME = (
    "index", "sample", "id", "status", "prompt", "completion", "finish_reason", "stop_reason",
    "error_code", "error_message", "prompt_tokens", "completion_tokens", "seed", "token_ids",
    "choice",
)  # fmt: skip
_TOLERANCE = 1e-3
_TEXT = "the small fox reads a long letter about rain and then walks home to its old friends"
_WORDS = _TEXT.split()
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "old": {"type": "boolean"}},
    "required": ["name", "old"],
}
ADAPTERS = ("a", "b")
TEMPLATE = (
    "{{ bos_token }}{% if mood is defined %}<|system|>Be {{ mood }}.<|end|>{% endif %}"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""For all models: one that reads a setting of the row."""
_CONTRADICTORY = ("allowed_token_ids", "no_repeat_ngram_size")
"""Beside a grammar they often leave no token at all."""


def random_row(number: int, most_tokens: int = 12) -> Row:
    """One row; the same for the same number."""
    draw = random.Random(number)
    row: Row = {"id": f"row-{number}", "max_tokens": draw.randint(1, most_tokens)}
    row |= _content(draw)
    row["adapter"] = draw.choice([None, "base", *ADAPTERS])
    if draw.random() < 0.15:
        return row | _decision(draw)
    if draw.random() < 0.6:
        row |= {"temperature": round(draw.uniform(0.3, 1.5), 2), "seed": draw.randint(0, 9999)}
        row |= _some(draw, {"top_p": 0.8, "top_k": 20, "min_p": 0.05}, 0.5)
    row |= _some(draw, _settings(draw), 0.25)
    if "min_tokens" in row:
        row["min_tokens"] = min(row["min_tokens"], row["max_tokens"])
    if draw.random() < 0.2:
        row = {name: value for name, value in row.items() if name not in _CONTRADICTORY}
        row |= _grammar(draw)
    return row


def _content(draw: random.Random) -> Row:
    text = " ".join(draw.choices(_WORDS, k=draw.randint(2, 14)))
    kind = draw.randrange(6)
    if kind == 0:
        return {"prompt_token_ids": [draw.randint(10, 4000) for _ in range(draw.randint(1, 20))]}
    if kind < 3:
        return {"prompt": text if draw.random() < 0.6 else " ".join(_WORDS)}
    messages = [{"role": "user", "content": text}]
    if kind == 3:
        messages.insert(0, {"role": "system", "content": "Answer in one word."})
    if kind == 4:
        return {
            "messages": [*messages, {"role": "assistant", "content": "The"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
        }
    kwargs = {"chat_template_kwargs": {"mood": draw.choice(["glad", "calm", "brief", "kind"])}}
    return {"messages": messages, **(kwargs if kind == 5 else {})}


def _settings(draw: random.Random) -> Row:
    ids = [draw.randint(10, 4000) for _ in range(3)]
    return {
        "repetition_penalty": 1.3,
        "presence_penalty": 0.7,
        "frequency_penalty": 0.4,
        "stop": [draw.choice("aeiou"), draw.choice(_WORDS)],
        "stop_token_ids": ids[:1],
        "ignore_eos": True,
        "min_tokens": draw.randint(1, 6),
        "n": draw.randint(2, 3),
        "logprobs": 2,
        "logit_bias": {str(ids[0]): 4.0, str(ids[1]): -9.0},
        "bad_words": [draw.choice(_WORDS)],
        "allowed_token_ids": list(range(draw.randint(0, 50), 4000, draw.randint(1, 5))),
        "no_repeat_ngram_size": draw.randint(1, 3),
        "prompt_logprobs": 1,
        "skip_special_tokens": False,
        "truncate_prompt_tokens": draw.randint(2, 9),
    }


def _grammar(draw: random.Random) -> Row:
    return draw.choice(
        [
            {"response_format": {"type": "json_schema", "json_schema": {"schema": _SCHEMA}}},
            {"guided_regex": "[A-Z][a-z]{2,5}"},
            {"guided_choice": ["yes", "no", "perhaps"]},
            {"structured_outputs": {"grammar": 'start: ("a" | "b")+ "."'}},
        ]
    )


def _decision(draw: random.Random) -> Row:
    labels = {"choices": draw.sample(["yes", "no", "perhaps", "never"], 3)}
    asked = {"questions": [{"question": "Is it old?"}, {"question": "Who?", "choices": _WORDS[:3]}]}
    return labels if draw.random() < 0.5 else labels | asked


def _some(draw: random.Random, settings: Row, share: float) -> Row:
    return {name: value for name, value in settings.items() if draw.random() < share}


def random_adapter(folder: Path, model: Path, endings: Sequence[str], seed: int) -> Path:
    """An adapter as peft writes it, wide enough to change what is said."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    for name, part in AutoModelForCausalLM.from_pretrained(model).named_modules():
        if name.rpartition(".")[2] in endings:
            outputs, inputs = part.weight.shape
            for half, shape in (("A", (4, inputs)), ("B", (outputs, 4))):
                values = torch.randn(shape, generator=draw) * 0.05
                weights[f"base_model.model.{name}.lora_{half}.weight"] = values
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": list(endings)}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def mood_template(folder: Path) -> Path:
    """`TEMPLATE` as a file."""
    path = folder / "mood.jinja"
    path.write_text(TEMPLATE, encoding="utf-8")
    return path


def differences(mixed: Sequence[Result], alone: Sequence[Result]) -> list[str]:
    """What a result says otherwise in company than alone, a line each."""
    found = [] if len(mixed) == len(alone) else [f"{len(mixed)} results, {len(alone)} alone"]
    for one, other in zip(mixed, alone, strict=False):
        for name in SAME:
            if getattr(one, name) != getattr(other, name):
                values = f"{getattr(one, name)!r}, alone {getattr(other, name)!r}"
                found.append(f"{one.id} sample {one.sample}: {name}: {values}")
        pairs = zip(one.logprobs or [], other.logprobs or [], strict=False)
        if any(abs(x - y) > _TOLERANCE for x, y in pairs):
            found.append(f"{one.id} sample {one.sample}: logprobs differ")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--max-num-seqs", type=int, default=32)
    parser.add_argument("--adapter", action="append", help="a=DIR, then b=DIR")
    parser.add_argument("--no-adapters", action="store_true")
    given = parser.parse_args()
    rows = [random_row(number) for number in range(given.first, given.first + given.count)]
    if given.no_adapters:
        rows = [row | {"adapter": None} for row in rows]
    options: dict[str, Any] = {
        "device": given.device,
        "dtype": "float32",
        "adapter": given.adapter,
    }
    with tempfile.TemporaryDirectory() as folder:
        options["chat_template"] = str(mood_template(Path(folder)))
        if given.adapter is None and not given.no_adapters:
            model = resolve_model(given.model).path
            first = random_adapter(Path(folder) / "a", model, ["q_proj", "v_proj", "down_proj"], 1)
            second = random_adapter(Path(folder) / "b", model, ["k_proj", "up_proj"], 2)
            options["adapter"] = [str(first), str(second)]
        started = time.monotonic()
        with LLM(given.model, max_num_seqs=given.max_num_seqs, **options) as llm:
            mixed = list(llm.generate(rows, max_in_flight=given.count))
        between = time.monotonic()
        plain = {"enable_prefix_caching": False, "fold": False, "max_num_seqs": 1}
        with LLM(given.model, **options, **plain) as llm:
            alone = [result for row in rows for result in llm.generate([row])]
    # A row alone is the first of its call; its place is no part of what it says.
    places = {row["id"]: number for number, row in enumerate(rows)}
    found = differences(mixed, [_at(result, places[result.id]) for result in alone])
    failed = [one for one in mixed if not one.ok]
    found += [f"{one.id}: {one.error_code}: {one.error_message}" for one in failed]
    print("\n".join(found))
    counts = Counter(result.error_code or "ok" for result in mixed)
    ended = time.monotonic()
    print(f"{len(rows)} rows, {len(mixed)} results ({dict(counts)}): {len(found)} differ or fail; "
          f"{between - started:.0f} s together, {ended - between:.0f} s alone")  # fmt: skip
    return 1 if found else 0


def _at(result: Result, index: int) -> Result:
    from dataclasses import replace

    return replace(result, index=index)


if __name__ == "__main__":
    sys.exit(main())
