from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Drawing

from advisor.profile import FOLDER, read_profile
from advisor.report.records import Figure, Origin, Table
from advisor.report.rendering.tables import known_columns
from advisor.report.sections.sweep import COLUMNS, ROWS, apart, section
from advisor.report.sections.sweep_series import kept
from advisor.report.sections.sweep_words import answer
from advisor.report.subject import MeasuredProducts, Subject
from advisor.report.sweeps import MeasuredStep, measured_around, points_on, powers_of_two, predict_sweep, size_class
from advisor.report.teeth import teeth
from tests.advisor.report.products import as_products, products, subject_of
from tests.pictures import pictured

HERE = Origin("measured here", "made up for this test")


def timed(*rows: tuple[int, int, int, float], library: str = "cublas", mode: str = "", precision: str = "fp16",
          spread: float = 0.0, pass_: str = "") -> MeasuredProducts:  # fmt: skip
    """Products m, n, k at so many TFLOP/s, with quartiles `spread` of the time either way."""
    m, n, k, tflops = np.array(rows, dtype=float).T
    time_s = 2 * m * n * k / (tflops * 1e12)
    return MeasuredProducts(
        m=m.astype(np.int64), n=n.astype(np.int64), k=k.astype(np.int64), time_s=time_s,
        low_s=time_s * (1 - spread) if spread else np.full(len(rows), np.nan),
        high_s=time_s * (1 + spread) if spread else np.full(len(rows), np.nan),
        precision=precision, library=library, mode=mode, kernel=("a_kernel",) * len(rows), fitted=False, origin=HERE,
        pass_=pass_,
    )  # fmt: skip


CUBLAS = timed((256, 12288, 4096, 230), (257, 12288, 4096, 115), (1024, 12288, 4096, 240), spread=0.02, mode="cold")
TRITON = timed((256, 12288, 4096, 200), (512, 12288, 4096, 210), library="triton", mode="warm", spread=0.05)


def figure_of(subject: Subject, id_: str) -> Figure:
    return next(figure for figure in section(subject).figures if figure.id == id_)


def table_of(subject: Subject, id_: str) -> Table:
    return next(table for table in section(subject).tables if table.id == id_)


def test_without_measurements_there_are_lines_and_no_measured_table() -> None:
    found = section(subject_of("a100"))
    assert [figure.id for figure in found.figures] == [
        "throughput-m-n12288-k4096", "throughput-m-n4096-k4096", "throughput-n-m2304-k4096",
    ]  # fmt: skip
    assert [table.id for table in found.tables] == ["teeth", "powers-of-two"]
    assert all({origin.kind for origin in figure.origins} == {"estimate"} for figure in found.figures)
    assert "measured" not in figure_of(subject_of("v100"), "throughput-m-n12288-k4096").answer


def test_an_answer_gives_the_deepest_cliff_with_its_counts_and_what_was_measured_there() -> None:
    answer = figure_of(subject_of("a100", CUBLAS), "throughput-m-n12288-k4096").answer
    assert answer.startswith("One row more can cost a matrix product 49 % of its throughput: predicted at N = 12288, ")
    assert (
        "from M = 256 to 257 (measured: 50 %). There 96 tiles of 128x256, 1 wave on 108 SMs, become 144, 2 waves."
        in answer
    )
    assert answer.endswith(" The line shows the 1 measured drop of 5 % or more.")


def test_a_measured_rise_at_a_predicted_cliff_is_said_and_counted_against_the_line() -> None:
    rows = timed((256, 12288, 4096, 200), (257, 12288, 4096, 210), (1024, 12288, 4096, 240), (1025, 12288, 4096, 200))
    answer = figure_of(subject_of("a100", rows), "throughput-m-n12288-k4096").answer
    assert "(measured: 5 % more)" in answer
    # 240 to 200 TFLOP/s is a measured drop of 17 %, within the same four waves of tiles for the model
    assert answer.endswith(
        "The line shows 0 of the 1 measured drop of 5 % or more, not that after 1024. Where it has one after 256, none "
        "was measured."
    )


