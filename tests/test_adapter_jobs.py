"""LoRA adapters in whole jobs: names, defaults, refusals, the fingerprint and Python's API."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from echo_runs import batchgen, stable, write_rows
from lora_folders import lora_folder
from transformers import AutoModelForCausalLM

from batchgen import LLM, SamplingParams, run
from batchgen.cli.main import cli
from batchgen.errors import FingerprintMismatchError, ModelRefusedError, UsageError
from batchgen.job.model.adapters import find_adapters, parse_adapters
from batchgen.job.model.files import resolve_model

TEXT = "The small fox reads a long letter about rain and then walks home"
PROMPTS = [TEXT, TEXT, TEXT, "A house", "A house", TEXT]
CHOICES = ["a", None, "b", "b", "base", "a"]
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_tokens": 8}


def probs_of(result: Any) -> dict[str, float]:
    return {one["label"]: one["prob"] for one in result.choice_probs}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two adapters of the model inside the package."""
    folder = tmp_path_factory.mktemp("adapters")
    module = AutoModelForCausalLM.from_pretrained(resolve_model(None).path)
    lora_folder(folder / "a", module, ["q_proj", "v_proj", "down_proj"], seed=1)
    lora_folder(folder / "b", module, ["k_proj", "up_proj"], seed=2, r=2, use_rslora=True)
    return folder


def test_rows_choose_and_each_gets_what_it_gets_alone(folders: Path) -> None:
    both = [str(folders / "a"), f"b={folders / 'b'}"]
    rows = [{"prompt": p, "adapter": c} for p, c in zip(PROMPTS, CHOICES, strict=True)]
    with LLM(adapter=both, **OPTIONS) as model:
        mixed = [r.token_ids for r in model.generate(rows)]
        alone = [r.token_ids for row in rows for r in model.generate([row])]
        call = [r.token_ids for r in model.generate([TEXT], SamplingParams(8, adapter="b"))]
        with pytest.raises(UsageError, match="none of those given: a, b"):
            model.generate([TEXT], {"adapter": "c"})
        asked = [{"prompt": TEXT, "choices": ["yes", "no"], "adapter": c} for c in (None, "a", "b")]
        decided = [probs_of(r) for r in model.generate(asked)]
        singly = [probs_of(r) for row in asked for r in model.generate([row])]
        assert all(a == pytest.approx(b, rel=1e-4) for a, b in zip(decided, singly, strict=True))
        assert len({round(probs["yes"], 3) for probs in decided}) == 3
    assert mixed == alone
    assert mixed[0] == mixed[5]
    assert len({tuple(tokens or ()) for tokens in mixed[:3]}) == 3
    assert call == [mixed[2]]
    for name in "ab":
        with LLM(adapter=str(folders / name), **OPTIONS) as merged:
            found = [
                r.token_ids for r in merged.generate([TEXT, {"prompt": TEXT, "adapter": name}])
            ]
        assert found == [mixed[CHOICES.index(name)]] * 2


def answers(tmp_path: Path, rows: list[dict[str, Any]], *adapters: str) -> list[Any]:
    """Error code of each row of a job that echoes."""
    given = write_rows(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.parquet"
    run(inputs=given, out=out, engine="echo", quiet=True, overwrite=True, adapter=list(adapters))
    return list(pq.read_table(out)["error_code"].to_pylist())


def test_a_name_that_is_not_given_is_the_row_s_error(tmp_path: Path, folders: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "x"},
        {"prompt": "x", "adapter": None},
        {"prompt": "x", "adapter": "a"},
        {"prompt": "x", "params": {"adapter": "b"}},
        {"prompt": "x", "adapter": "base"},
        {"prompt": "x", "adapter": 5},
        {"custom_id": "o", "method": "POST", "url": "/v1/completions",
         "body": {"prompt": "x", "model": "a"}},
    ]  # fmt: skip
    a, b = f"a={folders / 'a'}", f"b={folders / 'b'}"
    bad = "invalid_param"
    assert answers(tmp_path, rows, a, b) == [None, None, None, None, None, bad, None]
    assert answers(tmp_path, rows, a) == [None, None, None, bad, bad, bad, None]
    none = "unsupported_setting"
    assert answers(tmp_path, rows)[:6] == [None, None, none, none, none, bad]
    assert answers(tmp_path, rows[:5], "base", b) == [None, None, bad, None, None]


