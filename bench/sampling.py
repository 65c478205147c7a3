"""A bounded part of a records file, for what shows measurements: the same part of the same file, every time.

One pass over the file by SQL: a file of millions of rows costs its reading, and the memory of what may be drawn. Of
each case the newest good row stands for it. Where there are more cases than may be drawn, every sweep (the cases that
differ in one size alone: M of a product, the batch of a step) gives as many as the others do, chosen by a hash of the
case; our kernel and the library at one size are drawn together, as their ratio needs both.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advisor.errors import BadInputError
from advisor.gpus.names import compact, find_gpu
from bench.exchange import Archive, checked
from bench.records import Records, Run, conditions

KINDS = ("gemm", "conv", "train", "kernels", "timeline")  # that a report shows
MOST_RUNS = 10_000  # the newest that are looked at
MOST_TIMELINES = 12
MOST_CHARACTERS = 2**16  # of a row's parameters, samples, facts and telemetry
MOST_OF_TIMELINE = 4 * 2**20  # of a timeline's: 100,000 CTAs

# Why a row is left out, in the order in which they are asked.
PROCESSOR = "measured on a processor"
OTHER_GPU = "of another GPU"
OTHER_CONDITIONS = "under other conditions (card, power limit, driver or versions)"
OLDER_RUN = f"of runs before the newest {MOST_RUNS}"
OTHER_KIND = "of kinds that no report shows"
SKIPPED = "skipped while measuring"
FAILED = "failed"
HOST_BOUND = "held up by the host"
NO_TIME = "without a time"
TOO_LARGE = "too large for what they are"
MEASURED_ANEW = "measured anew since"

_FAULT = f"""CASE
    WHEN kind NOT IN {KINDS} THEN '{OTHER_KIND}'
    WHEN status = 'skipped' THEN '{SKIPPED}'
    WHEN status != 'ok' THEN '{FAILED}'
    WHEN kind != 'timeline' AND host_bound THEN '{HOST_BOUND}'
    WHEN kind NOT IN ('timeline', 'kernels') AND samples_s IS NULL THEN '{NO_TIME}'
    WHEN length(params) + coalesce(length(samples_s), 0) + length(facts) + length(telemetry)
        > CASE kind WHEN 'timeline' THEN {MOST_OF_TIMELINE} ELSE {MOST_CHARACTERS} END THEN '{TOO_LARGE}'
    END"""


@dataclass(frozen=True)
class Asked:
    """Which GPU's rows are wanted: its id in the table, its driver's name, and its SMs where they are known."""

    id: str
    name: str
    sms: int | None = None

    def fits(self, environment: Mapping[str, Any]) -> bool:
        """Whether a run was on this kind of GPU; a MIG slice has fewer SMs than its card."""
        told, name = environment.get("sms"), str(environment.get("gpu_name"))
        if self.sms is not None and told is not None and told != self.sms:
            return False
        return compact(name) == compact(self.name) or gpu_id(name) == self.id


@dataclass(frozen=True)
class Drawn:
    """What was drawn, and what was not."""

    archive: Archive  # runs and rows drawn, oldest first, each field checked
    environment: Mapping[str, Any] | None  # of the newest run that could be drawn from; None: there is none
    drifted: frozenset[str]  # runs that are marked by drift
    total: int  # rows in the file
    good: int  # that could have been drawn
    sampled: bool  # there are more cases than were drawn
    left_out: Mapping[str, int]  # reason: rows


def gpu_id(name: str) -> str | None:
    """Id of the GPU that a driver calls so, of a MIG slice that of its card; None where nobody knows it."""
    try:
        return find_gpu(re.sub(r" MIG .*", "", name)).id
    except BadInputError:
        return None


def draw(records: Records, *, limit: int, asked: Asked | None = None) -> Drawn:
    """Draw at most `limit` rows, and MOST_TIMELINES, of one GPU under one set of conditions: the newest run's.

    asked: whose rows are wanted; where there are none of it, those of the GPU that was measured last.
    Raises BrokenFileError where what is drawn is not what records hold.
    """
    runs = records.runs(newest=MOST_RUNS)
    chosen = _chosen(records, runs, asked)
    places = {run.id: _place(run, chosen) for run in runs}
    samples = {"timeline": Sample(MOST_TIMELINES)}
    others = Sample(limit)
    counted: Counter[str | None] = Counter()
    for id_, run_id, kind, key, at, fault in records.select(
        f"SELECT id, run, kind, key, measured_at, {_FAULT} FROM results ORDER BY id"
    ):
        why = places.get(run_id, OLDER_RUN) or fault
        counted[why] += 1
        if why is None:
            samples.get(kind, others).add(str(key), str(at), id_)
    drawn = [*others.ids(), *samples["timeline"].ids()]
    rows = sorted(records.rows_by_id(drawn), key=lambda row: (row.measured_at, row.run, row.sequence))
    drawn_from = {row.run for row in rows}
    archive = Archive(tuple(run for run in runs if run.id in drawn_from), tuple(rows), ())
    good, sampled = counted.pop(None, 0), others.cut or samples["timeline"].cut
    if not sampled and good > len(rows):
        counted[MEASURED_ANEW] = good - len(rows)
    return Drawn(
        checked(archive, records.path),
        None if chosen is None else chosen.environment,
        _drifted(records) & drawn_from,
        good + sum(counted.values()) - counted[MEASURED_ANEW],
        good,
        sampled,
        {
            str(why): count
            for why, count in sorted(counted.items(), key=lambda entry: (-entry[1], str(entry[0])))
            if count
        },
    )


def _drifted(records: Records) -> frozenset[str]:
    query = "SELECT DISTINCT run FROM notes WHERE kind = 'drift' ORDER BY run DESC LIMIT :most"
    return frozenset(run for (run,) in records.select(query, {"most": MOST_RUNS}))


def _chosen(records: Records, runs: list[Run], asked: Asked | None) -> Run | None:
    """The newest run on a GPU that has a row to draw, of the GPU asked for if there is one."""
    query = f"SELECT EXISTS (SELECT 1 FROM results WHERE run = :run AND {_FAULT} IS NULL)"
    on_gpu = [run for run in reversed(runs) if run.environment.get("device") == "cuda"]
    of_asked = [run for run in on_gpu if asked is not None and asked.fits(run.environment)]
    for run in (*of_asked, *on_gpu):
        if next(records.select(query, {"run": run.id}))[0]:
            return run
    return None


def _place(run: Run, chosen: Run | None) -> str | None:
    """Why a run's rows are left out, or None."""
    here = run.environment
    if here.get("device") != "cuda":
        return PROCESSOR
    if chosen is None:
        return None
    there = chosen.environment
    if any(here.get(name) != there.get(name) for name in ("gpu_name", "sms")):
        return OTHER_GPU
    return None if conditions(here) == conditions(there) else OTHER_CONDITIONS


