"""`advisor bench waves`: the recorded timelines of CTAs as a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.errors import BrokenFileError
from advisor.plots.canvas import check_path
from advisor.plots.timeline import TimelinePanel, save_timeline
from advisor.timeline import Timeline, Waves, group_waves
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
        read = [(record, timeline, group_waves(timeline, sms=record["sms"])) for record in found
                for timeline in [_timeline(record)]]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenFileError(f"a timeline of {records} is damaged: {error}; record it anew") from error
    rows = [_row(record, timeline, waves) for record, timeline, waves in read]
    if format_ == "json":
        emit(to_json({"schema_version": 1, "timelines": rows}), output)
    else:
        emit(
            render_rows(rows if format_ == "csv" else [_printed(row) for row in rows], format_, headers=_HEADERS),
            output,
        )
    if plot is not None:
        save_timeline([_panel(*each) for each in read], plot, title=_title(found[0]), caption=_caption(found))
        click.echo(f"wrote {plot}", err=True)


_HEADERS = {"m": "M", "n": "N", "k": "K", "tile": "tile", "ctas": "CTAs", "slots": "slots", "waves": "waves",
            "last_wave_idle_share": "idle in the last", "busy_share": "slots' time in use",
            "span_s": "took"}  # fmt: skip


def _timeline(record: dict[str, Any]) -> Timeline:
    columns = (np.asarray(record[name], dtype=np.int64) for name in ("sm", "start_ns", "end_ns"))
    return Timeline(*columns)


def _row(record: dict[str, Any], timeline: Timeline, waves: Waves) -> dict[str, Any]:
    return {
        "m": record["m"],
        "n": record["n"],
        "k": record["k"],
        "tile": _tile(record),
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


def _panel(record: dict[str, Any], timeline: Timeline, waves: Waves) -> TimelinePanel:
    _, sm = np.unique(timeline.sm, return_inverse=True)
    return TimelinePanel(
        title=f"M = {record['m']}, N = {record['n']}, K = {record['k']}: {timeline.ctas} CTAs",
        row=sm * (waves.slots // waves.sms) + waves.slot,
        wave=waves.wave,
        start_ns=timeline.start_ns,
        end_ns=timeline.end_ns,
        slots=waves.slots,
        busy_share=waves.busy_share,
    )


def _title(record: dict[str, Any]) -> str:
    return f"CTAs of our Triton matmul as they ran on {record['gpu_name']} ({record['sms']} SMs)"


def _caption(found: list[dict[str, Any]]) -> str:
    first = found[0]
    software = ", ".join(f"{name} {first[name]}" for name in ("driver", "cuda", "torch", "triton") if first.get(name))
    day = first["measured_at"][:10]
    return f"recorded by the kernel itself (%smid, %globaltimer), {day}; tile {_tile(first)}; {software}"


def _tile(record: dict[str, Any]) -> str:
    return f"{record['tile_m']}x{record['tile_n']}x{record['tile_k']}"
