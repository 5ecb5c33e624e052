r"""Kinds of work beside the 64 mixed rows: batchgen, OpenVINO GenAI and llama.cpp taking turns.

    OMP_NUM_THREADS=1 python jobs/bench_kinds.py FOLDER --kind 'long' \
        --engine dtype=float32,quantization=int8 \
        [--openvino PEER/bin/python --ir IR/int8 --hint f32] \
        [--llamacpp PEER/bin/python --gguf FILE.gguf] [--repeats 1]

The peers are installed as bench_openvino.py and bench_llamacpp.py say. All rows of a kind are asked
for at once, 64 slots, EOS ignored, so that every contender generates as many tokens; prefix caches
are on, and empty as a run begins. Loading is left out, prompts are counted in. FILE.gguf may be
batchgen's model too. Seconds are those that a process was on a core: with one thread, where nobody
waits for anybody, they say who does less even on a machine that others use.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from contenders import (
    THREADS,
    Contender,
    Measured,
    ask_peer,
    measure,
    own_seconds,
    report,
    take_turns,
)

SLOTS, ROOM = 64, 4608
SCHEMA = json.dumps(
    {
        "type": "array",
        "minItems": 60,  # no row can end within a run
        "items": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
            "required": ["name", "age"],
        },
    }
)
Cut = Callable[[int], list[int]]
Row = tuple[list[int], int, dict[str, Any]]
"""Prompt ids, tokens to generate, and sampling by the names that all three share."""


def shared(cut: Cut) -> list[Row]:
    """One instruction of 500 tokens, 20 to 80 of a row's own, 32 out."""
    head = cut(500)
    return [(head + cut(20 + i % 61), 32, {}) for i in range(64)]


def classify(cut: Cut) -> list[Row]:
    """30 to 120 tokens, 1 to 4 out."""
    return [(cut(30 + i * 7 % 91), 1 + i % 4, {}) for i in range(256)]


def long(cut: Cut) -> list[Row]:
    """2,048 to 3,900 tokens, 24 out."""
    return [(cut(2048 + i * 370), 24, {}) for i in range(6)]


def samples(cut: Cut) -> list[Row]:
    """8 draws of 64 tokens after each of 8 prompts of 150."""
    drawn = {"temperature": 1.0}
    return [(prompt, 64, drawn) for prompt in [cut(150) for _ in range(8)] for _ in range(8)]


def short(cut: Cut, **sampling: Any) -> list[Row]:
    """64 rows of 40 tokens, 64 out."""
    return [(cut(40), 64, sampling) for _ in range(64)]


def tail(cut: Cut) -> list[Row]:
    """63 rows of 24 tokens out, one of 400."""
    return [(cut(40), 400 if i == 0 else 24, {}) for i in range(64)]


