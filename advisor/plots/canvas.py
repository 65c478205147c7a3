"""What all pictures share: colours, style, and how they become files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.errors import BadInputError
from advisor.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, told apart by colour-blind readers too: https://jfly.uni-koeln.de/color/
BLUE, ORANGE, GREEN, VERMILION, GREY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#5A5A5A", "#000000"
PURPLE, SKY = "#CC79A7", "#56B4E9"
DPI = 150
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": "batchwave"},
    "svg": {"Date": None, "Creator": "batchwave"},
    "pdf": {"CreationDate": None, "Creator": "batchwave", "Producer": None},
}
_STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


def check_path(path: Path) -> None:
    """Raise BadInputError where no picture can be written to `path`, for its suffix or its folder."""
    if path.suffix.lower() not in SUFFIXES:
        raise BadInputError(f"cannot draw {path}: use a name that ends in {', '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise BadInputError(f"cannot draw {path}: there is no folder {path.parent}; make it, or choose another --plot")


@contextlib.contextmanager
def styled(salt: str = "batchwave") -> Iterator[None]:
    """Within it figures have the canvas's style, and the ids inside an SVG depend on `salt` instead of on chance.

    A user's matplotlibrc changes nothing: the same figure is the same everywhere. Raises BadInputError where matplotlib
    refuses the environment's MPLBACKEND.
    """
    try:
        import matplotlib as mpl
    except ValueError as error:
        raise BadInputError(f"matplotlib cannot start ({str(error).split(';')[0]}): unset MPLBACKEND") from error

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_STYLE, "svg.hashsalt": salt})
        yield


def blank(inches: tuple[float, float]) -> Figure:
    """An empty figure that lays itself out. Of no backend: nothing is registered, nothing is to be closed."""
    from matplotlib.figure import Figure

    return Figure(figsize=inches, layout="constrained")


def encoded(figure: Figure, kind: str) -> bytes:
    """A figure as the content of a "png", "svg" or "pdf" file, the same on every run: no date, no version.

    The backend is asked itself: `Figure.savefig` draws each figure that lays itself out twice.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    figure.set_dpi(DPI)
    if kind == "png":
        return _png(FigureCanvasAgg(figure))
    content = io.BytesIO()
    backend: Any = {"svg": FigureCanvasSVG, "pdf": FigureCanvasPdf}[kind](figure)
    getattr(backend, f"print_{kind}")(content, metadata=_METADATA[kind])
    return content.getvalue()


def _png(canvas: Any) -> bytes:
    """The picture in 256 colours of its own choice: a third of the bytes, and no eye tells."""
    from PIL import Image, PngImagePlugin

    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    about = PngImagePlugin.PngInfo()
    for key, text in _METADATA["png"].items():
        about.add_text(key, text)
    content = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(content, "png", optimize=True, dpi=(DPI, DPI), pnginfo=about)
    return content.getvalue()


@contextlib.contextmanager
def drawing(path: Path, *, inches: tuple[float, float]) -> Iterator[Figure]:
    """Yield an empty figure and write it to `path`, all at once and the same on every run, when the block ends.

    The suffix decides between PNG, SVG and PDF. Raises BadInputError for other suffixes, and where the file cannot be
    written.
    """
    check_path(path)
    with styled():
        figure = blank(inches)
        yield figure
        content = encoded(figure, path.suffix.lower().removeprefix("."))
    write_atomically(path, content)
