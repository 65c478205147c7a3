"""Rules as data: complete, their numbers those of the code, and what they say of gradients and batches true."""

from __future__ import annotations

import csv
import importlib
import math
import pkgutil
import re
import statistics
from fractions import Fraction
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import advisor.planning
from advisor.errors import UnknownNameError
from advisor.gpus import list_gpus
from advisor.planning import sources
from advisor.planning.critical_batch import critical_batch
from advisor.planning.rules import GROUPS, MEANINGS, RULES, find_rules
from advisor.planning.rules.beliefs import REGRET
from advisor.planning.rules.record import Rule
from advisor.step_profile import load_step_profile
from advisor.workload.catalogue import load_workload
from tests.data import measured

ROOT = Path(__file__).resolve().parents[3]
ACCURACY = ROOT / "reports" / "ACCURACY.md"
BY_ID = {rule.id: rule for rule in RULES}
DECIDING = (
    "choice",
    "cut",
    "recommendation",
    "memory",
    "alignment",
    "comparison_inputs",
    "steptime",
    "step_neighbours",
)
# Numbers of those modules that decide nothing a user could disagree with; so do limits of input, MAX_ and MOST_.
TECHNICAL = {
    "advisor.recommendation.DEFAULT_MAX_BATCH": "where the search ends unless told otherwise",
    "advisor.steptime.FITTED_FLOP_PER_CLOCK_PER_SM": "a fact of the RTX 3090",
    "advisor.steptime.REFERENCE_ROWS": "where two fits are held against each other",
    "advisor.steptime.CACHED_BATCHES": "how much is computed at a time",
    "advisor.steptime.SMALLEST_L2_BYTES": "a fact that stands in for an unknown one",
    "advisor.step_neighbours.REFERENCE_BATCH": "where shares of time are taken",
    "advisor.step_neighbours.UNIT": "how shares are stored",
    "advisor.planning.build.AROUND_ASKED": "how far is searched",
    "advisor.planning.build.SEARCHED_PER_GPU": "how far is searched",
    "advisor.planning.critical_batch.LEAST_IMAGENET_SIDE": "tells a model of ImageNet from one of small images",
    "advisor.planning.launch.NODE_GPUS": "a default of the command that is printed",
    "advisor.planning.learning_rate.ADAM_BETA1": "a default of torch.optim.Adam",
    "advisor.planning.learning_rate.ADAM_BETA2": "a default of torch.optim.Adam",
    "advisor.planning.learning_rate.ADAM_EPS": "a default of torch.optim.Adam",
    "advisor.planning.memory_sum.LIKELY_BYTES": "when a missing unit is pointed out",
    "advisor.planning.target.MARGIN": "how far a curve is drawn",
    "advisor.planning.target.NEAR_FACTOR": "when a size is not called twice the asked one",
}


def modules() -> list[ModuleType]:
    planning = pkgutil.walk_packages(advisor.planning.__path__, "advisor.planning.")
    names = [name for _, name, _ in planning if ".rules" not in name and ".snippets" not in name]  # words, no decisions
    return [importlib.import_module(name) for name in (*(f"advisor.{name}" for name in DECIDING), *names)]


def own_numbers(module: ModuleType) -> list[str]:
    """Upper-case public numbers that the module itself assigns: what it imports belongs to another."""
    text = Path(str(module.__file__)).read_text()
    found = []
    for name, value in vars(module).items():
        number = isinstance(value, int | float | Fraction) and not isinstance(value, bool)
        public = number and re.fullmatch(r"(?!SCHEMA_VERSION|MAX_|MOST_)[A-Z][A-Z0-9_]*", name)
        if public and re.search(rf"^(?:[A-Z0-9_]+, )*{name}(?:, [A-Z0-9_]+)*(?:: [^=]+)? = ", text, re.MULTILINE):
            found.append(f"{module.__name__}.{name}")
    return found


