"""`LLM`: a model that stays loaded, and turns rows into results as they are asked for."""

from __future__ import annotations

import gc
import logging
import os
import threading
import uuid
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from batchgen.api.async_stream import AsyncStream, Pump
from batchgen.api.engine_room import EngineRoom
from batchgen.api.keywords import spec_of_llm
from batchgen.api.other_words import OF_CALLS, OF_MODELS, advised
from batchgen.api.params import ParamsLike, base_params, each_of
from batchgen.api.row_reading import RowReading
from batchgen.api.source import PulledRows, PushedRows, Source
from batchgen.api.stream import Stages, Stream
from batchgen.devices import check_device
from batchgen.engine.request import SamplingParams
from batchgen.errors import UsageError
from batchgen.job.fields.params import merge
from batchgen.job.flow.wrapped_engine import LentEngine
from batchgen.job.model.files import ModelFiles, model_of
from batchgen.job.rows import InputRow
from batchgen.job.run.stages import load_job_codec, load_job_engine, make_requests, make_results
from batchgen.job.spec import InputSpec, JobSpec
from batchgen.job.text.requests import Requests

__all__ = ["LLM"]

_log = logging.getLogger(__name__)
_ROWS_PER_SEQUENCE = 4
_PLAIN_PROMPTS = (
    "the model is a chat model and got plain prompts: as_chat=True makes them chats (said once)"
)
EachRow = Iterable[ParamsLike | None]


