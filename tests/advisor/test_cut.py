from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.cut import cut_global_batch
from advisor.errors import BadInputError, DoesNotFitError

STEP_S = 0.010 + 0.001 * np.arange(1, 65)  # 10 ms + 1 ms per sample, of which the update takes 2 ms
FITS = np.arange(1, 65) <= 48


def test_the_fastest_exact_cut_pays_the_fixed_cost_least_often() -> None:
    best = cut_global_batch(256, 4, step_time_s=STEP_S, update_time_s=0.002, fits=FITS)[0]
    # 64 per GPU: 64 does not fit, 32 x 2 is next: 2 * (10 - 2 + 32) ms + 2 ms = 82 ms
    assert (best.batch, best.accumulation, best.gpus) == (32, 2, 4)
    assert best.time_s == pytest.approx(0.082)
    assert best.samples_per_s == pytest.approx(256 / 0.082)
    assert str(best) == "32 per GPU x 2 accumulation x 4 GPUs = 256"


def test_tied_cuts_are_ordered_by_memory() -> None:
    flat = 0.001 * np.arange(1, 65)  # no fixed cost: every cut takes the same time
    assert cut_global_batch(64, 1, step_time_s=flat, update_time_s=0.0, fits=FITS)[0].batch == 1


def test_an_unequal_share_names_the_nearest_that_can() -> None:
    with pytest.raises(BadInputError, match=r"global batch 1000 cannot be shared equally by 3 GPUs; 999 and 1002 can"):
        cut_global_batch(1000, 3, step_time_s=STEP_S, update_time_s=0.0, fits=FITS)


def test_fewer_samples_than_gpus_names_the_least() -> None:
    with pytest.raises(BadInputError, match="8 is the least"):
        cut_global_batch(7, 8, step_time_s=STEP_S, update_time_s=0.0, fits=FITS)


def test_nothing_that_fits_is_said() -> None:
    with pytest.raises(DoesNotFitError, match="not even 1 sample"):
        cut_global_batch(8, 1, step_time_s=STEP_S, update_time_s=0.0, fits=np.zeros(64, dtype=bool))


@given(st.integers(1, 500), st.integers(1, 16))
def test_every_cut_multiplies_to_the_global_batch(per_gpu: int, gpus: int) -> None:
    cuts = cut_global_batch(per_gpu * gpus, gpus, step_time_s=STEP_S, update_time_s=0.002, fits=FITS)
    assert {cut.batch * cut.accumulation * cut.gpus for cut in cuts} == {per_gpu * gpus}
