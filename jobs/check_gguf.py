"""Does a GGUF file mean here what it means to llama.cpp? Log-probabilities, side by side.

    python -m venv peer && peer/bin/pip install xllamacpp
    python jobs/check_gguf.py --peer peer/bin/python                # the tests' tiny files
    python jobs/check_gguf.py --peer peer/bin/python MODEL.gguf ... # real ones
    python jobs/check_gguf.py --peer peer/bin/python --keep tests/data/gguf_expected.json

llama.cpp continues a prompt greedily by 100 tokens, with its cache in float32 and no flash
attention; the same tokens are given to the file as it is loaded here, in float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

STEPS, ALLOWED = 100, 0.02
PEER = """
import json, sys
import xllamacpp as x

def run(path, prompt, steps):
    p = x.CommonParams()
    p.model.path = path
    p.n_ctx = p.n_batch = p.n_ubatch = 512
    p.n_parallel, p.n_gpu_layers, p.cpuparams.n_threads, p.verbosity = 1, 0, 1, -1
    p.warmup = p.fit_params = False
    p.cache_type_k = p.cache_type_v = x.ggml_type.GGML_TYPE_F32
    p.flash_attn_type = x.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    asked = {"prompt": prompt, "n_predict": steps, "n_probs": 1, "temperature": 0.0, "top_k": 1,
             "samplers": ["top_k"], "ignore_eos": True, "cache_prompt": False}
    said = x.Server(p).handle_completions(asked)
    said = json.loads(said) if isinstance(said, str) else said
    found = said["choices"][0]["logprobs"]["content"]
    return [[one["id"], one["logprob"]] for one in found]

prompt, steps = json.loads(sys.argv[2]), int(sys.argv[3])
print("RESULT" + json.dumps(run(sys.argv[1], prompt, steps)))
"""


def parser_of_files(doc: str) -> argparse.ArgumentParser:
    """Files to compare, and the peer that they are compared with."""
    parser = argparse.ArgumentParser(description=doc.split("\n", 1)[0])
    parser.add_argument("models", nargs="*", type=Path, help="files; without any, the tiny ones")
    parser.add_argument("--peer", default=sys.executable, help="a Python that has xllamacpp")
    parser.add_argument("--keep", type=Path, help="write llama.cpp's answers there")
    return parser


def main() -> int:
    parser = parser_of_files(__doc__)
    parser.add_argument("--dense", action="store_true", help="compare float32 copies of the models")
    parser.add_argument("--only", help="of the tiny files, those whose name begins so")
    args = parser.parse_args()
    kept: dict[str, list[list[float]]] = {}
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) if args.dense else None
        files = _real(args.models, dense) or _tiny(Path(folder), args.only)
        for name, path in files:
            line, found, off = _compare(path, args.peer)
            kept[name] = [[token, round(value, 4)] for token, value in found]
            worst = max(worst, off)
            print(f"| {name} | {line} |", flush=True)
    if args.keep:
        rows = (f"{json.dumps(name)}: {json.dumps(one)}" for name, one in kept.items())
        args.keep.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    return int(not worst <= ALLOWED)


def _real(models: list[Path], folder: Path | None) -> list[tuple[str, Path]]:
    return [(path.name, dense_copy(path, folder) if folder else path) for path in models]


def dense_copy(path: Path, folder: Path) -> Path:
    """The same model in float32: llama.cpp rounds activations to 8 bits over quantised weights."""
    import gguf

    reader = gguf.GGUFReader(path)
    copy = folder / path.name
    writer = gguf.GGUFWriter(copy, reader.fields["general.architecture"].contents())
    for key, one in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kind = one.types[-1] if len(one.types) > 1 else None
            writer.add_key_value(key, one.contents(), one.types[0], kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return copy


def _tiny(folder: Path, only: str | None) -> list[tuple[str, Path]]:
    from tiny_gguf import CASES, write

    names = [name for name in CASES if name.startswith(only or "")]
    return [(name, write(folder / f"{name}.gguf", CASES[name])) for name in names]


def _compare(path: Path, peer: str) -> tuple[str, list[tuple[int, float]], float]:
    from tiny_gguf import PROMPT

    from batchgen.errors import ModelRefusedError

    found = _ask(path, peer, PROMPT)
    if not found:
        return "llama.cpp does not load it", found, float("inf")
    try:
        off, same = differences(path, PROMPT, found)
    except ModelRefusedError as error:
        return f"refused: {error.message}", found, float("inf")
    return f"{off:.4f} | {same}/{len(found)}", found, off


def _ask(path: Path, peer: str, prompt: list[int]) -> list[tuple[int, float]]:
    """llama.cpp's greedy tokens and their log-probabilities; none where it fails."""
    command = [peer, "-c", PEER, str(path), json.dumps(prompt), str(STEPS)]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in said.stdout.splitlines() if line.startswith("RESULT")]
    if not lines:
        print(said.stderr[-800:], file=sys.stderr)
    return [tuple(one) for one in json.loads(lines[0].removeprefix("RESULT"))] if lines else []


def differences(path: Path, prompt: list[int], found: list[tuple[int, float]]) -> tuple[float, int]:
    """The largest difference of a log-probability, and how many tokens are the likeliest here."""
    import torch

    from batchgen.engine.checkpoint.gguf import load_gguf

    chosen = [token for token, _ in found]
    module = load_gguf(path, torch.float32)
    with torch.inference_mode():
        logits = module(input_ids=torch.tensor([prompt + chosen[:-1]]), use_cache=False).logits[0]
    scores = logits[len(prompt) - 1 :].float().log_softmax(-1)
    own = scores[torch.arange(len(chosen)), torch.tensor(chosen)]
    wanted = torch.tensor([value for _, value in found])
    scores[:, module.config.eos_token_id] = -torch.inf  # llama.cpp was told not to end
    same = int((scores.argmax(-1) == torch.tensor(chosen)).sum())
    return float((own - wanted).abs().max()), same


if __name__ == "__main__":
    raise SystemExit(main())
