"""Cases of other projects' tests, and bugs reported to them, that a test of another file replays:
each is there. Left out is what batchgen does not offer (embeddings, tool calls, uploads, prefix
sharing, CPU offloading) and what it has no place for (priorities, servers that are retried)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ELSEWHERE = {
    # vLLM: tests/entrypoints/launchers/test_run_batch.py, tests/entrypoints/llm, tests/samplers
    "test_empty_file": "run_echo: an_empty_input_gives_an_empty_output_with_every_column",
    "test_is_same_local_file_detects_aliases": (
        "input_sources: an_input_that_is_the_output_is_refused_with_73"
    ),
    "test_download_bytes_*": "security: no_path_from_a_row_is_opened",
    "test_dispatch_batch_writes_a_response_per_request": (
        "ledger_properties: every_row_is_in_the_output_exactly_once_whatever_happens"
    ),
    "test_dispatch_batch_respects_max_inflight": (
        "scheduler: every_sequence_finishes_within_budget_and_no_block_leaks_or_has_two_writers"
    ),
    "test_dispatch_batch_cancels_inflight_on_failure": (
        "engine: closing_in_the_middle_leaves_nothing_behind"
    ),
    "test_dispatch_batch_reports_a_cancelled_request": (
        "run_engine: tokens_in_flight_are_continued_and_the_result_is_that_of_an_unbroken_run"
    ),
    "test_multiple_sampling_params": "input_rows: parameters_are_read_at_the_top_and_in_params",
    "test_max_model_len": "engine: a_prompt_that_leaves_no_room_is_refused_with_its_numbers",
    "test_log_stats": "run_echo: latency_parts_add_up_to_a_millisecond",
    "test_empty_prompt, test_out_of_vocab_token": "engine: what_no_model_can_embed_is_refused",
    "test_chat, test_multi_chat": "run_echo: chats_are_rendered_and_shown_as_the_engine_got_them",
    "test_llm_chat_tokenization_no_double_bos, issue 9519": (
        "tokenizer: a_chat_begins_with_exactly_one_bos"
    ),
    "test_random_sample_with_seed, issue 51226": "run_engine: seeds_and_samples_draw_apart",
    "issue 51187": "run_builtin: the_batch_size_does_not_change_the_text",
    "issue 1655": "run_echo: a_prompt_past_the_models_length_is_an_error_row",
    # transformers: tests/generation/test_continuous_batching.py
    "test_continuous_batching_fast, ..._diverse_models": (
        "parity: packed_and_chunked_rows_equal_generate"
    ),
    "test_continuous_batching_few_blocks": "parity: preempted_rows_lose_nothing",
    "test_continuous_batching_no_accelerators": "parity: the_cpu_backend_gives_the_same_tokens",
    "test_hybrid_sliding_window_crossing_parity": (
        "parity: packed_and_chunked_rows_equal_generate"
    ),
    "test_decode_fast_path_wide_batch_parity": (
        "parity: tokens_do_not_depend_on_how_many_others_a_row_is_packed_with"
    ),
    "test_fork_blocks_sharing_and_copy": (
        "block_manager: no_sequence_of_calls_leaks_or_doubles_a_block"
    ),
    "test_num_return_sequences": "run_echo: samples_of_a_row_stand_together_and_a_row_counts_once",
    "test_per_request_logits_processors": (
        "sampler: a_rows_token_does_not_depend_on_its_batch_mates"
    ),
    "test_full_history_logits_processors_match_independent_generation": (
        "engine: late_tokens_equal_early_ones_with_penalties_and_min_tokens"
    ),
    "test_continuous_batching_log_probs": (
        "sampler: logprobs_are_of_the_chosen_token_before_processors"
    ),
    "test_memory_prediction, test_count_storable_requests": (
        "engine_factory: little_memory_makes_a_small_cache_and_a_shorter_limit"
    ),
    "test_attention_mask": (
        "reference_attention: packed_and_chunked_sequences_attend_as_each_alone"
    ),
    "test_streaming_output_after_soft_reset_does_not_shorten_generation": (
        "engine: forced_preemption_changes_no_token"
    ),
    "test_pause_request_is_dropped_when_the_wait_is_interrupted, test_stop_*": (
        "signals: the_first_signal_saves_what_is_finished_and_ends_in_75"
    ),
    # Ray: data/tests/test_checkpoint.py, and its pull request 59212
    "test_checkpoint_restore_after_full_execution": "run_echo: a_finished_job_is_a_no_op",
    "checkpoint deleted on success": "shards: four_shards_merge_to_the_output_and_leave_nothing",
    "continue-on-error rows": "run_echo: a_bad_row_becomes_an_error_row_in_its_place",
    # datatrove: tests/pipeline/inference/test_inference.py, and what it lacks
    "test_parse_existing_checkpoints_skips_*": (
        "input_reader: done_rows_are_left_out_and_still_count"
    ),
    "test_skip_bad_requests_*, test_bad_request_raises_by_default": (
        "run_echo: too_many_failures_end_in_exit_code_3_with_the_output_written"
    ),
    "test_multiple_rollouts_collect_results": (
        "retry_incremental: samples_of_a_row_stay_together_whatever_the_row_groups"
    ),
    "test_cached_request_defaults_missing_reasoning": (
        "manifest: fields_of_a_later_version_are_ignored"
    ),
    "another model or temperature between runs": (
        "stores: other_settings_are_refused_and_nothing_is_touched"
    ),
    # curator
    "test_failed_request_in_batch_resume, test_failed_requests_file_in_cache": (
        "retry_incremental: only_failed_rows_are_computed_again"
    ),
    "test_basic_cache, test_same_dataset_caching": (
        "run_echo: a_copied_input_with_equal_content_is_the_same_input"
    ),
    "test_different_dataset_caching": "run_echo: a_changed_input_of_a_finished_job_is_refused",
    "test_cache_with_changed_parse, test_function_hash_dir_change": (
        "run_echo: a_changed_setting_is_refused_by_name_and_nothing_is_touched"
    ),
    "test_disable_cache": "ledger: overwrite_discards_work_of_other_settings",
    # SGLang: test_srt_engine.py
    "test_1_engine_runtime_consistency": "run_builtin: the_batch_size_does_not_change_the_text",
    "test_7_engine_offline_throughput": "echo: it_is_far_faster_than_a_job",
    # bantzv2 issue 511, polar_llama issue 75
    "kill -9 mid-run then resume": "kill: killed_at_a_dozen_random_moments_it_ends_as_if_unbroken",
}
"""Origin -> `file: test` (without `test_`)."""


@pytest.mark.parametrize(("origin", "where"), ELSEWHERE.items())
def test_the_case_is_replayed_elsewhere(origin: str, where: str) -> None:
    file, _, name = where.partition(": ")
    source = (Path(__file__).parent / f"test_{file}.py").read_text(encoding="utf-8")
    assert re.search(rf"^def test_{name}\(", source, re.MULTILINE), origin
