"""`advisor predict`: times without advice. Each kind lives in its own module, imported only when it runs."""

from __future__ import annotations

import click

from advisor.cli.lazy import LazyGroup

_COMMANDS = {"gemm": "advisor.cli.predict_gemm", "step": "advisor.cli.predict_step"}


@click.group(cls=LazyGroup, modules=_COMMANDS)
def command() -> None:
    """Predict the time of matrix products, or of whole training steps."""
