"""What ACCURACY.md says of critical batches and of the best batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.accuracy import main, read_sections
from bench.accuracy.target import (
    benchmarks_part,
    line_of,
    moved_by_logarithms,
    pick,
    read_epoch_times,
    read_epochs,
    section,
)
from bench.critical_batch import Row, fit_benchmark
from tests.data import measured

ROOT = Path(__file__).resolve().parents[2]
REPORT = ROOT / "reports" / "ACCURACY.md"
BATCHES = (50, 100, 200, 400, 800)
# By hand: a step of 10 ms + 0.1 ms B, and 10 (1 + B / 400) epochs, so T goes as (1 + B / 400) (10 + B / 10) / B:
# 0.3375, 0.25, 0.225, 0.25, 0.3375
EPOCH_S = {batch: 50_000 / batch * (0.010 + 0.0001 * batch) for batch in BATCHES}
EPOCHS = {batch: 10 * (1 + batch / 400) for batch in BATCHES}


def test_the_report_holds_what_the_command_writes_and_nothing_else_moves(tmp_path: Path) -> None:
    data = measured("zeus", "epochs_to_target.csv").parents[1]
    copy = tmp_path / "ACCURACY.md"
    text = REPORT.read_text(encoding="utf-8")
    copy.write_text(text.replace("B_crit", "b_crit"), encoding="utf-8")  # as if the section were an old one
    assert main(["--data", str(data), "--sections", "target", "--output", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == text
    assert read_sections(text)["target"] == section(data)


def test_the_page_quotes_the_report() -> None:
    page = (ROOT / "reports" / "docs" / "how-wrong.md").read_text(encoding="utf-8")
    text = read_sections(REPORT.read_text(encoding="utf-8"))["target"]
    first = [line.split("|") for line in text.splitlines() if line.startswith("|")][2:10]
    left_out = [float(cells[8]) for cells in first]
    assert f"| {min(left_out)} to {max(left_out)} % (median) | eight MLPerf benchmarks" in page and len(first) == 8
    assert "Ours loses 0 to 11 %, the batch with the fastest epoch 26 to 92 %" in text
    assert "loses 0 to 11 % |" in page and "the fastest epoch loses 26 to 92 % |" in page


def test_on_exact_lines_the_best_batch_is_found_whatever_is_left_out() -> None:
    found = pick(0.6, EPOCHS, EPOCH_S, least=0)
    assert (found.least, found.best, found.ours, found.fastest, found.largest) == (50, 200, 200, 800, 800)
    assert found.fit.critical_batch == pytest.approx(400)
    assert found.regrets == pytest.approx((0, 0, 0, 0.5, 0.5))


def test_a_regret_is_of_measured_times() -> None:
    found = pick(0.6, {**EPOCHS, 200: 20.0}, EPOCH_S, least=100)  # T of 200 is 0.3 then, and 0.25 of 100 the least
    assert (found.least, found.best, found.ours) == (100, 100, 200)
    assert found.regrets == pytest.approx((0.2, 0.2, 0.2, 0.35, 0.35))
    slow = pick(0.6, EPOCHS, {**EPOCH_S, 200: EPOCH_S[200] * 2}, least=0)  # the line still chooses it, no measurement
    assert (slow.best, slow.ours) == (100, 200)
    assert slow.regret == pytest.approx(0.8)
    assert slow.measured_regret == 0


def test_one_batch_that_decides_shows_where_it_is_left_out() -> None:
    found = pick(0.6, {**EPOCHS, 800: 50.0}, EPOCH_S, least=0)  # without one of the others 100 is chosen, 0.25 / 0.225
    assert (found.ours, found.regret) == (200, 0)
    assert found.left_out_regret == pytest.approx(1 / 9)


def test_epochs_are_means_of_batches_at_which_every_run_got_there(tmp_path: Path) -> None:
    folder = tmp_path / "zeus"
    folder.mkdir()
    head = "dataset,network,batch_size,optimizer,learning_rate,run,target_metric,target_epoch\n"
    rows = ["64,adam,1,1,0.5,3", "64,adam,1,2,0.5,4", "8,adam,1,1,0.5,9", "128,adam,1,1,0.5,2", "128,adam,1,2,0.5,nan",
            "8,sgd,1,1,0.5,1"]  # fmt: skip
    (folder / "epochs_to_target.csv").write_text(head + "".join(f"c,net,{row}\n" for row in rows))
    assert read_epochs(tmp_path, "net", "adam") == {0.5: {8: 9.0, 64: 3.5}}
    head = "dataset,network,batch_size,optimizer,power_limit,time_per_epoch,average_power\n"
    rows = ["64,adadelta,250,3,1", "8,adadelta,250,9,1", "8,adadelta,100,20,1", "8,adam,250,7,1"]
    (folder / "time_and_power_v100.csv").write_text(head + "".join(f"c,net,{row}\n" for row in rows))
    assert read_epoch_times(tmp_path) == {8: 9.0, 64: 3.0}


def test_the_line_is_of_a_step() -> None:
    line = line_of(EPOCH_S)
    assert (line.t0_s, line.t1_s) == pytest.approx((0.010, 0.0001))


def rows(noise: float) -> list[Row]:
    signs = (1, -1, -1, 1, 1)
    return [Row("1.0.0", "resnet", b, 25, EPOCHS[b] * (1 + s * noise), 0.05 * EPOCHS[b])
            for b, s in zip(BATCHES, signs, strict=True)]  # fmt: skip


def test_logarithms_move_no_exact_fit_and_noisy_ones_a_little() -> None:
    assert moved_by_logarithms(fit_benchmark("resnet", rows(0.0))) == pytest.approx(0, abs=1e-5)
    assert 0 < abs(moved_by_logarithms(fit_benchmark("resnet", rows(0.05)))) < 0.05


def test_what_is_used_and_what_is_not_have_a_table_each() -> None:
    used, unused = fit_benchmark("resnet", rows(0.01)), fit_benchmark("unet", rows(0.01)[:3])
    text = "\n\n".join(benchmarks_part([used, unused]))
    first, second = text.split("not used")
    assert "| resnet" in first and "| unet" not in first and "| resnet" not in second
    assert "3 fit rows of one round" in second
    assert "standard error of a point is 1.0 to 1.0 %" in first  # 5 % over the root of 25 runs
    (row,) = (line.split("|") for line in first.splitlines() if line.startswith("| resnet"))
    assert used.fit is not None
    shares = [used.fit.median_error, used.fit.largest_error, np.median(used.held_out), used.held_out.max()]
    assert [float(cell) for cell in row[6:10]] == pytest.approx([100 * share for share in shares], abs=0.05)
