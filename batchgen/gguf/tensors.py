"""From a file's tensors to a transformers module's weights: which becomes which, and how."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from batchgen.gguf.reading import Reading, refused

__all__ = ["Source", "To", "assign", "scale_name"]

_NAME = re.compile(r"(?:blk\.(\d+)\.)?(.*?)(?:\.(weight|bias))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class To:
    """What one tensor becomes. `target`: a name within the layer (or the model), without its
    `.weight` or `.bias`.

    `how`: "" as it is; "unpermute": rows of `heads` heads, rotary pairs side by side, back to
    halves; "minus_one"; "transpose": the last two dimensions exchanged; "row": one dimension more
    in front; "join": along `axis` with other tensors of the same target, in order of `place`;
    "interleave": two of them, the last dimension in turns, after their last two dimensions have
    been exchanged; "heads_first": rows [queries, keys, values] of `heads` heads to [query, key,
    value] of each head.
    `rows`: only these, [from, to). `bare`: the target is a parameter itself, without a suffix;
    its bias is `target` and `_bias`.
    """

    target: str
    how: str = ""
    heads: int = 0
    place: int = 0
    axis: int = 0
    rows: tuple[int, int] | None = None
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """One of the file's tensors on its way to a weight."""

    name: str
    to: To

    @property
    def is_bias(self) -> bool:
        """Whether it is a layer's bias."""
        return self.name.endswith(".bias")


Table = Mapping[str, "str | To | tuple[To, ...]"]


def assign(
    read: Reading, top: Table, layer: Table, prefix: str, ignored: Mapping[str, str]
) -> dict[str, list[Source]]:
    """The weights of the module, each with its sources. Raises ModelRefusedError for tensors that
    no table names, and for layers that lack what others have.

    `prefix`: of a layer's names, with `{}` for its number. `ignored`: without effect, and why.
    """
    weights: dict[str, list[Source]] = defaultdict(list)
    stems: dict[int, set[str]] = defaultdict(set)
    for name in read.tensors:
        found = _NAME.fullmatch(name)
        assert found is not None
        number, stem, suffix = found[1], found[2], found[3] or "weight"
        if name in ignored or stem in ignored or _is_scale(read, name):
            continue
        if number is not None:
            stems[int(number)].add(f"{stem}.{suffix}")
        table = top if number is None else layer
        entry = table.get(stem)
        if entry is None:
            raise refused(read.path, f"its tensor {name} is not known in {read.architecture}")
        front = prefix.format(number) if number is not None else ""
        for to in _targets(entry):
            weights[front + _full(to, suffix)].append(Source(name, to))
    _check_layers(read, stems)
    return {name: sorted(one, key=lambda s: s.to.place) for name, one in weights.items()}


def scale_name(name: str) -> str:
    """Of a matrix: the tensor whose value all of its own, or each expert's, are multiplied by, as
    NVFP4 needs one."""
    return f"{name.removesuffix('weight')}scale"


def _is_scale(read: Reading, name: str) -> bool:
    """Whether it is read with its matrix; of a scale of inputs llama.cpp makes no use."""
    front, _, kind = name.rpartition(".")
    info = read.tensors.get(f"{front}.weight")
    return kind in ("scale", "input_scale") and info is not None and len(info.shape) > 1


def _targets(entry: str | To | tuple[To, ...]) -> tuple[To, ...]:
    if isinstance(entry, str):
        return (To(entry),)
    return (entry,) if isinstance(entry, To) else entry


def _full(to: To, suffix: str) -> str:
    if to.bare:
        return to.target + ("_bias" if suffix == "bias" else "")
    return f"{to.target}.{suffix}"


def _check_layers(read: Reading, stems: Mapping[int, set[str]]) -> None:
    """Every layer has what any other has, and there are as many as the file says."""
    count = read.count("block_count")
    beyond = sorted(number for number in stems if number >= count)
    if beyond:
        raise refused(read.path, f"it has tensors of layer {beyond[0]}, and {count} layers")
    union = set().union(*stems.values()) if stems else set()
    for number in range(count):
        missing = sorted(union - stems.get(number, set()))
        if missing or not union:
            name = missing[0] if missing else "*"
            raise refused(
                read.path,
                f"the tensor blk.{number}.{name} is missing",
                "Fetch the file again, whole.",
            )
