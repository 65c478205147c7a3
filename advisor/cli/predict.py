"""`advisor predict`: times without advice. Each kind lives in its own module, imported only when it runs."""

from __future__ import annotations

import importlib

import click

_COMMANDS = {"gemm": "advisor.cli.predict_gemm", "step": "advisor.cli.predict_step"}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(module).command
        return command


@click.group(cls=_LazyGroup)
def command() -> None:
    """Predict the time of matrix products, or of whole training steps."""
