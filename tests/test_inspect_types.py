"""`inspect types`: every type is found without being named in the code, tried, and given a word."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from tiny_models import PROVEN, REFUSED
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from batchgen.cli.main import cli
from batchgen.errors import UsageError
from batchgen.report.model_types import report_types, try_type
from batchgen.report.tiny_configs import tiny_configs

since_5_24 = pytest.mark.skipif(
    "dory" not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, reason="before 5.24"
)
SOME = (
    "gpt2",
    "gemma2",
    "emu3",
    "gemma4_unified",
    *(pytest.param(name, marks=since_5_24) for name in ("gptj", "codegen")),
)


@pytest.mark.parametrize("model_type", SOME)
def test_types_that_are_served_are_proven(model_type: str) -> None:
    assert try_type(model_type).outcome == "proven"


@pytest.mark.parametrize("model_type", ["mamba", "bloom", "bart", "lfm2"])
def test_types_that_are_not_are_refused_for_the_true_reason(model_type: str) -> None:
    verdict = try_type(model_type)
    assert verdict.outcome == "refused"
    assert REFUSED[model_type][1] in verdict.reason


def test_a_type_is_tried_with_each_kind_of_layer_that_it_knows() -> None:
    verdict = try_type("minimax_m3_vl_text")
    assert verdict.outcome == "refused"
    assert "with layers of kind minimax_m3_sparse, its sparse attention" in verdict.reason


@since_5_24
def test_a_model_that_hands_its_cache_around_by_a_new_name_is_proven() -> None:
    assert try_type("dory").outcome == "proven"


def test_a_config_that_takes_nothing_says_why() -> None:
    class Picky:
        attribute_map = None
        sub_configs = None

        def __init__(self, vocab_size: int = 5) -> None:
            if vocab_size != 5:
                raise ValueError("five, or nothing")

    with pytest.raises(ValueError, match="five"):
        list(tiny_configs(Picky))


def test_the_command_reports_as_data_and_as_text() -> None:
    answer = CliRunner().invoke(cli, ["inspect", "types", "gpt2", "mamba", "--json"])
    report = json.loads(answer.stdout)
    assert report["counts"] == {"proven": 1, "refused": 1}
    assert [entry["model_type"] for entry in report["types"]] == ["gpt2", "mamba"]
    assert report["types"][0]["class_name"] == "GPT2LMHeadModel"
    text = CliRunner().invoke(cli, ["inspect", "types", "mamba"]).stdout
    assert "refused" in text
    assert "state outside attention" in text


def test_a_type_that_transformers_does_not_have_is_named() -> None:
    with pytest.raises(UsageError, match="no causal language model type 'lama'"):
        report_types(["lama"])


def test_the_types_that_the_tests_prove_are_those_that_transformers_maps() -> None:
    assert len(PROVEN.keys() & MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()) > 50