def test_of_a_measured_drop_that_the_line_lacks_its_own_tiles_are_told() -> None:
    """At N = 12288 M = 1024 is 8 x 48 = 384 tiles of 128x256, 1025 is 9 x 48 = 432: of 108 SMs 3.56 and 4.00 waves."""
    rows = timed((1024, 12288, 4096, 240), (1025, 12288, 4096, 200))
    (told,) = (note for note in section(subject_of("a100", rows)).notes if note.startswith("Why the line lacks"))
    assert "M at N = 12288, K = 4096 from 1024 to 1025, tiles of 128x256, 3.56 to 4.00 waves." in told
    between = timed((2304, 1544, 4096, 240), (2304, 1545, 4096, 100))  # N = 1545 is no size of the line
    assert not [note for note in section(subject_of("a100", between)).notes if note.startswith("Why the line lacks")]


def test_a_line_is_held_against_the_points_that_its_fit_has_not_seen_in_the_answer() -> None:
    sizes = (256, 512, 768, 1024, 1152, 1280)
    plain = predict_sweep(subject_of("a100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    slower = timed(*((m, 12288, 4096, float(plain.flops_per_s[m - 1]) / 1.1e12) for m in sizes))  # 1.1 times as long
    found = section(subject_of("a100", slower))
    off = "line is 9.1 % off in the mean at 6 points of cuBLAS, FP16, which"
    assert f"The {off} are not in its fit." in found.figures[0].answer
    seen = section(subject_of("a100", replace(slower, fitted=True)))
    assert off not in seen.figures[0].answer
    assert f"M at N = 12288, K = 4096: the {off} are in its fit." in seen.notes


def test_points_lie_on_the_line_of_their_sizes_and_precision_only() -> None:
    subject = subject_of("a100")
    sweep = predict_sweep(subject, "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    other = timed((256, 12288, 4097, 1), (256, 4096, 4096, 1), (5000, 12288, 4096, 1))
    wrong = timed((256, 12288, 4096, 1), precision="fp32")
    assert points_on(sweep, (other, wrong)) == ()
    (found,) = points_on(sweep, (timed((257, 12288, 4096, 100), (256, 12288, 4096, 200), precision="bf16"),))
    assert found.sizes.tolist() == [256, 257]
    assert found.flops / found.time_s == pytest.approx([2e14, 1e14])
    at = np.array([255, 256])
    np.testing.assert_allclose(found.off, sweep.prediction.time_s[at] / found.time_s - 1)


def test_sources_are_named_by_library_precision_pass_and_caches() -> None:
    sweep = predict_sweep(subject_of("a100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    row = (256, 12288, 4096, 200.0)
    both = timed(row, mode="cold", pass_="forward"), timed(row, library="triton", mode="warm", pass_="dgrad")
    assert [each.name for each in points_on(sweep, both)] == ["cuBLAS, FP16, cold", "Triton, FP16, dgrad, warm"]
    (public,) = points_on(sweep, (replace(timed(row), source="EleutherAI"),))
    assert public.name == "cuBLAS, FP16 (EleutherAI)"


def test_neighbours_are_measured_sizes_at_most_64_apart() -> None:
    sweep = predict_sweep(subject_of("a100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    rows = timed((256, 12288, 4096, 200), (257, 12288, 4096, 150), (257, 12288, 4096, 50), (400, 12288, 4096, 1))
    (step,) = points_on(sweep, (rows,))[0].steps
    assert (step.before, step.after) == (256, 257)
    # the median of two times t/150 and t/50 is t (1/150 + 1/50) / 2 = t/75
    assert step.measured_loss == pytest.approx(1 - 75 / 200)
    assert step.agrees


def test_a_predicted_step_is_held_against_the_least_measured_step_around_it() -> None:
    sweep = predict_sweep(subject_of("a100"), "n", COLUMNS, fixed={"m": 2304, "k": 4096}, id_="n")
    wide = timed((2304, 1536, 4096, 220), (2304, 1600, 4096, 176), (2304, 1664, 4096, 176))
    points = points_on(sweep, (wide,))
    step = measured_around(points, 1536, 1544)
    assert step is not None
    assert (step.before, step.after, step.measured_loss) == (1536, 1600, pytest.approx(0.2))
    exact = timed((2304, 1536, 4096, 220), (2304, 1544, 4096, 165))
    step = measured_around(points_on(sweep, (wide, exact)), 1536, 1544)
    assert step is not None
    assert step.measured_loss == pytest.approx(0.25)
    assert measured_around(points, 1592, 1608) is None  # over two steps
    rows = predict_sweep(subject_of("a100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    far = points_on(rows, (timed((17, 12288, 4096, 20), (32, 12288, 4096, 40)),))
    assert measured_around(far, 24, 25) is None  # 88 % more rows: the climb hides any cliff
    assert measured_around(far, 17, 32) is not None


def test_a_drop_of_a_size_in_one_that_is_slight_in_the_other_still_agrees() -> None:
    def step(measured: float, predicted: float) -> MeasuredStep:
        return MeasuredStep(1, 2, measured, predicted)

    assert step(0.13, 0.04).agrees and step(0.02, 0.06).agrees and step(0.04, 0.0).agrees
    assert not step(0.13, 0.01).agrees and not step(0.01, 0.06).agrees


def test_a_measured_line_of_its_own_is_shown_where_no_standard_one_was_measured() -> None:
    rows = timed(*((m, 1000, 768, 10.0 + m / 100) for m in (64, 128, 129, 256, 257, 512)))
    ids = [figure.id for figure in section(subject_of("a100", rows)).figures]
    assert "throughput-m-n1000-k768" in ids
    assert "throughput-m-n1000-k768" not in [
        figure.id for figure in section(subject_of("a100", rows, CUBLAS_LINE)).figures
    ]


CUBLAS_LINE = timed(*((m, 12288, 4096, 100.0) for m in (64, 128, 129, 256, 257, 512)))


def test_sizes_fall_into_the_narrowest_class() -> None:
    assert size_class(np.array([1, 64, 192, 200, 7])) == [
        "power of two", "power of two", "multiple of 64", "multiple of 8", "other",
    ]  # fmt: skip


def test_powers_of_two_are_compared_with_the_sizes_an_eighth_around() -> None:
    sweep = predict_sweep(subject_of("a100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    found = {each.size: each for each in powers_of_two(sweep)}
    assert list(found) == [256, 512, 1024, 2048, 4096]
    for m, power in found.items():
        around = range(m * 7 // 8, min(m * 9 // 8, 4353) + 1)
        rates = {i: float(sweep.flops_per_s[i - 1]) for i in around}
        best = max(rates, key=lambda i: rates[i])
        assert power.best == best
        assert power.share == pytest.approx(rates[m] / rates[best])
        assert power.all == pytest.approx(np.median(list(rates.values())) / rates[best])
        others = [rates[i] for i in around if i % 64 == 0 and i != m]
        assert power.multiples == pytest.approx(np.median(others) / rates[best] if others else np.nan, nan_ok=True)


def test_a_power_of_two_at_the_edge_of_a_sweep_is_not_compared() -> None:
    """N starts at 1536, less than an eighth below 2048 only; a sweep from 2000 has too little below it."""
    fixed = {"m": 2304, "k": 4096}
    subject = subject_of("a100")
    assert [each.size for each in powers_of_two(predict_sweep(subject, "n", COLUMNS, fixed=fixed, id_="n"))] == [
        2048,
        4096,
    ]
    short = predict_sweep(subject, "n", np.arange(2000, 4097, 8), fixed=fixed, id_="n")
    assert [each.size for each in powers_of_two(short)] == []


def test_the_interactive_line_is_thinned_without_losing_a_tooth() -> None:
    sweep = predict_sweep(subject_of("h100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m")
    shown = set(sweep.sizes[kept(sweep)].tolist())
    assert len(shown) < len(ROWS) / 4
    for tooth in teeth(sweep):
        assert {tooth.under, tooth.over} <= shown


def test_every_point_has_its_facts() -> None:
    for figure in section(subject_of("a100", CUBLAS, TRITON)).figures:
        assert figure.interactive is not None
        for series in figure.interactive.series:
            assert len(series.x) == len(series.y)
            assert {len(fact.values) for fact in series.facts} == {len(series.x)}
        names = {fact.name for fact in figure.interactive.series[0].facts}
        assert names >= {"time", "throughput", "tile", "split-K", "waves", "idle share"}
    interactive = figure_of(subject_of("a100", CUBLAS, TRITON), "throughput-m-n12288-k4096").interactive
    assert interactive is not None
    cublas, triton = interactive.series[-2:]
    assert (cublas.symbol, triton.symbol) == ("circle", "triangle-up-open")
    assert cublas.low is not None and cublas.low[0] == pytest.approx(230 / 1.02)  # the longer time is the lower rate
    facts = {fact.name: fact.values[0] for fact in cublas.facts}
    assert facts["kernel"] == "a_kernel"
    assert facts["lower quartile"] == pytest.approx(2 * 256 * 12288 * 4096 / 230e12 * 0.98 * 1e6, rel=1e-3)
    under = next(series for series in interactive.series if series.name == "just under a cliff")
    causes = next(fact.values for fact in under.facts if fact.name == "cause")
    assert str(causes[under.x.index(256)]).startswith("256 to 257: a second wave for 36 tiles: 96 tiles of 128x256")


def test_the_line_has_the_idle_share_of_its_waves() -> None:
    """At M = 256, N = 12288 there are 2 x 48 tiles of 128x256: 12 of 108 SMs idle. At 1152 9 x 48 are 4 x 108."""
    interactive = figure_of(subject_of("a100"), "throughput-m-n12288-k4096").interactive
    assert interactive is not None
    line = interactive.series[0]
    idle = dict(zip(line.x, next(fact.values for fact in line.facts if fact.name == "idle share"), strict=True))
    assert (idle[256], idle[1152]) == (11.1, 0.0)


def test_powers_of_two_multiples_of_64_and_cliffs_stand_out_on_the_line() -> None:
    """Of the 68 multiples of 64 up to 4353, 7 are powers of two."""
    interactive = figure_of(subject_of("a100"), "throughput-m-n12288-k4096").interactive
    assert interactive is not None
    found = {series.name: series.x for series in interactive.series}
    assert list(found) == ["predicted", "multiples of 64", "powers of two", "just under a cliff"]
    assert found["powers of two"] == tuple(2**i for i in range(13))
    assert len(found["multiples of 64"]) == 61
    assert set(found["multiples of 64"]) < set(range(64, 4354, 64))
    assert {64, 256}.isdisjoint(found["multiples of 64"])
    marks = {mark.x: mark for mark in interactive.marks}
    assert 2 <= len(marks) <= 10
    assert marks.keys() <= set(found["just under a cliff"])
    assert marks[256].label == "256"
    assert marks[256].reason.startswith("49 % less at 257. 256 to 257: a second wave for 36 tiles")


def test_the_picture_has_the_measured_quartiles_as_bars() -> None:
    """A time 2 % longer or shorter is a rate of 1 / 1.02 or 1 / 0.98 of the median's."""
    figure = figure_of(subject_of("a100", CUBLAS), "throughput-m-n12288-k4096")
    drawn = Drawing(figsize=figure.inches)
    figure.draw(drawn, False)
    bars = [each for each in drawn.axes[0].collections if isinstance(each, LineCollection)]
    ends = {tuple(segment[:, 0]): segment[:, 1] for bar in bars for segment in bar.get_segments() if len(segment) == 2}
    for m, rate in ((256, 230), (257, 115), (1024, 240)):
        np.testing.assert_allclose(ends[m, m], (rate / 1.02, rate / 0.98))


def test_the_spread_of_public_rows_is_not_called_quartiles() -> None:
    public = replace(CUBLAS, origin=Origin("public measurement", "the least and the greatest of three versions"))
    figure = figure_of(subject_of("a100", public), "throughput-m-n12288-k4096")
    assert figure.interactive is not None
    facts = {fact.name: fact.values[0] for fact in figure.interactive.series[-1].facts}
    assert facts["spread from"] == pytest.approx(2 * 256 * 12288 * 4096 / 230e12 * 0.98 * 1e6, rel=1e-3)
    assert "spread to" in facts
    assert not any("quartile" in name for name in facts)


def test_the_points_that_are_farthest_off_come_first() -> None:
    rows = table_of(subject_of("a100", CUBLAS, TRITON), "measured-points").rows
    off = [abs(float(row[7])) for row in rows if isinstance(row[7], float)]
    assert len(off) == len(rows) == 5
    assert off == sorted(off, reverse=True)
    assert off[0] > off[-1]


def test_one_cliff_is_not_all_of_them() -> None:
    sweep = predict_sweep(subject_of("a100"), "m", np.arange(250, 260), fixed={"n": 12288, "k": 4096}, id_="m")
    said = answer(sweep, teeth(sweep), (), "one row")
    assert said.endswith("From 250 to 259 there is 1 such cliff of 2 % or more, where a further wave starts.")


def test_where_no_quartile_and_no_kernel_is_known_none_is_shown() -> None:
    bare = as_products(np.array([[256, 12288, 4096]]), np.array([1e-4]), "bf16", HERE, fitted=True)
    table = table_of(subject_of("a100", bare), "measured-points")
    row = dict(zip((column.key for column in table.columns), table.rows[0], strict=True))
    assert row["fitted"] == "yes"
    assert {row["low_s"], row["high_s"], row["kernel"]} == {None}
    assert {"low_s", "kernel"}.isdisjoint(column.key for column in known_columns(table).columns)
    interactive = figure_of(subject_of("a100", bare), "throughput-m-n12288-k4096").interactive
    assert interactive is not None
    assert interactive.series[-1].low is None
    assert "kernel" not in {fact.name for fact in interactive.series[-1].facts}


def test_labelled_cliffs_are_the_deepest_and_stand_apart() -> None:
    found = teeth(predict_sweep(subject_of("a100"), "m", ROWS, fixed={"n": 12288, "k": 4096}, id_="m"))
    chosen = apart(found, 300, 5)
    assert len(chosen) == 5
    assert chosen[0].under == 256
    assert min(np.diff([tooth.under for tooth in chosen])) >= 300


def test_a_card_without_tensor_cores_is_predicted_in_fp32_and_says_so() -> None:
    found = section(subject_of("p100-pcie-16gb", timed((256, 12288, 4096, 8), precision="fp32")))
    text = found.figures[0].origins[0].text
    assert "FP32 matrix products predicted for Tesla P100" in text
    assert "with the coefficients of v100-pcie-32gb, scaled by the facts of p100-pcie-16gb" in text
    assert "never checked; on v100-pcie-32gb, on products that its fit has not seen, 7.4 % off" in text
    assert next(table for table in found.tables if table.id == "measured-points").rows


def test_a_borrower_states_the_error_of_borrowing() -> None:
    """The RTX PRO 6000, whose coefficients an RTX 3090 takes: 2.4 % off from its own timings, 37.1 % without them."""
    subject = subject_of("rtx-3090")
    error = read_profile(FOLDER / "rtx-pro-6000-server.json").gemm["fp16"].borrowed
    assert error is not None
    assert subject.product_error().error == error
    assert f"; rtx-pro-6000-server, predicted in the same way from another GPU's, was {100 * error.mean:.1f} % off" in (
        subject.gemm_origin().text
    )


def test_a_card_of_unknown_rate_has_a_note_instead_of_figures() -> None:
    found = section(subject_of("gt 710"))
    assert found.figures == found.tables == ()
    assert "flop_per_clock_per_sm unknown" in found.notes[0]


def test_a_model_of_linear_layers_has_its_dearest_one_over_the_batch() -> None:
    """BERT-Base on sequences of 128: the decoder to 30522 words from 768 features."""
    figure = figure_of(subject_of("a100", models=("bert-base-128",)), "throughput-batch-bert-base-128")
    assert figure.title == "What does one sample more cost at N = 30522, K = 768?"
    assert figure.interactive is not None
    assert "M = 128 x batch size, cls.predictions.decoder" in figure.interactive.x_title


def test_a_model_of_convolutions_has_no_such_figure() -> None:
    ids = [figure.id for figure in section(subject_of("a100", models=("resnet50",))).figures]
    assert not [id_ for id_ in ids if "batch" in id_]


# Public measurements -------------------------------------------------------------------------------------------------


def drops(gpu: str, sweep: str) -> dict[tuple[int, int], tuple[float, str]]:
    """Measured drops on one line: sizes before and after, share lost, whether the prediction agrees."""
    rows = table_of(subject_of(gpu, *products(gpu)), "measured-drops").rows
    return {(row[2], row[3]): (row[4], row[6]) for row in rows if row[0] == sweep and row[4] >= 0.05}


def test_the_v100_was_measured_to_lose_where_the_line_does() -> None:
    """EleutherAI: 85.227 TFLOP/s at N = 2176, 69.841 at 2240."""
    found = drops("v100-sxm2-16gb", "N at M = 2304, K = 4096")
    assert found[2176, 2240] == (pytest.approx(1 - 69.841 / 85.227), "yes")
    assert {before for before, _ in found} >= {2176, 3328, 4480, 5632}
    assert {found[before, before + 64][1] for before in (2176, 3328, 4480, 5632)} == {"yes"}


def test_a_measured_drop_that_the_a100s_line_lacks_is_counted_as_missed() -> None:
    """EleutherAI: 236.342 TFLOP/s at N = 3840, 215.768 at 3904; the model has no tooth there."""
    found = drops("a100-sxm4-80gb", "N at M = 2304, K = 4096")
    assert found[3840, 3904] == (pytest.approx(1 - 215.768 / 236.342), "no")
    assert {size: found[size, size + 64][1] for size in (1536, 3072, 4608)} == {1536: "yes", 3072: "yes", 4608: "yes"}
    figure = figure_of(subject_of("a100-sxm4-80gb", *products("a100-sxm4-80gb")), "throughput-n-m2304-k4096")
    missed = sum(agrees == "no" for _, agrees in found.values())
    assert missed >= 1
    assert f"The line shows {len(found) - missed} of the {len(found)} measured drops of 5 % or more" in figure.answer
    assert "not those after 1728 and 3840" in figure.answer


def test_the_a100s_second_wave_was_measured() -> None:
    """aiconfigurator: 0.110236 ms at M = 256, 0.224749 ms at 257."""
    found = drops("a100-sxm4-80gb", "M at N = 12288, K = 4096")
    assert found[256, 257] == (pytest.approx(1 - 257 / 256 * 0.110236 / 0.224749), "yes")


# Pictures ------------------------------------------------------------------------------------------------------------


@pictured()
def test_throughput_against_m() -> Figure:
    return figure_of(subject_of("a100", CUBLAS, TRITON), "throughput-m-n12288-k4096")


@pictured(narrow=True)
def test_throughput_against_m_on_a_phone() -> Figure:
    return figure_of(subject_of("a100", CUBLAS, TRITON), "throughput-m-n12288-k4096")


@pictured()
def test_throughput_against_n() -> Figure:
    return figure_of(subject_of("v100"), "throughput-n-m2304-k4096")