class LLM:
    """A loaded model. Close it, or use it in a `with`, to free its device.

    `model`: a folder, hub id or .gguf file; none: the small one that ships inside. Options are the
    flags of `batchgen run` for model, sampling and engine, and those that say how a row is read
    (`as_chat`, `system`, `prompt_column`, ...), as keywords; sampling options are defaults of rows
    that do not say. Raises UsageError and ModelRefusedError.

    >>> from batchgen import LLM
    >>> with LLM(engine="echo", max_tokens=5) as llm:
    ...     for result in llm.generate(["one", {"id": "b", "prompt": "two", "max_tokens": 2}]):
    ...         print(result.index, result.id, result.completion, result.finish_reason)
    0 0 one stop
    1 b tw length
    """

    def __init__(self, model: str | Path | None = None, **options: Any) -> None:
        self._spec = spec = spec_of_llm({"model": model} | options)
        self._files = files = _model_files(spec)
        defaults = {} if files is None else files.generation_defaults
        self._default = merge({}, spec.sampling, defaults)
        if files is not None:
            check_device(spec.device)
            files.check_loadable()
        self._codec = codec = load_job_codec(spec, files, spec.template_time or datetime.now(UTC))
        self._requests = make_requests(spec, files, codec)
        self._room = room = EngineRoom()
        self._lock = threading.Lock()
        self._told_plain = False
        self._open: weakref.ref[Stream] | None = None
        self._process = os.getpid()
        self._end = weakref.finalize(self, _close, self._process, room, self._requests)
        try:
            room.load(lambda: load_job_engine(spec, files))
        except BaseException:
            self._end()
            raise

    def generate(
        self,
        rows: Iterable[Any] | None = None,
        sampling_params: ParamsLike | EachRow | None = None,
        *,
        in_order: bool = True,
        max_in_flight: int | None = None,
        **others: Any,
    ) -> Stream:
        """Results of the rows, as an iterator; it may be endless on both sides.

        A row is what a line of a job's input is, a dict; or a string (a prompt), a list of messages
        (a chat), a list of token ids. `rows`: any iterable of them, a `datasets` data set, or a
        table of pandas, Polars or Arrow. It is pulled in your thread, while you ask for results,
        at most `max_in_flight` rows ahead of those given back. What is wrong with a row is its
        result's `error_code` and `error_message`; nothing is raised for it.

        `sampling_params`: for rows that do not say. A `SamplingParams` says everything, a dict what
        it names; a list has one for each row. `in_order=False` gives results as they finish.

        One call at a time: the engine is free once the iterator is exhausted, closed or forgotten.
        TypeError for any other argument, which says what there is instead.
        """
        source = PulledRows(_given(rows, others))
        return self._stream(source, sampling_params, in_order, max_in_flight)

    def agenerate(
        self,
        rows: Iterable[Any] | AsyncIterable[Any] | None = None,
        sampling_params: ParamsLike | EachRow | None = None,
        *,
        in_order: bool = True,
        max_in_flight: int | None = None,
        **others: Any,
    ) -> AsyncStream:
        """As `generate`, for `async for`: nothing blocks the event loop. `rows` may be an async
        iterable, which is pulled on the loop; another one is pulled in a thread."""
        given, pump = _given(rows, others), None
        if isinstance(given, AsyncIterable):
            pushed = PushedRows()
            stream = self._stream(pushed, sampling_params, in_order, max_in_flight)
            pump = Pump(given, pushed, stream.max_in_flight)
        else:
            source = PulledRows(given)
            stream = self._stream(source, sampling_params, in_order, max_in_flight)
        return AsyncStream(stream, pump)

    def close(self) -> None:
        """Give up what is under way and free the device."""
        stream = self._open() if self._open is not None else None
        if stream is not None:
            stream.stop()
        self._end()

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(advised(f"LLM has no {name}", OF_MODELS.get(name)))

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _stream(
        self,
        source: Source,
        params: ParamsLike | EachRow | None,
        in_order: bool,
        max_in_flight: int | None,
    ) -> Stream:
        self._check_free()
        num_seqs = self._room.engine.max_num_seqs
        most = _ROWS_PER_SEQUENCE * num_seqs if max_in_flight is None else max_in_flight
        if most < 1:
            raise UsageError(f"max_in_flight must be above 0, not {most}", "leave it out")
        return Stream(self._stages(params, num_seqs), source, in_order=in_order, max_in_flight=most)

    def _stages(self, params: ParamsLike | EachRow | None, num_seqs: int) -> Stages:
        spec, files = self._spec, self._files
        names = () if files is None else files.served_names
        columns = replace(spec.input, served_model_names=(*spec.input.served_model_names, *names))
        run_id = uuid.uuid4().hex[:16]
        room, codec = self._room, self._codec
        return Stages(
            read=self._noting_plain_prompts(_reader(columns, params, self._default)),
            requests=self._requests,
            results=make_results(spec, lambda: codec, lambda index: 1, run_id),
            engine=lambda: LentEngine(room.engine),
            begin=self._begin,
            num_busy=2 * num_seqs,
            row_timeout=spec.row_timeout,
        )

    def _noting_plain_prompts(self, read: Callable[[Any], InputRow]) -> Callable[[Any], InputRow]:
        """Say once that a chat model got a prompt outside its template, as may not be meant."""
        if self._files is None or self._files.chat_template is None:
            return read

        def reading(given: Any) -> InputRow:
            row = read(given)
            if row.prompt is not None and not self._told_plain:
                self._told_plain = True
                _log.warning(_PLAIN_PROMPTS)
            return row

        return reading

    def _begin(self, stream: Stream, work: Callable[[], None]) -> Future[None]:
        with self._lock:
            self._check_free()
            self._open = weakref.ref(stream)
            return self._room.begin(work, stream.engine_stage.stop)

    def _is_taken(self) -> bool:
        other = None if self._open is None else self._open()
        return other is not None and other.is_open

    def _check_free(self) -> None:
        if os.getpid() != self._process:
            raise UsageError(
                "this LLM was loaded in another process, and a fork takes no engine along",
                "load it in the process that uses it, or gather the rows and call it there",
            )
        if self._is_taken():
            gc.collect()  # a forgotten one may hang in a ring, as of a cancelled task's frames
        if self._is_taken():
            raise UsageError(
                "another iterator of this LLM is not exhausted yet",
                "go on with that one first, close() it, or load a second LLM",
            )


def _given(rows: Any, others: Mapping[str, Any]) -> Any:
    for name in others:
        raise TypeError(advised(f"generate has no argument {name}", OF_CALLS.get(name)))
    if rows is None:
        raise TypeError("generate needs rows: an iterable of prompts, chats or dicts")
    return rows


def _model_files(spec: JobSpec) -> ModelFiles | None:
    files = model_of(spec)
    if files is not None and files.ignored_settings:
        named = ", ".join(files.ignored_settings)
        _log.warning("not served, and ignored, of the model's generation_config: %s", named)
    return files


def _reader(
    spec: InputSpec, params: ParamsLike | EachRow | None, default: SamplingParams
) -> Callable[[Any], InputRow]:
    """What reads the rows of one call, one after the other."""
    if params is None or isinstance(params, SamplingParams | Mapping):
        return RowReading(spec, base_params(params, default)).read
    reading, each = RowReading(spec, default), each_of(params)

    def read(given: Any) -> InputRow:
        for own in each:
            return reading.read(given, base_params(own, default))
        text = f"sampling_params ended after {reading.num_rows:,} rows, and there are more"
        raise UsageError(text, "give one for each row, or one for all")

    return read


def _close(process: int, room: EngineRoom, requests: Requests) -> None:
    if os.getpid() != process:  # a fork's copy: thread, engine and pipes are its parent's
        return
    room.close()
    requests.close()
