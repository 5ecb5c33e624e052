"""Answers in parts that each name who they are for: Functionary 3.2's `>>>all` and `>>>NAME`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from batchgen.job.answers.calls import Call, Calls, Tools, object_text
from batchgen.job.answers.marks import RAW, Marks

__all__ = ["AddressedCalls"]

_ALL = "all"


@dataclass(frozen=True, slots=True)
class AddressedCalls:
    """`NAME`, a line's end and JSON arguments, or `all` and text; `sign` before each but the first,
    before which the prompt has it. Each answer is of this form, with tools or without."""

    name: str
    sign: str
    tags: tuple[str, ...] = ()

    def is_of(self, template: str) -> bool:
        """See `CallFormat.is_of`."""
        return f"{self.sign}{_ALL}" in template

    def read(self, answer: str, marks: Marks, tools: Tools) -> Calls | None:
        """See `CallFormat.read`; without calls too, as its text has a head."""
        names = "|".join(map(re.escape, (_ALL, *tools.parameters)))
        head = re.compile(rf"(?:^|{re.escape(self.sign)})({names})(?:\n|$)")
        first, *rest = head.split(answer.removeprefix(self.sign))
        if first.strip() or not rest:
            return None
        said: list[str] = []
        calls: list[Call] = []
        for name, text in zip(rest[::2], rest[1::2], strict=True):
            arguments = None if name == _ALL else object_text(marks.plain(text, RAW))
            if name == _ALL:
                said.append(text)
            elif arguments is None:
                return None
            else:
                calls.append(Call(name, arguments))
        return Calls("".join(said).strip(), tuple(calls))
