"""A measuring session: plans the cases, has a child measure them suite by suite, and records each result at once.

This process imports no torch and holds no CUDA context. A child per suite measures; one that crashes, hangs or says
that its context is broken is replaced, its case is recorded as failed with the reason, and the sweep goes on. Killed
at any moment (kill -9 too), a session loses at most the running case: `resume` continues. Standard library only.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import random
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from advisor.child import Child, ChildEndedError, StoppedError, TimedOutError, scrub, told
from advisor.errors import AdvisorError, BadInputError, UnknownNameError
from advisor.signals import heard
from bench.case import Case, Result, Timing, result_from_json
from bench.progress import Progress, describe
from bench.records import Records, Run, RunState
from bench.suites import SUITES, SuiteOptions
from bench.telemetry import slowdown_note
from bench.timer import drift_note, drift_of

_POLL_S = 0.25  # how often the progress line and a pending Ctrl-C are looked at
_GRACE_S = 10.0  # that a running case has to end after the first Ctrl-C
_STARTING_S = 8.0  # of a child, until one was seen: importing torch, a CUDA context, settling
_LEAST_SHARE_S = 2.0
_LIBRARY_LIMIT = 2  # children that may be lost in cases of one library, before the rest of them is left out
_SAME_KEY_S = 1.0  # a terminal's Ctrl-C may arrive twice, from the terminal and from `advisor`


@dataclass(frozen=True)
class Slot:
    """A suite's part of a session: its share of the time by weight, and a limit where it needs no more.

    case_limit_s: of one case, after which it hangs; None takes the session's.
    """

    suite: str
    weight: float
    at_most_s: float | None = None
    case_limit_s: float | None = None


# In the order in which they run. What a suite leaves of its share goes to those after it.
SLOTS = (
    Slot("ceilings", 3, at_most_s=15),
    Slot("train", 45, case_limit_s=150),  # a network's convolutions are all tuned in its first step
    Slot("gemm", 18),
    Slot("conv", 15),
    Slot("memory", 5),
    Slot("tune", 4, at_most_s=25),
    Slot("waves", 3, at_most_s=25),
)


@dataclass(frozen=True)
class SessionOptions:
    """What to measure and for how long. `modules` maps suites to modules, as `bench.suites.SUITES` does."""

    slots: tuple[Slot, ...] = SLOTS
    budget_s: float = 480.0
    gpu: str = "auto"  # "auto", "cuda:N" or a UUID
    resume: bool = False
    retry_failed: bool = False
    quick: bool = False
    smoke: bool = False
    seed: int = 0
    case_limit_s: float = 60.0
    start_limit_s: float = 180.0  # importing torch from a cold disk, settling
    overrun_s: float = 5.0  # by which the last case may pass the budget before it is killed
    crash_limit: int = 3  # children in a row that ended without a result: the suite is given up
    reference_every_s: float = 45.0  # or so many cases, whichever comes first
    reference_every: int = 100
    modules: Mapping[str, str] | None = None
    command: str = "bench measure"


@dataclass
class Summary:
    """What came of a session so far."""

    ok: int = 0
    failed: int = 0
    skipped: int = 0
    noisy: int = 0
    already_done: int = 0  # found in the records by a resumed session
    left: int = 0  # planned, but the budget or Ctrl-C came first
    drift: float = 0.0  # the largest change of the reference since the start, relative
    state: RunState = "running"
    elapsed_s: float = 0.0
    stopped_by: int | None = None  # signal
    slowed: int = 0  # cases in which heat or the hardware's protection held the clocks down
    given_up: list[str] = field(default_factory=list)  # one line per suite, or library in a suite, that was
    skipped_for: Counter[str] = field(default_factory=Counter)  # reason -> cases
    environment: dict[str, Any] = field(default_factory=dict)
    rows_by_suite: dict[str, int] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows recorded."""
        return self.ok + self.failed + self.skipped


