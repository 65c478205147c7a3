"""Griffe extension of the site: shows what docstrings do not say in griffe's own way.

The `>>>` examples become blocks of code, and the fields of a dataclass, with the comments behind them, a table.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)  # to the next empty line
_COMMENT = re.compile(r"#\s+(.*)$")
_NOTHING = "&nbsp;"  # a row needs some text


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of what the site shows."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Fence the examples of one docstring, which would be taken for prose."""
        if obj.docstring:
            fenced = _EXAMPLE.sub(lambda example: f"```python\n{example[0]}\n```", obj.docstring.value)
            obj.docstring.value = re.sub(r" *# doctest: \+\w+", "", fenced)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Say a dataclass's fields."""
        if cls.docstring is None or not any("dataclass" in str(decorator.value) for decorator in cls.decorators):
            return
        fields = [member for member in cls.attributes.values() if isinstance(member, griffe.Attribute)]
        rows = [f"    {field.name}: {_comment(field)}" for field in fields if "property" not in field.labels]
        cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)


def _comment(field: griffe.Attribute) -> str:
    found = [_COMMENT.search(line) for line in field.lines]
    return " ".join(match[1].strip() for match in found if match) or _NOTHING
