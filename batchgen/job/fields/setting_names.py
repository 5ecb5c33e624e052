"""Names that vLLM, SGLang, OpenAI or transformers read as a setting, and samplers of llama.cpp and
its kin, that are not parameters of a row here: what each may say without changing a completion.

One table. A name in it whose value could change a completion is never an extra column: its neutral
values are accepted, all others make the row `unsupported_setting`. Who serves a name takes it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["SETTING_NAMES", "TEXT_SETTINGS", "is_neutral"]

_ANY: Callable[[Any], bool] = lambda value: True  # noqa: E731


def _off(*values: Any) -> Callable[[Any], bool]:
    """Neutral are these, in type and value, and what is empty."""
    kept = (*values, "", [], {})
    return lambda value: any(type(value) is type(one) and value == one for one in kept)


_OTHER_OUTPUTS = (
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "remove_invalid_values",
    "return_dict_in_generate",
)
"""Of transformers' `generate`: what it returns beside the tokens."""
_HOW_IT_COMPUTES = (
    "assistant_confidence_threshold",
    "assistant_lookbehind",
    "bos_token_id",
    "cache_config",
    "compile_config",
    "continuous_batching_config",
    "decoder_start_token_id",
    "disable_compile",
    "is_assistant",
    "low_memory",
    "max_cache_len",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "pad_token_id",
    "prefill_chunk_size",
    "prompt_lookup_num_tokens",
    "renormalize_logits",
    "speculation_type",
    "target_lookbehind",
    "transformers_version",
    "use_cache",
    "use_mtp",
)
"""Of transformers' GenerationConfig: they leave the text of a decoder as it is."""
_HOW_CHATS_RETURN = (
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "tokenize",
)
"""Of transformers' `apply_chat_template`: in what form it gives the prompt."""