PENALTIES = {"repetition_penalty": 1.1, "presence_penalty": 0.1, "frequency_penalty": 0.2}
KINDS: dict[str, Callable[[Cut], list[Row]]] = {
    "shared": shared,
    "classify": classify,
    "long": long,
    "samples": samples,
    "greedy": short,
    "top-p": partial(short, temperature=0.8, top_p=0.95),
    "penalties": partial(short, **PENALTIES),
    "json": partial(short, schema=SCHEMA),
    "tail": tail,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder, a .gguf file or a hub id")
    parser.add_argument("--kind", default="*", help="kinds, as file names are matched")
    parser.add_argument("--engine", action="append", metavar="NAME=VALUE,...", default=[])
    parser.add_argument("--openvino", metavar="PYTHON")
    parser.add_argument("--ir", help="what optimum-cli exported")
    parser.add_argument("--hint", default="f32", help="OpenVINO's arithmetic: f32 or bf16")
    parser.add_argument("--llamacpp", metavar="PYTHON")
    parser.add_argument("--gguf")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # what a peer's process is to run
    args = parser.parse_args()
    if args.serve:
        serve = {"openvino": openvino, "llamacpp": llamacpp}[args.serve]
        print(json.dumps(asdict(serve(args, json.loads(input())))))
    else:
        compare(args)


def compare(args: argparse.Namespace) -> None:
    """A line of JSON for each contender and kind."""
    from bench_workload import engine_of, make_rows

    path, rows = make_rows(args.model, [(8000, 1)])
    text = list(rows[0].prompt_token_ids)
    engines = {}
    for settings in args.engine:
        more = {"max_model_len": ROOM, "enable_prefix_caching": True}
        engines[f"batchgen {settings}"] = engine_of(path, settings, SLOTS, **more)
    for name in fnmatch.filter(KINDS, args.kind):
        draw = random.Random(1)
        given = KINDS[name](partial(cut_text, text, draw))
        chosen = [Contender(who, partial(ours, one, path, given)) for who, one in engines.items()]
        chosen += [Contender(who, partial(ask_peer, c, given)) for who, c in peers(args)]
        for contender in chosen[: len(engines)]:
            if name == "json":
                contender.run()  # grammars are compiled once
        print(json.dumps({"kind": name, "prompt_tokens": sum(len(row[0]) for row in given)}))
        report(take_turns(chosen, args.repeats))


def cut_text(text: list[int], draw: random.Random, length: int) -> list[int]:
    """So many tokens from somewhere on."""
    at = draw.randrange(len(text))
    return [text[(at + i) % len(text)] for i in range(length)]


def peers(args: argparse.Namespace) -> Iterator[tuple[str, list[Any]]]:
    """Those that were given."""
    if args.openvino:
        more = ["--serve", "openvino", "--ir", args.ir, "--hint", args.hint]
        yield f"OpenVINO {Path(args.ir).name} {args.hint}", [args.openvino, __file__, "", *more]
    if args.llamacpp:
        more = ["--serve", "llamacpp", "--gguf", args.gguf]
        yield "llama.cpp", [args.llamacpp, __file__, "", *more]


def on_cores(run: Callable[[], list[list[int]]]) -> Measured:
    """One call, in seconds of the CPU."""
    began = own_seconds()
    found = measure(run)
    return replace(found, seconds=own_seconds() - began)


IDS = count()


def ours(engine: Any, path: Path, rows: list[Row]) -> Measured:
    """One run of an engine whose prefix cache is empty."""
    from batchgen.engine.request import Request, SamplingParams

    def run() -> list[list[int]]:
        tokens: dict[int, list[int]] = {}
        first = next(IDS)
        for prompt, most, named in rows:
            given = {name: value for name, value in named.items() if name != "schema"}
            params = SamplingParams(max_tokens=most, ignore_eos=True, **given)
            ruled = constraint(str(path), named["schema"]) if "schema" in named else None
            number = next(IDS)
            engine.add(Request(number, prompt, params, draw_key=number, constraint=ruled))
        while engine.num_unfinished:
            tokens |= {done.request_id: done.token_ids for done in engine.step()}
        return [tokens[first + 1 + i] for i in range(len(rows))]

    engine.forget_prefixes()
    return on_cores(run)


MADE: dict[str, Any] = {}


def constraint(path: str, schema: str) -> Any:
    """What makes a row's grammar, compiled once."""
    if schema not in MADE:
        from batchgen.engine.grammar.compiler import GrammarCompiler
        from batchgen.engine.request import GrammarKind, StructuredOutput
        from batchgen.job.model.files import resolve_model
        from batchgen.job.text.tokenizer import load_codec

        codec = load_codec(resolve_model(path))
        compiler = GrammarCompiler(codec.vocabulary, codec.vocab_size, ())
        wanted = StructuredOutput(GrammarKind.JSON_SCHEMA, schema)
        MADE[schema] = compiler.constraint(wanted, (), ignore_eos=True)
    return MADE[schema]


def openvino(args: argparse.Namespace, rows: list[Row]) -> Measured:
    """One run of OpenVINO GenAI, in its own process."""
    import numpy as np
    import openvino as runtime  # type: ignore[import-not-found]
    import openvino_genai as genai  # type: ignore[import-not-found]

    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.max_num_batched_tokens = SLOTS, 8192
    scheduler.enable_prefix_caching = True
    hints = {"INFERENCE_PRECISION_HINT": args.hint, "INFERENCE_NUM_THREADS": THREADS}
    pipe = genai.ContinuousBatchingPipeline(args.ir, scheduler, "CPU", hints)

    def ask(index: int, prompt: list[int], most: int, named: dict[str, Any]) -> Any:
        config = genai.GenerationConfig(max_new_tokens=most, ignore_eos=True)
        config.do_sample = "temperature" in named
        for name, value in named.items():
            if name == "schema":
                config.structured_output_config = genai.StructuredOutputConfig(json_schema=value)
            else:
                setattr(config, name, value)
        config.rng_seed = index
        return pipe.add_request(index, runtime.Tensor(np.array([prompt])), config)

    def run(rows: list[Row]) -> list[list[int]]:
        handles = [ask(index, *row) for index, row in enumerate(rows)]
        while pipe.has_non_finished_requests():
            pipe.step()
        return [list(handle.read_all()[0].generated_ids) for handle in handles]

    run([(rows[0][0][-20:][::-1], 4, rows[0][2])] * 8)
    return on_cores(lambda: run(rows))


def llamacpp(args: argparse.Namespace, rows: list[Row]) -> Measured:
    """One run of llama.cpp's server inside its own process."""
    from peer_llamacpp import Peer

    room = max(len(prompt) + most for prompt, most, _ in rows)
    peer = Peer(args.gguf, min(SLOTS, len(rows)), room)
    peer.generate([(rows[0][0][-20:][::-1], 4, {})])
    asked = [(prompt, most, as_llamacpp(named)) for prompt, most, named in rows]
    return on_cores(lambda: [[0] * found for found in peer.generate(asked)])


def as_llamacpp(named: dict[str, Any]) -> dict[str, Any]:
    """Sampling by the names of llama.cpp's server."""
    given: dict[str, Any] = {"cache_prompt": True}
    if "temperature" in named:
        given |= {"samplers": ["top_p", "temperature"], "top_p": 1.0, "top_k": 0}
    if "repetition_penalty" in named:
        given |= {"samplers": ["penalties", "top_k"], "repeat_last_n": -1}
    if "schema" in named:
        return given | {"json_schema": json.loads(named["schema"])}
    renamed = {"repetition_penalty": "repeat_penalty"}
    return given | {renamed.get(name, name): value for name, value in named.items()}


if __name__ == "__main__":
    sys.exit(main())
