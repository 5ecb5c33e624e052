"""`batchgen plan`: counts that are right, and a time that is near what was measured."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from echo_runs import environment, write_rows
from safetensors.numpy import save_file
from test_inspect_adapter import adapter, write_tensors

import batchgen
from batchgen.cli.plan import _GPUS, plan
from batchgen.engine.config import GPU_BLOCK_SIZE
from batchgen.engine.request import Request, SamplingParams
from batchgen.gguf.parts import read_gguf
from batchgen.job.ahead.cost import FLOAT8_RATE, GPUS, ModelShape, Work, num_steps, seconds_of
from batchgen.job.ahead.model_size import shape_of
from batchgen.job.ahead.plan import _would_fit
from batchgen.job.ahead.survey import Survey
from batchgen.job.model.files import resolve_model
from batchgen.report.workloads import WorkItem, documents, label, nano, prefix, sharegpt

TINY = Path(batchgen.__file__).parent / "models" / "batchgen-tiny"
SMALL = ModelShape(596_049_920, 1_192_099_840, 596_049_920, 1_192_099_840, 114_688)
"""Qwen3-0.6B, its head tied to its table."""
MIDDLE = ModelShape(1_235_814_400, 2_471_628_800, 1_235_814_400, 2_471_628_800, 32_768)
"""Llama-3.2-1B."""
LARGE = ModelShape(8_030_261_248, 16_060_522_496, 7_504_924_672, 15_009_849_344, 131_072)
"""Llama-3-8B."""
LARGE_FLOAT8 = replace(
    LARGE, weight_bytes=9_081_196_544, dense_bytes=8_030_523_392, kv_bytes_per_token=65_536,
    product_rate=FLOAT8_RATE,
)  # fmt: skip
"""The same with layers and keys in float8."""
EXPERTS = ModelShape(
    30_532_122_624, 61_064_245_248, 3_042_766_848, 2_461_542_400, 98_304, 57_982_058_496, 1 / 16
)
"""Qwen3-30B-A3B."""
MEASURED = [
    (SMALL, nano, "h200", 26_930), (SMALL, sharegpt, "h200", 47_227),
    (SMALL, prefix, "h200", 65_000), (SMALL, label, "h200", 72_600),
    (SMALL, documents, "h200", 41_000), (LARGE, nano, "h200", 10_379),
    (LARGE, sharegpt, "h200", 14_558), (LARGE, prefix, "h200", 13_600),
    (LARGE, label, "h200", 13_800), (LARGE, documents, "h200", 9_600),
    (EXPERTS, nano, "h200", 5_976), (EXPERTS, sharegpt, "h200", 8_387),
    (LARGE_FLOAT8, nano, "h200", 15_440), (LARGE_FLOAT8, sharegpt, "h200", 20_773),
    (SMALL, nano, "h100", 20_661), (SMALL, sharegpt, "h100", 38_605),
    (MIDDLE, nano, "h100", 38_278), (MIDDLE, sharegpt, "h100", 59_163),
    (LARGE, nano, "h100", 8_959), (LARGE, sharegpt, "h100", 13_854),
]  # fmt: skip
"""Output tokens a second, of docs/speed.md; of short runs that differ, one between."""


@cache
def surveyed(workload: Callable[[], list[WorkItem]]) -> Survey:
    survey = Survey(prefix_caching=True, fold=True)
    for i, item in enumerate(workload()):
        params = SamplingParams(max_tokens=item.max_tokens, ignore_eos=True)
        survey.add(Request(i, list(item.prompt_token_ids), params), item.max_tokens)
    return survey


@pytest.mark.parametrize(
    ("shape", "workload", "gpu", "measured"),
    MEASURED,
    ids=lambda one: getattr(one, "__name__", one if isinstance(one, str) else ""),
)
def test_measured_rates_are_met_within_10_percent(
    shape: ModelShape, workload: Callable[[], list[WorkItem]], gpu: str, measured: int
) -> None:
    work = surveyed(workload).work(256)
    rate = sum(work.outputs) / seconds_of(work, shape, GPUS[gpu], 256)
    print(
        f"{workload.__name__} {gpu}: {rate:,.0f}, measured {measured:,}: {rate / measured - 1:+.1%}"
    )
    assert rate == pytest.approx(measured, rel=0.1)


def test_steps_are_those_of_slots_that_are_refilled() -> None:
    assert num_steps([5, 3, 2], 2) == 5
    assert num_steps([4] * 4, 2) == 8
    assert num_steps([], 2) == 0
    assert list(GPUS) == _GPUS


def planned(tmp_path: Path, rows: list[dict[str, Any]], *more: str) -> dict[str, Any]:
    source = write_rows(tmp_path / "in.jsonl", rows)
    args = ["--in", str(source), "--json", "--max-tokens", "8", *more]
    found = CliRunner().invoke(plan, args, catch_exceptions=False)
    loaded: dict[str, Any] = json.loads(found.stdout)
    return loaded


def test_rows_bad_rows_and_long_prompts_are_counted(tmp_path: Path) -> None:
    same = {"prompt": "The same beginning of every row, word for word, again. " * 3}
    rows: list[dict[str, Any]] = [same, same, {"prompt": 5}, {"prompt": "word " * 200}]
    found = planned(tmp_path, rows, "--max-model-len", "150")
    assert (found["rows"], found["rows_read"]) == (4, 4)
    assert found["bad"] == {"invalid_row": 1, "prompt_too_long": 1}
    assert [origin.rpartition(":")[2] for origin in found["overlong"]] == ["4"]
    assert sum(found["histogram"].values()) == 2
    assert (found["folded"], found["max_output_tokens"]) == (1, 16)
    assert found["fits"]
    assert found["seconds"] > 0
    cut = planned(tmp_path, rows, "--max-model-len", "150", "--overlong", "truncate-left")
    assert (cut["truncated"], cut["bad"]) == (1, {"invalid_row": 1})
    skip = planned(tmp_path, rows, "--max-model-len", "150", "--overlong", "skip")
    assert (skip["skipped"], skip["bad"]) == (1, {"invalid_row": 1})


INSTRUCTION = "Say in one word what this is about, and do not explain why it is so. " * 40
SHARED = [{"prompt": f"{INSTRUCTION} Text {n}."} for n in range(400)]


def test_a_beginning_that_all_rows_share_is_computed_once(tmp_path: Path) -> None:
    found = planned(tmp_path, SHARED)
    assert found["folded"] == 0
    assert found["shared_share"] > 0.9
    assert found["computed_prompt_tokens"] < 0.1 * found["prompt_tokens"]
    alone = planned(tmp_path, SHARED, "--no-enable-prefix-caching")
    assert alone["computed_prompt_tokens"] == found["prompt_tokens"] == alone["prompt_tokens"]
    assert alone["shared_share"] == 0
    assert alone["seconds"] > found["seconds"]


def test_beginnings_are_not_shared_between_adapters() -> None:
    survey = Survey(prefix_caching=True, fold=True)
    for number, name in enumerate(["", "a", "a", "b"]):
        params = SamplingParams(max_tokens=4, adapter=name)
        survey.add(Request(number, [7] * 100 + [number], params), 4)
    assert survey.prompt_tokens - survey.computed_tokens == GPU_BLOCK_SIZE


def test_equal_rows_are_computed_once_and_samples_prefill_once(tmp_path: Path) -> None:
    same = [{"prompt": "one and the same"}] * 50
    found = planned(tmp_path, same)
    assert found["folded"] == 49
    apart = planned(tmp_path, same, "--no-fold")
    assert apart["folded"] == 0
    assert apart["computed_prompt_tokens"] == 50 * found["computed_prompt_tokens"]
    drawn = planned(tmp_path, same[:1], "--n", "8", "--temperature", "1")
    assert (drawn["folded"], drawn["max_output_tokens"]) == (0, 64)
    assert drawn["computed_prompt_tokens"] == drawn["prompt_tokens"]
    scored = [{"prompt": "read alone", "max_tokens": 0, "prompt_logprobs": 1}]
    assert planned(tmp_path, scored)["max_output_tokens"] == 0


def of_folder(folder: Path, config: dict[str, Any], shapes: dict[str, Any]) -> ModelShape:
    folder.mkdir(exist_ok=True)
    sizes = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
        "dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(sizes | config))
    write_tensors(folder / "model.safetensors", shapes)
    return shape_of(resolve_model(str(folder)), "auto")


def test_of_experts_all_take_memory_and_a_token_is_computed_by_its_own(tmp_path: Path) -> None:
    shapes = {
        "model.embed_tokens.weight": (100, 64), "lm_head.weight": (100, 64),
        "model.layers.0.mlp.gate.weight": (8, 64),
        **{f"model.layers.0.mlp.experts.{i}.up_proj.weight": (32, 64) for i in range(8)},
        "model.layers.0.mlp.shared_experts.up_proj.weight": (32, 64),
        "model.visual.blocks.0.weight": (10, 10),
    }  # fmt: skip
    shape = of_folder(tmp_path / "m", {"num_experts": 8, "num_experts_per_tok": 2}, shapes)
    dense, expert = 6400 + 8 * 64 + 32 * 64, 8 * 32 * 64
    assert shape == ModelShape(
        dense + expert + 6500, 2 * (dense + expert + 6500), dense + expert // 4, 2 * dense,
        2 * 2 * 4 * 16 * 2, 2 * expert, 0.25,
    )  # fmt: skip
    few = Work([50], 0, 0, 0)
    assert seconds_of(few, shape, GPUS["l4"], 256) < seconds_of(
        few, replace(shape, expert_share=1.0), GPUS["l4"], 256
    )


def test_a_checkpoint_that_is_dequantised_at_load_is_counted_at_its_full_size(
    tmp_path: Path,
) -> None:
    blocks = {"m.experts.up_blocks": (4, 32, 2, 16), "m.experts.up_scales": (4, 32, 2)}
    write_tensors(tmp_path / "probe", blocks)
    shape = of_folder(tmp_path / "a", {"quantization_config": {"quant_method": "fp8"}}, {
        "m.up.weight": (32, 64), "m.up.weight_scale_inv": (1, 1), "lm_head.weight": (10, 64),
    })  # fmt: skip
    assert shape.num_parameters == 32 * 64 + 640


def stored(folder: Path, described: dict[str, Any], tensors: dict[str, Any], **flags: Any) -> Any:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 64}
    folder.mkdir()
    config = {
        "dtype": "bfloat16",
        **sizes,
        **({"quantization_config": described} if described else {}),
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_header(folder / "model.safetensors", tensors)
    return shape_of(resolve_model(str(folder)), "auto", **flags)


def write_header(file: Path, tensors: dict[str, tuple[str, tuple[int, ...], int]]) -> None:
    """Of tensors (type, shape, bytes of a number), with zeros for their numbers."""
    header, end = {}, 0
    for name, (dtype, shape, width) in tensors.items():
        begin, end = end, end + prod(shape) * width
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def test_layers_that_a_run_rounds_take_a_byte_a_number_and_the_head_keeps_its_own(
    tmp_path: Path,
) -> None:
    tensors = {
        "model.embed_tokens.weight": ("BF16", (100, 64), 2),
        "lm_head.weight": ("BF16", (96, 64), 2),
        "model.layers.0.mlp.up_proj.weight": ("BF16", (128, 64), 2),
        "model.layers.0.mlp.odd_proj.weight": ("BF16", (24, 64), 2),
        "model.norm.weight": ("BF16", (64,), 2),
    }  # fmt: skip
    shape = stored(tmp_path / "m", {}, tensors, quantization="fp8", kv_cache_dtype="fp8")
    assert shape.weight_bytes == 2 * (100 + 96 + 24 + 1) * 64 + 128 * 64
    assert shape.kv_bytes_per_token == 2 * 4 * 16
    assert stored(tmp_path / "n", {}, tensors).weight_bytes == shape.weight_bytes + 128 * 64


def test_checkpoints_in_float8_and_4_bits_are_counted_as_they_stay_on_a_gpu(tmp_path: Path) -> None:
    float8 = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
    }
    shape = stored(tmp_path / "a", float8, {
        "m.up_proj.weight": ("F8_E4M3", (128, 128), 1),
        "m.up_proj.weight_scale_inv": ("F32", (1, 1), 4), "m.norm.weight": ("BF16", (64,), 2),
    })  # fmt: skip
    assert (shape.num_parameters, shape.weight_bytes) == (128 * 128 + 64, 128 * 128 + 4 + 128)
    assert shape.product_rate == FLOAT8_RATE
    expert = {"m.experts.0.up_proj.weight": ("F8_E4M3", (128, 128), 1)}
    whole = stored(tmp_path / "c", float8, expert)
    assert whole.weight_bytes == 2 * 128 * 128, "experts of such checkpoints are dequantised"
    integers = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False}
    shape = stored(tmp_path / "b", integers, {
        "m.up_proj.qweight": ("I32", (8, 32), 4), "m.up_proj.scales": ("F16", (1, 32), 2),
        "m.up_proj.qzeros": ("I32", (1, 4), 4), "m.norm.weight": ("BF16", (64,), 2),
    })  # fmt: skip
    assert shape.num_parameters == 64 * 32 + 64
    assert shape.weight_bytes == 8 * 32 * 4 + 32 * 2 + 16 + 128


def test_weights_that_deterministic_unpacks_are_planned_at_their_full_size(tmp_path: Path) -> None:
    float8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    weight = {"m.up_proj.weight": ("F8_E4M3", (1024, 128), 1)}
    stored(tmp_path / "m", float8, weight)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TINY / name, tmp_path / "m" / name)
    model = ["--model", str(tmp_path / "m"), "--device", "cuda"]
    rows = [{"prompt_token_ids": [1, 2]}]
    assert planned(tmp_path, rows, *model)["weight_bytes"] == 1024 * 128
    assert planned(tmp_path, rows, *model, "--deterministic")["weight_bytes"] == 2 * 1024 * 128
    long = [{"prompt_token_ids": [1], "max_tokens": 1 << 29}]
    assert planned(tmp_path, long, *model)["would_fit"]
    ways = planned(tmp_path, long, *model, "--deterministic")["would_fit"]
    assert not any("quantization" in way for way in ways), "which --deterministic refuses"


def test_a_model_that_does_not_fit_is_told_with_which_flags_it_would() -> None:
    shape = ModelShape(70 << 30, 140 << 30, 70 << 30, 140 << 30, 1 << 18)
    smaller = {"--quantization fp8": lambda: replace(shape, weight_bytes=71 << 30)}
    ways = {
        gpu: list(_would_fit(shape, smaller, int(GPUS[gpu].memory_gb * 0.9e9), 8192))
        for gpu in ("h200", "h100", "t4")
    }
    assert ways == {
        "h200": ["--quantization fp8", "--tensor-parallel 2"],
        "h100": ["--tensor-parallel 4"],
        "t4": [],
    }


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_integers_are_counted_by_their_bits(tmp_path: Path, bits: int) -> None:
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 64}
    described = {"quant_method": "gptq", "bits": bits, "group_size": 64}
    config = {"dtype": "float16", **sizes, "quantization_config": described}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = np.zeros((64 * bits // 32, 32), np.int32)
    tensors = {"m.up.qweight": words, "m.up.scales": np.ones((1, 32), np.float16)}
    save_file(tensors, tmp_path / "model.safetensors")
    assert shape_of(resolve_model(str(tmp_path)), "auto").num_parameters == 64 * 32


def test_tied_and_untied_heads_are_read_once_a_step(tmp_path: Path) -> None:
    table, layer = {"wte.weight": (100, 64)}, {"h.0.attn.weight": (64, 64)}
    tied = of_folder(tmp_path / "a", {}, table | layer)
    assert tied.active_parameters == tied.num_parameters == 6400 + 4096
    head = {"lm_head.weight": (100, 64)}
    assert of_folder(tmp_path / "b", {"tie_word_embeddings": True}, table | layer | head) == tied
    untied = of_folder(tmp_path / "c", {}, table | layer | head)
    assert (untied.active_parameters, untied.num_parameters) == (6400 + 4096, 12_800 + 4096)


def test_a_gguf_file_is_planned_at_the_size_that_it_is_loaded_with(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tiny_gguf import CASES, write

    path = write(tmp_path / "m.gguf", CASES["llama"])
    file = read_gguf(path)
    shape = shape_of(resolve_model(str(path)), "auto")
    assert shape.num_parameters == sum(prod(info.shape) for info in file.tensors.values())
    assert shape.weight_bytes == shape.num_parameters * 4  # the file's own float32
    assert shape_of(resolve_model(str(path)), "bfloat16").weight_bytes * 2 == shape.weight_bytes
    assert shape.kv_bytes_per_token == 2 * 3 * 2 * 16 * 4
    experts = shape_of(resolve_model(str(write(tmp_path / "e.gguf", CASES["qwen3moe"]))), "auto")
    assert experts.expert_bytes > 0
    assert experts.active_parameters < experts.num_parameters


def test_blocks_that_a_gguf_file_keeps_are_planned_as_they_lie(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    from tiny_gguf import CASES, write

    path = write(tmp_path / "m.gguf", CASES["llama"], kind=gguf.GGMLQuantizationType.Q4_1)
    files, tensors = resolve_model(str(path)), read_gguf(path).tensors.values()
    matrices = sum(prod(info.shape) for info in tensors if len(info.shape) == 2)
    others = sum(prod(info.shape) for info in tensors if len(info.shape) != 2)
    kept, dense = shape_of(files, "auto", quantization="gguf"), shape_of(files, "auto")
    assert kept.weight_bytes == matrices // 32 * 20 + others * 4
    assert kept.num_parameters == dense.num_parameters == matrices + others
    assert dense.weight_bytes == (matrices + others) * 2
    arguments = ["--in", str(write_rows(tmp_path / "in.jsonl", SHARED[:3])), "--json"]
    for more, shape in ((["--device", "cpu"], kept), ([], dense)):
        done = CliRunner().invoke(plan, [*arguments, "--model", str(path), *more])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["weight_bytes"] == shape.weight_bytes


def test_what_looks_ahead_imports_no_torch(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tiny_gguf import CASES, write

    file = write(tmp_path / "m.gguf", CASES["llama"])
    source = write_rows(tmp_path / "in.jsonl", SHARED[:3])
    adapted = adapter(tmp_path / "adapter")
    calls = [
        ["plan", "--in", str(source), "--model", str(file)], ["plan", "--in", str(source)],
        ["preview", "--in", str(source), "--model", str(file)],
        ["validate", "--in", str(source), "--model", str(file)],
        ["inspect", str(adapted)], ["inspect", str(file)],
    ]  # fmt: skip
    code = (
        "import json, sys; from batchgen.__main__ import main\n"
        "codes = [main(args) for args in json.loads(sys.argv[1])]\n"
        "print(codes, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(calls)],
        capture_output=True, text=True, env=environment(),
        timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0, 0, 0] False", done.stderr
