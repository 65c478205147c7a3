"""A process that measures, as the one that started it sees it: messages in, events out, and how it ended.

Standard library only. Reading is left to threads, so that waiting can be cut short on every system.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from advisor.errors import AdvisorError, BadInputError, DoesNotFitError, MissingDependencyError, NoGpuError, TraceError

_LAST_LINES = 3  # of a crashed child's stderr go into the reason


class ChildEndedError(Exception):
    """The child ended, or was ended, without an answer; the text is the reason to record."""


class TimedOutError(ChildEndedError):
    """The child was killed because it did not answer in time."""


class StoppedError(ChildEndedError):
    """The child was killed because the user stopped the session."""


class Child:
    """A process of its own session: lines of JSON in, events out (`parent.private_pipe`), its last words kept."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=None if environment is None else dict(environment),
            start_new_session=True,  # the terminal's Ctrl-C is ours to pass on
        )  # fmt: skip
        self._events: queue.Queue[str | None] = queue.Queue()
        self._words: deque[str] = deque(maxlen=_LAST_LINES)
        self._listener = threading.Thread(target=self._hear, daemon=True)
        self._talker = threading.Thread(target=self._overhear, daemon=True)
        self._listener.start()
        self._talker.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one line. A child that is gone is noticed by `wait_for`."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()

    def next_event(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next event, or None where none came in time. Raises ChildEndedError where there will be none."""
        try:
            line = self._events.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            if self.process.poll() is None:
                return None
            try:  # it is gone, and what it forked may hold the pipe open; its last event may still be on its way
                line = self._events.get(timeout=1.0)
            except queue.Empty:
                line = None
        if line is None:
            raise ChildEndedError(self.obituary())
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            self.kill()
            raise ChildEndedError(f"the child said what is no event: {line[:80]!r}")
        return event

    def obituary(self) -> str:
        """How the child ended, with the last lines that it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5.0)
        code = self.process.poll()
        self._talker.join(1.0)  # a grandchild may keep stderr open
        if code is None:
            how = "the child closed its pipe and went on"
            self.kill()
        elif code < 0:
            how = f"the child was ended by {_signal_name(-code)}"
        else:
            how = f"the child ended with exit code {code}"
        lines = list(self._words)
        words = " | ".join(lines[-1:] if code == 1 else lines)  # 1: a traceback, whose last line says what it was
        return scrub(f"{how}: {words}" if words else how)

    def kill(self) -> None:
        """End the child and what it started, at once, and wait until it is gone."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10.0)
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            for line in pipe:
                self._events.put(line.decode(errors="replace"))
        self._events.put(None)

    def _overhear(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as pipe:
            for line in pipe:
                text = line.decode(errors="replace").strip()
                if text.strip("^~ "):  # not the marks below a line of a traceback
                    self._words.append(text[:300])


def told(error: Mapping[str, Any]) -> AdvisorError:
    """What a child says that it cannot do ({"message", "exit_code"}), as the error it raised there."""
    kinds: dict[int, type[AdvisorError]] = {
        kind.exit_code: kind
        for kind in (BadInputError, NoGpuError, DoesNotFitError, MissingDependencyError, TraceError)
    }
    return kinds.get(int(error.get("exit_code", 1)), AdvisorError)(scrub(str(error.get("message"))))


def scrub(text: str) -> str:
    """Take a card's UUID, PCI addresses and the home folder out of a text that may be published."""
    text = re.sub(r"\b(GPU|MIG)-[0-9a-fA-F]{8}-[0-9a-fA-F/-]+", r"\1-?", text)
    text = re.sub(r"\b(?:[0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-9a-fA-F]\b", "PCI-?", text)
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
