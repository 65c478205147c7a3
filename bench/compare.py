"""Two records compared case by case: SAME, FASTER, SLOWER or AMBIGUOUS.

The measure is the ratio of the medians, B over A, with a confidence interval that assumes no distribution: Price and
Bonett, "Distribution-free confidence intervals for difference and ratio of medians", J. Stat. Comput. Simul. 72(2),
2002, doi:10.1080/00949650212140. A difference matters only beyond a threshold, 2 % unless told, since one container
run twice on one GPU differs by 1 to 2 %: samples of one run share its clocks and its heat, which no interval drawn
from them can know. Where two runs of one thing differ by more (compare them: the median difference is printed), raise
it. So there are three zones, as in tests of equivalence (Schuirmann 1987, doi:10.1007/BF01068419):

- SAME: the interval lies within the threshold.
- FASTER, SLOWER: it lies wholly beyond, and the rank-sum test (Mann and Whitney 1947, doi:10.1214/aoms/1177730491)
  rejects at the same level that both are samples of one distribution. The test bounds false alarms where the median
  jumps between two clusters of times, which misleads the interval.
- AMBIGUOUS: the spread of the two leaves it open. Fewer than 5 samples always do: the rank-sum test of 4 against 4
  cannot reach the 1 % that is the level unless told.

Deciding is pure and needs scipy; `main` is `python -m bench compare` and `advisor bench compare`.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from advisor.errors import BadInputError, MissingDependencyError
from advisor.files import write_atomically
from advisor.gpus.card import card_key
from bench.case import Case
from bench.exchange import read_archive
from bench.progress import describe
from bench.records import Row

Verdict = Literal["SAME", "AMBIGUOUS", "FASTER", "SLOWER"]  # in the order of the table, what matters most last
FORMATS = ("table", "json", "markdown", "csv")
THRESHOLD = 0.02
CONFIDENCE = 0.99
LEAST_SAMPLES = 5
FAIL_ON = ("slower", "ambiguous", "missing")
_SCHEMA_VERSION = 1
_MOST_MISSING = 20  # lines of a table about cases that one side lacks


@dataclass(frozen=True)
class Judgement:
    """What two sets of samples say: the ratio of their medians, B over A, its interval, and what follows."""

    verdict: Verdict
    ratio: float
    ratio_low: float  # 0 and infinity where there are too few samples for an interval
    ratio_high: float
    why: str | None  # of AMBIGUOUS


@dataclass(frozen=True)
class Comparison:
    """One case measured in both records."""

    case: Case
    a_median_s: float
    b_median_s: float
    a_spread: float  # interquartile range over median
    b_spread: float
    a_samples: int
    b_samples: int
    judgement: Judgement


@dataclass(frozen=True)
class Missing:
    """One case with a time in only one of the records."""

    case: Case
    where: Literal["a", "b"]  # that has the time
    reason: str  # why the other has none


def judge(
    a_s: Sequence[float], b_s: Sequence[float], *, threshold: float = THRESHOLD, confidence: float = CONFIDENCE
) -> Judgement:
    """Judge samples B against samples A, seconds each.

    Raises MissingDependencyError without scipy, where the rank-sum test is needed.
    """
    if min(*a_s, *b_s) <= 0:
        return Judgement("AMBIGUOUS", math.nan, 0.0, math.inf, "a sample of no time at all")
    ratio = statistics.median(b_s) / statistics.median(a_s)
    if min(len(a_s), len(b_s)) < LEAST_SAMPLES:
        return Judgement("AMBIGUOUS", ratio, 0.0, math.inf, f"fewer than {LEAST_SAMPLES} samples")
    error = math.hypot(_log_median_error(a_s), _log_median_error(b_s))
    half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * error
    low, high = ratio * math.exp(-half), ratio * math.exp(half)
    least, most = 1 / (1 + threshold), 1 + threshold
    if least <= low and high <= most:
        return Judgement("SAME", ratio, low, high, None)
    if least <= high and low <= most:
        return Judgement("AMBIGUOUS", ratio, low, high, f"the interval crosses {100 * threshold:.3g} %")
    if _rank_sum_p(a_s, b_s) > 1 - confidence:
        return Judgement("AMBIGUOUS", ratio, low, high, "the samples overlap too much")
    return Judgement("SLOWER" if ratio > 1 else "FASTER", ratio, low, high, None)


def compare(
    a: Sequence[Row],
    b: Sequence[Row],
    *,
    threshold: float = THRESHOLD,
    confidence: float = CONFIDENCE,
    across_gpus: bool = False,
) -> list[Comparison]:
    """Compare every case that has a time in both; where one was measured again, its last time counts.

    Raises BadInputError where the rows are of different method versions, of different GPUs unless `across_gpus`, or
    have no case in common; MissingDependencyError without scipy.
    """
    timed_a, timed_b = _timed(a), _timed(b)
    both = [key for key in timed_a if key in timed_b]
    _comparable(
        [timed_a[key].environment for key in both], [timed_b[key].environment for key in both], across_gpus=across_gpus
    )
    if not both:
        raise BadInputError(f"no case in common: A has a time of {len(timed_a)} cases and B of {len(timed_b)}")
    return [_comparison(timed_a[key], timed_b[key], threshold, confidence) for key in both]


def unmatched(a: Sequence[Row], b: Sequence[Row]) -> list[Missing]:
    """Cases with a time in one only, and why: never measured in the other, failed there or skipped there."""
    found: list[Missing] = []
    sides: tuple[tuple[Literal["a", "b"], Sequence[Row], Sequence[Row]], ...] = (("a", a, b), ("b", b, a))
    for where, here, there in sides:
        timed = _timed(there)
        last = {row.case.key: row.result for row in there}
        for key, row in _timed(here).items():
            if key not in timed:
                reason = f"{last[key].status}: {last[key].reason}" if key in last else "not measured"
                found.append(Missing(row.case, where, reason))
    return found


def summary(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """How many of each verdict; geometric mean of the ratios B over A; median of how far they are from 1."""
    counts = Counter(found.judgement.verdict for found in comparisons)
    logs = [math.log(r) for found in comparisons if not math.isnan(r := found.judgement.ratio)]
    return {
        "cases": len(comparisons),
        "verdicts": {verdict: counts[verdict] for verdict in get_args(Verdict)},
        "geometric_mean_ratio": math.exp(statistics.fmean(logs)) if logs else None,
        "median_difference": math.expm1(statistics.median(map(abs, logs))) if logs else None,
    }


def main(argv: list[str] | None = None) -> int:
    """Run `python -m bench compare`; 1 where `--fail-on` found what it looks for."""
    parser = argparse.ArgumentParser(
        prog="python -m bench compare",
        description="Compare two records case by case: is B the SAME, FASTER or SLOWER than A, or is it AMBIGUOUS?",
        epilog="Exit codes: 0, 1 with --fail-on, 2 not comparable or no case in common, 5 a broken file.",
    )
    parser.add_argument("a", help="records or an export of them; FILE#RUN takes the run whose id begins so")
    parser.add_argument("b", help="the same, to be judged against A")
    parser.add_argument("--suite", action="append", help="only this suite; may be repeated")
    parser.add_argument("--threshold", type=float, default=THRESHOLD, help="difference that matters (%(default)s)")
    parser.add_argument("--confidence", type=float, default=CONFIDENCE, help="of each verdict (%(default)s)")
    parser.add_argument("--across-gpus", action="store_true", help="compare even if the GPUs are not alike")
    parser.add_argument("--changed", action="store_true", help="leave out what is SAME")
    parser.add_argument(
        "--fail-on",
        action="append",
        choices=FAIL_ON,
        default=[],
        help="exit with 1 if a case is SLOWER; if one is SLOWER or AMBIGUOUS; if A has a time that B lacks",
    )
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0])
    parser.add_argument("--output", "-o", type=Path, help="write to this file instead of the terminal")
    options = parser.parse_args(argv)
    if not 0 < options.threshold < 1 or not 0.5 <= options.confidence < 1:
        raise BadInputError(
            f"threshold {options.threshold} must lie between 0 and 1, and confidence {options.confidence} from 0.5 to 1"
        )
    a, b = (_rows(name, options.suite) for name in (options.a, options.b))
    comparisons = compare(
        a,
        b,
        threshold=options.threshold,
        confidence=options.confidence,
        across_gpus=options.across_gpus,
    )
    missing = unmatched(a, b)
    shown = [c for c in comparisons if c.judgement.verdict != "SAME"] if options.changed else comparisons
    text = _render(options, shown, summary(comparisons), missing, differences(a, b))
    if options.output:
        write_atomically(options.output, (text + "\n").encode())
        print(f"wrote {options.output}", file=sys.stderr)
    else:
        print(text)
    return int(_fails(options.fail_on, comparisons, missing))


def differences(a: Sequence[Row], b: Sequence[Row]) -> list[str]:
    """What differs between the environments, one line each: "torch: 2.11.0 -> 2.12.0"."""
    environments = [rows[-1].environment for rows in (a, b) if rows]
    if len(environments) < 2:
        return []
    shown = []
    for name in dict.fromkeys([*environments[0], *environments[1]]):
        was, now = (environment.get(name) for environment in environments)
        if name == "gpu_uuid" and was is not None and now is not None:
            was, now = card_key(was), card_key(now)
        if was != now:
            shown.append(f"{name}: {_shown(was)} -> {_shown(now)}")
    return shown


def _log_median_error(samples_s: Sequence[float]) -> float:
    """Standard error of a median's logarithm from two order statistics about it (Price and Bonett 2002)."""
    count, ordered = len(samples_s), sorted(samples_s)
    rank = max(1, round(count / 2 - math.sqrt(count)))
    tail = sum(math.comb(count, i) for i in range(rank)) / 2**count
    return math.log(ordered[count - rank] / ordered[rank - 1]) / (2 * statistics.NormalDist().inv_cdf(1 - tail))


