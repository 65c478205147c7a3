"""What the plan's rules stand on: one citation each, as printed."""

from __future__ import annotations

GOYAL_2017 = "Goyal et al. 2017, arXiv:1706.02677"
YOU_2017 = "You, Gitman, Ginsburg 2017, arXiv:1708.03888"
YOU_2019 = "You et al. 2019, arXiv:1904.00962"
MALLADI_2022 = "Malladi et al. 2022, arXiv:2205.10287"
MCCANDLISH_2018 = "McCandlish et al. 2018, arXiv:1812.06162"
SHALLUE_2018 = "Shallue et al. 2018, arXiv:1811.03600"
WU_HE_2018 = "Wu and He 2018, arXiv:1803.08494"
MLPERF_RCP = "MLPerf training's reference convergence points, mlcommons/logging 7bbf792"
MA_YARATS_2019 = "Ma and Yarats 2019, arXiv:1910.04209"
LOSHCHILOV_2016 = "Loshchilov and Hutter 2016, arXiv:1608.03983"
LOSHCHILOV_2017 = "Loshchilov and Hutter 2017, arXiv:1711.05101"
NADO_2021 = "Nado et al. 2021, arXiv:2102.06356"
