"""The flags of `run` that say how rows are sampled where they do not say it themselves."""

from __future__ import annotations

import click

from batchgen.cli.flags.flag import flag, flag_group
from batchgen.errors import RowError

__all__ = ["SAMPLING", "sampling_options"]

SAMPLING = "Sampling (defaults for rows that do not say)"
"""Their heading."""
_FROM_MODEL = "the model's own, else {}"


def _token_ids(ctx: click.Context, param: click.Parameter, value: str | None) -> list[int] | None:
    """`1,2` -> [1, 2]."""
    if not value:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise click.BadParameter("write whole numbers, such as 2,32000", ctx, param) from None


def _labels(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    """`a,b` and `["a, b", "c"]`, each of which may repeat."""
    if not value:
        return ()
    from batchgen.job.decisions.settings import labels_in, read_labels

    try:
        given = [label for text in value for label in labels_in("--choices", text)]
        return read_labels("--choices", given) if given else ()
    except RowError as error:
        raise click.BadParameter(error.message, ctx, param) from None


sampling_options = flag_group(
    SAMPLING,
    flag(
        "--max-tokens", type=click.IntRange(min=1), metavar="N", core=True,
        show_default=_FROM_MODEL.format(256), help="Most tokens to generate for a row.",
    ),
    flag("--min-tokens", type=click.IntRange(min=0), metavar="N", show_default="0",
         help="Fewest tokens before the row may stop."),
    flag(
        "--temperature", type=click.FloatRange(0, 100), metavar="T", core=True,
        show_default=_FROM_MODEL.format("0: greedy"), help="0 takes the likeliest token.",
    ),
    flag("--top-p", type=click.FloatRange(0, 1, min_open=True), metavar="P", core=True,
         help="Sample from the likeliest tokens that hold this much."),
    flag("--top-k", type=click.IntRange(min=-1), metavar="K", help="Sample from the K likeliest."),
    flag("--min-p", type=click.FloatRange(0, 1), metavar="P",
         help="Drop tokens below this share of the likeliest one."),
    flag("--repetition-penalty", type=click.FloatRange(0, min_open=True), metavar="X",
         help="Above 1 discourages tokens already seen."),
    flag("--presence-penalty", type=click.FloatRange(-2, 2), metavar="X",
         help="Subtracted once from tokens already generated."),
    flag("--frequency-penalty", type=click.FloatRange(-2, 2), metavar="X",
         help="Subtracted for each time a token was generated."),
    flag("--stop", multiple=True, metavar="TEXT", core=True, help="Stop at this text; repeats."),
    flag("--stop-token-ids", metavar="1,2", callback=_token_ids, help="Stop at these token ids."),
    flag("--ignore-eos", is_flag=True, default=None, help="Go on past the end token."),
    flag("--n", type=click.IntRange(1, 1024), metavar="N", show_default="1",
         help="Completions for each row."),
    flag("--seed", type=click.IntRange(-(2**63), 2**63 - 1), metavar="N", core=True,
         show_default="0", help="Key of all random draws, with the row's id."),
    flag("--reasoning-budget", type=click.IntRange(min=-1), metavar="N", show_default="none",
         help="Most tokens of thinking; then its end is forced."),
    flag("--keep-special-tokens", "skip_special_tokens", is_flag=True, flag_value=False,
         default=None, help="Leave special tokens in the text."),
    flag("--include-stop-str-in-output", is_flag=True, default=None,
         help="Leave what ended a row in its text."),
    flag("--logprobs", type=click.IntRange(min=0), metavar="N",
         help="Add logprobs, of the chosen tokens, and of the N likeliest."),
    flag("--top-logprobs", type=click.IntRange(0, 20), metavar="N",
         help="The same, under OpenAI's name."),
    flag("--choices", multiple=True, metavar="A,B|JSON", callback=_labels,
         help="Generate nothing: choose the likeliest of these labels; repeats."),
    flag("--score", is_flag=True,
         help="Generate nothing: add the log-probabilities of each text's own tokens."),
)  # fmt: skip
