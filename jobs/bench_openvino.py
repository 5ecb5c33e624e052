r"""batchgen and OpenVINO GenAI's ContinuousBatchingPipeline on a CPU, taking turns in one run.

The peer has an environment of its own, PEER; FOLDER is a model as transformers saves it (float32):

    PEER/bin/pip install torch==2.13.0 transformers==5.5.4 optimum-intel==2.2.0 \
        openvino==2026.4.1 openvino-genai==2026.4.1.0    # torch: the build for CPUs
    PEER/bin/pip uninstall -y torchvision                # unneeded; if unfit, exports fail
    PEER/bin/optimum-cli export openvino -m FOLDER --task text-generation-with-past \
        --weight-format fp32 IR/fp32                     # again: int8 IR/int8
    python jobs/bench_openvino.py FOLDER --peer PEER/bin/python --ir IR \
        [--only 'int8*'] [--repeats 3]

64 rows of fixed lengths (see bench_workload.py), all added at once, 64 slots, greedy, EOS ignored,
one short warm-up; loading is left out, prompts are counted in. Each OpenVINO run is a process of
its own. Its KV cache grows as needed (the default, faster here than a size given beforehand), and
a step takes up to 8,192 tokens (in bf16 faster than the default of 256). `--neighbour`: each runs a
second time beside a process that takes so much of a core.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from bench_workload import make_contender, make_engine, make_rows
from contenders import THREADS, Contender, ask_peer, measure, report, take_turns

from batchgen.report.workloads import mixed_lengths

ENGINES: dict[str, dict[str, Any]] = {
    "fp32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float32", "quantization": "int8"},
    "int8 bf16": {"dtype": "bfloat16", "quantization": "int8"},
}
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    "fp32": ("fp32", {"INFERENCE_PRECISION_HINT": "f32"}),  # its KV cache is float16 then
    "fp32, KV fp32": ("fp32", {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}),
    "bf16": ("fp32", {"INFERENCE_PRECISION_HINT": "bf16"}),
    "int8": ("int8", {"INFERENCE_PRECISION_HINT": "f32"}),
    "int8 bf16": ("int8", {"INFERENCE_PRECISION_HINT": "bf16"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder, a .gguf file or a hub id")
    parser.add_argument("--peer", required=True, help="the Python that has OpenVINO")
    parser.add_argument("--ir", required=True, type=Path, help="where fp32 and int8 were exported")
    parser.add_argument("--only", default="*", help="precisions, as file names are matched")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--neighbour", type=float, default=0.0, metavar="CORES")
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # what the peer's process is to run
    args = parser.parse_args()
    serve_peer(args.ir, *PEERS[args.serve]) if args.serve else compare(args)


def compare(args: argparse.Namespace) -> None:
    """Take turns, then print a line of JSON for each contender."""
    path, rows = make_rows(args.model, mixed_lengths())
    given = [(list(row.prompt_token_ids), row.max_tokens) for row in rows]
    chosen = []
    for name in fnmatch.filter(ENGINES, args.only):
        engine = make_engine(path, max_num_seqs=len(rows), **ENGINES[name])
        chosen.append(make_contender(f"batchgen {name}", engine, rows))
    for name in fnmatch.filter(PEERS, args.only):
        command = [args.peer, __file__, args.model, "--peer", "", "--ir", args.ir, "--serve", name]
        chosen.append(Contender(f"OpenVINO {name}", partial(ask_peer, command, given)))
    report(take_turns(chosen, args.repeats, args.neighbour))


def serve_peer(folder: Path, weights: str, properties: dict[str, str]) -> None:
    """Read rows from stdin, run them once, print what was measured."""
    import numpy as np
    import openvino  # type: ignore[import-not-found]
    import openvino_genai as genai  # type: ignore[import-not-found]

    rows = json.loads(input())
    scheduler = genai.SchedulerConfig()
    scheduler.max_num_seqs, scheduler.max_num_batched_tokens = len(rows), 8192
    given = properties | {"INFERENCE_NUM_THREADS": THREADS}
    pipe = genai.ContinuousBatchingPipeline(folder / weights, scheduler, "CPU", given)

    def run(rows: list[tuple[list[int], int]]) -> list[list[int]]:
        handles = []
        for index, (prompt, count) in enumerate(rows):
            config = genai.GenerationConfig(max_new_tokens=count, ignore_eos=True, do_sample=False)
            handles.append(pipe.add_request(index, openvino.Tensor(np.array([prompt])), config))
        while pipe.has_non_finished_requests():
            pipe.step()
        return [list(handle.read_all()[0].generated_ids) for handle in handles]

    run([(prompt[:20], 4) for prompt, _ in rows[:8]])
    print(json.dumps(asdict(measure(lambda: run(rows)))))


if __name__ == "__main__":
    main()
