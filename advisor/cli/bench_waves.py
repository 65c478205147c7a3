"""`advisor bench waves`: the recorded timelines of CTAs as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.errors import BrokenFileError
from advisor.plots.canvas import check_path
from advisor.plots.timeline import panel_of, save_timeline
from advisor.timeline import Launch, read_launch
from advisor.units import percent
from advisor.user_profiles import default_records
from advisor.worker import ask_worker


@click.command("waves")
@click.argument("records", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw them (PNG, SVG or PDF).")
@output_options()
def command(records: Path | None, plot: Path | None, format_: str, output: Path | None) -> None:
    """Show the waves of recorded CTAs: how many there were, and how much of the GPU the last one left idle.

    RECORDS is a records file of `advisor bench --suite waves`, or an export of one; by default the user's own.
    """
    if plot is not None:
        check_path(plot)
    found = ask_worker("timelines", str(records := records or default_records()))["timelines"]
    try:
        launches = [read_launch(record) for record in found]
    except ValueError as error:
        raise BrokenFileError(f"a timeline of {records} is damaged: {error}; record it anew") from error
    rows = [_row(launch) for launch in launches]
    if format_ == "json":
        emit(to_json({"schema_version": 1, "timelines": rows}), output)
    else:
        emit(
            render_rows(rows if format_ == "csv" else [_printed(row) for row in rows], format_, headers=_HEADERS),
            output,
        )
    if plot is not None:
        caption = _caption(found[0], launches[0].tile)
        save_timeline([panel_of(launch) for launch in launches], plot, title=_title(found[0]), caption=caption)
        click.echo(f"wrote {plot}", err=True)


_HEADERS = {"m": "M", "n": "N", "k": "K", "tile": "tile", "ctas": "CTAs", "slots": "slots", "waves": "waves",
            "last_wave_idle_share": "idle in the last", "busy_share": "slots' time in use",
            "span_s": "took"}  # fmt: skip


def _row(launch: Launch) -> dict[str, Any]:
    timeline, waves = launch.timeline, launch.waves
    return {
        "m": launch.m,
        "n": launch.n,
        "k": launch.k,
        "tile": launch.tile,
        "ctas": timeline.ctas,
        "slots": waves.slots,
        "waves": len(waves.waves),
        "last_wave_idle_share": waves.waves[-1].idle_share,
        "busy_share": waves.busy_share,
        "span_s": timeline.span_ns * 1e-9,
    }


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    shares = {name: percent(row[name]) for name in ("last_wave_idle_share", "busy_share")}
    return row | shares | {"span_s": f"{row['span_s'] * 1e6:.1f} us"}


def _title(record: dict[str, Any]) -> str:
    return f"CTAs of our Triton matmul as they ran on {record['gpu_name']} ({record['sms']} SMs)"


def _caption(first: dict[str, Any], tile: str) -> str:
    software = ", ".join(f"{name} {first[name]}" for name in ("driver", "cuda", "torch", "triton") if first.get(name))
    day = first["measured_at"][:10]
    return f"recorded by the kernel itself (%smid, %globaltimer), {day}; tile {tile}; {software}"
