"""Names of a row's parameters in other tools, and misspelt ones: which parameter is likely meant.

They are told, not served: what a table calls so may be a column of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

__all__ = ["nearest"]

_ELSEWHERE = {
    "adapter_id": "adapter",
    "bad_words_list": "bad_words",
    "ban_eos_token": "ignore_eos",
    "banned_tokens": "bad_words",
    "candidate_count": "n",
    "custom_stopping_strings": "stop",
    "decoder_input_details": "prompt_logprobs",
    "extra_args": "params",
    "gen_config": "params",
    "gen_kwargs": "params",
    "generate_kwargs": "params",
    "generation_config": "params",
    "generation_kwargs": "params",
    "generation_parameters": "params",
    "generation_params": "params",
    "grammar": "structured_outputs",
    "grammar_string": "structured_outputs",
    "ignore_eos_token": "ignore_eos",
    "inference_config": "params",
    "instructions": "system",
    "llm_kwargs": "params",
    "max_gen_len": "max_tokens",
    "max_gen_toks": "max_tokens",
    "max_length_generation": "max_tokens",
    "max_thinking_tokens": "thinking_token_budget",
    "max_token_count": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "maxtokens": "max_tokens",
    "n_predict": "max_tokens",
    "n_probs": "top_logprobs",
    "n_samples": "n",
    "num_generations": "n",
    "num_hypotheses": "n",
    "num_predict": "max_tokens",
    "num_samples": "n",
    "output_config": "response_format",
    "output_len": "max_tokens",
    "output_tokens": "max_tokens",
    "parameters": "params",
    "preamble": "system",
    "random_seed": "seed",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "request_output_len": "max_tokens",
    "response_json_schema": "response_format",
    "response_mime_type": "response_format",
    "response_schema": "response_format",
    "rng_seed": "seed",
    "sampler_seed": "seed",
    "sampling_kwargs": "params",
    "sampling_parameters": "params",
    "sampling_temperature": "temperature",
    "sampling_topk": "top_k",
    "sampling_topp": "top_p",
    "stop_at": "stop",
    "stop_sequences": "stop",
    "stop_words": "stop",
    "stop_words_list": "stop",
    "stopping_strings": "stop",
    "structured_output_config": "response_format",
    "system_instruction": "system",
    "system_prompt": "system",
    "temp": "temperature",
    "text_generation_config": "params",
    "thinking_config": "thinking",
    "tokens_to_generate": "max_tokens",
    "tool_config": "tool_choice",
    "top_n_tokens": "top_logprobs",
    "truncate": "truncate_prompt_tokens",
    "truncate_input_tokens": "truncate_prompt_tokens",
    "truncation_length": "truncate_prompt_tokens",
    "until": "stop",
}
"""What other tools (Ollama, llama.cpp, Anthropic, Gemini, Bedrock, Mistral, lm-eval, TGI,
TensorRT-LLM, LMDeploy, MLX, TRL) call it, in small letters."""
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
"""Between the words of a name that Gemini's and Bedrock's kin write as `topP`."""
_ALIKE = 0.85
"""Of a column's name and a parameter's: `temprature`, not `step`."""
_MAX_GUESSED = 40
"""Characters of a misspelt name: no parameter's is longer, and comparing costs their square."""


def nearest(name: str, names: Collection[str], likeness: float | None = None) -> str | None:
    """Which of `names` is likely meant by a name that is none."""
    words = _HUMP.sub("_", name[:_MAX_GUESSED]).lower()
    known = _ELSEWHERE.get(name.lower()) or _ELSEWHERE.get(words)
    if known is not None or words in names:
        return known or words
    near = get_close_matches(name[:_MAX_GUESSED], names, 1, likeness or _ALIKE)
    return near[0] if near else None