def text_of(rule: Rule) -> str:
    return " ".join(filter(None, (rule.title, rule.statement, rule.formula, rule.known_range, rule.evidence)))


def test_every_number_that_decides_is_claimed_by_a_rule() -> None:
    claimed = {name for rule in RULES for name in rule.constants}
    numbers = {name for module in modules() for name in own_numbers(module)}
    assert {"advisor.choice.TIE", "advisor.cut.TIE", "advisor.planning.schedule.GAMMA"} <= numbers
    assert numbers - claimed - set(TECHNICAL) == set(), "name it in a rule's constants, or in TECHNICAL with the reason"
    assert set(TECHNICAL) <= numbers - claimed, "TECHNICAL names what is no longer there"


@pytest.mark.parametrize("name", sorted({name for rule in RULES for name in rule.constants}))
def test_each_constant_a_rule_stands_for_exists_and_its_value_is_in_the_text(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    value = float(getattr(importlib.import_module(module), attribute))
    written = {f"{value:g}", f"{value:,.0f}", *(f"{100 * value:.{digits}f} %" for digits in range(3))}
    for rule in (rule for rule in RULES if name in rule.constants):
        words = re.findall(r"[0-9][0-9.,]*(?: %)?", text_of(rule))
        assert written & {word.rstrip(".,") for word in (*words, *(w.removesuffix(" %") for w in words))}, rule.id


def test_rules_are_complete_and_named_once() -> None:
    assert len(BY_ID) == len(RULES)
    assert {rule.confidence for rule in RULES} == set(MEANINGS)
    assert list(dict.fromkeys(rule.group for rule in RULES)) == list(GROUPS)
    for rule in RULES:
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id)
        for part in (rule.title, rule.statement, rule.known_range, rule.source, rule.evidence):
            assert part and part == " ".join(part.split()), rule.id
        for sentence in (rule.statement, rule.known_range, rule.evidence):
            assert sentence.rstrip(")").endswith("."), rule.id
        assert "\N{EM DASH}" not in text_of(rule)


def test_every_rule_that_another_names_exists() -> None:
    hyphenated = {word for rule in RULES for word in re.findall(r"(?:see |\()([a-z]+(?:-[a-z0-9]+)+)\b", text_of(rule))}
    assert {"batch-norm", "token-mean", "gpu-comparison"} <= hyphenated
    assert hyphenated <= set(BY_ID)


def test_what_is_not_believed_or_out_of_scope_is_said() -> None:
    assert {rule.id for rule in RULES if rule.confidence == "not believed"} == {
        "powers-of-two", "batch-multiples-of-8", "largest-that-fits", "folk-formula",
    }  # fmt: skip
    assert BY_ID["tpu-padding"].confidence == "out of scope"
    assert "other hardware" in BY_ID["tpu-padding"].statement


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_every_paper_a_rule_names_is_in_its_source_or_known(rule: Rule) -> None:
    known = [value for name, value in vars(sources).items() if name.isupper()]
    for author, year in re.findall(
        r"\b(Goyal|Keskar|Hoffer|Shallue|Nado|McCandlish|Krizhevsky|You) (20\d\d)", text_of(rule)
    ):
        assert any(re.search(rf"\b{author}\b.*\b{year}\b", citation) for citation in known), (author, year)
    for number in re.findall(r"arXiv:[0-9.]+[0-9]", rule.source):
        assert any(number in citation for citation in known)


def test_no_paper_has_two_citations() -> None:
    numbers = [n for name, v in vars(sources).items() if name.isupper() for n in re.findall(r"arXiv:([0-9.]+[0-9])", v)]
    assert len(numbers) == len(set(numbers))
    assert all(re.fullmatch(r"\d{4}\.\d{4,5}", number) for number in numbers)


