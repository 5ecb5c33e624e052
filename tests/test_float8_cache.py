"""The opt-in KV cache in float8: what rounding may cost, where it is refused, how it compiles."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.attention.select import PREFERRED
from batchgen.engine.config import EngineConfig
from batchgen.engine.model import float8_cache as rounded_cache
from batchgen.engine.model.float8_cache import check_kv_cache_dtype, round_cache
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.model.proof_logits import logits_at
from batchgen.engine.run.loader import load_model, load_model_from
from batchgen.errors import UsageError
from batchgen.job.ledger.fingerprint import fingerprint_of
from batchgen.job.spec import InputSpec, JobSpec

FLOAT8 = torch.float8_e4m3fn
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
SPEC = AttentionSpec(0, 4, 2, 16, 8, 0.25)


def attend(tokens: tuple[torch.Tensor, ...], dtype: torch.dtype) -> tuple[torch.Tensor, Any]:
    """One sequence, its last token's query after all others are cached."""
    backend, count = ReferenceBackend(), len(tokens[0])
    cache = backend.allocate(SPEC, CacheShape(4, 16, dtype, CPU))
    for start, stop in ((0, count - 1), (count - 1, count)):
        metadata = make_metadata([Piece((2, 0, 3), start, stop)], 16, CPU)
        backend.prepare(metadata)
        query, key, value = (part[start:stop] for part in tokens)
        out = backend.forward(query, key, value, cache, SPEC, metadata)
    return out[0], cache


