from __future__ import annotations

import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest

from advisor.errors import BadInputError
from advisor.gemm import gemm_time
from advisor.gemm.correction import log_correction
from advisor.gpus import find_gpu
from advisor.profile import FOLDER, load_profile, read_profile
from bench.__main__ import main
from bench.fit import agreed, error_of, fit_physical, predict_unseen, rounded
from bench.fit_gemm import Timings, fit_coefficients, fit_correction, physical_times
from bench.gemm_data import TABLES, Table, read_eleutherai, read_table
from tests.data import measured

H200 = find_gpu("h200")


def some_rows(count: int) -> Timings:
    m, n, k = np.round(2 ** np.random.default_rng(3).uniform(6, 14, (3, count)))
    return Timings(m, n, k, np.ones(count), np.ones(count))


def test_a_fit_finds_the_machine_that_made_its_timings() -> None:
    """Times made by other coefficients, with 2 % of noise: unseen shapes come out within the noise."""
    truth = load_profile(H200).gemm["fp16"].coefficients
    rows = some_rows(450)
    noise = np.random.default_rng(4).normal(0, 0.02, len(rows))
    made = Timings(rows.m, rows.n, rows.k, physical_times(truth, H200, "fp16", rows) * np.exp(noise), rows.weight)
    seen = np.arange(len(rows)) % 3 > 0
    found = fit_coefficients(made.where(seen), H200, steps=8)
    unseen = made.where(~seen)
    ratio = physical_times(found, H200, "fp16", unseen) / unseen.time_s
    assert np.abs(ratio - 1).mean() < 0.035


def test_the_same_rows_give_the_same_coefficients() -> None:
    rows = some_rows(60)
    first, second = (fit_coefficients(rows, H200, steps=2) for _ in range(2))
    assert first == second


def test_rounding_keeps_five_digits() -> None:
    coefficients = load_profile(H200).gemm["fp16"].coefficients
    longer = msgspec.structs.replace(coefficients, efficiency=0.123456789)
    assert rounded(longer).efficiency == 0.12346


def test_smoothing_returns_a_slow_residual_and_drops_noise() -> None:
    m = np.array([256.0, 257, 512, 513, 1024, 1025])
    pairs = np.array([(n, k) for n in (256.0, 512, 1024, 2048) for k in (256.0, 512, 1024, 2048)])
    slow = np.full((len(m), len(pairs)), 0.2)
    correction = fit_correction(m, pairs, slow)
    at = log_correction(correction, np.full(len(pairs), 512.0), *pairs.T)
    assert at == pytest.approx(0.2, abs=0.01)
    noise = np.random.default_rng(5).normal(0, 0.05, slow.shape)
    smooth = log_correction(fit_correction(m, pairs, noise), np.full(len(pairs), 512.0), *pairs.T)
    assert np.abs(smooth).mean() < 0.9 * np.abs(noise[2]).mean()


def test_a_step_that_other_k_show_is_expected_of_an_unseen_k() -> None:
    """m = 257 costs e^0.4 more at n = 2048 for every k seen but one; at n = 1024 nothing does."""
    m = np.array([256.0, 257, 512])
    pairs = np.array([(n, k) for n in (1024.0, 2048) for k in (256.0, 512, 1024, 2048, 4096)])
    residual = np.where((m[:, None] == 257) & (pairs[:, 0] == 2048), 0.4, 0.0)
    seen = ~((pairs[:, 0] == 2048) & (pairs[:, 1] == 1024))
    correction = fit_correction(m, pairs[seen], residual[:, seen])
    low, high = log_correction(correction, np.array([256.0, 257]), np.full(2, 2048.0), np.full(2, 1024.0))
    assert high - low > 0.2
    low, high = log_correction(correction, np.array([256.0, 257]), np.full(2, 1024.0), np.full(2, 1024.0))
    assert abs(high - low) < 0.05


def test_versions_that_agree_outweigh_one_table() -> None:
    time_s = np.full((1, 3), 1e-3)
    repeats_s = np.array([[[1e-3, 1e-3, 2e-3]], [[1e-3, 1e-3, 2e-3]]])
    table = Table(np.array([256.0]), np.array([[256.0, 256], [256, 512], [512, 512]]), time_s, repeats_s)
    assert agreed(table, np.zeros((1, 3)))[0] == pytest.approx([0, 0, 0.5 * np.log(2)])


def test_an_error_counts_relative_to_what_was_measured() -> None:
    error = error_of(np.log(np.array([1.1, 0.8, 1.0])), "three rows")
    assert (error.mean, error.median, error.rows) == (0.1, 0.1, 3)


def test_folds_follow_the_published_rule() -> None:
    table = Table(np.array([1.0]), np.array([[256.0, 1024.0]]), np.ones((1, 1)), np.ones((0, 1, 1)))
    assert table.folds().tolist() == [zlib.crc32(b"256x1024") % 5]


def test_the_published_tables_are_complete_grids() -> None:
    data = measured("aiconfigurator-gemm").parent
    for gpu in TABLES:
        table = read_table(data, gpu)
        assert table.time_s.shape == (74, 358)
        assert not np.isnan(table.time_s).any()
        assert (table.repeats_s[~np.isnan(table.repeats_s)] > 0).all()


def test_a_fold_left_out_is_predicted_within_the_target() -> None:
    """RTX PRO 6000: unseen (n, k) of one fold, everything fitted without it, mean under 4.5 %."""
    table, gpu = (
        read_table(measured("aiconfigurator-gemm").parent, "rtx-pro-6000-server"),
        find_gpu("rtx-pro-6000-server"),
    )
    seen = table.folds() != 0
    ratio = predict_unseen(table, fit_physical(table, gpu, seen).residual, seen)
    assert error_of(ratio[table.judged[:, ~seen]], "").mean < 0.045


@pytest.mark.parametrize(("op", "limit"), [("mm", 0.06), ("bmm", 0.09)])
def test_the_a100_profile_holds_on_sweeps_it_has_never_seen(op: str, limit: float) -> None:
    rows = read_eleutherai(measured("eleutherai-cookbook-sizing").parent, "a100", op=op)
    gpu = find_gpu("a100-sxm4-40gb")
    sizes = (rows[name] for name in ("m", "n", "k"))
    found = gemm_time(load_profile(gpu), gpu, *sizes, batch=rows["batch"]).time_s
    assert np.abs(found / rows["time_s"] - 1).mean() < limit


def test_shipped_corrections_stay_small() -> None:
    for path in FOLDER.glob("*.json"):
        assert path.stat().st_size < 400_000
        for model in read_profile(path).gemm.values():
            if model.correction is not None:
                assert np.abs(model.correction.table()).mean() < 0.15


def test_a_missing_data_folder_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--data", str(tmp_path), "--output", str(tmp_path)]) == BadInputError.exit_code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--data" in error
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "accuracy" in capsys.readouterr().err
