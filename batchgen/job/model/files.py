"""A model before any weight is read: its place, its names, its tokens, its defaults. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from batchgen.engine.checkpoint.quantized import Quantized, described
from batchgen.engine.checkpoint.weight_files import PICKLES, weight_files
from batchgen.engine.config import ModelFacts
from batchgen.errors import ModelRefusedError
from batchgen.job.model import special_tokens
from batchgen.job.model.adapters import AdapterFiles, find_adapters, tell_other_bases
from batchgen.job.model.chat_templates import DEFAULT, TOOL_USE, folder_templates, gguf_templates
from batchgen.job.model.folder_parts import check_folder
from batchgen.job.model.generation_defaults import generation_defaults, ignored_generation_settings
from batchgen.job.model.identity import files_identity, folder_identity, text_digest
from batchgen.job.model.json_files import ModelJson
from batchgen.job.model.source import ModelSource, locate
from batchgen.job.spec import JobSpec

__all__ = ["BUILTIN_TASK", "ModelFiles", "ModelKind", "model_of", "resolve_model"]

BUILTIN_TASK = "(reads support messages; for anything else give --model)"

_POSITION_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
_NO_LIMIT = 1 << 62
_NOT_CAUSAL = (
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForImageClassification",
    "ForAudioClassification",
    "ForCTC",
    "ForPreTraining",
)


class ModelKind(StrEnum):
    """How the model is stored."""

    FOLDER = "folder"
    GGUF = "gguf"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model's own files say, as the job needs it.

    `name` is what the user wrote (or the built-in's name). `max_position` is the longest sequence
    the model was made for, in tokens; None where it names none. `generation_defaults` has
    SamplingParams' names. `ignored_settings`: of generation_config, or a GGUF file's
    sampling, what batchgen does not have.
    """

    path: Path
    kind: ModelKind
    name: str
    eos_token_ids: tuple[int, ...] = ()
    bos_token_id: int | None = None
    generation_defaults: dict[str, Any] = field(default_factory=dict)
    ignored_settings: tuple[str, ...] = ()
    max_position: int | None = None
    chat_templates: dict[str, str] = field(default_factory=dict)
    """By name; `default` is for any chat."""
    commit: str | None = None
    builtin: bool = False
    config: dict[str, Any] = field(default_factory=dict, repr=False)
    adapters: tuple[AdapterFiles, ...] = ()

    @property
    def served_names(self) -> tuple[str, ...]:
        """Names by which an OpenAI row may call the model: as given, and its last path part."""
        return tuple(dict.fromkeys([self.name, Path(self.name).name]))

    @property
    def chat_template(self) -> str | None:
        """The model's template for any chat."""
        return self.chat_templates.get(DEFAULT)

    @property
    def facts(self) -> ModelFacts:
        """For whoever begins to load it."""
        if self.kind is ModelKind.GGUF:
            return ModelFacts(self.config, [self.path])
        return ModelFacts(self.config, weight_files(self.path))

    def identity(self) -> dict[str, str]:
        """What can change a completion, for the fingerprint. Never a path of this machine."""
        if self.commit is not None:
            return {"commit": self.commit} | self._template_identity()
        if self.kind is ModelKind.GGUF:
            from batchgen.gguf.parts import part_paths
            from batchgen.gguf_header import read_gguf_header

            parts = {"weights": files_identity(part_paths(self.path))}
            parts["metadata"] = read_gguf_header(self.path).digest[:32]
        else:
            parts = folder_identity(self.path)
        return parts | self._template_identity()

    def _template_identity(self) -> dict[str, str]:
        """The templates that a chat gets where no other is asked for."""
        tool_use = self.chat_templates.get(TOOL_USE)
        return {"chat_template": text_digest(self.chat_template)} | (
            {} if tool_use is None else {"tool_template": text_digest(tool_use)}
        )

    def check_supported(self) -> None:
        """Refuse what the small files alone show to be no causal decoder with a tokenizer.

        Raises ModelRefusedError.
        """
        if self.kind is ModelKind.GGUF:
            from batchgen.gguf_header import read_gguf_header
            from batchgen.job.model.gguf_support import check_tokenizer

            check_tokenizer(self.path, read_gguf_header(self.path).metadata)
        architectures = [str(name) for name in self.config.get("architectures") or ()]
        if self.config.get("is_encoder_decoder"):
            raise self._refused("an encoder-decoder", architectures)
        if architectures and all(name.endswith(_NOT_CAUSAL) for name in architectures):
            raise self._refused("no causal language model", architectures)
        if (quantized := self._quantized()) is not None:
            quantized.check_served(self.name)

    def check_loadable(self, whole: bool = True) -> None:
        """Refuse what cannot be loaded with the packages installed here, or, where it has to be
        `whole`, lacks a part. Raises ModelRefusedError.

        Apart from `check_supported`: a job that is done needs none of them.
        """
        if self.kind is ModelKind.GGUF:
            from batchgen.job.model.gguf_support import check_loadable

            check_loadable(self.path)
            return
        if whole:
            check_folder(self.path, self.name, self.config)
        if (quantized := self._quantized()) is not None:
            quantized.check_installed(self.name)

    def _quantized(self) -> Quantized | None:
        return None if self.kind is ModelKind.GGUF else described(self.path, self.config)

    def _refused(self, what: str, architectures: list[str]) -> ModelRefusedError:
        named = ", ".join([*architectures, str(self.config.get("model_type", "?"))])
        return ModelRefusedError(
            f"Model {self.name} is {what} ({named}); batchgen serves decoder-only models.",
            "Name a causal language model (AutoModelForCausalLM).",
        )


