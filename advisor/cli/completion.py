"""`advisor completion`: the shell script that completes commands, options, GPUs and models."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    eval "$(advisor completion bash)"             # in ~/.bashrc
    eval "$(advisor completion zsh)"              # in ~/.zshrc
    advisor completion fish > ~/.config/fish/completions/advisor.fish
    """
    from advisor.cli import cli

    found = get_completion_class(shell)
    if found is None:  # the choices above are the shells click knows
        raise AssertionError(shell)
    click.echo(found(cli, {}, "advisor", "_ADVISOR_COMPLETE").source())