def test_another_adapter_is_another_job(tmp_path: Path, folders: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(resolve_model(None).path)
    folder = lora_folder(tmp_path / "a", module, ["q_proj"], seed=3)
    given = write_rows(tmp_path / "in.jsonl", [{"prompt": TEXT}])
    out = tmp_path / "out.parquet"
    options = {**OPTIONS, "inputs": given, "out": out, "quiet": True}
    run(adapter=str(folder), **options)
    moved = folder.rename(tmp_path / "moved")
    assert run(adapter=f"a={moved}", **options).computed == 0  # where it lies does not count
    lora_folder(moved, module, ["q_proj"], seed=4)
    for adapter in (f"a={moved}", f"b={moved}", None):
        with pytest.raises(FingerprintMismatchError, match="adapters"):
            run(adapter=adapter, **options)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda weights: b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (lambda weights: weights[: len(weights) // 2], "cut off"),
        (lambda weights: b"", "no safetensors file that can be read"),
    ],
)
def test_damaged_weights_are_refused_by_name_before_the_model_is_loaded(
    tmp_path: Path, folders: Path, damage: Any, words: str
) -> None:
    folder = shutil.copytree(folders / "a", tmp_path / "a")
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(damage(weights.read_bytes()))
    with pytest.raises(ModelRefusedError, match=words):
        find_adapters([str(folder)])


def test_a_pickle_that_cannot_be_read_is_refused_by_name(tmp_path: Path, folders: Path) -> None:
    folder = shutil.copytree(folders / "a", tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(b"garbage")
    with pytest.raises(ModelRefusedError, match="weights that cannot be read"):
        LLM(adapter=folder, allow_pickle=True, **OPTIONS)


def test_names_and_folders_that_cannot_be(tmp_path: Path, folders: Path) -> None:
    assert parse_adapters([str(folders / "a"), "x=some/where", "base"]) == {
        "a": str(folders / "a"),
        "x": "some/where",
        "base": "",
    }
    for wrong in (["a=x", "a=y"], ["a b=x"], ["base=x"], ["=x"]):
        with pytest.raises(UsageError, match="name"):
            parse_adapters(wrong)
    with pytest.raises(ModelRefusedError, match="is no folder"):
        find_adapters([f"x={tmp_path / 'gone'}"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelRefusedError, match=r"adapter_config\.json is not there"):
        find_adapters([str(tmp_path / "empty")])
    pickled = tmp_path / "p"
    pickled.mkdir()
    (pickled / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ModelRefusedError, match=r"adapter_model\.safetensors is not there"):
        find_adapters([str(pickled)])
    (pickled / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ModelRefusedError, match="can run code"):
        find_adapters([str(pickled)])
    assert find_adapters([str(pickled)], allow_pickle=True)[0].name == "p"


def test_a_base_of_another_name_is_told(folders: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "batchgen"):
        resolve_model(None, adapters=[str(folders / "a")])
    assert "was trained on me/tiny, and the model is batchgen-tiny" in caplog.text


def test_validate_knows_the_names_and_a_refused_adapter(tmp_path: Path, folders: Path) -> None:
    given = write_rows(tmp_path / "in.jsonl", [{"prompt": "x", "adapter": "c"}])
    words = ["validate", "--in", str(given), "--adapter", str(folders / "a")]
    result = CliRunner().invoke(cli, [*words, "--adapter", str(folders / "b")])
    assert result.exit_code == 65
    assert "none of those given: a, b" in result.output


def test_an_adapter_named_as_the_model_points_to_the_flag(folders: Path) -> None:
    with pytest.raises(ModelRefusedError) as refused:
        resolve_model(str(folders / "a"))
    assert f"--model me/tiny --adapter {folders / 'a'}" in (refused.value.hint or "")


def job_of(folders: Path, source: Path, out: Path, **more: Any) -> Any:
    adapters = [f"a={folders / 'a'}", f"b={folders / 'b'}"]
    options = {**OPTIONS, "max_tokens": 5, "checkpoint_every": 6, "max_num_seqs": 8, "quiet": True}
    return run(inputs=source, out=out, adapter=adapters, **options | more)


def many(folder: Path) -> Path:
    """Rows of all ways to use an adapter, under one instruction that fills blocks."""
    long = f"{TEXT} and reads it again, and again, and then once more to the bird. " * 3
    rows: list[dict[str, Any]] = []
    for number, name in enumerate(["a", None, "b", "base"] * 6):
        row: dict[str, Any] = {
            "id": f"r{number}",
            "prompt": f"{long}{number // 4}",
            "adapter": name,
        }
        kind = number // 4
        if kind == 1:
            row |= {"choices": ["good", "bad"]}
        if kind == 2:
            row |= {"max_tokens": 0, "prompt_logprobs": 1}
        if kind == 3:
            row |= {"temperature": 1.0, "n": 2}
        rows.append(row)
    return write_rows(folder / "many.jsonl", rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, folders: Path) -> Path:
    """These rows, and the output of an unbroken job."""
    folder = tmp_path_factory.mktemp("whole")
    assert job_of(folders, many(folder), folder / "out.parquet").cached_tokens > 0
    return folder


def test_adapters_with_the_prefix_cache_give_what_they_give_without_it(
    tmp_path: Path, folders: Path, whole: Path
) -> None:
    plain = tmp_path / "without.parquet"
    job_of(folders, whole / "many.jsonl", plain, enable_prefix_caching=False)
    cached = stable(whole / "out.parquet").to_pylist()
    for one, other in zip(cached, stable(plain).to_pylist(), strict=True):
        for name in ("completion", "choice", "finish_reason", "status"):
            assert one[name] == other[name], one["id"]
        scored = one["prompt_logprob_sum"], other["prompt_logprob_sum"]
        assert scored[0] == pytest.approx(scored[1], abs=1e-3)
    for kind in range(6):  # neighbours have one prompt, and answers of their own
        told = [r for r in cached if r["sample"] == 0][4 * kind : 4 * kind + 4]
        a, none, b, base = [
            (r["completion"], str(r["choice_probs"]), r["prompt_logprob_sum"]) for r in told
        ]
        assert none == base
        assert len({a, none, b}) == 3


def test_a_killed_job_with_adapters_goes_on_to_the_same_file(
    tmp_path: Path, folders: Path, whole: Path
) -> None:
    copies = tmp_path / "adapters"
    shutil.copytree(folders, copies)
    source, out = whole / "many.jsonl", tmp_path / "out.parquet"
    # Slowly, so that rows come to the ledger in more than one part.
    fault = "slow:at=engine.step,seconds=0.12,rows=4;kill:at=part.rename,nth=2"
    killed = batchgen(
        "run", "--in", source, "--out", out, "--adapter", f"a={copies / 'a'}", "--adapter",
        f"b={copies / 'b'}", "--device", "cpu", "--dtype", "float32", "--max-tokens", 5,
        "--checkpoint-every", 6, "--max-num-seqs", 8, BATCHGEN_FAULT=fault,
    )  # fmt: skip
    assert killed.returncode == -9, killed.stderr
    weights = copies / "b" / "adapter_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-4] + bytes(4))
    with pytest.raises(FingerprintMismatchError, match=r"adapters\.b: ") as refused:
        job_of(copies, source, out)
    assert refused.value.exit_code == 4
    assert "adapters.a" not in str(refused.value)
    weights.write_bytes(kept)
    resumed = job_of(copies, source, out)
    assert 0 < resumed.reused < resumed.rows
    assert stable(out) == stable(whole / "out.parquet")
