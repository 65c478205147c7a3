"""The command `advisor`: thin shells on library calls. Results go to stdout, all else to stderr."""

from __future__ import annotations

import errno

import click

from advisor import __version__
from advisor.cli.lazy import LazyGroup
from advisor.errors import AdvisorError

# command name -> module that holds a click command `command`; imported only when that command runs,
# so that `advisor recommend` does not pay for what other commands need.
_COMMANDS = {
    "bench": "advisor.cli.bench",
    "compare": "advisor.cli.compare",
    "completion": "advisor.cli.completion",
    "doctor": "advisor.cli.doctor",
    "explain": "advisor.cli.explain",
    "explain-rules": "advisor.cli.explain_rules",
    "gpus": "advisor.cli.gpus",
    "kernels": "advisor.cli.kernels",
    "memory": "advisor.cli.memory",
    "models": "advisor.cli.models",
    "plan": "advisor.cli.plan",
    "predict": "advisor.cli.predict",
    "profile": "advisor.cli.profile",
    "profiles": "advisor.cli.profiles",
    "quantize": "advisor.cli.quantize",
    "recommend": "advisor.cli.recommend",
    "report": "advisor.cli.report",
}


@click.group(
    cls=LazyGroup, modules=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="advisor")
def cli() -> None:
    """Which batch size is fast, fits, and why: on the GPU you have, or the one you plan for.

    \b
    Exit codes: 0 done; 2 bad input or unknown name; 3 no usable GPU; 4 nothing fits, or no cut
    reaches the global batch; 5 a damaged file; 6 a missing optional package; 7 a model that cannot
    be traced; 130 stopped by Ctrl-C; 1 anything else.
    """


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return its exit code. An expected error is one line on stderr."""
    try:
        result = cli.main(args=argv, prog_name="advisor", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except AdvisorError as error:
        return _say(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "advisor"
        return _say(f"{error.format_message()} See `{command} --help`.", error.exit_code)
    except click.ClickException as error:
        return _say(error.format_message(), error.exit_code)
    except click.Abort:
        return _say("stopped", 130)
    except BrokenPipeError:  # `advisor gpus | head`
        from advisor.files import discard_output  # which a start need not pay for

        discard_output()
        return 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        from advisor.files import discard_output

        discard_output()
        return _say(f"cannot write the result: {error.strerror}; free some space and run it again", 1)


def _say(text: str, exit_code: int) -> int:
    click.echo(f"advisor: {text}", err=True)
    return exit_code
