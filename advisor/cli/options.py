"""What options of several commands are made with."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


class NonEmptyPath(click.Path):
    """A path that is not empty, as an unset variable would make it: that is the current folder to pathlib.

    `cure` says what to give instead.
    """

    def __init__(self, cure: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cure = cure

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As click's, but "" fails."""
        if value == "":
            self.fail(f"it is empty: {self.cure}", param, ctx)
        return super().convert(value, param, ctx)


def add_options(options: Iterable[Callable[[_Command], _Command]]) -> Callable[[_Command], _Command]:
    """Add click's options to a command; its help lists them in this order."""
    ordered = tuple(options)

    def add(command: _Command) -> _Command:
        for option in reversed(ordered):
            command = option(command)
        return command

    return add
