"""Reads a torch.profiler trace in pieces into columns: `read_trace`.

The JSON is never held whole. The list of events is cut into windows between events, and each is decoded by msgspec with
the needed fields only. A window's first byte is known to begin an event; so a prefix that decodes as a list ends at a
true boundary, wherever the cut was guessed. Where the guess does not decode, `split` finds the boundaries exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from advisor.errors import BrokenFileError
from advisor.profiling.raw import RawTrace
from advisor.profiling.reading.events import Collector, Event
from advisor.profiling.reading.files import TraceSource, named_rank, open_trace
from advisor.profiling.reading.jsontext import repaired, split
from advisor.profiling.reading.top import KEPT_KEYS, read_top
from advisor.units import counted

WINDOW_BYTES = 2**23
MOST_ELEMENT_BYTES = 2**25
"""Of one event, or of one other entry at the top of the file."""
MOST_EVENTS = 50_000_000
MOST_UNREADABLE = 1_000_000

_MOST_KEYS = 10_000
_MOST_KEY_BYTES = 2**16
_REPAIRABLE_BYTES = 2**20  # of one event
_MOST_REPAIRED_BYTES = 2**27  # of all: it is slow
_UNUSED = b'"python_function"'  # with_stack writes most of them; names with lone backslashes, unescaped quotes
_UNUSED_EVENT = Event(ph="X", cat="python_function")
_NOT_SPACE = re.compile(rb"[^ \t\r\n]")
_KEY = re.compile(rb'"[^"\\]{0,4096}(?:\\.[^"\\]{0,4096}){0,16}"', re.DOTALL)
_BETWEEN_EVENTS = re.compile(rb"\}[ \t\r\n]*,(?=[ \t\r\n]*\{)")
_GUESS_BYTES = 2**16
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_decode_events = msgspec.json.Decoder(list[Event]).decode
_decode_event = msgspec.json.Decoder(Event).decode


def read_trace(path: Path, *, progress: Callable[[float], None] | None = None) -> RawTrace:
    """Read one trace: Chrome-trace JSON of torch.profiler, plain, gzip or zip.

    `progress` is called with the share of the file that was read. Raises BadInputError where the path is no readable
    file, BrokenFileError where the file is damaged, cut off, too large, or no trace.
    """
    path = Path(path)
    with open_trace(path) as source:
        return _Reader(path, source, progress).read()


class _Reader:
    """The JSON that was read and not yet used: `_text` from `_at` on."""

    def __init__(self, path: Path, source: TraceSource, progress: Callable[[float], None] | None) -> None:
        self._path, self._source, self._progress = path, source, progress
        self._text, self._at = b"", 0
        self._ended = False
        self._collector = Collector(path)
        self._top: dict[str, bytes] = {}
        self._keys: list[str] = []
        self._has_events = False
        self._unreadable = self._repaired = self._repaired_bytes = 0
        self._first_error = ""

    def read(self) -> RawTrace:
        if self._more() and self._text.startswith(b"\xef\xbb\xbf"):
            self._at = 3
        first = self._next()
        if first == b"[":
            self._at += 1
            self._read_events()
        elif first == b"{":
            self._at += 1
            self._read_object()
        else:
            start = repr(self._text[self._at : self._at + 12])[1:]
            self._refuse(f"is no JSON (it begins with {start}): give what prof.export_chrome_trace() wrote")
        if self._next(required=False):
            self._refuse(f"goes on after its end, at byte {self._offset()}: write it again")
        if self._source.cut_off:
            self._refuse_cut()
        if not self._collector.events and not self._unreadable:
            self._refuse("holds no events: was the profiler active for at least one step?")
        if not self._collector.is_trace:
            self._refuse("holds a list, but not of trace events: give what prof.export_chrome_trace() wrote")
        top, notes = read_top(self._top)
        if top["rank"] is None:
            top["rank"] = named_rank(self._path)
        return self._collector.finish(notes=(*notes, *self._notes()), **top)

    def _more(self) -> bool:
        """Read another window behind what is not used yet; False at the end."""
        rest = self._text[self._at :]
        most = max(WINDOW_BYTES, min(len(rest), MOST_ELEMENT_BYTES - len(rest)))
        piece = b"" if self._ended else self._source.read(most)
        if not piece:
            self._ended = True
            return False
        self._text, self._at = rest + piece, 0
        if self._progress is not None:
            self._progress(self._source.fraction)
        return True

    def _next(self, *, required: bool = True) -> bytes:
        """Skip space and return the next byte without taking it; nothing at the end."""
        while True:
            found = _NOT_SPACE.search(self._text, self._at)
            if found:
                self._at = found.start()
                return found[0]
            self._at = len(self._text)
            if not self._more():
                if required:
                    self._refuse_cut()
                return b""

    def _offset(self) -> int:
        """Bytes of JSON before the current place."""
        return self._source.read_bytes - len(self._text) + self._at

    def _read_object(self) -> None:
        """Take the entries at the top, up to and with the closing brace."""
        last = self._next()
        while last != b"}":
            key = self._read_key()
            if key == "traceEvents" and self._next() == b"[":
                if self._has_events:
                    self._refuse("has two lists of traceEvents: write it again")
                self._has_events = True
                self._at += 1
                self._read_events()
            else:
                self._read_value(key)
            last = self._next()
            if last == b",":
                self._at += 1
                self._next()
            elif last != b"}":
                self._refuse_broken()
        self._at += 1
        if not self._has_events:
            keys = ", ".join(repr(key[:30]) for key in self._keys[:5]) or "none"
            self._refuse(
                f"is JSON without a list of traceEvents (its keys: {keys}): give what prof.export_chrome_trace() or "
                "tensorboard_trace_handler() wrote"
            )

    def _read_key(self) -> str:
        while len(self._text) - self._at < _MOST_KEY_BYTES and self._more():
            pass
        found = _KEY.match(self._text, self._at)
        if found is None:
            self._refuse_cut_or_broken()
        try:
            key: str = msgspec.json.decode(found[0], type=str)
        except _DECODE_ERRORS:
            self._refuse_broken()
        self._at = found.end()
        if self._next() != b":":
            self._refuse_broken()
        self._at += 1
        self._keys.append(key)
        if len(self._keys) > _MOST_KEYS:
            self._refuse(f"has more than {_MOST_KEYS} entries at its top: it is no trace")
        return key

    def _read_value(self, key: str) -> None:
        """Take one value; keep it where it is used."""
        size = 2**16
        while True:
            commas, end = split(self._text[self._at : self._at + size])
            if len(commas) or end >= 0:
                break
            if self._at + size < len(self._text):
                size *= 4
            elif not self._more_of_one():
                self._refuse_cut()
        stop = self._at + (int(commas[0]) if len(commas) else end)
        if key in KEPT_KEYS or key.endswith("_version"):
            self._top[key] = self._text[self._at : stop]
        self._at = stop

    def _more_of_one(self) -> bool:
        if len(self._text) - self._at > MOST_ELEMENT_BYTES:
            self._refuse(
                f"holds one entry of more than {MOST_ELEMENT_BYTES // 2**20} MiB (the limit) from byte "
                f"{self._offset()} on, or a quote that is not escaped: it is no trace, or a broken one"
            )
        return self._more()

    def _read_events(self) -> None:
        """Take the events up to and with the bracket that closes their list."""
        while True:
            while len(self._text) - self._at < WINDOW_BYTES and self._more():
                pass
            if not self._take_guessed() and self._take_exact():
                return

    def _take_guessed(self) -> bool:
        """Take events up to a likely boundary near the window's end; False where they do not decode."""
        near = max(len(self._text) - _GUESS_BYTES, self._at)
        cuts = [found.end() for found in _BETWEEN_EVENTS.finditer(self._text, near)]
        return bool(cuts) and self._take_list(cuts[-1] - 1)

    def _take_exact(self) -> bool:
        """Take events up to the window's last boundary; True where the list ended."""
        commas, end = split(self._text, self._at)
        stops = [*commas.tolist(), *([end] if end >= 0 else [])]
        if not stops:
            if not self._more_of_one():
                self._refuse_cut()
            return False
        if not self._take_list(stops[-1]):
            self._keep([event for stop in stops if (event := self._one(stop, end)) is not None])
        if end < 0:
            return False
        if self._text[end : end + 1] != b"]":
            self._at = end
            self._refuse_broken()
        return True

    def _take_list(self, stop: int) -> bool:
        text = b"".join((b"[", memoryview(self._text)[self._at : stop], b"]"))
        try:
            events = _decode_events(text)
        except _DECODE_ERRORS:
            return False
        self._keep(events)
        self._at = stop + 1
        return True

    def _one(self, stop: int, end: int) -> Event | None:
        """Take one event, repaired where that makes it readable; else it is counted."""
        text, self._at = self._text[self._at : stop], stop + 1
        if stop == end and not _NOT_SPACE.search(text):  # an empty list, or a comma before its end
            return None
        try:
            return _decode_event(text)
        except _DECODE_ERRORS as error:
            if _UNUSED in text:
                return _UNUSED_EVENT
            event = self._mended(text)
            if event is None:
                self._count_unreadable(error)
            return event

    def _mended(self, text: bytes) -> Event | None:
        if len(text) > _REPAIRABLE_BYTES or self._repaired_bytes > _MOST_REPAIRED_BYTES:
            return None
        self._repaired_bytes += len(text)
        try:
            event = _decode_event(repaired(text))
        except _DECODE_ERRORS:
            return None
        self._repaired += 1
        return event

    def _count_unreadable(self, error: Exception) -> None:
        self._first_error = self._first_error or f"{error} in the one that ends at byte {self._offset() - 1}"
        self._unreadable += 1
        if self._unreadable > MOST_UNREADABLE:
            self._refuse(f"has more than {MOST_UNREADABLE} events that cannot be read: {self._first_error}")

    def _keep(self, events: list[Event]) -> None:
        self._collector.add(events)
        if self._collector.events > MOST_EVENTS:
            self._refuse(f"holds more than {MOST_EVENTS} events, the limit: profile fewer steps")

    def _notes(self) -> list[str]:
        notes = []
        if self._unreadable:
            total = self._unreadable + self._collector.events
            notes.append(
                f"{self._unreadable:,} of {counted(total, 'event')} left out, as unreadable "
                f"(first: {self._first_error})"
            )
        if self._repaired:
            notes.append(
                f"text that JSON does not allow (NaN, N/A, quotes, lone backslashes) in "
                f"{counted(self._repaired, 'event')}"
            )
        return notes

    def _refuse_cut_or_broken(self) -> NoReturn:
        if self._ended and self._text[self._at : self._at + 1] == b'"' and self._text.find(b'"', self._at + 1) < 0:
            self._refuse_cut()
        self._refuse_broken()

    def _refuse_broken(self) -> NoReturn:
        found = repr(self._text[self._at : self._at + 12])[1:]
        self._refuse(f"is broken JSON at byte {self._offset()} ({found}): write it again")

    def _refuse_cut(self) -> NoReturn:
        self._refuse(
            f"is cut off: it ends at byte {self._source.read_bytes} of its JSON after {self._collector.events} whole "
            "events; copy it again, or profile again and let the job finish writing"
        )

    def _refuse(self, why: str) -> NoReturn:
        raise BrokenFileError(f"trace {self._path} {why}")
