"""What newcomers write for our flags and variables, from habit or by a slip."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

import click

__all__ = ["answer_for", "tell_near_variables"]

_THE_SAME = "the same command without it (a run goes on by itself)"
_STRUCTURED = "a row's response_format or structured_outputs (`batchgen docs recipes`)"
_SMALLER = "--quantization, --kv-cache-dtype fp8 or --tensor-parallel, which need less memory"

_SLIPS = {
    "--batch-size": "--max-num-seqs",
    "--concurrency": "--max-num-seqs",
    "--input": "--in",
    "--file": "--in",
    "--dataset": "--in",
    "--output": "--out",
    "--output-dir": "--out",
    "--max-new-tokens": "--max-tokens",
    "--max-length": "--max-tokens",
    "--max-output-tokens": "--max-tokens",
    "--temp": "--temperature",
    "--model-name": "--model",
    "--model-path": "--model",
    "--tokenizer": "--model",
    "--system-prompt": "--system",
    "--chat": "--as-chat",
    "--column": "--prompt-column",
    "--text-column": "--prompt-column",
    "--num-samples": "--n",
    "--max-rows": "--limit",
    "--gpu": "--device",
    "--gpus": "--devices",
    "--tp": "--tensor-parallel",
    "--force": "--overwrite",
    "--resume": _THE_SAME,
    "--continue": _THE_SAME,
    "--timeout": "--time-limit",
    "--lora": "--adapter",
    "--json-schema": _STRUCTURED,
    "--response-format": _STRUCTURED,
}
_OF_ENGINES = {
    "-t": "--tensor-parallel (or --temperature)",
    "--tensor-parallel-size": "--tensor-parallel",
    "--tp-size": "--tensor-parallel",
    "--pipeline-parallel-size": "--tensor-parallel",
    "--data-parallel-size": "--devices 0,1 (a process a GPU)",
    "--dp-size": "--devices 0,1 (a process a GPU)",
    "--num-gpus": "--devices 0,1 (a process a GPU) or --tensor-parallel",
    "--device-ids": "--devices",
    "--context-length": "--max-model-len",
    "--max-seq-len": "--max-model-len",
    "--max-running-requests": "--max-num-seqs",
    "--max-inflight": "--max-num-seqs",
    "--mem-fraction-static": "--gpu-memory-utilization",
    "--kv-cache-memory-bytes": "--gpu-memory-utilization",
    "--torch-dtype": "--dtype",
    "--hf-model-path": "--model",
    "--model-name-or-path": "--model",
    "--download-dir": "HF_HOME in the environment",
    "--hf-token": "HF_TOKEN in the environment",
    "--tokenizer-revision": "--revision",
    "--code-revision": "--revision",
    "--hf-overrides": "a copy of the model's folder with its config.json changed",
    "--rope-scaling": "a copy of the model's folder with its config.json changed",
    "--rope-theta": "a copy of the model's folder with its config.json changed",
    "--cpu-offload-gb": _SMALLER,
    "--enable-lora": "--adapter NAME=DIR, which is enough",
    "--lora-modules": "--adapter NAME=DIR",
    "--lora-path": "--adapter NAME=DIR",
    "--lora-paths": "--adapter NAME=DIR",
    "--guided-json": _STRUCTURED,
    "--guided-regex": _STRUCTURED,
    "--guided-choice": f"--choices, or {_STRUCTURED}",
    "--guided-grammar": _STRUCTURED,
    "--reasoning-config": "--reasoning-parser or --reasoning-budget",
    "--default-chat-template-kwargs": "--chat-template-kwargs",
    "--enable-thinking": "--chat-template-kwargs '{\"enable_thinking\": true}'",
    "--override-generation-config": "the flags of sampling, as --temperature and --top-p",
    "--generation-config": "the flags of sampling, which go over the model's own",
    "--logits-processors": "a row's logit_bias, bad_words or allowed_token_ids",
    "--prompt-logprobs": "--score, or a row's prompt_logprobs",
    "--max-logprobs": "--logprobs, of which 20 is the most",
    "--truncate-prompt-tokens": "--overlong truncate-left, or a row's truncate_prompt_tokens",
    "--bad-words": "a row's bad_words",
    "--logit-bias": "a row's logit_bias",
    "--best-of": "--n, with --logprobs to choose by",
    "--use-beam-search": "--n with --temperature: there is no beam search",
    "--num-beams": "--n with --temperature: there is no beam search",
    "--num-return-sequences": "--n",
    "--num-generations": "--n",
    "--n-sampling": "--n",
    "--do-sample": "--temperature",
    "--enable-expert-parallel": "--tensor-parallel",
    "--disable-log-stats": "--quiet",
    "--use-tqdm": "--progress none",
}
"""Of vLLM, SGLang and scripts that drive them."""
_NAMES = _SLIPS | _OF_ENGINES
"""Other programs' name of a flag, or a likely slip -> ours, or where it stands. `_` is read as
`-`."""
_DECIDED = """
    async-scheduling attention-config cudagraph-capture-sizes disable-custom-all-reduce
    disable-sliding-window distributed-executor-backend enable-chunked-prefill grammar-backend
    guided-decoding-backend load-format lora-dtype max-cpu-loras max-lora-rank max-loras
    max-num-partial-prefills max-parallel-loading-workers max-seq-len-to-capture model-impl
    num-gpu-blocks-override num-scheduler-steps optimization-level preemption-mode runner
    scheduling-policy structured-outputs-config swap-space task tokenizer-mode
    use-v2-block-manager worker-use-ray
"""
_SERVERS = """
    api-key host port url
"""
_OF_MEDIA = """
    allowed-local-media-path limit-mm-per-prompt mm-processor-kwargs
"""
_NEEDLESS = {
    **{f"--{name}": "it is decided by itself" for name in _DECIDED.split()},
    **{f"--{name}": "no server listens" for name in _SERVERS.split()},
    **{f"--{name}": "text is read and written alone" for name in _OF_MEDIA.split()},
    "--compilation-config": "--enforce-eager is all there is to say",
    "--speculative-config": "a guess of tokens ahead changes no answer",
    "--skip-special-tokens": "they are skipped, unless --keep-special-tokens",
    "--enable-auto-tool-choice": "rows that have tools are read for calls",
    "--disable-log-requests": "requests are not logged",
}
"""Those that have no counterpart -> why none is needed."""
_PREFIX = "BATCHGEN_"
_NEAR = 0.85


def answer_for(name: str) -> str | None:
    """What follows "no such option" of a name that is another program's: ours, or why there is
    none; None for a name that nobody knows."""
    plain = name.replace("_", "-")
    if plain in _NEEDLESS:
        return f": leave it out, {_NEEDLESS[plain]}."
    return f". Did you mean {_NAMES[plain]}?" if plain in _NAMES else None


def tell_near_variables(command: click.Command, environ: Mapping[str, str]) -> None:
    """Say of each variable whose name is nearly that of one of the command's flags that it changes
    nothing."""
    known = [name for name in (getattr(one, "envvar", None) for one in command.params) if name]
    plain = {name.replace("_", ""): name for name in known}
    for name in environ:
        if not name.startswith(_PREFIX) or name in known:
            continue
        near = get_close_matches(name.replace("_", ""), plain, n=1, cutoff=_NEAR)
        if near:
            text = f"{name} is no setting and changes nothing; did you mean {plain[near[0]]}?"
            click.echo(f"batchgen: {text}", err=True)
