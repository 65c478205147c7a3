"""What all pictures share: colours, style, and how they become files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.errors import BadInputError
from advisor.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by colour-blind readers too: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILION, GREY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#5A5A5A", "#000000"
PURPLE, SKY = "#CC79A7", "#56B4E9"
_STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "batchwave"}


def check_path(path: Path) -> None:
    """Raise BadInputError where no picture can be written to `path`, for its suffix or its folder."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInputError(f"cannot draw {path}: use a name that ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise BadInputError(f"cannot draw {path}: there is no folder {path.parent}; make it, or choose another --plot")


@contextlib.contextmanager
def drawing(path: Path, *, inches: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure and write it to `path`, all at once and the same on every run, when the block ends.

    The suffix decides between PNG, SVG and PDF. Raises BadInputError for other suffixes, and where the file cannot be
    written.
    """
    check_path(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=inches, layout="constrained")
        yield figure
        kind = path.suffix.lower().removeprefix(".")
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}[kind]
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=150, metadata=undated)
    write_atomically(path, content.getvalue())
