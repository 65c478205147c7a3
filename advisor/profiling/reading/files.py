"""Opens trace files: plain, gzip or zip by their content, unpacked in pieces, bounded, never to disk."""

from __future__ import annotations

import contextlib
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from advisor.errors import AdvisorError, BadInputError, BrokenFileError

MOST_BYTES = 8 * 2**30
"""Of one trace's JSON: a bound on what a packed file may unpack to."""

_SUFFIXES = (".json", ".json.gz", ".json.zip")
_PACKED_PIECE = 2**18
_HEAD_BYTES = 2**18
_RANK = re.compile(rb'"distributedInfo"\s*:\s*\{[^{}]*?"rank"\s*:\s*(\d{1,9})')
_CAPTURE = re.compile(r"(?P<process>.+)\.(?P<time>\d{10,19})\.pt\.trace\.json(\.gz|\.zip)?$", re.ASCII)
_MOST_DIRECTORY_BYTES = 2**20  # of a zip file: one member needs a hundred
_ZIP_ERRORS = (zipfile.BadZipFile, RuntimeError, ValueError, struct.error)
"""Of zipfile on damaged files; NotImplementedError is a RuntimeError."""
_OTHER_KINDS = {
    b"\x28\xb5\x2f\xfd": "zstd: unpack it with `zstd -d`",
    b"\xfd7zXZ\x00": "xz: unpack it with `xz -d`",
    b"BZh": "bzip2: unpack it with `bzip2 -d`",
    b"7z\xbc\xaf": "7z: unpack it first",
    b"\x93NUMPY": "a NumPy array, no trace",
    b"SQLite format 3": "an SQLite database, such as Nsight Systems exports: use a torch.profiler trace",
    b"\xff\xfe": "UTF-16: write it as UTF-8",
    b"\xfe\xff": "UTF-16: write it as UTF-8",
}


class TraceSource:
    """The JSON of a trace file, in pieces. `cut_off`: the packed data ended early."""

    def __init__(self, path: Path, packed: BinaryIO, stream: _Stream, packed_bytes: int) -> None:
        self._path, self._packed, self._stream = path, packed, stream
        self._packed_bytes = max(packed_bytes, 1)
        self.read_bytes = 0
        self.cut_off = False

    @property
    def fraction(self) -> float:
        """Share of the file that was read, 0 to 1."""
        return min(self._packed.tell() / self._packed_bytes, 1.0)

    def read(self, most: int) -> bytes:
        """Return up to `most` bytes, none at the end. Raises BrokenFileError where they cannot be unpacked."""
        try:
            piece = self._stream.read(most)
        except EOFError:
            self.cut_off = True
            return b""
        except (zlib.error, *_ZIP_ERRORS) as error:
            raise BrokenFileError(
                f"trace {self._path}: the packed data are damaged after {self.read_bytes} bytes of JSON ({error}); "
                "copy the file again"
            ) from error
        except OSError as error:
            raise BrokenFileError(f"trace {self._path} cannot be read: {error.strerror or error}") from error
        self.read_bytes += len(piece)
        if self.read_bytes > MOST_BYTES:
            raise BrokenFileError(
                f"trace {self._path} unpacks to more than {MOST_BYTES // 2**30} GiB, the limit; profile fewer steps"
            )
        return piece


class _Stream(Protocol):
    def read(self, most: int, /) -> bytes: ...


class _Gzip:
    """Unpacks gzip members one after another; zlib checks each one's CRC and length. EOFError: it ends early."""

    def __init__(self, packed: BinaryIO) -> None:
        self._packed = packed
        self._unpacker = zlib.decompressobj(wbits=31)
        self._waiting = b""

    def read(self, most: int) -> bytes:
        pieces: list[bytes] = []
        missing = most
        while missing > 0:
            if self._unpacker.eof and not self._next_member():
                break
            packed = self._waiting or self._packed.read(_PACKED_PIECE)
            if not packed:
                if pieces:
                    break
                raise EOFError
            piece = self._unpacker.decompress(packed, missing)
            self._waiting = self._unpacker.unconsumed_tail
            missing -= len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    def _next_member(self) -> bool:
        rest = self._unpacker.unused_data.lstrip(b"\x00")  # tapes and some tools pad with zeros
        while not rest and (more := self._packed.read(_PACKED_PIECE)):
            rest = more.lstrip(b"\x00")
        if not rest:
            return False
        self._unpacker = zlib.decompressobj(wbits=31)
        self._waiting = rest
        return True


@contextlib.contextmanager
def open_trace(path: Path) -> Iterator[TraceSource]:
    """Open a trace file for reading its JSON.

    Raises BadInputError where the path is no readable file, BrokenFileError where its content is no trace's.
    """
    with _open(path) as packed:
        size = Path(path).stat().st_size
        head = packed.read(16)
        packed.seek(0)
        if not head:
            raise BrokenFileError(f"trace {path} is empty: was the profiler stopped before it wrote?")
        for magic, what in _OTHER_KINDS.items():
            if head.startswith(magic):
                raise BrokenFileError(f"trace {path} is {what}")
        if head.startswith(b"\x1f\x8b"):
            yield TraceSource(path, packed, _Gzip(packed), size)
        elif head.startswith(b"PK"):
            with _open_zip(path, packed) as member:
                yield TraceSource(path, packed, member, size)
        else:
            yield TraceSource(path, packed, packed, size)


