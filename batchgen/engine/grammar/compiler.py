"""From a row's schema, regular expression or grammar to a constraint, compiled once.

What llguidance cannot enforce it refuses, and so does this: `RowError(INVALID_SCHEMA)` before the
row runs. Its limits (symbols, lexer states, work in one mask) bound time and memory.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from batchgen.engine.grammar.constraint import GrammarConstraint
from batchgen.engine.grammar.schema import strict_schema
from batchgen.engine.grammar.spelled import holds, special_texts, spelled_out
from batchgen.engine.grammar.suffix_search import Suffixes, SuffixSearch
from batchgen.engine.grammar.vocabulary import as_of_completions
from batchgen.engine.request import Constraint, GrammarKind, Shared, StructuredOutput
from batchgen.errors import ErrorCode, RowError, UsageError

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

__all__ = ["GrammarCompiler"]

_T = TypeVar("_T")

BYTES = "byte"
"""llguidance's name of a vocabulary of bytes."""
MAX_TEXT = 1_000_000
"""Characters of a grammar. Those of people and of schema generators have thousands."""
_LONG_TEXT = 4_000
"""Characters, of which fewer hold no chain of rules that 8 MB of stack would not."""
_STACK = 1 << 28
"""Bytes of stack, of which those in use are memory: what llguidance's own limits leave fits."""
_MOST_KEPT = 256
_MOST_KEPT_TEXT = 8_000_000
_MAX_STATES = 50_000
"""Lexer states of one grammar, 1-2 kB each; llguidance's own bound is five times that."""
_SLICES = (" [a-z]{1,30}", "[a-z]{1,30}")
"""Tokens that are allowed together wherever a word may stand, so that a mask takes them at once and
walks the others alone: a quarter less time of a mask within words, seen with SmolLM2's."""
_LEAST_ROOM, _MOST_ROOM = 64, 1024
"""How few tokens are left when it begins to look for an end; more for longer grammars."""
_WHITESPACE = r"[ \t]{1,2}|\r?\n[ \t]{0,20}"
"""Between tokens of JSON: a line break once, and indented. Where any is allowed, small models write
line breaks until max_tokens."""
_ESCAPES = 'nrbtf"\\'
"""After a backslash in JSON. With u, another name of a property would escape its schema: of one
named `a` the name `\\u0061`. Other letters are written as they are."""
_CONTROL = re.compile(r"\\u00[01]|\x7f|\\\\[xuvc0]")
"""In a schema's JSON: what may stand for a letter that only u can write."""


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A grammar before its first token."""

    matcher: LLMatcher
    suffixes: Suffixes


class GrammarCompiler(Shared):
    """Compiles for one vocabulary, which is read with the first grammar.

    `vocabulary` gives what `tokenizers.Tokenizer.to_str` does, or `byte`.
    """

    def __init__(
        self, vocabulary: Callable[[], str], vocab_size: int, eos_token_ids: Collection[int]
    ) -> None:
        self._vocabulary_text = vocabulary
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(sorted(eos_token_ids))
        self._tokenizer: LLTokenizer | RowError | None = None
        self._special_texts: frozenset[str] = frozenset()
        self._kept: OrderedDict[StructuredOutput, _Compiled | RowError] = OrderedDict()
        self._kept_text = 0
        self._lock = threading.Lock()

    def constraint(
        self,
        wanted: StructuredOutput,
        stop_token_ids: Collection[int] = (),
        ignore_eos: bool = False,
    ) -> Callable[[], Constraint]:
        """What begins a sequence's constraint. Raises RowError: INVALID_SCHEMA for a grammar that
        is none, or that cannot be enforced, UNSUPPORTED_SETTING for a vocabulary that llguidance
        cannot read; UsageError where llguidance is missing."""
        ends = (*stop_token_ids, *(() if ignore_eos else self._eos_token_ids))
        return _Begin(self, wanted, ends, self._compiled(wanted))

    def begun(
        self, wanted: StructuredOutput, ends: tuple[int, ...], compiled: _Compiled | None
    ) -> Constraint:
        """A constraint at its first token; compiled here where it comes from another process."""
        found = compiled or self._compiled(wanted)
        begin = min(_MOST_ROOM, _LEAST_ROOM + len(wanted.text) // 8)
        return GrammarConstraint(
            found.matcher.deep_copy(),
            self._vocab_size,
            ends,
            self._eos_token_ids,
            found.suffixes,
            begin,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: its vocabulary; what was compiled is compiled there again."""
        vocabulary = partial(str, self._vocabulary_text())
        return GrammarCompiler, (vocabulary, self._vocab_size, self._eos_token_ids)

    def _compiled(self, wanted: StructuredOutput) -> _Compiled:
        with self._lock:  # a step's rows begin in several threads
            found = self._kept.pop(wanted, None)
            if found is None:
                found = self._compile(wanted)
                self._kept_text += len(wanted.text)
            self._kept[wanted] = found
            most_text = max(_MOST_KEPT_TEXT, len(wanted.text))
            while len(self._kept) > _MOST_KEPT or self._kept_text > most_text:
                self._kept_text -= len(self._kept.popitem(last=False)[0].text)
        if isinstance(found, RowError):
            raise RowError(found.code, found.message)
        return found

    def _compile(self, wanted: StructuredOutput) -> _Compiled | RowError:
        """A refusal is kept too: a file's rows often share one schema."""
        if len(wanted.text) > MAX_TEXT:
            return _refused(wanted, f"it has more than {MAX_TEXT:,} characters")
        llguidance, vocabulary = _llguidance(), self._vocabulary()
        if isinstance(vocabulary, RowError):
            return vocabulary
        if holds(wanted.text, self._special_texts):
            vocabulary = self._spelled
        limits = llguidance.LLParserLimits(max_lexer_states=_MAX_STATES, verbose_errors=False)

        def read() -> LLMatcher | RowError:
            try:
                grammar = _SOURCES[wanted.kind](wanted)
            except Exception as error:  # each source's parser has exceptions of its own
                return _refused(wanted, str(error) or type(error).__name__)
            matcher = llguidance.LLMatcher(vocabulary, grammar, log_level=0, limits=limits)
            return _refused(wanted, matcher.get_error()) if matcher.is_error() else matcher

        found = _with_room(read) if len(wanted.text) > _LONG_TEXT else read()
        if isinstance(found, RowError):
            return found
        return _Compiled(found, Suffixes(lambda: self._search, found))

    @cached_property
    def _search(self) -> SuffixSearch:
        """Made for the first document that comes near its end in time: it reads all tokens."""
        vocabulary = self._vocabulary()
        assert not isinstance(vocabulary, RowError)
        return SuffixSearch(vocabulary)

    def _vocabulary(self) -> LLTokenizer | RowError:
        if self._tokenizer is None:
            try:
                self._tokenizer = self._read_vocabulary(_llguidance().LLTokenizer)
            except ValueError as error:  # it knows some kinds of decoders, and no others
                text = f"structured outputs are not served with this tokenizer: {error}"
                self._tokenizer = RowError(ErrorCode.UNSUPPORTED_SETTING, text)
        return self._tokenizer

    def _read_vocabulary(self, read: type[LLTokenizer]) -> LLTokenizer:
        text = self._vocabulary_text()
        if text == BYTES:
            return read(text)
        self._special_texts = special_texts(text)
        ends = list(self._eos_token_ids) or None
        text = as_of_completions(text, self._vocab_size)
        return read(text, n_vocab=self._vocab_size, eos_token=ends, slices=_slices(read))

    @cached_property
    def _spelled(self) -> LLTokenizer:
        """For grammars that hold the texts of special tokens."""
        found = self._vocabulary()
        assert not isinstance(found, RowError)
        text = as_of_completions(self._vocabulary_text(), self._vocab_size)
        return spelled_out(text, found, _slices(type(found)))