def test_every_rule_has_a_formula_unless_it_is_a_habit() -> None:
    assert {rule.id for rule in RULES if rule.formula is None} == {"usual-ranges"}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lr-finder"], ("Lightning", "torch-lr-finder", "fastai")),
        (["joint-tuning"], ("at one rate compares rates",)),
        (["lower-rate"], ("diverge at batch 1",)),
        (["sharp-minima", "flat-minima-remedies"], ("rescaled", "ugmentation", "weight averaging", "Label smoothing")),
        (["in-batch-negatives"], ("it is another loss",)),
        (["unbiased-gradient"], ("Often told wrongly", "at B = 1")),
        (["gradient-size"], ("Often told wrongly", "does not make the gradient larger")),
        (["tpu-padding"], ("Out of scope", "other hardware")),
        (["powers-of-two"], ("18 is as good as 16",)),
        (["linear-rate", "warm-up", "square-root-rate", "lars-lamb"], ("LARS", "LAMB", "AdamW", "8,192", "32,768")),
    ],
    ids=lambda value: value[0],
)
def test_what_is_often_asked_or_told_wrongly_has_a_rule(names: list[str], words: tuple[str, ...]) -> None:
    said = " ".join(text_of(BY_ID[name]) for name in names)
    assert all(word in said for word in words)


def test_rules_are_found_however_they_are_written() -> None:
    assert find_rules() == RULES
    assert find_rules(["Linear Rate", "linear_rate", "knee"]) == (BY_ID["linear-rate"], BY_ID["knee"])


def test_an_unknown_rule_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown rule 'power-of-two'\. Nearest: powers-of-two"):
        find_rules(["power-of-two"])


# The figures quoted ---------------------------------------------------------------------------------------------------


def accuracy() -> str:
    if not ACCURACY.exists():
        pytest.skip("reports/ACCURACY.md is not in this copy")
    return ACCURACY.read_text()


def table(heading: str) -> list[dict[str, str]]:
    """Rows of the first table below a heading of ACCURACY.md."""
    lines = accuracy().split(f"# {heading}\n", 1)[1].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    header, _, *body = rows
    return [dict(zip(reversed(header), reversed(row), strict=True)) for row in body]


def test_the_regret_of_powers_of_two_is_that_of_the_accuracy_report() -> None:
    rows = table("Regret of choosing m")
    found = {row["GPU"]: tuple(float(row[key]) for key in ("ours", "largest", "power of two")) for row in rows}
    assert found == REGRET
    assert all(ours < largest and ours < power for ours, largest, power in REGRET.values())
    assert "loses 4.6 to 7.4 %" in BY_ID["powers-of-two"].evidence
    assert "loses 0.6 to 3.6 %" in BY_ID["powers-of-two"].evidence
    assert "loses 4.9 to 9.5 %" in BY_ID["largest-that-fits"].evidence


def test_cliffs_are_called_as_rightly_as_the_accuracy_report_says() -> None:
    lines = accuracy().split("### Cliffs", 1)[1].splitlines()
    rows = [line.split("|") for line in lines if re.match(r"\| [a-z0-9-]+ +\| \d", line)][:6]
    precision, recall = ([100 * float(row[i]) for row in rows] for i in (4, 5))
    text = BY_ID["cliff"].evidence
    assert f"right in {min(precision):.0f} to {max(precision):.0f} %" in text
    assert f"find {min(recall):.0f} to {max(recall):.0f} % of them" in text


