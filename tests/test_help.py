"""What `--help` promises: each command and flag is there once, explained, with its environment."""

from __future__ import annotations

import click
import pytest

from batchgen.cli.main import cli

CONTEXT = click.Context(cli, info_name="batchgen")
COMMANDS = {name: cli.get_command(CONTEXT, name) for name in cli.list_commands(CONTEXT)}


def flags_of(command: click.Command | None) -> list[click.Option]:
    assert command is not None
    return [param for param in command.params if isinstance(param, click.Option)]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name: str) -> None:
    command = COMMANDS[name]
    assert command is not None
    assert command.help
    assert f"batchgen {name}" in command.help


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained_once(name: str) -> None:
    spellings = [opt for flag in flags_of(COMMANDS[name]) for opt in flag.opts]
    assert len(spellings) == len(set(spellings))
    assert all(flag.help for flag in flags_of(COMMANDS[name]))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_an_environment_name_of_its_own(name: str) -> None:
    flags = [flag for flag in flags_of(COMMANDS[name]) if flag.expose_value]
    names = [flag.envvar for flag in flags]
    assert len(names) == len(set(names))
    for flag, envvar in zip(flags, names, strict=True):
        long = next(opt for opt in flag.opts if opt.startswith("--"))
        assert envvar == "BATCHGEN_" + long[2:].replace("-", "_").upper()


def test_the_flags_that_scripts_rely_on_are_there() -> None:
    spellings = {opt for flag in flags_of(COMMANDS["run"]) for opt in flag.opts}
    spellings |= {opt for flag in flags_of(COMMANDS["run"]) for opt in flag.secondary_opts}
    assert spellings >= {
        "--in", "-i", "--input-file", "--out", "-o", "--output-file", "--model", "--device",
        "--dtype", "--checkpoint-dir", "--max-num-seqs", "--max-num-batched-tokens",
        "--max-model-len", "--gpu-memory-utilization", "--block-size", "--enable-prefix-caching",
        "--no-enable-prefix-caching", "--deterministic", "--engine", "--max-tokens",
        "--min-tokens", "--temperature", "--top-p", "--top-k", "--min-p", "--repetition-penalty",
        "--presence-penalty", "--frequency-penalty", "--stop", "--stop-token-ids", "--ignore-eos",
        "--n", "--seed", "--logprobs", "--save-token-ids", "--save-prompt", "--no-save-prompt",
        "--keep-columns", "--summary", "-q", "--lock", "--overwrite", "--max-failures",
        "--prompt-column", "--messages-column", "--id-column", "--limit", "--as-chat",
        "--served-model-name", "--ignore-model", "--grace", "--checkpoint-every",
    }  # fmt: skip