def test_rounding_costs_no_more_than_its_arithmetic_allows() -> None:
    """Each value is off by 2^-4 of itself at most, or 2^-10 below 2^-6. So scores are off by
    e = scale * sum |q| |dk|, softmax weights by a factor within exp(+-2e), and the output by
    (exp(2e) - 1) * max |v| + max |dv|."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((40, 4, 16), (40, 2, 16), (40, 2, 8))
    query, key, value = (torch.randn(*shape, generator=draw) for shape in shapes)
    plain, _ = attend((query, key, value), torch.float32)
    rounded, cache = attend((query, key, value), FLOAT8)
    off_key, off_value = (t.abs().mul(2**-4).clamp_min(2**-10) for t in (key, value))
    heads = query[-1].abs().reshape(2, 2, 16)
    score = SPEC.scale * torch.einsum("hgd,khd->hgk", heads, off_key).amax(-1).reshape(4, 1)
    most, off = (t.amax(0).repeat_interleave(2, 0) for t in (value.abs(), off_value))
    bound = torch.expm1(2 * score) * most + off
    assert ((rounded - plain).abs() > 0).any()
    assert ((rounded - plain).abs() <= bound).all()
    assert (rounded - plain).norm() < 0.1 * plain.norm()
    assert cache.key.dtype == cache.value.dtype == FLOAT8


def test_what_is_beyond_float8_is_its_largest_value() -> None:
    key = torch.tensor([449.0, -464.0, 465.0, -1e30, torch.inf, -torch.inf, 3.0, 0.0] * 2)
    tokens = torch.zeros(1, 4, 16), key.repeat(1, 2, 1), torch.full((1, 2, 8), torch.nan)
    _, cache = attend((tokens[0].repeat(2, 1, 1), *(t.repeat(2, 1, 1) for t in tokens[1:])), FLOAT8)
    wanted = [448.0, -448.0, 448.0, -448.0, 448.0, -448.0, 3.0, 0.0] * 2
    assert cache.key[2 * 16, 0].float().tolist() == wanted
    assert cache.value[2 * 16].float().isnan().all()


@pytest.mark.parametrize("name", ["llama", "gemma2", "mixtral"])
def test_a_model_is_proven_as_ever_and_answers_closely_from_a_quarter_of_the_memory(
    name: str,
) -> None:
    plain = load_model_from(tiny_model(name), ReferenceBackend())
    rounded = load_model_from(tiny_model(name), ReferenceBackend(), rounded_cache=True)
    assert rounded.bytes_per_block(16) * 4 == plain.bytes_per_block(16)
    assert re.search(r"float8.*move by \d+\.\d% on average", rounded.notes[-1])
    ours, theirs = logits_at(rounded), logits_at(plain)
    assert (ours - theirs).norm() < 0.15 * theirs.norm()
    same = ours.argmax(-1) == theirs.argmax(-1)
    assert same.float().mean() > 0.8


def test_a_model_with_keys_far_beyond_float8_is_refused() -> None:
    module = tiny_model("qwen2")
    for layer in module.model.layers:
        layer.self_attn.k_proj.bias.data.fill_(3e3)
        layer.self_attn.v_proj.bias.data.uniform_(-1e4, 1e4)
    load_model_from(module, ReferenceBackend())
    with pytest.raises(UsageError, match="does not survive a KV cache in float8") as info:
        load_model_from(module, ReferenceBackend(), rounded_cache=True)
    assert info.value.hint == "leave --kv-cache-dtype out"


@pytest.mark.parametrize(
    ("changes", "device", "message"),
    [
        ({}, CPU, "is for CUDA: on the CPU the cache has the model's dtype"),
        ({"deterministic": True}, CUDA, "--deterministic cannot hold"),
        ({"kv_cache_dtype": "int4"}, CPU, "unknown KV cache dtype 'int4'"),
        ({}, CUDA, "NVIDIA A100 has 8.0"),
    ],
)
def test_float8_is_refused_where_it_cannot_be(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], device: torch.device, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100")
    monkeypatch.setattr(rounded_cache, "backend_name", lambda at, _: PREFERRED[at.type])
    with pytest.raises(UsageError, match=re.escape(message)) as info:
        check_kv_cache_dtype(EngineConfig(Path("m"), **{"kv_cache_dtype": "fp8"} | changes), device)
    assert info.value.hint
    check_kv_cache_dtype(EngineConfig(Path("m")), device)


def test_float8_is_for_models_in_16_bits_on_the_gpu() -> None:
    model: Any = SimpleNamespace(backend=SimpleNamespace(name="triton"), dtype=torch.float32)
    with pytest.raises(UsageError, match="this one is in float32"):
        round_cache(model)


def test_the_oracle_serves_it_on_a_cpu(tmp_path: Path) -> None:
    tiny_model("qwen3").to(torch.bfloat16).save_pretrained(tmp_path)
    config = EngineConfig(
        tmp_path, device="cpu", attention_backend="reference", kv_cache_dtype="fp8"
    )
    model = load_model(config)
    assert (model.dtype, model.cache_dtype) == (torch.bfloat16, FLOAT8)


def test_another_cache_dtype_is_another_job_and_the_plain_one_is_as_before() -> None:
    plain, rounded = (
        fingerprint_of(JobSpec(InputSpec(("a",)), Path("o"), kv_cache_dtype=dtype), None)
        for dtype in ("auto", "fp8")
    )
    assert rounded == plain | {"kv_cache_dtype": "fp8"}
    assert "kv_cache_dtype" not in plain


def compiled(tile: Any, spec: AttentionSpec, write: bool) -> str:
    """PTX of the attention kernel for Hopper, as `TritonBackend` launches it in bfloat16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from batchgen.engine.attention.triton.kernels import attention_kernel as kernel

    group = spec.num_heads // spec.num_kv_heads
    constants = {
        "GROUP": group,
        "NUM_KV_HEADS": spec.num_kv_heads,
        "DIM": spec.head_dim,
        "V_DIM": spec.v_head_dim,
        "PADDED": spec.head_dim,
        "V_PADDED": spec.v_head_dim,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_SIZE": 64,
        "HAS_WINDOW": False,
        "HAS_SOFTCAP": False,
        "HAS_SINKS": False,
        "RETURN_LSE": False,
        "PRECISION": "tf32",
        "ONE_LOOP": tile.one_loop,
        "TMA": tile.tma,
        "AHEAD": tile.ahead,
        "WRITE": write,
        "SHARED_M": 0,
    }
    types = dict.fromkeys(("query", "key", "value", "out", "lse", "sinks"), "*bf16")
    types |= dict.fromkeys(("k_cache", "v_cache", "k_tiles", "v_tiles"), "*fp8e4nv")
    types |= dict.fromkeys(("items", "counters", "block_tables"), "*i32")
    types |= dict.fromkeys(("part_acc", "part_stats", "shared_acc", "shared_stats"), "*fp32")
    types |= {"slot_mapping": "*i64", "shared_rows": "*i32"}
    types |= {"scale": "fp32", "softcap": "fp32"} | dict.fromkeys(constants, "constexpr")
    names = kernel.arg_names
    aligned = [n for n in names if types.get(n, "i32")[0] in "*i" and n != "slot_mapping"]
    source = ASTSource(
        kernel,
        {name: types.get(name, "i32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages, "enable_fp_fusion": True}
    code = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx: str = code.asm["ptx"]
    return ptx


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled")
def test_tiles_are_converted_two_values_an_instruction_and_multiplied_by_tensor_cores() -> None:
    pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")
    from batchgen.engine.attention.triton.tuning import chunk_tile, decode_tile

    spec = AttentionSpec(0, 16, 8, 128, 128, 128**-0.5)
    for tuner, write, product in ((decode_tile, True, "mma.sync"), (chunk_tile, False, "wgmma")):
        tile = tuner(spec, FLOAT8, 64, CPU)
        ptx = compiled(tile, spec, write)
        values = tile.block_n * (spec.head_dim + spec.v_head_dim) // (32 * tile.num_warps)
        loops = 1 if tile.one_loop else 2
        assert ptx.count("cvt.rn.f16x2.e4m3x2") == loops * values // 2
        assert ("cvt.rn.satfinite.e4m3x2" in ptx) == write
        assert product in ptx


class Wrong(ReferenceBackend):
    """Kernels that a compiler got wrong: decode is right, longer pieces are not."""

    name = "triton"

    def forward(self, query: torch.Tensor, *args: Any) -> torch.Tensor:
        out = super().forward(query, *args)
        return out if len(query) < 3 else out + 0.02


def test_kernels_that_differ_from_the_oracle_are_refused() -> None:
    module = tiny_model("gpt2").to(torch.bfloat16)
    assert load_model_from(module, Wrong()).cache_dtype == torch.bfloat16
    with pytest.raises(UsageError, match="the triton kernels are not right on this device"):
        load_model_from(module, Wrong(), rounded_cache=True)


@pytest.mark.cuda
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="needs a GPU that converts float8",
)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_a_model_on_the_gpu_answers_as_with_the_oracle(name: str) -> None:
    from batchgen.engine.attention.triton.paged import TritonBackend

    ours, theirs = (
        logits_at(
            load_model_from(
                tiny_model(name).to("cuda", torch.bfloat16), backend, rounded_cache=True
            )
        )
        for backend in (TritonBackend(), ReferenceBackend())
    )
    assert (ours - theirs).norm() < 0.1 * theirs.norm()  # bfloat16 alone: 0.04