def test_errors_of_times_and_memory_are_those_of_the_accuracy_report() -> None:
    held_out = [float(row["mean"]) for row in table("Sizes not in the fit")]
    borrowed = [float(row["mean"]) for row in table("A GPU without timings")]
    text = BY_ID["gemm-time"].evidence
    assert f"fit {min(held_out):.1f} to {max(held_out):.1f} % on six" in text and len(held_out) == 6
    assert f"without timings {min(borrowed):.0f} to {max(borrowed):.0f} %" in text
    steps = {
        (row["layout"], row["model of time"]): float(row["mean"]) for row in table("Training steps on the RTX 3090")
    }
    for layout in ("NHWC", "NCHW"):
        assert f"{100 * steps[layout, 'as shipped']:.1f} % ({layout})" in BY_ID["step-time"].evidence
    others = next(
        row for row in table("Other GPUs: inference from a fit on the RTX 3090 alone") if "other" in row["table"]
    )
    assert f"on other GPUs {100 * float(others['mean']):.1f} %" in BY_ID["step-time"].evidence
    assert BY_ID["measured-neighbours"].evidence.startswith(
        f"Mean error {100 * steps['NHWC', 'as shipped']:.1f} % with it, "
        f"{100 * steps['NHWC', 'physical form alone']:.1f} % without"
    )
    memory = next(r for r in table("Memory on the RTX 3090") if r["margin"] == "7.5%" and r["rows of"] == "all")
    assert f"leaves {100 * float(memory['too large (fails)']):.1f} % of" in BY_ID["step-memory"].evidence
    assert f"{100 * float(memory['too small']):.1f} % a list entry too small" in BY_ID["step-memory"].evidence
    assert memory["rows"] == "540"
    counted = re.search(r"of ([0-9,]+) kernels whose name tells their tile.* in ([0-9.]+)%", accuracy())
    assert counted is not None
    assert (
        BY_ID["tiles"].evidence.startswith(f"Of {counted[1]} kernels") and f"{counted[2]} %" in BY_ID["tiles"].evidence
    )


def test_single_convolutions_err_as_the_accuracy_report_says() -> None:
    rows = re.findall(r"\| (as shipped|the step model alone) +\| 948 +\| 68 +\| ([0-9.]+)", accuracy())
    found = {name: float(mean) for name, mean in rows}
    assert f"{100 * found['as shipped']:.0f} % off in the mean" in BY_ID["implicit-gemm"].evidence
    assert f"{100 * found['the step model alone']:.0f} % by the step model" in BY_ID["implicit-gemm"].evidence


def test_larger_batches_that_are_no_faster_are_those_of_the_accuracy_report() -> None:
    text = BY_ID["largest-that-fits"].evidence
    for network, step, written in (
        ("resnet50, imagenet", "256 to 360", "times 0.999 from batch 256 to 360"),
        ("bert_base_uncased, squad", "12 to 16", "times 0.976 from 12 to 16"),
    ):
        row = re.search(rf"\| Tesla V100 .*\| {network} +\| {step} +\| ([0-9.]+)", accuracy())
        assert row is not None and f"times {row[1]}" in text and written in text


def test_critical_batches_and_their_choice_are_those_of_the_accuracy_report() -> None:
    rows = table("Critical batches from MLPerf's reference points")
    text = BY_ID["critical-batch"].evidence
    assert len(rows) == 8 and "fits eight of" in text
    for column, words in (("median", "median errors of"), ("left out", "within")):
        shares = [float(row[column]) for row in rows]
        assert f"{words} {min(shares):.1f} to {max(shares):.1f} %" in text
    chosen = table("The best batch of a public trace")
    assert len({row["accuracy"] for row in chosen}) == 6
    for column, words in (("regret", "B_crit loses"), ("its regret", "fastest epoch")):
        lost = [int(row[column]) for row in chosen]
        assert f"{words} {min(lost)} to {max(lost)} %" in BY_ID["time-to-target"].evidence


def test_memory_coefficients_are_the_shipped_ones() -> None:
    known = load_step_profile().memory
    text = text_of(BY_ID["step-memory"])
    assert f"{100 * known.margin:g} %" in text and f"{1 + known.margin:g} total" in text
    assert f"{100 * known.allocator_share:g} % of the live peak" in text


def test_one_card_of_the_table_has_a_power_of_two_of_sms() -> None:
    assert [gpu.id for gpu in list_gpus() if gpu.sms & (gpu.sms - 1) == 0] == ["rtx-4090"]
    counts = {gpu.sms for gpu in list_gpus()}
    named = re.search(r"number of SMs \(([0-9, ]+)\)", BY_ID["powers-of-two"].statement)
    assert named is not None and {int(sms) for sms in named[1].split(", ")} <= counts