class _Begin:
    """What a request carries: its grammar, compiled where it was checked and where it is used."""

    def __init__(
        self,
        compiler: GrammarCompiler,
        wanted: StructuredOutput,
        ends: tuple[int, ...],
        compiled: _Compiled | None = None,
    ) -> None:
        self._parts = compiler, wanted, ends
        self._compiled = compiled

    def __call__(self) -> Constraint:
        compiler, wanted, ends = self._parts
        return compiler.begun(wanted, ends, self._compiled)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Begin, self._parts


def _with_room(read: Callable[[], _T]) -> _T:
    """Its result, from a thread with a large stack where one can be had. llguidance follows the
    rules of a grammar by recursion, and a stack that ends ends the process."""
    before = threading.stack_size(_STACK)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="batchgen-grammar") as threads:
            try:
                begun = threads.submit(read)
            except RuntimeError:  # no memory for it
                return read()
            return begun.result()
    finally:
        threading.stack_size(before)


def _slices(kind: type[LLTokenizer]) -> list[str]:
    return [*_SLICES, *kind.general_slices()]


def _json_schema(wanted: StructuredOutput) -> str:
    matcher = _llguidance().LLMatcher
    options: dict[str, Any] = {"lenient": False}
    if not _CONTROL.search(wanted.text):
        options["json_allowed_escapes"] = _ESCAPES
    if wanted.whitespace == "":
        options["whitespace_flexible"] = False
    else:
        options["whitespace_pattern"] = wanted.whitespace or _WHITESPACE
    schema = json.loads(wanted.text)
    if schema is False:
        raise ValueError("false allows no value at all")
    schema = {} if schema is True else strict_schema(schema)
    return str(matcher.grammar_from_json_schema(schema, None, options))


def _regex(wanted: StructuredOutput) -> str:
    return str(_llguidance().LLMatcher.grammar_from_regex(wanted.text))


def _grammar(wanted: StructuredOutput) -> str:
    from llguidance.gbnf_to_lark import any_to_lark

    return str(_llguidance().LLMatcher.grammar_from_lark(any_to_lark(wanted.text)))


_SOURCES: dict[GrammarKind, Callable[[StructuredOutput], str]] = {
    GrammarKind.JSON_SCHEMA: _json_schema,
    GrammarKind.REGEX: _regex,
    GrammarKind.GRAMMAR: _grammar,
}
_NOUNS = {
    GrammarKind.JSON_SCHEMA: "JSON Schema",
    GrammarKind.REGEX: "regular expression",
    GrammarKind.GRAMMAR: "grammar",
}


def _refused(wanted: StructuredOutput, reason: str) -> RowError:
    said = " ".join(reason.split())[:300]
    return RowError(ErrorCode.INVALID_SCHEMA, f"this {_NOUNS[wanted.kind]} is not served: {said}")


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise UsageError(
            "rows ask for structured outputs, which need llguidance",
            "pip install 'batchgen-llm[structured]', then run the same command again",
        ) from error
    return llguidance
