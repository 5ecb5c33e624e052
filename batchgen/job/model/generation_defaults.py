"""Sampling defaults of a model, as transformers' `generate()` would read its generation_config.

`do_sample` absent or false means greedy whatever temperature stands beside it. With `do_sample`,
what the file leaves out takes transformers' own defaults (temperature 1, top_p 1, top_k 50;
`GenerationConfig._get_default_generation_params`). Without generation_config.json the same keys are
read from config.json, as transformers does.
"""

from __future__ import annotations

from typing import Any

from batchgen.job.model.json_files import ModelJson

__all__ = ["generation_defaults", "ignored_generation_settings"]

_SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0}
_ALWAYS = {
    "repetition_penalty": "repetition_penalty",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
}
_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "typical_p": 1.0,
    "encoder_no_repeat_ngram_size": 0,  # of a decoder: those of its prompt
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "top_h": None,
    "encoder_repetition_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "watermarking_config": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "penalty_alpha": 0.0,
    "guidance_scale": 1.0,
    "constraints": None,
    "force_words_ids": None,
    "dola_layers": None,
    "token_healing": False,
    "max_time": None,
}
_DECODERS = ("decoder", "generator", "text_config")
"""Where the config of a model of several parts keeps that of its text."""
_OLD_MAX_LENGTH = 20
"""What transformers wrote where nobody had chosen one."""


def generation_defaults(files: ModelJson) -> dict[str, Any]:
    """Parameter name (as in SamplingParams) -> value; only what the model's files decide."""
    config = _generation_config(files)
    defaults = {
        ours: config[name] for name, ours in _ALWAYS.items() if config.get(name) is not None
    }
    stop = config.get("stop_strings")
    if stop:
        defaults["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    never = _forbidden(config)
    if never:
        defaults["bad_words_ids"] = never
    return defaults | _sampling(config)


def ignored_generation_settings(files: ModelJson) -> tuple[str, ...]:
    """Settings that would change `generate()`'s text and that batchgen does not have."""
    config = _generation_config(files)
    named = [name for name, off in _NEUTRAL.items() if config.get(name) not in (None, off, [])]
    if config.get("cache_implementation") == "quantized":
        named.append("cache_implementation")  # it rounds keys and values
    if config.get("max_length") not in (None, _OLD_MAX_LENGTH) and not config.get("max_new_tokens"):
        named.append("max_length")  # of prompt and output together; max_new_tokens goes before it
    if (files.folder / "custom_generate" / "generate.py").is_file():
        named.append("custom_generate")  # code of the model's own, in place of `generate`
    return tuple(named)


def _forbidden(config: dict[str, Any]) -> list[Any]:
    """Token sequences that the file keeps out of every answer. As in `generate`, words that are an
    end of the sequence are left out; among single tokens to suppress they count."""
    ends = config.get("eos_token_id")
    ends = [[end] for end in (ends if isinstance(ends, list) else [ends])]
    words = [word for word in config.get("bad_words_ids") or () if word not in ends]
    return words + [[token] for token in config.get("suppress_tokens") or ()]


def _sampling(config: dict[str, Any]) -> dict[str, Any]:
    """A row that asks for a temperature on a greedy model still gets the file's own cuts."""
    if not config.get("do_sample"):
        named = {name: config[name] for name in _SAMPLED if config.get(name) is not None}
        return named | {"temperature": 0.0}
    return {
        name: config[name] if config.get(name) is not None else default
        for name, default in _SAMPLED.items()
    }


def _generation_config(files: ModelJson) -> dict[str, Any]:
    if (files.folder / "generation_config.json").is_file():
        return files.read("generation_config.json")
    whole = files.read("config.json")
    parts = (whole.get(name) for name in _DECODERS)
    inner = next((part for part in parts if isinstance(part, dict)), {})
    return {**inner, **{name: value for name, value in whole.items() if value is not None}}
