"""`advisor bench ratios`: our Triton kernels against cuBLAS and cuDNN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from advisor.cli.output import emit, output_options, render_rows, to_json
from advisor.units import percent
from advisor.user_profiles import default_records
from advisor.worker import ask_worker

_HEADERS = {"group": "cases", "library": "against", "pairs": "pairs", "geometric_mean": "mean ratio", "least": "least",
            "most": "most", "share_ahead": "ahead in", "best": "best at"}  # fmt: skip


@click.command("ratios")
@click.argument("records", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=False)
@click.option("--cases", is_flag=True, help="Every pair of cases, not the groups.")
@output_options()
def command(records: Path | None, cases: bool, format_: str, output: Path | None) -> None:
    """Compare our Triton kernels with cuBLAS and cuDNN on the cases that both ran.

    The ratio is the library's time over ours, its mean geometric: above 1 ours is the faster. RECORDS is a records
    file of `advisor bench --suite gemm,conv`, or an export of one; by default the user's own.
    """
    found = ask_worker("ratios", str(records or default_records()))
    if format_ == "json":
        emit(to_json(found), output)
        return
    rows = found["pairs" if cases else "groups"]
    emit(render_rows(rows if format_ == "csv" else [_printed(row) for row in rows], format_, headers=_HEADERS), output)


def _printed(row: dict[str, Any]) -> dict[str, Any]:
    shown = dict(row)
    for name, value in row.items():
        if name in ("geometric_mean", "least", "most", "ratio"):
            shown[name] = f"{value:.2f}"
        elif name in ("library_s", "ours_s"):
            shown[name] = f"{value * 1e6:.1f} us"
        elif name == "share_ahead":
            shown[name] = percent(value)
        elif name == "flops" and value is not None:
            shown[name] = f"{value / 1e9:.2f} GFLOP"
    return shown