_NOT_OF_POINT = re.compile(r'"(?:library|autotuned)":(?:"[^"]*"|[^,}]*),?')
_NOT_OF_SWEEP = re.compile(r'"(?:library|autotuned|m|batch)":(?:"[^"]*"|[^,}]*),?')

_Point = dict[str, tuple[str, int]]  # case: time and id of its newest row


class Sample:
    """Rows of at most `limit` cases, out of any number that are added, in memory for a few times the limit.

    A point is the cases that differ in their library alone. In rounds, each sweep gives the point of its least hash
    that it has not given yet, until the limit is reached. Whenever there is too much to hold, the rounds that will
    surely not be reached are dropped, and what comes later and belongs to them is not taken in.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.cut = False  # whether there were more cases than the limit
        self._sweeps: dict[str, dict[int, _Point]] = {}
        self._last: dict[str, int] = {}  # of a sweep that has lost points: the hash of the last that it kept
        self._last_sweep: tuple[int, str] | None = None
        self._rows = 0

    def add(self, key: str, at: str, id_: int) -> None:
        """Take a row in: its case (`Case.key`), when it was measured, and its id."""
        sweep = _NOT_OF_SWEEP.sub("", key)
        points = self._sweeps.get(sweep)
        if points is None:
            if self._last_sweep is not None and _hashed(sweep) > self._last_sweep:
                return
            points = self._sweeps[sweep] = {}
        point = zlib.crc32(_NOT_OF_POINT.sub("", key).encode(errors="surrogatepass"))
        if point > self._last.get(sweep, point):
            return
        cases = points.setdefault(point, {})
        newest = cases.get(key)
        if newest is None:
            self._rows += 1
        if newest is None or (at, id_) > newest:
            cases[key] = at, id_
        if self._rows > 4 * self.limit:
            self._drop()

    def ids(self) -> list[int]:
        """Of the rows drawn, in order."""
        self.cut = self.cut or self._rows > self.limit
        rounds = self._rounds()
        found = [cases[key][1] for of_round in rounds for _, _, cases in of_round for key in sorted(cases)]
        return sorted(found[: self.limit])

    def _rounds(self) -> list[list[tuple[str, int, _Point]]]:
        """The points in the order in which they are drawn."""
        rounds: list[list[tuple[str, int, _Point]]] = []
        for sweep in sorted(self._sweeps, key=_hashed):
            for place, (point, cases) in enumerate(sorted(self._sweeps[sweep].items())):
                if place == len(rounds):
                    rounds.append([])
                rounds[place].append((sweep, point, cases))
        return rounds

    def _drop(self) -> None:
        rounds, room = self._rounds(), 2 * self.limit
        self._sweeps, self._rows, self.cut = {}, 0, True
        for of_round in rounds:
            rows = sum(len(cases) for _, _, cases in of_round)
            if self._rows and self._rows + rows > room:
                self._last |= {sweep: max(self._sweeps[sweep]) for sweep, _, _ in of_round}
                return
            for sweep, point, cases in of_round:
                self._sweeps.setdefault(sweep, {})[point] = cases
                self._rows += len(cases)
                if rows > room and self._rows >= self.limit:  # the sweeps alone are too many
                    self._last_sweep = _hashed(sweep)
                    self._last = {sweep: max(points) for sweep, points in self._sweeps.items()}
                    return


def _hashed(sweep: str) -> tuple[int, str]:
    return zlib.crc32(sweep.encode(errors="surrogatepass")), sweep