def _rank_sum_p(a_s: Sequence[float], b_s: Sequence[float]) -> float:
    try:
        from scipy.stats import mannwhitneyu
    except ImportError as error:
        raise MissingDependencyError(f"comparing needs scipy ({error}): pip install 'batchwave[fit]'") from error
    return float(mannwhitneyu(a_s, b_s, alternative="two-sided").pvalue)


def _timed(rows: Iterable[Row]) -> dict[str, Row]:
    return {row.case.key: row for row in rows if row.result.status == "ok" and row.result.timing is not None}


def _comparable(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], *, across_gpus: bool) -> None:
    methods = {environment.get("method_version") for environment in (*a, *b)}
    if len(methods) > 1:
        versions = " and ".join(sorted(map(str, methods)))
        raise BadInputError(f"times taken by method versions {versions} are not comparable; measure one of them again")
    if across_gpus:
        return
    gpus = {(environment.get("gpu_name"), environment.get("sms")) for environment in (*a, *b)}
    if len(gpus) > 1:
        names = " and ".join(sorted(f"{name or 'unknown'} ({sms or '??'} SMs)" for name, sms in gpus))
        raise BadInputError(f"times of {names} are of different GPUs; choose runs of one, or add --across-gpus")


def _comparison(a: Row, b: Row, threshold: float, confidence: float) -> Comparison:
    assert a.result.timing is not None
    assert b.result.timing is not None
    a_s, b_s = a.result.timing.samples_s, b.result.timing.samples_s
    judgement = judge(a_s, b_s, threshold=threshold, confidence=confidence)
    medians_s = statistics.median(a_s), statistics.median(b_s)
    spreads = [
        (high - low) / median_s if median_s else math.nan
        for (low, high), median_s in zip(
            (a.result.timing.quartiles_s, b.result.timing.quartiles_s), medians_s, strict=True
        )
    ]
    return Comparison(b.case, *medians_s, spreads[0], spreads[1], len(a_s), len(b_s), judgement)