def parse_budget(text: str) -> float:
    """Seconds in "8m", "90s", "1h", "1h30m" or "90". Raises BadInputError for anything else, zero or above a week."""
    match = re.fullmatch(r"\s*(?:(\d+(?:\.\d+)?)h)?\s*(?:(\d+(?:\.\d+)?)m)?\s*(?:(\d+(?:\.\d+)?)s?)?\s*", text.lower())
    hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    budget_s = 3600 * hours + 60 * minutes + seconds
    if not 0 < budget_s <= 7 * 24 * 3600:
        raise BadInputError(f"{text!r} is no budget of time: write it like 8m, 90s, 1h or 1h30m, up to 168h")
    return budget_s


def choose_slots(names: Iterable[str], known: Iterable[str]) -> tuple[Slot, ...]:
    """Slots of the suites named, "all" or no name being every known one, in the order in which they run.

    Raises UnknownNameError for a name that is not known.
    """
    known = tuple(known)
    names = tuple(names)
    wanted = {part.strip() for name in names for part in name.split(",") if part.strip()}
    if names and not wanted:
        raise UnknownNameError("suite", ",".join(names), known, f"Known: {', '.join(known)}, all.")
    for name in sorted(wanted - {"all"}):
        if name not in known:
            raise UnknownNameError("suite", name, known, f"Known: {', '.join(known)}, all.")
    if "all" in wanted or not wanted:
        wanted = set(known)
    weighed = [slot for slot in SLOTS if slot.suite in known]
    weighed += [Slot(name, 5) for name in known if name not in {slot.suite for slot in SLOTS}]
    chosen = tuple(slot for slot in weighed if slot.suite in wanted)
    return (replace(chosen[0], at_most_s=None),) if len(chosen) == 1 else chosen


def order_cases(tiers: Sequence[Sequence[Case]], done: set[str], seed: int) -> list[Case]:
    """Cases in the order to measure them: tier by tier, shuffled within each, without those done and without doubles.

    Shuffled so that no shape's heat always falls on the same next one; the same seed gives the same order.
    """
    chooser = random.Random(seed)
    seen = set(done)
    ordered = []
    for tier in tiers:
        shuffled = list(tier)
        chooser.shuffle(shuffled)
        for case in shuffled:
            if case.key not in seen:
                seen.add(case.key)
                ordered.append(case)
    return ordered


def share_of(slots: Sequence[Slot], left_s: float, starting_s: float) -> float:
    """Seconds of measuring for the first of these slots, of those left for all and for starting their children.

    At least a little: where there is not enough for all, it is the last ones that get nothing.
    """
    measuring_s = left_s - starting_s * len(slots)
    share_s = max(measuring_s * slots[0].weight / sum(slot.weight for slot in slots), _LEAST_SHARE_S)
    return min(share_s, slots[0].at_most_s) if slots[0].at_most_s is not None else share_s


