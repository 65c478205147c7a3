"""What is being measured and how long it may still take: one line redrawn on a terminal, plain lines elsewhere.

All of it goes to stderr, so that stdout holds results alone. Standard library only, as on a GPU machine.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TextIO

from bench.case import Case

PLAIN_EVERY_S = 10.0
_BAR = 16
_BAR_FROM = 45  # columns: in fewer, what is running matters more
# Sizes that are told together: names of the parameters, and how they are written.
_SHAPES = (
    (("m", "n", "k"), "{m}x{n}x{k}"),
    (("batch", "c_in", "height", "width", "c_out", "kernel_h", "kernel_w"),
     "{batch}x{c_in}x{height}x{width} {kernel_h}x{kernel_w} to {c_out}"),
)  # fmt: skip
_USUAL = {"dilation": 1, "groups": 1, "padding": 0, "stride": 1}  # not worth a word


def describe(case: Case) -> str:
    """A case in words: "gemm 4096x1024x512 forward fp16 cublas cold". Other numbers are named."""
    params = {name: value for name, value in case.params.items() if _USUAL.get(name) != value}
    words = [case.kind]
    for names, form in _SHAPES:
        if all(name in params for name in names):
            words.append(form.format(**{name: params.pop(name) for name in names}))
    for name, value in params.items():
        if isinstance(value, bool):
            words += [name] if value else []
        elif isinstance(value, str):
            words.append(value)
        elif value is not None:
            words.append(f"{name}={value}")
    return " ".join(words)


def clock_time(seconds: float) -> str:
    """Seconds as "7:05"; below zero is "0:00"."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes}:{rest:02d}"


@dataclass
class Progress:
    """The one line. `note` says something above it that stays."""

    stream: TextIO = field(default_factory=lambda: sys.stderr or _nowhere())
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    clock: Callable[[], float] = time.monotonic
    _drawn: bool = False
    _last_s: float | None = None

    @property
    def redraws(self) -> bool:
        """Whether the stream is a terminal that can go back in its line."""
        return self.stream.isatty() and self.environ.get("TERM") != "dumb"

    def begin(self, suite: str, cases: int, at_most_s: float) -> None:
        """Say that a suite begins; on a terminal the line itself says so."""
        if not self.redraws:
            self._write(f"{suite}: {cases} case{'s' * (cases != 1)}, at most {clock_time(at_most_s)}\n")

    def show(self, suite: str, what: str, done: int, total: int, left_s: float) -> None:
        """Draw the line; on no terminal print one every ten seconds."""
        if not self.redraws:
            now = self.clock()
            self._last_s = now if self._last_s is None else self._last_s
            if now - self._last_s >= PLAIN_EVERY_S:
                self._last_s = now
                self._write(f"{suite} {done}/{total}, {clock_time(left_s)} left: {what}\n")
            return
        filled = _BAR * done // total if total else 0
        left = f"{clock_time(left_s)} left"
        room = max(self._columns() - len(left) - 3, 0)
        bar = f" [{'#' * filled}{'.' * (_BAR - filled)}]" if room > _BAR_FROM else ""
        line = f"{suite}{bar} {done}/{total}  {what}"
        line = f"{line[:room]:<{room}}  {left}"
        if "NO_COLOR" not in self.environ or not self.environ["NO_COLOR"]:
            line = f"\x1b[1m{line[: len(suite)]}\x1b[0m{line[len(suite) :]}"
        self._write(f"\r\x1b[K{line}")
        self._drawn = True

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.close()
        self._write(f"{text}\n")

    def close(self) -> None:
        """Take the redrawn line away."""
        if self._drawn:
            self._write("\r\x1b[K")
            self._drawn = False

    def _columns(self) -> int:
        """Width of the terminal drawn on, which need not be stdout's; COLUMNS overrules it, as elsewhere."""
        if "COLUMNS" not in self.environ:
            with contextlib.suppress(OSError):
                return os.get_terminal_size(self.stream.fileno()).columns or 80
        return shutil.get_terminal_size().columns

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):  # the terminal is gone; measuring goes on
            self.stream = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 - held to the end