def _fails(fail_on: Sequence[str], comparisons: Sequence[Comparison], missing: Sequence[Missing]) -> bool:
    verdicts = {found.judgement.verdict for found in comparisons}
    return (
        ("slower" in fail_on and "SLOWER" in verdicts)
        or ("ambiguous" in fail_on and bool(verdicts & {"SLOWER", "AMBIGUOUS"}))
        or ("missing" in fail_on and any(found.where == "a" for found in missing))
    )


def _rows(name: str, suites: Sequence[str] | None) -> list[Row]:
    path, run = name, ""
    if "#" in name and not Path(name).exists():
        path, _, run = name.rpartition("#")
    archive = read_archive(path)
    runs = [found.id for found in archive.runs if found.id.startswith(run)]
    if run and len(runs) != 1:
        known = ", ".join(found.id for found in archive.runs[-5:])
        raise BadInputError(f"{len(runs)} runs of {path} begin with {run!r}; its last are {known}")
    rows = [row for row in archive.rows if row.run in runs and (not suites or row.case.suite in suites)]
    if not rows:
        held = ", ".join(sorted({row.case.suite for row in archive.rows})) or "none"
        raise BadInputError(f"{name} has no measurement of what was asked; its suites are: {held}")
    return rows


def _render(
    options: argparse.Namespace,
    comparisons: Sequence[Comparison],
    counted: Mapping[str, Any],
    missing: Sequence[Missing],
    changed: Sequence[str],
) -> str:
    if options.format == "json":
        return json.dumps(
            {
                "schema_version": _SCHEMA_VERSION,
                "a": options.a,
                "b": options.b,
                "threshold": options.threshold,
                "confidence": options.confidence,
                "differences": list(changed),
                "summary": counted,
                "comparisons": [_plain(asdict(found)) for found in comparisons],
                "missing": [asdict(found) for found in missing],
            },
            indent=2,
            allow_nan=False,
        )
    order = get_args(Verdict)
    ranked = sorted(comparisons, key=lambda c: (order.index(c.judgement.verdict), c.judgement.ratio))
    if options.format == "csv":
        return _csv(ranked)
    titles = ("suite", "case", "A", "IQR", "B", "IQR", "B/A - 1", "interval", "verdict")
    table = _table(titles, [_cells(found) for found in ranked], markdown=options.format == "markdown")
    return "\n".join([*table, "", *_closing(options, counted, missing, changed)])


