"""What to do instead of a setting that is not served: it stands beside the refusal of its name."""

from __future__ import annotations

__all__ = ["SETTING_ADVICE"]

_BEAMS = "there is no beam search: n with a temperature gives several answers to choose from"
_SPECULATION = "a guess of tokens ahead changes no answer, and there is none"
_ADAPTER = "give --adapter NAME=DIR, and the row adapter: NAME"
_GRAMMAR = "a row's structured_outputs holds it to a schema, a regex, a choice or a grammar"
_LABELS = "choices gives the probability of each label"
_CALLS = "tools and tool_choice are today's names"
_TEXT_ALONE = "text is read and written alone"
_SAVED_IDS = "--save-token-ids adds the column token_ids"
_LOGPROBS = "logprobs: k adds those of the chosen tokens and of the k likeliest"
_PENALTIES = "repetition_penalty, frequency_penalty and no_repeat_ngram_size are served"
_FILTERS = "temperature, top_k, top_p and min_p are served"
_PROMPT = "--save-prompt has it in the column prompt"

SETTING_ADVICE: dict[str, str] = {
    # OpenAI
    "audio": _TEXT_ALONE,
    "best_of": "n gives all of them, and logprobs tells which is the best",
    "function_call": _CALLS,
    "functions": _CALLS,
    "modalities": _TEXT_ALONE,
    "previous_response_id": "the row's messages hold all turns of its chat",
    "suffix": "write the prompt with the model's own tokens for what is to be filled in",
    "truncation": "--overlong cuts what does not fit",
    # vLLM
    "add_special_tokens": "prompt_token_ids are taken as they are",
    "chat_template": "--chat-template FILE is for all rows",
    "decoder_prompt": "decoders alone are served",
    "detokenize": f"{_SAVED_IDS}, beside the text",
    "encoder_prompt": "decoders alone are served",
    "generation_config": "flags and the row's own settings go over the model's",
    "include_reasoning": "thinking stands in a column of its own, reasoning",
    "length_penalty": _BEAMS,
    "logits_processors": "logit_bias, bad_words and allowed_token_ids are served",
    "logprob_token_ids": _LABELS,
    "lora_request": _ADAPTER,
    "mm_processor_kwargs": _TEXT_ALONE,
    "multi_modal_data": _TEXT_ALONE,
    "prompt_embeds": "give the prompt as text or as prompt_token_ids",
    "prompt_logprob_start": "prompt_logprobs has all tokens of the prompt",
    "prompt_logprob_token_ids": _LABELS,
    "repetition_detection": f"{_PENALTIES}, and max_tokens ends what goes on",
    "return_prompt_text": _PROMPT,
    "return_token_ids": _SAVED_IDS,
    "return_tokens_as_token_ids": _SAVED_IDS,
    "tokenization_kwargs": "truncate_prompt_tokens cuts the prompt",
    "truncation_side": "truncate_prompt_tokens keeps the last ones; --overlong truncate-right",
    "use_beam_search": _BEAMS,
    # SGLang
    "image_data": _TEXT_ALONE,
    "lora_path": _ADAPTER,
    "return_logprob": _LOGPROBS,
    "stop_regex": f"stop takes texts; {_GRAMMAR}",
    "structural_tag": _GRAMMAR,
    "token_ids_logprob": _LABELS,
    "top_logprobs_num": _LOGPROBS,
    # transformers
    "assistant_early_exit": _SPECULATION,
    "clean_up_tokenization_spaces": "the text is what the tokens spell",
    "constraints": _GRAMMAR,
    "diversity_penalty": _BEAMS,
    "do_sample": "a temperature above 0 samples, 0 takes the likeliest token",
    "encoder_no_repeat_ngram_size": "no_repeat_ngram_size is served",
    "encoder_repetition_penalty": "repetition_penalty is served",
    "eos_token_id": "stop_token_ids ends a row too",
    "epsilon_cutoff": _FILTERS,
    "eta_cutoff": _FILTERS,
    "exponential_decay_length_penalty": "max_tokens bounds the length",
    "force_words_ids": _GRAMMAR,
    "handle_long_generation": "--overlong truncate-left cuts a prompt that does not fit",
    "max_length": "max_tokens counts the answer alone, without the prompt",
    "max_time": "--row-timeout gives up a row, --time-limit ends the run",
    "min_length": "min_tokens counts the answer alone, without the prompt",
    "num_beam_groups": _BEAMS,
    "num_beams": _BEAMS,
    "num_return_sequences": "n is that number",
    "return_full_text": f"the completion is what follows the prompt; {_PROMPT}",
    "sequence_bias": "logit_bias is served, for single tokens",
    "stop_sequence": "stop ends a row at a text",
    "stop_strings": "stop is, and include_stop_str_in_output keeps the text, as here",
    "tokenizer_encode_kwargs": "truncate_prompt_tokens cuts the prompt",
    "tokenizer_kwargs": "truncate_prompt_tokens cuts the prompt",
    "typical_p": _FILTERS,
    "output_logits": _LOGPROBS,
    "output_scores": _LOGPROBS,
    # llama.cpp and its kin
    "dry_multiplier": _PENALTIES,
    "dynatemp_range": _FILTERS,
    "mirostat": _FILTERS,
    "mirostat_mode": _FILTERS,
    "tfs_z": _FILTERS,
    "top_a": _FILTERS,
    "top_n_sigma": _FILTERS,
    "xtc_probability": _FILTERS,
}
