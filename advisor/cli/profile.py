"""`advisor profile`: what a trace of torch.profiler tells of waves, Tensor Cores and the batch size."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor.cli.options import NonEmptyPath, add_options
from advisor.cli.output import emit, output_options, render_rows
from advisor.cli.setup_options import SIZE_AND_RECIPE_OPTIONS, complete_gpus, complete_models, parse_shape
from advisor.plots.canvas import check_path
from advisor.profiling.output.text import LONGEST_READ, clean

if TYPE_CHECKING:
    from advisor.profiling.records import TraceProfile

DEFAULT_ROWS = 15
_SLOW_BYTES = 20 * 2**20  # packed: about a second of reading; smaller files need no progress
_NO_TRACE = "give a trace file, or a folder with one per rank"
_TABLES = ("kernel", "layer", "operator", "shape", "class")

# Of the live form; the rest of `record_live`'s defaults apply where an option is left out.
_LIVE_OPTIONS = (
    click.option("--model", "-m", shell_complete=complete_models,
                 help="Run steps of this model on the local GPU and profile them; as in `advisor recommend`."),
    click.option("--batch", type=int, help="Samples per step of such a run."),
    *SIZE_AND_RECIPE_OPTIONS,
    click.option("--steps", type=int, help="Steps to record.  [default: 5]"),
    click.option("--device", metavar="cuda:N",
                 help="Which GPU to run on; cpu tries it without one, in fp32.  [default: cuda]"),
    click.option("--keep", type=click.Path(path_type=Path), metavar="FILE.json.gz",
                 help="Where the recorded trace is kept, a file or a folder.  [default: the current folder]"),
)  # fmt: skip


@click.command()
@click.argument("trace", type=NonEmptyPath(_NO_TRACE, path_type=Path), required=False)
@click.option(
    "--gpu",
    "-g",
    shell_complete=complete_gpus,
    help="The GPU it ran on, where the trace does not tell; a name from `advisor gpus`.",
)
@click.option(
    "--on",
    multiple=True,
    metavar="GPU",
    shell_complete=complete_gpus,
    help="Advise for this GPU as well; may be given several times.",
)
@click.option("--memory-limit", metavar="SIZE", help="Memory to fit into, e.g. 24GiB.  [default: all of the GPU's]")
@click.option("--max-batch", type=int, help="Search up to this size.")
@click.option(
    "--by",
    type=click.Choice(_TABLES),
    default=_TABLES[0],
    show_default=True,
    help="What the long table, or the CSV, has a row for.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=0),
    default=DEFAULT_ROWS,
    show_default=True,
    help="Rows of that table; 0 shows all.",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw time by class, and the kernels by share and wave efficiency (PNG, SVG or PDF).",
)
@output_options()
@add_options(_LIVE_OPTIONS)
def command(
    *, trace: Path | None, gpu: str | None, on: tuple[str, ...], memory_limit: str | None, max_batch: int | None,
    by: str, rows: int, plot: Path | None, format_: str, output: Path | None, **live: Any,
) -> None:  # fmt: skip
    """Tell where the time of a recorded trace goes, what it loses, and what batch size to try.

    TRACE is what torch.profiler exported (.json, .json.gz, .json.zip), or a folder with one per rank: no GPU and no
    torch is needed. With --model and --batch instead, steps of that model are run on the local GPU and recorded.

    \b
    advisor profile trace.json.gz
    advisor profile trace.json.gz --by layer --on h100 --plot trace.png
    advisor profile --model resnet50 --batch 256 --keep resnet50.json.gz
    """
    given = {name: value for name, value in live.items() if value is not None}
    _check_form(trace, given)
    if plot is not None:
        check_path(plot)
    from advisor.profiling.analysis import profile_trace

    if trace is None:
        trace = _record(given)
        if given.get("device") == "cpu":
            click.echo(
                f"advisor: ran on the processor: kept {clean(str(trace))}, with nothing of a GPU in it", err=True
            )
            return
        click.echo(f"kept {clean(str(trace))}", err=True)
    with _progress(trace) as progress:
        profile = profile_trace(
            trace, gpu=gpu, on=on, memory_limit=memory_limit, max_batch=max_batch, progress=progress
        )
    width = None
    if output is None and format_ == "table" and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    emit(_render(profile, by, rows, format_, width), output)
    if plot is not None:
        from advisor.plots.profile import save_profile

        words = ["advisor", "profile", trace.name, *(["--gpu", gpu] if gpu else []), "--plot", plot.name]
        save_profile(profile, plot, command=shlex.join(words))
        click.echo(f"wrote {plot}", err=True)


def _check_form(trace: Path | None, live: dict[str, Any]) -> None:
    if trace is not None and live:
        names = ", ".join("--" + name.removesuffix("_shape").replace("_", "-") for name in live)
        raise click.UsageError(f"{names}: only for running a model, and {trace} is a recorded trace.")
    if trace is None and not {"model", "batch"} <= live.keys():
        raise click.UsageError("give a recorded TRACE, or --model and --batch to record one.")


def _record(live: dict[str, Any]) -> Path:
    from advisor.profiling.live.record import record_live

    options = {name: value for name, value in live.items() if name != "model"}
    if "input_shape" in options:
        options["input_shape"] = parse_shape(options["input_shape"])
    return record_live(live["model"], **options, say=lambda line: click.echo(f"advisor: {line}", err=True))


def _render(profile: TraceProfile, by: Any, rows: int, format_: str, width: int | None) -> str:
    from advisor.cli.profile_report import report
    from advisor.profiling.output.tables import kernel_rows, plain, time_by

    if format_ == "json":
        return profile.to_json()
    if format_ == "csv":
        found = kernel_rows(profile) if by == "kernel" else time_by(profile, by)
        return render_rows([_one_line(row) for row in plain(found)], format_)
    return report(profile, by=by, rows=rows, format_=format_, width=width)


def _one_line(row: dict[str, Any]) -> dict[str, Any]:
    """A row of CSV: no control characters, so that a line is a row whoever reads it; nine digits of each figure."""
    return {key: _field(value) for key, value in row.items()}


def _field(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.9g}"
    return clean(value, LONGEST_READ) if isinstance(value, str) else value


@contextmanager
def _progress(trace: Path) -> Iterator[Callable[[float], None] | None]:
    """A bar on stderr while a large file is read, where somebody is watching."""
    if not sys.stderr.isatty() or _size(trace) < _SLOW_BYTES:
        yield None
        return
    with click.progressbar(length=1000, label=f"reading {clean(trace.name, 60)}", file=sys.stderr) as bar:
        yield lambda share: bar.update(max(int(1000 * share) - bar.pos, 0))


def _size(trace: Path) -> int:
    try:
        return sum(file.stat().st_size for file in trace.iterdir()) if trace.is_dir() else trace.stat().st_size
    except OSError:
        return 0
