"""Names of a trace as they are printed: whoever wrote the trace chose them, so nothing in them acts on a terminal."""

from __future__ import annotations

import re

LONGEST_READ = 4096  # characters of a name that are looked at
_NAMESPACES = re.compile(r"(?:\(anonymous namespace\)::|\b(?:[A-Za-z_]\w*::)+(?=[\w~(]))")
_CUTLASS = re.compile(r"Kernel2?<(\w+?)(?:, .*)?>")


def clean(name: str, limit: int = 200) -> str:
    """A name on one line: control and formatting characters become "?", blanks one space, the end is cut off."""
    if len(name) <= limit and name.isprintable() and "  " not in name and name == name.strip():
        return name
    printable = "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in name[:LONGEST_READ])
    line = " ".join(printable.split())
    return line if len(line) <= limit and len(name) <= LONGEST_READ else f"{line[: limit - 3].rstrip()}..."


def short_kernel(name: str, limit: int = 48) -> str:
    """A kernel's name without return type, namespaces and parameters, so that what tells it apart comes first.

    >>> short_kernel("void at::native::(anonymous namespace)::max_pool_forward_nchw<float>(int, float const*)")
    'max_pool_forward_nchw<float>'
    """
    line = clean(name, LONGEST_READ).removeprefix("void ")
    line = _NAMESPACES.sub("", _without_parameters(line)) or line
    if match := _CUTLASS.fullmatch(line):
        line = match[1]
    return clean(line, limit)


def cell(text: str, format_: str, limit: int) -> str:
    """A name as a cell of a table, "table" or "markdown"."""
    line = clean(text, limit)
    return code(line) if format_ == "markdown" else line


def title(text: str, format_: str) -> list[str]:
    """The lines that head a block of a report."""
    return [f"### {text}", ""] if format_ == "markdown" else [text]


def code(text: str) -> str:
    """Text as a code span in a cell of a Markdown table."""
    return "`" + text.replace("`", "'").replace("|", "\\|") + "`" if text else ""


def _without_parameters(name: str) -> str:
    """Cut off the last pair of parentheses and what is in it, where the name ends with it."""
    if not name.endswith(")"):
        return name
    depth = 0
    for position in range(len(name) - 1, 0, -1):
        depth += (name[position] == ")") - (name[position] == "(")
        if depth == 0:
            return name[:position]
    return name
