"""A small report, made up, for the tests of the page: every kind of part, and one string wherever words go."""

from __future__ import annotations

from matplotlib.figure import Figure as MatplotlibFigure

from advisor.report.records import Column, Fact, Figure, Interactive, Mark, Origin, Report, Section, Series, Table
from advisor.report.rendering.pictures import Pictures
from advisor.units import duration

KERNEL = "ampere_fp16_s16816gemm_fp16_256x128_ldg8_f2f_stages_64x3_nn"
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><path d="M0 0 40 20" stroke="#0072B2"/></svg>'
M = (64, 128, 256, 512)
RATES = (50.0, 100.0, 200.0, 150.0)  # TFLOP/s
LAYERS = (("conv1", 0.0012, 1.5, 3), ("conv2", 0.00009, None, 11), ("fc", 0.9, 0.25, 2), ("conv10", None, 4.0, 1))


def chart(words: str = "") -> Interactive:
    """Two series over the same M, one of them with quartiles, and a mark."""
    predicted = Series(
        "predicted" + words, "line", "blue", M, tuple(0.9 * rate for rate in RATES), (Fact("M" + words, M),)
    )
    facts = (
        Fact("M", M),
        Fact("throughput", RATES, "TFLOP/s"),
        Fact("kernel", (KERNEL + words, None, KERNEL, "sm80_xmma")),
        Fact("idle share", (0.375, 0.25, 0.0, 0.5)),
    )
    measured = Series(
        "measured" + words,
        "points",
        "orange",
        M,
        RATES,
        facts,
        low=tuple(rate - 5 for rate in RATES),
        high=tuple(rate + 10 for rate in RATES),
        symbol="diamond",
    )
    mark = Mark(257, "257" + words, "at M = 257 a second wave starts" + words)
    return Interactive((predicted, measured), "M, rows" + words, "TFLOP/s" + words, x_log2=True, marks=(mark,))


def figure(id_: str, words: str = "", *, interactive: bool = True) -> Figure:
    return Figure(
        id_,
        "Where does throughput fall?" + words,
        "It falls by 25 % after M = 256." + words,
        "A line that rises to 200 TFLOP/s and falls." + words,
        (Origin("measured here", "NVIDIA A100, driver 550" + words), Origin("estimate", "4 % off in the mean" + words)),
        _draw,
        interactive=chart(words) if interactive else None,
    )


def table(words: str = "", *, shown: int | None = None) -> Table:
    columns = (
        Column("layer", "Layer" + words),
        Column("time_s", "Time" + words, duration, "forward and backward" + words),
        Column("waves", "Waves"),
        Column("count", "Calls"),
    )
    rows = tuple((name + words, *numbers) for name, *numbers in LAYERS)
    return Table("layers", "Which layers cost most?" + words, columns, rows, (Origin("exact", "counted"),), shown)


def report(words: str = "", *, interactive: bool = True, shown: int | None = None) -> Report:
    sections = (
        Section(
            "sweep",
            "Teeth" + words,
            "Throughput against M." + words,
            (figure("teeth", words, interactive=interactive), figure("layers", words, interactive=False)),
            (table(words, shown=shown),),
            ("No timeline was recorded." + words,),
        ),
    )
    return Report(
        "Report on NVIDIA A100" + words,
        ("Train at batch 248: 2,710 samples/s." + words,),
        {"GPU": "NVIDIA A100" + words, "Command": "advisor report" + words, "made by" + words: "nobody"},
        sections,
        ("Nothing was measured." + words,),
    )


def pictures(of: Report) -> dict[str, Pictures]:
    """The same little picture for every figure."""
    return {
        figure.id: Pictures(b"", PICTURE, PICTURE, PICTURE) for section in of.sections for figure in section.figures
    }


def _draw(canvas: MatplotlibFigure, narrow: bool) -> None:
    raise AssertionError("the page is given pictures, it draws none")
