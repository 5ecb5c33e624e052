"""What the command's process begins as soon as it is known that a model will run."""

from __future__ import annotations

from batchgen.cli.process.no_pandas import keep_pandas_out
from batchgen.engine.processes.preparing import prepare_engine, prepare_tokenizer
from batchgen.job.input.reader import Reader
from batchgen.job.input.source import SourceKind
from batchgen.job.model.files import ModelFiles
from batchgen.job.run.stages import engine_config
from batchgen.job.spec import JobSpec

__all__ = ["prepare"]


def prepare(spec: JobSpec, files: ModelFiles | None, reader: Reader) -> None:
    """Start importing, and what can be done beside it. Never raises: whoever needs the result
    does the work again and says what is wrong."""
    if all(source.kind is not SourceKind.HUB for source in reader.sources):
        keep_pandas_out()
    if spec.engine == "echo" or files is None:
        return
    if spec.devices is None:
        prepare_engine(engine_config(spec, files), files.facts)
    else:  # each engine's process prepares itself
        prepare_tokenizer(files.config)
