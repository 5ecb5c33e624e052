"""Everything that can change a completion or a column, by name; and what is only recorded.

Not in it: paths, devices, batch sizes, checkpoint intervals, `--limit` (INTERFACE: Fingerprint).
"""

from __future__ import annotations

import json
import platform
from typing import Any

from batchgen import __version__
from batchgen.installed import version_of
from batchgen.job.model.adapters import parse_adapters
from batchgen.job.model.files import ModelFiles
from batchgen.job.model.identity import code_identity, text_digest
from batchgen.job.model.weights import quantization_of
from batchgen.job.promise import promise_of
from batchgen.job.spec import JobSpec

__all__ = ["facts_of", "fingerprint_of", "model_name"]

_SCHEMA = 1
_LIBRARIES = ("torch", "transformers", "tokenizers", "pyarrow", "datasets")


def fingerprint_of(spec: JobSpec, files: ModelFiles | None) -> dict[str, Any]:
    """Field -> value; nested mappings are compared field by field. `files` is None without a
    model (the echo engine on bytes)."""
    return _only_where_given(spec, files) | {
        "schema": _SCHEMA,
        "engine": spec.engine,
        "model": {"identity": "none"} if files is None else files.identity(),
        "dtype": _dtype(spec.dtype, files),
        "quantization": quantization_of(spec, files),
        "max_model_len": spec.max_model_len,
        "chat_template": _chat_template(spec, files),
        "sampling": _sampling(spec, files),
        "columns": _columns(spec),
    }


def facts_of(spec: JobSpec, files: ModelFiles | None) -> dict[str, Any]:
    """Recorded in the manifest and the footer, never compared: names, device, versions."""
    return {
        "model": model_name(spec, files),
        "revision": spec.revision,
        "device": spec.device,
        **({"tensor_parallel": spec.tensor_parallel} if spec.tensor_parallel > 1 else {}),
        **({"deterministic": promise_of(spec.device)} if spec.deterministic else {}),
        "limit": spec.input.limit,
        **({"adapters": list(spec.input.adapters)} if spec.input.adapters else {}),
        "versions": {"batchgen": __version__, "python": platform.python_version()}
        | {name: found for name in _LIBRARIES if (found := version_of(name))},
    }


def _only_where_given(spec: JobSpec, files: ModelFiles | None) -> dict[str, Any]:
    """Settings whose default leaves no trace: jobs begun before there was the flag go on."""
    given: dict[str, Any] = {}
    if spec.deterministic:
        given["deterministic"] = True
    if spec.kv_cache_dtype != "auto":
        given["kv_cache_dtype"] = spec.kv_cache_dtype
    if spec.template_time is not None:
        given["template_time"] = spec.template_time.isoformat()
    if spec.input.overlong != "error":
        given["overlong"] = spec.input.overlong
    if spec.input.template is not None:
        given["template"] = _row_template(spec.input.template)
    if (code := _code(spec, files)) != "none":
        given["code"] = code
    if spec.input.adapters:
        given["adapters"] = {one.name: one.identity() for one in files.adapters} if files else {}
        given["adapters"] |= {"given": sorted(parse_adapters(spec.input.adapters))}
    if spec.reasoning_parser != "auto":
        given["reasoning_parser"] = spec.reasoning_parser
    if spec.tool_call_parser != "auto":
        given["tool_call_parser"] = spec.tool_call_parser
    if spec.input.chat_template_kwargs:
        kwargs = spec.input.chat_template_kwargs
        given["chat_template_kwargs"] = {name: json.dumps(kwargs[name]) for name in kwargs}
    return given


def _code(spec: JobSpec, files: ModelFiles | None) -> str:
    """Of the model's own code, where it is to be run: without the flag transformers takes its own
    class of the same name, and other tokens may come."""
    if not spec.trust_remote_code or files is None or not files.path.is_dir():
        return "none"
    return code_identity(files.path)


def _sampling(spec: JobSpec, files: ModelFiles | None) -> dict[str, Any]:
    """Flags over the model's own defaults; a seed always stands, since it keys every draw."""
    return {"seed": 0} | ({} if files is None else files.generation_defaults) | spec.sampling


def _columns(spec: JobSpec) -> dict[str, Any]:
    given = spec.input
    names = {"served_model_names": sorted(set(given.served_model_names))}
    return (names if given.served_model_names else {}) | {
        "prompt": given.prompt_column,
        "messages": given.messages_column,
        "id": given.id_column,
        "keep": given.keep_columns,
        "as_chat": given.as_chat,
        "system": None if given.system is None else text_digest(given.system),
        "ignore_model": given.ignore_model,
        "split": given.split,
        "save_prompt": spec.save_prompt,
        "save_token_ids": spec.save_token_ids,
    }


def _dtype(wanted: str, files: ModelFiles | None) -> str:
    """`auto` is the checkpoint's own, so that naming it later is no change."""
    if wanted != "auto" or files is None:
        return wanted
    for key in ("dtype", "torch_dtype"):
        if files.config.get(key):
            return str(files.config[key]).removeprefix("torch.")
    return wanted


def _chat_template(spec: JobSpec, files: ModelFiles | None) -> str:
    """Of the template's text, whether it came as a file, by name or in place; the model's own
    stands in its identity. Raises UsageError for one that is not there."""
    if spec.chat_template is None:
        return "model"
    from batchgen.job.templates.choice import choose_template  # jinja: most runs need none here

    templates = {} if files is None else files.chat_templates
    return text_digest(choose_template(spec.chat_template, templates).source)


def _row_template(given: str) -> str:
    from batchgen.job.templates.sandbox import read_template

    return text_digest(read_template(given, "--template"))


def model_name(spec: JobSpec, files: ModelFiles | None) -> str:
    """What summary, manifest and footer call the model."""
    return spec.model or spec.engine if files is None else files.name