def trace_files(path: Path) -> list[Path]:
    """Return the traces that a path means: the file itself, or a folder's traces by rank.

    Raises BadInputError where there is none.
    """
    try:
        if not path.is_dir():
            return [path]
        found = [p for p in path.iterdir() if p.name.lower().endswith(_SUFFIXES) and not p.name.startswith(".")]
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error
    files = [p for p in found if p.is_file()]
    if not files:
        raise BadInputError(
            f"folder {path} holds no trace: expected files named {', '.join('*' + s for s in _SUFFIXES)}"
        )
    return sorted(files, key=_by_rank)


def last_captures(files: Sequence[Path]) -> tuple[list[Path], tuple[str, ...]]:
    """Of each process's captures the last, in the order given, and a note for each process that has several.

    tensorboard_trace_handler names a capture host_pid.nanoseconds.pt.trace.json; ranks that were given one name are
    told apart by what the files say.
    """
    captures: dict[tuple[str, int | None], list[tuple[int, Path]]] = {}
    for file in files:
        if found := _CAPTURE.match(file.name):
            captures.setdefault((found["process"], _told_rank(file)), []).append((int(found["time"]), file))
    several = {process: sorted(those) for (process, _), those in captures.items() if len(those) > 1}
    earlier = {file for those in several.values() for _, file in those[:-1]}
    notes = tuple(
        f"{len(those)} captures of one process ({process}); the last is profiled, {those[-1][1].name}"
        for process, those in several.items()
    )
    return [file for file in files if file not in earlier], notes


def _by_rank(path: Path) -> tuple[bool, int, list[tuple[int, str]]]:
    rank = named_rank(path)
    if rank is None:
        rank = _told_rank(path)
    parts = re.split(r"(\d{1,18})", path.name)
    natural = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return rank is None, rank or 0, natural


def _told_rank(path: Path) -> int | None:
    """Rank that the head of the file tells; reading the file says what is wrong with it."""
    with contextlib.suppress(AdvisorError), open_trace(path) as source:
        found = _RANK.search(source.read(_HEAD_BYTES))
        return int(found[1]) if found else None
    return None


def named_rank(path: Path) -> int | None:
    """Rank that the file's name tells: rank-3.json.gz, trace_rank3.json."""
    found = re.search(r"rank[-_. ]?(\d{1,9})", path.name, re.IGNORECASE)
    return int(found[1]) if found else None


def _open(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode  # before opening: a pipe without a writer would wait for ever
        if stat.S_ISDIR(mode):
            raise BadInputError(f"{path} is a folder: give one trace file")
        if not stat.S_ISREG(mode):
            raise BadInputError(f"{path} is no regular file: copy the trace to one")
        return path.open("rb")
    except FileNotFoundError as error:
        raise BadInputError(f"no trace {path}: is the path right?") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BadInputError(f"cannot open trace {path}: {getattr(error, 'strerror', None) or error}") from error


@contextlib.contextmanager
def _open_zip(path: Path, packed: BinaryIO) -> Iterator[_Stream]:
    _check_directory(path, packed)
    try:
        archive = zipfile.ZipFile(packed)
    except (*_ZIP_ERRORS, EOFError, OSError) as error:
        raise BrokenFileError(f"trace {path} is a damaged zip file ({error}); copy it again") from error
    with archive:
        members = [
            m for m in archive.infolist() if not m.filename.endswith("/") and not m.filename.startswith("__MACOSX/")
        ]
        if len(members) != 1:
            raise BrokenFileError(
                f"trace {path} is a zip file of {len(members)} files, expected one; unpack it and give the folder"
            )
        member = members[0]
        if member.flag_bits & 1:
            raise BrokenFileError(f"trace {path} is an encrypted zip file; unpack it with its password first")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise BrokenFileError(f"trace {path} is a zip file packed by an uncommon method; unpack it first")
        try:
            stream = archive.open(member)
        except (*_ZIP_ERRORS, EOFError, OSError) as error:
            raise BrokenFileError(f"trace {path} is a damaged zip file ({error}); copy it again") from error
        with stream:
            yield stream


def _check_directory(path: Path, packed: BinaryIO) -> None:
    """Refuse a zip file whose directory alone would fill the memory (zipfile reads it whole)."""
    size = packed.seek(0, 2)
    packed.seek(max(size - 2**16 - 42, 0))
    tail = packed.read()
    packed.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise BrokenFileError(f"trace {path} is a zip file that is cut off; copy it again")
    directory_bytes = struct.unpack_from("<I", tail, at + 12)[0]
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":  # zip64: the true size is in its own record
        packed.seek(min(struct.unpack_from("<Q", tail, at - 12)[0], size))
        record = packed.read(56)
        packed.seek(0)
        directory_bytes = struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else 2**64
    if directory_bytes > _MOST_DIRECTORY_BYTES:
        raise BrokenFileError(f"trace {path} is a zip file of very many files, expected one; unpack the trace")