def test_minutes_of_127_128_and_129_are_within_what_is_said() -> None:
    minutes = [float(x) for x in re.findall(r"\d\.\d\d", BY_ID["powers-of-two"].evidence.split("V100: ")[1])]
    assert len(minutes) == 3
    assert f"{100 * (max(minutes) / min(minutes) - 1):.1f} %" == "1.4 %"


def test_figures_of_single_products_are_those_of_the_public_timings() -> None:
    seconds = {}
    for gpu in ("a100_sxm4_80gb", "h200_sxm"):
        with measured("aiconfigurator-gemm", f"{gpu}_bf16.csv").open() as file:
            seconds[gpu] = {
                (int(row["m"]), int(row["n"]), int(row["k"])): float(row["latency_ms"]) for row in csv.DictReader(file)
            }
    a100 = seconds["a100_sxm4_80gb"]
    assert f"{a100[257, 12288, 4096] / a100[256, 12288, 4096]:.2f} times as long" in BY_ID["cliff"].evidence
    fewer = 1 - 512 / a100[512, 12288, 4096] * a100[768, 12288, 4096] / 768
    assert f"{100 * fewer:.0f} % fewer rows/s than 768" in BY_ID["powers-of-two"].evidence
    one_more = {
        gpu: statistics.median(
            times[m + 1, n, k] / time - 1
            for (m, n, k), time in times.items()
            if m >= 2048 and min(n, k) >= 1024 and (m + 1, n, k) in times
        )
        for gpu, times in seconds.items()
    }
    assert f"{100 * one_more['a100_sxm4_80gb']:.1f} % on an A100" in BY_ID["batch-multiples-of-8"].evidence
    assert -0.005 < one_more["h200_sxm"] < 0.005


def test_alignment_figures_are_those_of_the_public_sweep() -> None:
    rates: dict[tuple[str, int], list[float]] = {}
    with measured("eleutherai-cookbook-sizing", "alignment_fp16_a100_step1.csv").open() as file:
        for row in csv.DictReader(file):
            size = int(row["k" if row["sweep"] == "vocab_h_sweep" else "n"])
            rates.setdefault((row["sweep"], min(16, size & -size)), []).append(float(row["tflops"]))
    # "multiple of 8": of 8 and not of 16. Along k those of 16 and more are as good.
    odd, two, four = (statistics.median(rates["vocab_h_sweep", step]) for step in (1, 2, 4))
    eight = statistics.median(rates["vocab_h_sweep", 8])
    text = BY_ID["alignment"].evidence
    assert f"contraction odd {odd:.0f}, 2 or 4: {two:.0f}, multiple of 8: {eight:.0f} TFLOP/s" in text
    assert abs(two - four) < 1
    assert f"odd {statistics.median(rates['vocab_v_sweep', 1]):.0f}, 2 or 4:" in text
    assert f"costs a factor of {eight / odd:.1f}" in BY_ID["batch-multiples-of-8"].evidence


@pytest.mark.parametrize("page", ["README.md", "reports/docs/waves.md"])
def test_pages_quote_the_figures_of_the_rule(page: str) -> None:
    path = ROOT / page
    if not path.exists():
        pytest.skip(f"{page} is not in this copy")
    (belief,) = (line for line in path.read_text().splitlines() if "multiples of 8 or powers of two" in line)
    rule = re.search(
        r": ([0-9.]+ %) on an A100 in the median.* a factor of ([0-9.]+)\.", text_of(BY_ID["batch-multiples-of-8"])
    )
    assert rule is not None
    assert f"costs {rule[1]} in the median" in belief
    assert f"is odd costs a factor of {rule[2]}." in belief