def _cells(found: Comparison) -> tuple[str, ...]:
    judgement = found.judgement
    interval = "??"
    if math.isfinite(judgement.ratio_high):
        interval = f"{judgement.ratio_low - 1:+.1%} to {judgement.ratio_high - 1:+.1%}"
    verdict = judgement.verdict if judgement.why is None else f"{judgement.verdict}: {judgement.why}"
    return (
        found.case.suite,
        describe(found.case),
        _time(found.a_median_s),
        f"{found.a_spread:.1%}",
        _time(found.b_median_s),
        f"{found.b_spread:.1%}",
        "??" if math.isnan(judgement.ratio) else f"{judgement.ratio - 1:+.1%}",
        interval,
        verdict,
    )


def _closing(
    options: argparse.Namespace, counted: Mapping[str, Any], missing: Sequence[Missing], changed: Sequence[str]
) -> list[str]:
    markdown = options.format == "markdown"
    lines = [f"A: {options.a}", f"B: {options.b}", *changed]
    for where, here, there in (("a", "A", "B"), ("b", "B", "A")):
        only = [found for found in missing if found.where == where]
        lines += [
            f"only in {here}: {describe(found.case)} ({there}: {_line(found.reason)})" for found in only[:_MOST_MISSING]
        ]
        if len(only) > _MOST_MISSING:
            lines.append(f"only in {here}: {len(only) - _MOST_MISSING} more; --format json lists them")
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counted["verdicts"].items())
    mean, typical = counted["geometric_mean_ratio"], counted["median_difference"]
    overall = (
        "" if mean is None else f"; B takes {mean:.4f} of A's time (geometric mean), median difference {typical:.2%}"
    )
    lines.append(f"{counted['cases']} cases: {verdicts}{overall}")
    lines.append(
        f"SAME within {100 * options.threshold:.3g} %; each verdict at {100 * options.confidence:.4g} % confidence"
    )
    return [f"- {line}" for line in lines] if markdown else lines


def _csv(comparisons: Sequence[Comparison]) -> str:
    rows = []
    for found in comparisons:
        members = asdict(found)
        case, judgement = members.pop("case"), members.pop("judgement")
        rows.append({**case, "params": json.dumps(case["params"]), **members, **_plain(judgement)})
    names = [field.name for kind in (Case, Comparison, Judgement) for field in fields(kind)]
    text = io.StringIO()
    writer = csv.DictWriter(text, [name for name in names if name not in ("case", "judgement")], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> list[str]:
    """Words to the left, figures to the right; plain, since a GPU machine has no library for it."""
    if markdown:
        rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    left = {"suite", "case", "interval", "verdict"}
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        placed = [
            cell.ljust(width) if title in left else cell.rjust(width)
            for cell, width, title in zip(cells, widths, titles, strict=True)
        ]
        return f"| {' | '.join(placed)} |" if markdown else "  ".join(placed).rstrip()

    rule = [
        "-" * width if title in left else "-" * (width - 1) + ":" for title, width in zip(titles, widths, strict=True)
    ]
    plain_rule = "  ".join("-" * width for width in widths)
    return [line(titles), f"| {' | '.join(rule)} |" if markdown else plain_rule, *map(line, rows)]


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{seconds * 1e6:.2f} us"
    return f"{seconds * 1e3:.3f} ms" if seconds < 1 else f"{seconds:.3f} s"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(member) for name, member in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(value: object) -> str:
    return "??" if value is None else str(value)


def _line(text: str) -> str:
    return " ".join(text.split())
