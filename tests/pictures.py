"""Figures of a report compared with the images kept for them.

A test marked `pictured` returns a `records.Figure`. It is drawn, and where pytest runs with `--mpl` (the project's
default) compared with the image in tests/advisor/report/baseline/. After a wanted change, make the images anew and look
at each before it is committed:

    pytest tests/advisor/report -k NAME --mpl-generate-path=tests/advisor/report/baseline

Text is drawn differently by other versions of matplotlib: with another than the one of the images a figure is drawn,
and its comparison skipped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as MatplotlibFigure

from advisor.plots.canvas import styled
from advisor.report.records import Figure
from advisor.report.rendering.pictures import drawn

BASELINE = Path(__file__).parent / "advisor" / "report" / "baseline"
DRAWN_WITH = "3.11"  # matplotlib of the images
TOLERANCE = 3  # root mean square of the difference, of 255


def pictured(*, narrow: bool = False) -> Callable[[Callable[..., Figure]], Callable[..., MatplotlibFigure]]:
    """Mark a test that returns a figure, to be drawn wide or in its form for phones at 100 dots per inch."""

    def mark(test: Callable[..., Figure]) -> Callable[..., MatplotlibFigure]:
        @functools.wraps(test)
        def draws(*arguments: Any, **keywords: Any) -> MatplotlibFigure:
            figure = test(*arguments, **keywords)
            with styled():
                picture = drawn(figure, narrow=narrow)
                picture.draw_without_rendering()
            if ".".join(mpl.__version__.split(".")[:2]) != DRAWN_WITH:
                pytest.skip(f"drawn, not compared: the images were made with matplotlib {DRAWN_WITH}, "
                            f"this is {mpl.__version__}")  # fmt: skip
            return picture

        return pytest.mark.mpl_image_compare(
            baseline_dir=str(BASELINE),
            tolerance=TOLERANCE,
            style="default",
            savefig_kwargs={"dpi": 100, "metadata": {"Software": None}, "pil_kwargs": {"optimize": True}},
        )(draws)

    return mark