def test_the_fastest_epoch_is_far_from_the_fastest_run_in_the_public_trace() -> None:
    epochs: dict[int, list[float]] = {}
    with measured("zeus", "epochs_to_target.csv").open() as file:
        for row in csv.DictReader(file):
            if (row["network"], row["optimizer"], row["target_metric"]) == ("shufflenetv2", "adadelta", "0.6"):
                epochs.setdefault(int(row["batch_size"]), []).append(float(row["target_epoch"]))
    with measured("zeus", "time_and_power_v100.csv").open() as file:
        epoch_s = {
            int(row["batch_size"]): float(row["time_per_epoch"])
            for row in csv.DictReader(file)
            if (row["network"], row["optimizer"], row["power_limit"]) == ("shufflenetv2", "adadelta", "250")
        }
    target_s = {batch: statistics.mean(found) * epoch_s[batch] for batch, found in epochs.items()}
    target_s = {batch: time for batch, time in target_s.items() if math.isfinite(time)}
    fastest_epoch, best = min(epoch_s, key=epoch_s.__getitem__), min(target_s, key=target_s.__getitem__)
    text = BY_ID["time-to-target"].evidence
    assert f"fastest epoch, {fastest_epoch:,}, takes {target_s[fastest_epoch] / target_s[best]:.1f} times" in text
    assert f"the best one, {best}." in text


# What is said of gradients, by enumeration ----------------------------------------------------------------------------

SAMPLES = np.array([[1.0, 2.0], [-3.0, 1.0], [0.5, -4.0], [2.0, 0.0], [-1.0, -1.0]])  # gradients of five samples


