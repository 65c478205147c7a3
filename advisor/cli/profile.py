"""`advisor profile`: what a trace of torch.profiler tells of waves, Tensor Cores and the batch size."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from advisor.cli.output import emit, output_options, render_rows
from advisor.plots.canvas import check_path

if TYPE_CHECKING:
    from advisor.profiling.records import TraceProfile

DEFAULT_ROWS = 15
_SLOW_BYTES = 20 * 2**20  # packed: about a second of reading; smaller files need no progress
_TABLES = ("kernel", "layer", "operator", "shape", "class")


@click.command()
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--gpu", "-g", help="The GPU it ran on, where the trace does not tell; a name from `advisor gpus`.")
@click.option("--on", multiple=True, metavar="GPU", help="Advise for this GPU as well. May be given several times.")
@click.option(
    "--by",
    type=click.Choice(_TABLES),
    default=_TABLES[0],
    show_default=True,
    help="What the long table, or the CSV, has a row for.",
)
@click.option("--rows", type=int, default=DEFAULT_ROWS, show_default=True, help="Rows of that table; 0 shows all.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png",
    help="Draw time by class, and the kernels by share and wave efficiency (PNG, SVG or PDF).",
)
@output_options()
def command(
    *, trace: Path, gpu: str | None, on: tuple[str, ...], by: str, rows: int, plot: Path | None, format_: str,
    output: Path | None,
) -> None:  # fmt: skip
    """Tell where the time of a recorded trace goes, what it loses, and what batch size to try.

    TRACE is what torch.profiler exported (.json, .json.gz, .json.zip), or a folder with one per rank. No GPU and no
    torch is needed.

    \b
    advisor profile trace.json.gz
    advisor profile trace.json.gz --by layer --on h100 --plot trace.png
    """
    from advisor.profiling.analysis import profile_trace

    if plot is not None:
        check_path(plot)
    with _progress(trace) as progress:
        profile = profile_trace(trace, gpu=gpu, on=on, progress=progress)
    _show(profile, by=by, rows=rows, plot=plot, format_=format_, output=output)


def _show(profile: TraceProfile, *, by: str, rows: int, plot: Path | None, format_: str, output: Path | None) -> None:
    emit(_render(profile, by, rows, format_), output)
    if plot is not None:
        from advisor.plots.profile import save_profile

        save_profile(profile, plot)
        click.echo(f"wrote {plot}", err=True)


def _render(profile: TraceProfile, by: Any, rows: int, format_: str) -> str:
    from advisor.cli.profile_report import report
    from advisor.profiling.tables import kernel_rows, plain, time_by

    if format_ == "json":
        return profile.to_json()
    if format_ == "csv":
        found = kernel_rows(profile) if by == "kernel" else time_by(profile, by)
        return render_rows([_one_line(row) for row in plain(found)], format_)
    return report(profile, by=by, rows=rows, format_=format_)


def _one_line(row: dict[str, Any]) -> dict[str, Any]:
    """A row without control characters, so that a line of CSV is a row whoever reads it."""
    from advisor.profiling.text import LONGEST_READ, clean

    return {key: clean(value, LONGEST_READ) if isinstance(value, str) else value for key, value in row.items()}


@contextmanager
def _progress(trace: Path) -> Iterator[Callable[[float], None] | None]:
    """A bar on stderr while a large file is read, where somebody is watching."""
    if not sys.stderr.isatty() or _size(trace) < _SLOW_BYTES:
        yield None
        return
    with click.progressbar(length=1000, label=f"reading {trace.name}", file=sys.stderr) as bar:
        yield lambda share: bar.update(max(int(1000 * share) - bar.pos, 0))


def _size(trace: Path) -> int:
    try:
        return sum(file.stat().st_size for file in trace.iterdir()) if trace.is_dir() else trace.stat().st_size
    except OSError:
        return 0
