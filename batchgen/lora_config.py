"""A LoRA adapter's `adapter_config.json`, as peft writes it: what it applies to and how strongly.

Standard library only. Whatever would change the result and is not applied here is refused by name;
a setting that is not known yet is refused too, unless it says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from typing import Any

from batchgen.errors import ModelRefusedError

__all__ = [
    "BIAS",
    "CONFIG_NAME",
    "MAGNITUDE",
    "WEIGHT_NAMES",
    "LoraConfig",
    "objections",
    "read_adapter_json",
    "read_lora_config",
    "refused",
]

MAGNITUDE, BIAS = "magnitude", "bias"
_SETTINGS = {MAGNITUDE: "use_dora", BIAS: "lora_bias"}
CONFIG_NAME = "adapter_config.json"
WEIGHT_NAMES = ("adapter_model.safetensors", "adapter_model.bin")

_APPLIED = {
    "alpha_pattern", "bias", "exclude_modules", "layers_pattern", "layers_to_transform",
    "lora_alpha", "lora_bias", "modules_to_save", "r", "rank_pattern", "target_modules",
    "trainable_token_indices", "use_dora", "use_rslora",
}  # fmt: skip
_OF_TRAINING = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "fan_in_fan_out", "inference_mode", "init_lora_weights", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_core", "monteclora_config", "peft_type",
    "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
    "velora_config",
}  # fmt: skip
"""What the finished weights do not depend on. `fan_in_fan_out` follows from the layer's type."""
_MEANINGS = {
    "kasa_config": "KaSA (which takes parts of the base model's weights away)",
    "target_parameters": "parameters that are no layers (experts)",
    "layer_replication": "layers that are used several times",
    "alora_invocation_tokens": "activation by tokens (aLoRA)",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "a choice between adapters (Arrow)",
    "megatron_config": "Megatron's parallel layers",
}
_NEUTRAL: tuple[Any, ...] = (None, False, "none", "", [], {})
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that also change the base model's weights when peft loads the adapter."""


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """`rank` and `alpha` are of a layer that no pattern names. `target`: peft's `target_modules`,
    a list of endings, a regular expression of whole names, or None: not told."""

    folder: Path
    rank: int
    alpha: float
    base: str | None = None
    target: tuple[str, ...] | str | None = None
    exclude: tuple[str, ...] | str | None = None
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False
    has_magnitudes: bool = False
    """DoRA: the length of each output's weights is trained apart."""
    has_biases: bool = False
    """Of the low-rank products."""
    saved: tuple[str, ...] = ()
    """`modules_to_save`: how the names of modules end that were trained whole."""
    biases: str = "none"
    """Of the model, those that were trained: `none`, `all`, or of adapted layers (`lora_only`)."""
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Rows that were trained, by how the embedding's name ends; "": the input embedding's."""

    @property
    def parts(self) -> set[str]:
        """What the file holds of each layer (`read_key`)."""
        return (
            {"A", "B"}
            | ({MAGNITUDE} if self.has_magnitudes else set())
            | ({BIAS} if self.has_biases else set())
        )

    def rank_of(self, module: str) -> int:
        """Of the layer with this dotted name."""
        key = _pattern_of(self.rank_pattern, module)
        return self.rank if key is None else self.rank_pattern[key]

    def scale_of(self, module: str) -> float:
        """What the low-rank product of this layer is multiplied with."""
        key = _pattern_of(self.alpha_pattern, module)
        alpha = self.alpha if key is None else self.alpha_pattern[key]
        rank = self.rank_of(module)
        return alpha / (sqrt(rank) if self.rank_stabilised else rank)

    def targets(self, module: str) -> bool:
        """Whether peft would put a low-rank product beside this layer."""
        if self.exclude is not None and _names(self.exclude, module):
            return False
        if self.target is None or self.target == "all-linear":
            return True
        if not _names(self.target, module):
            return False
        if self.layers is None or isinstance(self.target, str) or module in self.target:
            return True
        return self._layer(module) in self.layers

    def trains(self, module: str, kind: str) -> bool:
        """Whether the layer's own `weight` or `bias` was trained too, whole."""
        if kind == "bias" and (
            self.biases == "all" or (self.biases != "none" and self.targets(module))
        ):
            return True
        return any(self.names_saved(end, module) for end in self.saved)

    def names_saved(self, end: str, module: str) -> bool:
        """Whether this one of `saved` names the module, or one that it is a part of."""
        parts = module.split(".")
        fronts = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        return any(front.endswith(end) for front in fronts)

    def misfits(self, module: str, parts: Collection[str]) -> Iterator[str]:
        """What is wrong with a layer of which the file holds these parts, whatever their shapes."""
        if not {"A", "B"} <= set(parts):
            yield f"has only one half of the product for {module}"
        elif not self.targets(module):
            yield f"has weights for {module}, which its target_modules do not name"
        for part in sorted((set(parts) ^ self.parts) - {"A", "B"}):
            setting = _SETTINGS[part]
            if part in parts:
                yield f"has a {part} for {module}, and no {setting}"
            else:
                yield f"has {setting}, and no {part} for {module}"

    def _layer(self, module: str) -> int | None:
        if not self.layers_pattern:
            found = re.match(r".*?\.[^.]*\.(\d+)\.", module)
            return int(found[1]) if found else None
        for pattern in self.layers_pattern:
            found = re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module)
            if found:
                return int(found[1])
        return None