def batches(size: int, samples: np.ndarray = SAMPLES) -> np.ndarray:
    """The mean gradient of every batch of so many samples drawn with replacement, all equally likely."""
    return np.array([samples[list(drawn)].mean(axis=0) for drawn in product(range(len(samples)), repeat=size)])


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_gradient_is_unbiased_and_its_variance_falls_as_one_over_the_batch(size: int) -> None:
    full, covariance = SAMPLES.mean(axis=0), np.cov(SAMPLES.T, bias=True)
    found = batches(size)
    np.testing.assert_allclose(found.mean(axis=0), full, atol=1e-12)
    np.testing.assert_allclose(np.cov(found.T, bias=True), covariance / size, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_gradient_s_squared_length_shrinks_as_the_formula_says(size: int) -> None:
    squared = (batches(size) ** 2).sum(axis=1).mean()
    noise = np.trace(np.cov(SAMPLES.T, bias=True))
    assert squared == pytest.approx((SAMPLES.mean(axis=0) ** 2).sum() + noise / size)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_without_replacement_the_variance_reaches_zero_at_the_whole_data_set(size: int) -> None:
    drawn = [list(d) for d in product(range(5), repeat=size) if len(set(d)) == size]
    found = np.array([SAMPLES[d].mean(axis=0) for d in drawn])
    expected = np.cov(SAMPLES.T, bias=True) / size * (5 - size) / 4
    np.testing.assert_allclose(found.mean(axis=0), SAMPLES.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(np.cov(found.T, bias=True), expected, atol=1e-12)


def test_logistic_gradients_of_random_batches_agree_with_the_full_one_within_their_error() -> None:
    random = np.random.default_rng(20261120)
    x, y = random.normal(size=(1000, 3)), random.integers(0, 2, 1000)
    w = np.array([0.3, -1.0, 0.5])
    each = x * (1 / (1 + np.exp(-x @ w)) - y)[:, None]
    for size in (1, 8, 64):
        found = each[random.integers(0, 1000, (4000, size))].mean(axis=1)
        error = each.std(axis=0) / math.sqrt(size * 4000)
        assert np.all(np.abs(found.mean(axis=0) - each.mean(axis=0)) < 4 * error)


def squared_error_factor(squares: np.ndarray, size: int, rate: float) -> float:
    """E[(w after one step / w before)^2] of least squares, over every batch: w <- w (1 - rate mean(x^2))."""
    return float(((1 - rate * batches(size, squares[:, None])) ** 2).mean())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_the_largest_stable_rate_is_the_formula_s(size: int) -> None:
    squares = np.array([1.0, 1.0, 1.0, 9.0])
    a, v = squares.mean(), squares.var()  # 3 and 12
    bound = 2 * a / (a**2 + v / size)
    assert squared_error_factor(squares, size, bound) == pytest.approx(1)
    assert squared_error_factor(squares, size, 0.99 * bound) < 1 < squared_error_factor(squares, size, 1.01 * bound)


def test_a_rate_that_suits_the_full_batch_diverges_at_batch_one() -> None:
    squares = np.array([1.0, 1.0, 1.0, 9.0])
    assert (1 - 0.5 * squares.mean()) ** 2 == 1 / 4
    assert squared_error_factor(squares, 1, 0.5) == pytest.approx(3.25)
    assert "fourfold per step and at batch 1 makes it 3.25 times" in BY_ID["lower-rate"].evidence


# Other statements -----------------------------------------------------------------------------------------------------


def test_a_mean_of_token_means_weighs_a_lone_token_three_times() -> None:
    losses = [np.array([5.0]), np.array([1.0, 2.0, 3.0])]  # two micro-batches
    wrong = np.mean([loss.mean() for loss in losses])
    assert wrong == pytest.approx((3 * 5 + 1 + 2 + 3) / 6)
    tokens = sum(len(loss) for loss in losses)
    assert sum(loss.sum() / tokens for loss in losses) == pytest.approx(np.concatenate(losses).mean())


def test_the_token_formula_survives_averaging_over_gpus() -> None:
    losses = [[np.array([5.0]), np.array([1.0, 2.0])], [np.array([4.0]), np.array([7.0, 8.0, 9.0])]]  # by GPU
    tokens, gpus = 7, 2
    per_gpu = [sum(gpus * loss.sum() / tokens for loss in own) for own in losses]
    assert np.mean(per_gpu) == pytest.approx(36 / 7)


def test_contrastive_losses_of_parts_are_not_the_loss_of_the_whole() -> None:
    similarity = np.array([[2.0, 1.0, 0.5, 0.0], [0.0, 2.0, 1.0, 0.5], [0.5, 0.0, 2.0, 1.0], [1.0, 0.5, 0.0, 2.0]])

    def loss(part: np.ndarray) -> float:
        return float(np.mean(np.log(np.exp(part).sum(axis=1)) - np.diag(part)))

    parts = np.mean([loss(similarity[i : i + 2, i : i + 2]) for i in (0, 2)])
    assert loss(similarity) > parts + 0.3


def test_more_samples_than_goyals_90_epochs_at_8192_images_are_what_the_form_asks_for() -> None:
    known = critical_batch(load_workload("resnet50"))
    assert known is not None
    more = [(1 + 8192 / end) / (1 + 256 / end) - 1 for end in (known.high, known.low)]
    assert f"asks for {100 * more[0]:.0f} to {100 * more[1]:.0f} % more" in BY_ID["critical-batch"].evidence


def test_what_sources_say_of_imagenet_is_the_range_that_plans_print() -> None:
    known = critical_batch(load_workload("resnet50"), task="imagenet")
    assert known is not None
    low, high = (f"{float(f'{end:.3g}'):,.0f}" for end in (known.low, known.high))
    assert f"ImageNet sources say {low} and {high}." in BY_ID["critical-batch"].evidence


def test_images_left_over_are_those_said() -> None:
    assert divmod(1_281_167, 4096) == (312, 3215)


def test_a_compromise_between_ends_threefold_apart_loses_less_than_4_percent() -> None:
    batch = np.geomspace(1, 1e7, 20_001)
    for t0, t1 in ((1e-2, 1e-3), (1e-6, 1e-3), (1.0, 1e-6)):
        times = np.array([(1 / batch + 1 / critical) * (t0 + t1 * batch) for critical in (1000, 3000)])
        worse = (times / times.min(axis=1, keepdims=True)).max(axis=0)
        assert worse.min() < 1.04