def device_environment(gpu: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Environment in which CUDA's device 0 is the one asked for: "auto", "cuda:N" (as CUDA numbers here) or a UUID.

    Raises BadInputError where the text is none of these or names a device that CUDA_VISIBLE_DEVICES hides.
    """
    found = dict(environ)
    if gpu == "auto":
        return found
    number = re.fullmatch(r"cuda:(\d+)", gpu)
    if number:
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        seen = None if visible is None else [part.strip() for part in visible.split(",") if part.strip()]
        index = int(number[1])
        if seen is not None and index >= len(seen):
            raise BadInputError(f"{gpu}: CUDA_VISIBLE_DEVICES={visible} shows {len(seen)} GPU(s), numbered from 0")
        found["CUDA_VISIBLE_DEVICES"] = str(index) if seen is None else seen[index]
    elif re.fullmatch(r"(GPU|MIG)-[0-9a-fA-F/-]+", gpu):
        found["CUDA_VISIBLE_DEVICES"] = gpu
    else:
        raise BadInputError(f"{gpu!r} names no GPU to measure: auto, cuda:0, or a UUID as `nvidia-smi -L` prints it")
    return found


class Session:
    """One run over several suites. `summary` may be read meanwhile."""

    def __init__(self, options: SessionOptions, records: Records, progress: Progress) -> None:
        self.options = options
        self.records = records
        self.progress = progress
        self.summary = Summary()
        self._modules = dict(SUITES if options.modules is None else options.modules)
        self._environment = device_environment(options.gpu, os.environ)
        if options.smoke:
            self._environment["TRITON_INTERPRET"] = "1"  # our kernels run on a processor, too
            self._environment.setdefault("OMP_NUM_THREADS", "1")  # in miniature, threads cost more than they bring
        self._plans: dict[str, deque[Case]] = {}
        self._totals: dict[str, int] = {}
        self._given_up: set[str] = set()
        self._drifted: set[str] = set()
        self._references_s: list[float] = []
        self._until_s: dict[str, float] = {}  # of the suites whose measuring has begun
        self._starting_s = 0.5 if options.smoke else _STARTING_S
        self._first_start = True
        self._lost: Counter[tuple[str, Any]] = Counter()  # children, by suite and library
        self._left_out = 0  # cases of a library that cost too many children
        self._said = ""
        self._reference_at_s, self._since_reference = 0.0, 0
        self._durations_s: dict[str, list[float]] = {}
        self._run: Run | None = None
        self._start_s = time.monotonic()
        self._deadline_s = self._start_s + options.budget_s
        self._stopped_at_s: float | None = None
        self._kill_now = False
        self._told_to_wait = False
        self._measuring = False  # a case, and not the reference

    def run(self) -> Summary:
        """Measure until all is done, the budget is spent or the user stops it.

        Raises NoGpuError, MissingDependencyError and BadInputError as the first child or the records say.
        """
        with heard(("SIGINT", "SIGTERM", "SIGHUP"), self._stop):
            try:
                self._measure_all(self.options.slots)
                self._measure_all(
                    [replace(slot, at_most_s=None) for slot in self.options.slots]
                )  # the time that is left
                self._finish(self._final_state())
            except BaseException:
                with contextlib.suppress(AdvisorError):
                    self._finish("failed")
                raise
            finally:
                self.progress.close()
        return self.summary

    def _measure_all(self, slots: Sequence[Slot]) -> None:
        """Measure each suite for its share of the time that is left."""
        self._until_s.clear()
        for index, slot in enumerate(slots):
            left_s = self._deadline_s - time.monotonic()
            if self._stopped_at_s is not None:
                return
            if self._run is not None:
                if left_s < self._starting_s + _LEAST_SHARE_S:
                    return
                if not self._plans[slot.suite] or slot.suite in self._given_up:
                    continue
            waiting = [s for s in slots[index:] if self._run is None or self._plans[s.suite]]
            self._measure_suite(slot.suite, share_of(waiting, left_s, self._starting_s))

    def _measure_suite(self, suite: str, share_s: float) -> None:
        """Measure one suite until its time or its cases are over, or its children end too often."""
        crashes = 0
        while crashes < self.options.crash_limit and self._time_for_another(suite):
            crashes = self._measure_by_one_child(suite, share_s, crashes)
        if crashes >= self.options.crash_limit:
            if self._run is None:  # not this suite's fault: none of them could start
                raise AdvisorError(
                    f"nothing was measured, as {crashes} children in a row could not start: {self._said}"
                )
            self._given_up.add(suite)
            line = f"{suite}: given up, as {crashes} children in a row ended without a result"
            self.summary.given_up.append(line)
            self._say("given_up", f"{line}; the other suites go on")

    def _measure_by_one_child(self, suite: str, share_s: float, crashes: int) -> int:
        """Have a new child measure until it must be replaced or all is over; how many ended in a row by then."""
        try:
            child = self._start_child(suite)
        except ChildEndedError as error:
            if self._is_over(error):
                return crashes
            self._say("child_ended", f"{suite}: {error}")
            return crashes + 1
        if suite not in self._until_s and self._plans[suite]:
            self._until_s[suite] = time.monotonic() + share_s
            self.progress.begin(suite, len(self._plans[suite]), share_s)
        with child:
            while self._time_for_another(suite):
                case = self._plans[suite][0]
                try:
                    self._check_reference_when_due(child, suite)
                    result, restart = self._measure_case(child, suite, case)
                except ChildEndedError as error:
                    if self._is_over(error):  # not the case's fault: it is left for `resume`
                        return crashes
                    if self._measuring:
                        self._record(suite, case, Result("failed", reason=str(error)))
                        self._blame(suite, case)
                    else:
                        self._say("child_ended", f"{suite}: {error}")
                    return crashes + 1
                self._record(suite, case, result)
                if restart == "broken":
                    self._blame(suite, case)
                    return crashes + 1
                crashes = 0
                if restart == "fresh":
                    return crashes
            if self._stopped_at_s is None and self._since_reference:
                with contextlib.suppress(ChildEndedError):  # all its results are recorded
                    self._check_reference(child, suite)
        return crashes

    def _blame(self, suite: str, case: Case) -> None:
        """Count a child lost in this case; leave out what is left of a library that cost several.

        A new child takes seconds, a hang its limit: a kernel that breaks everywhere would cost all of the suite's time.
        """
        library = case.params.get("library")
        self._lost[suite, library] += 1
        if library is None or self._lost[suite, library] < _LIBRARY_LIMIT:
            return
        plan = self._plans[suite]
        kept = deque(other for other in plan if other.params.get("library") != library)
        if 0 < len(kept) < len(plan):  # with nothing else to measure, it is the suite that is given up
            self._left_out += len(plan) - len(kept)
            line = f"{suite}: {len(plan) - len(kept)} cases by {library} left out, as such cases ended several children"
            self._plans[suite] = kept
            self.summary.given_up.append(line)
            self._say("given_up", line)
            self._update()

    def _is_over(self, error: ChildEndedError) -> bool:
        """Whether the child was ended by us, for the user or for the end of the budget."""
        late = isinstance(error, TimedOutError) and time.monotonic() >= self._deadline_s
        return late or isinstance(error, StoppedError)

    def _time_for_another(self, suite: str) -> bool:
        if self._stopped_at_s is not None:
            return False
        now = time.monotonic()
        if self._run is None:  # not planned yet
            return now < self._deadline_s
        plan = self._plans[suite]
        if not plan or now >= self._until_s.get(suite, self._deadline_s):
            return False
        past = self._durations_s.get(f"{suite} {plan[0].kind}")
        expected_s = sum(past) / len(past) if past else 0.0
        return now + expected_s < self._deadline_s

    def _start_child(self, suite: str) -> Child:
        """Start a child, wait until it has settled and timed its reference; plan the session at the first."""
        options = self.options
        command = [
            sys.executable, str(Path(__file__).resolve().with_name("__main__.py")), "worker",
            "--suite", suite, "--module", self._modules[suite], *(["--smoke"] if options.smoke else []),
            "--device", "cpu" if options.smoke else "cuda:0", "--parent", str(os.getpid()),
        ]  # fmt: skip
        start_s = time.monotonic()
        child = Child(command, self._environment)
        try:
            hello = self._wait(child, "hello", suite, "starting", options.start_limit_s)
            if self._run is None:
                self._begin(hello)
            if not self._plans[suite]:
                return child
            ready = self._wait(child, "ready", suite, "settling the clocks", options.start_limit_s)
        except BaseException:
            child.kill()
            raise
        took_s = time.monotonic() - start_s
        if self._first_start:  # from a cold disk it takes far longer than all later ones will
            took_s = min(took_s, self._starting_s)
        self._starting_s, self._first_start = took_s, False
        self._note_reference(suite, ready["reference"])
        if not ready["settling"]["steady"] and not options.smoke:
            self._say("not_settled", f"{suite}: the clocks did not settle in {ready['settling']['took_s']:.0f} s")
        return child

    def _begin(self, environment: dict[str, Any]) -> None:
        options = self.options
        self._run = self.records.start_run(environment, options.command, seed=options.seed, budget_s=options.budget_s)
        self.summary.environment = environment
        found = self.records.done(environment, retry_failed=options.retry_failed)
        done = found if options.resume else set()
        there = 0
        for slot in options.slots:
            tiers = self._tiers(slot.suite, environment)
            everything = {case.key for tier in tiers for case in tier}
            there += len(everything & found)
            self._plans[slot.suite] = deque(order_cases(tiers, done, options.seed))
        self._totals = {name: len(plan) for name, plan in self._plans.items()}
        if options.resume:
            self.summary.already_done = there
        elif there:
            self.progress.note(f"{there} of the cases are in {self.records.path} already: --resume leaves them out")
        for name in ("busy", "telemetry_missing"):
            if environment.get(name) and environment.get("device") == "cuda":
                self._say(name, str(environment[name]))
        if self.records.notice:
            self._say("records", self.records.notice)

    def _tiers(self, suite: str, environment: Mapping[str, Any]) -> list[list[Case]]:
        told = re.fullmatch(r"(\d+)\.(\d+)", str(environment.get("capability")))
        capability = (int(told[1]), int(told[2])) if told else None
        options = SuiteOptions(
            smoke=self.options.smoke,
            quick=self.options.quick,
            capability=capability,
            memory_bytes=environment.get("memory_bytes"),
            sms=environment.get("sms"),
        )
        tiers: list[list[Case]] = importlib.import_module(self._modules[suite]).cases(options)
        return tiers

    def _measure_case(self, child: Child, suite: str, case: Case) -> tuple[Result, str | None]:
        """Have one case measured; the result, and "fresh" or "broken" where the child must be replaced."""
        self._measuring = True
        self._since_reference += 1
        start_s = time.monotonic()
        child.send({"case": {"suite": case.suite, "kind": case.kind, "params": dict(case.params)}})
        limits = {slot.suite: slot.case_limit_s for slot in self.options.slots}
        event = self._wait(child, "result", suite, describe(case), limits.get(suite) or self.options.case_limit_s)
        self._durations_s.setdefault(f"{suite} {case.kind}", []).append(time.monotonic() - start_s)
        try:
            if event["key"] != case.key:
                raise ValueError(f"key {event['key']}")
            result = result_from_json(json.dumps(event["result"]))
        except (ValueError, KeyError, TypeError) as error:
            child.kill()
            raise ChildEndedError(f"the child's result cannot be understood: {error}") from error
        if result.timing is not None and not all(math.isfinite(s) and s >= 0 for s in result.timing.samples_s):
            result = Result("failed", reason=f"not a time in seconds among the samples: {result.timing.samples_s[:5]}")
        reason = None if result.reason is None else scrub(result.reason)
        return replace(result, reason=reason), event.get("restart")

    def _wait(self, child: Child, wanted: str, suite: str, what: str, limit_s: float) -> Any:
        """Wait for an event of this name, drawing the progress line; the other events are notes.

        Raises TimedOutError, StoppedError or ChildEndedError, the child being dead in each case; and what the child
        says that it cannot do (NoGpuError, MissingDependencyError, AdvisorError).
        """
        start_s = time.monotonic()
        latest_s = min(start_s + limit_s, self._deadline_s + self.options.overrun_s)
        while True:
            now = time.monotonic()
            total = self._totals.get(suite, 0)
            done = self.summary.rows_by_suite.get(suite, 0)
            self.progress.show(suite, what, done, total, self._deadline_s - now)
            if self._stopped_at_s is not None and wanted != "result":  # no case runs that could be lost
                self._kill_now = True
            if self._stopped_at_s is not None and not self._kill_now and not self._told_to_wait:
                self._told_to_wait = True
                self.progress.note(f"stopping: {what} has {_GRACE_S:.0f} s to end; Ctrl-C again ends it now")
            if self._kill_now or (self._stopped_at_s is not None and now > self._stopped_at_s + _GRACE_S):
                child.kill()
                raise StoppedError("stopped by the user")
            if now >= latest_s:
                child.kill()
                raise TimedOutError(f"no answer within {now - start_s:.0f} s ({what}): killed")
            event = child.next_event(min(_POLL_S, latest_s - now))
            if event is None:
                continue
            if "error" in event:
                child.kill()
                raise told(event["error"])
            if wanted in event:
                return event if wanted == "result" else event[wanted]

    def _check_reference_when_due(self, child: Child, suite: str) -> None:
        self._measuring = False
        late = time.monotonic() - self._reference_at_s > self.options.reference_every_s
        if self._since_reference and (late or self._since_reference >= self.options.reference_every):
            self._check_reference(child, suite)

    def _check_reference(self, child: Child, suite: str) -> None:
        child.send({"reference": True})
        self._note_reference(suite, self._wait(child, "reference", suite, "reference", self.options.case_limit_s))

    def _note_reference(self, suite: str, found: Mapping[str, Any]) -> None:
        """Record a reading of the reference, and mark the run where the device did not stay the same."""
        assert self._run is not None
        self._reference_at_s, self._since_reference = time.monotonic(), 0
        size, facts = found["size"], found["facts"]
        case = Case(suite, "reference", {"m": size, "n": size, "k": size, "library": "cublas"})
        told = {"after_cases": found["after_cases"], "drift": facts["drift"]}  # within this child
        timing = Timing(**{**found["timing"], "samples_s": tuple(found["timing"]["samples_s"])})
        self.records.add(self._run, case, Result("ok", timing=timing, facts=told))
        self._references_s.append(timing.median_s)
        drift = drift_of(self._references_s)  # within the session
        self.summary.drift = max(self.summary.drift, abs(drift))
        note = drift_note(drift, facts["limit"])
        if note and suite not in self._drifted and not self.options.smoke:
            self._drifted.add(suite)
            self._say("drift", f"{suite}: {note}")

    def _record(self, suite: str, case: Case, result: Result) -> None:
        assert self._run is not None
        self.records.add(self._run, case, result)
        self._plans[suite].popleft()
        summary = self.summary
        setattr(summary, result.status, getattr(summary, result.status) + 1)
        summary.noisy += result.timing is not None and result.timing.quality == "noisy"
        slowed = slowdown_note(result.telemetry.get("during") or {})
        if slowed and not summary.slowed:
            self._say("slowed", f"{describe(case)}: {slowed}")
        summary.slowed += slowed is not None
        self._update()
        summary.rows_by_suite[suite] = summary.rows_by_suite.get(suite, 0) + 1
        if result.status == "failed":
            self.progress.note(f"failed: {describe(case)}: {result.reason}")
        if result.status == "skipped":
            summary.skipped_for[result.reason or "no reason given"] += 1

    def _say(self, kind: str, text: str) -> None:
        if text != self._said:
            self.progress.note(text)
        self._said = text
        if self._run is not None:
            self.records.note(self._run, kind, {"text": text})

    def _update(self) -> None:
        self.summary.left = self._left_out + sum(len(plan) for plan in self._plans.values())
        self.summary.elapsed_s = time.monotonic() - self._start_s

    def _final_state(self) -> RunState:
        if self._stopped_at_s is not None:
            return "interrupted"
        if self.summary.given_up:
            return "failed"
        planned = self._run is not None
        return "complete" if planned and not any(self._plans.values()) else "out_of_budget"

    def _finish(self, state: RunState) -> None:
        self._update()
        self.summary.state = state
        if self._run is not None:
            self.records.finish_run(self._run, state)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._stopped_at_s is None:
            self._stopped_at_s = now
            self.summary.stopped_by = number
            self._kill_now = number != signal.SIGINT
        elif now - self._stopped_at_s > _SAME_KEY_S or number != signal.SIGINT:
            self._kill_now = True