def read_lora_config(folder: Path) -> LoraConfig:
    """The config in a folder. Raises ModelRefusedError, naming what is not applied."""
    config = read_adapter_json(folder)
    for what in objections(config):
        raise refused(folder, what)
    return _checked(folder, config)


def read_adapter_json(folder: Path) -> dict[str, Any]:
    """The config's object as it stands. Raises ModelRefusedError."""
    return _read(folder / CONFIG_NAME)


def objections(config: Mapping[str, Any]) -> Iterator[str]:
    """What the adapter is, has or was begun with that cannot be applied as it was trained."""
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"is of type {kind or '?'}, and LORA is served"
        return
    for name in sorted(config.keys() - _APPLIED - _OF_TRAINING):
        if config[name] not in _NEUTRAL:
            what = _MEANINGS.get(name, "a setting that is not known here")
            yield f"has {name}={_short(config[name])}: {what} cannot be applied"
    if config.get("use_dora") and config.get("lora_bias"):
        yield "has both use_dora and lora_bias, of which peft takes one alone"
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        yield f"began with init_lora_weights={start!r}, which changes the base model's weights too"


def refused(folder: Path, what: str) -> ModelRefusedError:
    """The adapter cannot be applied as it was trained."""
    return ModelRefusedError(
        f"adapter {folder}: it {what}",
        "merge it with peft (`merge_and_unload`) and name the merged model with --model",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelRefusedError(
            f"adapter {path.parent}: {path.name} is not there",
            "name a folder that peft's save_pretrained wrote, or a hub id",
        ) from None
    except (OSError, ValueError) as error:
        raise refused(path.parent, f"has an {path.name} that cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise refused(path.parent, f"has an {path.name} that is no object")
    return config


def _checked(folder: Path, config: dict[str, Any]) -> LoraConfig:
    try:
        layers = config.get("layers_to_transform")
        return LoraConfig(
            folder=folder,
            rank=_positive(config.get("r", 8)),
            alpha=float(config.get("lora_alpha", 8)),
            base=config.get("base_model_name_or_path"),
            target=_some(config.get("target_modules")),
            exclude=_some(config.get("exclude_modules")),
            layers=tuple(layers) if isinstance(layers, list) and layers else
            (int(layers),) if isinstance(layers, int) else None,
            layers_pattern=tuple(map(_pattern, _list(config.get("layers_pattern")))),
            rank_pattern={
                _pattern(k): _positive(v) for k, v in (config.get("rank_pattern") or {}).items()
            },
            alpha_pattern={
                _pattern(k): float(v) for k, v in (config.get("alpha_pattern") or {}).items()
            },
            rank_stabilised=bool(config.get("use_rslora")),
            has_magnitudes=bool(config.get("use_dora")),
            has_biases=bool(config.get("lora_bias")),
            saved=_list(config.get("modules_to_save")),
            biases=_biases(config.get("bias") or "none"),
            tokens=_tokens(config.get("trainable_token_indices") or {}),
        )  # fmt: skip
    except (TypeError, ValueError, AttributeError, re.error) as error:
        raise refused(folder, f"has an {CONFIG_NAME} with an impossible value: {error}") from None


def _biases(value: Any) -> str:
    if value not in ("none", "all", "lora_only"):
        raise ValueError(f"bias={value!r}")
    return str(value)


def _tokens(value: Any) -> dict[str, tuple[int, ...]]:
    given = value if isinstance(value, dict) else {"": value}
    return {name: tuple(map(int, rows)) for name, rows in given.items() if rows}


def _positive(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"a rank of {value!r}")
    return value


def _pattern(text: str) -> str:
    """As it stands in a longer expression. Raises re.error."""
    re.compile(f"({text})")
    return text


def _some(value: Any) -> tuple[str, ...] | str | None:
    if isinstance(value, str):
        re.compile(value)
        return value or None
    return _list(value) or None


def _list(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _names(target: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(target, str):
        return re.fullmatch(target, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in target)


def _pattern_of(patterns: Iterable[str], module: str) -> str | None:
    """The first pattern that names the layer: of its whole name, or of its end."""
    for pattern in patterns:
        if re.match(rf"(.*\.)?({pattern})$", module):
            return pattern
    return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