def model_of(spec: JobSpec) -> ModelFiles | None:
    """The model of a job; None: the echo engine without one, which speaks bytes. Raises
    ModelRefusedError also for what its small files show not to be served."""
    if spec.engine == "echo" and spec.model is None:
        return None
    files = resolve_model(spec.model, spec.revision, spec.allow_pickle, spec.input.adapters)
    files.check_supported()
    return files


def resolve_model(
    ref: str | None,
    revision: str | None = None,
    allow_pickle: bool = False,
    adapters: Sequence[str] = (),
) -> ModelFiles:
    """Find a model and read its small files.

    `ref`: a local folder, a `.gguf` file, a hub id (fetched unless cached), or None for the model
    inside the package. `adapters`: of `--adapter`. Raises ModelRefusedError (exit code 2) with what
    to do.
    """
    source = locate(ref, revision, allow_pickle)
    if not allow_pickle and source.path.is_dir():
        _refuse_pickles(source)
    files = _from_gguf(source) if source.path.is_file() else _from_folder(source)
    if not adapters:
        return files
    found = find_adapters(adapters, allow_pickle)
    tell_other_bases(found, files.name)
    return replace(files, adapters=found)


def _refuse_pickles(source: ModelSource) -> None:
    """Weights that only a pickle holds: reading them could run code."""
    names = sorted(os.listdir(source.path))
    pickles = [name for name in names if name.endswith(PICKLES)]
    weights = [name for name in pickles if name.startswith(("pytorch_model", "model"))]
    if weights and not any(name.endswith(".safetensors") for name in names):
        raise ModelRefusedError(
            f"Model {source.name} has its weights in a pickle ({weights[0]}), which can run code.",
            "Convert it to safetensors; or, if you trust its author, add --allow-pickle.",
        )


def _from_folder(source: ModelSource) -> ModelFiles:
    files = ModelJson(source.path)
    config = files.read("config.json")
    tokens = special_tokens.from_folder(files)
    return ModelFiles(
        path=source.path,
        kind=ModelKind.FOLDER,
        name=source.name,
        **asdict(tokens),
        generation_defaults=generation_defaults(files),
        ignored_settings=ignored_generation_settings(files),
        max_position=_max_position(config),
        chat_templates=folder_templates(files),
        commit=source.commit,
        builtin=source.builtin,
        config=config,
    )


def _from_gguf(source: ModelSource) -> ModelFiles:
    from batchgen.gguf_header import read_gguf_header
    from batchgen.job.model.gguf_defaults import gguf_sampling, ignored_gguf_sampling

    metadata = read_gguf_header(source.path).metadata
    tokens = special_tokens.from_gguf(metadata)
    architecture = str(metadata.get("general.architecture", "?"))
    length = metadata.get(f"{architecture}.context_length")
    return ModelFiles(
        path=source.path,
        kind=ModelKind.GGUF,
        name=source.name,
        **asdict(tokens),
        generation_defaults=gguf_sampling(metadata, source.path),
        ignored_settings=ignored_gguf_sampling(metadata),
        max_position=length if isinstance(length, int) else None,
        chat_templates=gguf_templates(metadata),
        config={"model_type": architecture},
    )


def _max_position(config: dict[str, Any]) -> int | None:
    nested = config.get("text_config")
    for source in (config, nested if isinstance(nested, dict) else {}):
        for key in _POSITION_KEYS:
            if isinstance(source.get(key), int):
                return min(int(source[key]), *_exact_lengths(source))
    return None


def _exact_lengths(config: dict[str, Any]) -> Iterator[int]:
    """Up to which a row's rope does not depend on the rows beside it: the engine serves no more."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    yield _NO_LIMIT
    for one in (rope, *(inner for inner in rope.values() if isinstance(inner, dict))):
        if (one.get("rope_type") or one.get("type")) in ("longrope", "su"):
            key = "original_max_position_embeddings"
            yield int(one.get(key) or config.get(key) or _NO_LIMIT)