_NEUTRAL: dict[str, Callable[[Any], bool]] = {
    # OpenAI: about the service, not about the text
    "user": _ANY,
    "metadata": _ANY,
    "store": _ANY,
    "service_tier": _ANY,
    "stream_options": _ANY,
    "prompt_cache_key": _ANY,
    "prompt_cache_retention": _ANY,
    "safety_identifier": _ANY,
    "priority": _ANY,
    "request_id": _ANY,
    "return_tokens_as_token_ids": _off(False),
    "return_token_ids": _off(False),
    "cache_salt": _ANY,
    "background": _ANY,
    "background_options": _ANY,
    "moderation": _ANY,
    "prompt_cache_options": _ANY,
    "include": _ANY,
    "prediction": _ANY,
    "stream": _off(False),
    "session_id": _ANY,
    "rid": _ANY,
    "flat_logprobs": _ANY,
    "output_kind": _ANY,
    "skip_clone": _ANY,
    "skip_reading_prefix_cache": _ANY,
    "stream_interval": _ANY,
    "stream_reasoning": _ANY,
    "return_text_in_logprobs": _ANY,
    # OpenAI: settings of the text
    "audio": _off(),
    "context_management": _off(),
    "conversation": _off(),
    "previous_response_id": _off(),
    "best_of": _off(1),
    "function_call": _off("none", "auto"),
    "functions": _off(),
    "max_tool_calls": _ANY,
    "modalities": _off(["text"]),
    "parallel_tool_calls": _off(True),
    "suffix": _off(),
    "tool_choice": lambda choice: True,  # read with the tools: `answers.tool_choice`
    "truncation": _off("disabled"),
    "verbosity": _off("medium"),
    "web_search_options": lambda _: False,  # {} searches
    # vLLM
    "add_special_tokens": _off(),
    "chat_template": _off(),
    "detokenize": _off(True),
    "generation_config": _off(),
    "guided_decoding_backend": _ANY,
    "include_reasoning": _off(True),
    "kv_transfer_params": _off(),
    "length_penalty": _off(1, 1.0, 0, 0.0),
    "logits_processors": _off(),
    "lora_request": _off(),
    "media_io_kwargs": _off(),
    "prompt_embeds": _off(),
    "mm_processor_kwargs": _off(),
    "repetition_detection": _off(),
    "use_beam_search": _off(False),
    "vllm_xargs": _off(),
    "decoder_prompt": _off(),
    "ec_transfer_params": _off(),
    "encoder_prompt": _off(),
    "logprob_token_ids": _off(),
    "multi_modal_data": _off(),
    "prompt_logprob_start": _off(0),
    "prompt_logprob_token_ids": _off(),
    "return_prompt_text": _off(False),
    "return_token_offsets": _off(False),
    "return_weight_versions": _off(False),
    "return_mm_kwargs": _off(False),
    "mm_payload": _off(),
    "routed_experts_prompt_start": _off(0),
    "tokenization_kwargs": _off(),
    "trace_decode_token_ids": _off(),
    "truncation_side": _off("left"),
    "watermarking": _off(False),
    # SGLang
    "custom_logit_processor": _off(),
    "custom_params": _off(),
    "session_params": _off(),
    "lora_path": _off(),
    "return_logprob": _off(False),
    "stop_regex": _off(),
    "structural_tag": _off(),
    "top_logprobs_num": _off(0),
    "image_data": _off(),
    "logprob_start_len": _off(-1),
    "return_hidden_states": _off(False),
    "separate_reasoning": _off(True),
    "token_ids_logprob": _off(),
    # transformers
    "assistant_ensemble_weight": _off(1, 1.0),
    "clean_up_tokenization_spaces": _off(False),
    "handle_long_generation": _off(),
    "return_full_text": _off(False),
    "stop_sequence": _off(),
    "tokenizer_encode_kwargs": _off(),
    "cache_implementation": lambda value: value != "quantized",
    "custom_generate": _off(),
    "assistant_early_exit": _off(),
    "begin_suppress_tokens": _off(),
    "constraints": _off(),
    "diversity_penalty": _off(0, 0.0),
    "dola_layers": _off(),
    "early_stopping": _ANY,  # of beams
    "eos_token_id": _off(),
    "do_sample": _off(),
    "encoder_no_repeat_ngram_size": _off(0),
    "encoder_repetition_penalty": _off(1, 1.0),
    "epsilon_cutoff": _off(0, 0.0),
    "eta_cutoff": _off(0, 0.0),
    "exponential_decay_length_penalty": _off(),
    "force_words_ids": _off(),
    "forced_bos_token_id": _off(),
    "forced_decoder_ids": _off(),
    "forced_eos_token_id": _off(),
    "guidance_scale": _off(1, 1.0),
    "max_length": _off(),
    "max_time": _off(),
    "min_length": _off(0),
    "negative_prompt_ids": _off(),
    "num_beam_groups": _off(1),
    "num_beams": _off(1),
    "num_return_sequences": _off(1),
    "penalty_alpha": _off(0, 0.0),
    "sanitize_control_tokens": _off(False),
    "sequence_bias": _off(),
    "stop_strings": _off(),
    "token_healing": _off(False),
    "tokenizer_kwargs": _off(),
    "top_h": _off(),
    "typical_p": _off(1, 1.0),
    "watermarking_config": _off(),
    # llama.cpp, KoboldCpp, ExLlamaV2: their samplers
    "dry_multiplier": _off(0, 0.0),
    "dynatemp_range": _off(0, 0.0),
    "mirostat": _off(0, False),
    "mirostat_mode": _off(0),
    "tfs_z": _off(1, 1.0),
    "top_a": _off(0, 0.0),
    "top_n_sigma": _off(0, 0.0, -1, -1.0),
    "xtc_probability": _off(0, 0.0),
    **dict.fromkeys(_OTHER_OUTPUTS, _off(False)),
    **dict.fromkeys((*_HOW_IT_COMPUTES, *_HOW_CHATS_RETURN), _ANY),
}
SETTING_NAMES = frozenset(_NEUTRAL)
TEXT_SETTINGS = frozenset(name for name, neutral in _NEUTRAL.items() if neutral is not _ANY)
"""Those that change a completion: in a plain row they are never an extra column."""


def is_neutral(name: str, value: Any) -> bool:
    """Whether a name of the table, so set, changes nothing."""
    return _NEUTRAL[name](value)
