"""Histories into one: what several processes or users of one machine have measured, added up."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from . import schema, statements
from .files import create_private, history_path, identity
from .hardware import fingerprint
from .marks import Accused, Mark, Marks, Place, Wrong
from .recorder import LOG_ROWS
from .sketch import Sketch
from .state import Key

PROCESSES = "processes"
"""The one entry of the ledger that adds up; seconds spent and earned by exploring belong to the runs that made them."""

_NAMED = re.compile(r"history-([0-9a-f]{12})")
_NEW_IN_SECOND = {"rule": "''", "calls": "1"}  # columns that the first schema did not have, as SQL
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems without hard links say
_ERRORS = (sqlite3.Error, OSError, ValueError, KeyError, TypeError)  # the last three: content that makes no sense


class MergeError(ValueError):
    """Histories that cannot be merged; the message names the file and what to do."""


@dataclass
class Merged:
    """What a merge has done.

    Attributes
    ----------
    path : the new file.
    sources : file -> outcomes counted in its sketches.
    cells, outcomes : sketches in the new file, and rows of its log.
    processes : how many processes have recorded into all of them.
    notes : what the caller should know, a sentence each.
    """

    path: str
    sources: dict[str, int]
    cells: int = 0
    outcomes: int = 0
    processes: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class _Source:
    path: Path
    cells: dict[Key, Sketch]
    ledger: dict[str, float]
    rows: list[tuple[Any, ...]]
    memory: dict[Place, Mark]
    wrong: dict[Accused, Wrong]
    damaged: list[str]
    digest: str  # of all that counts: what is merged first must not depend on the order of the arguments


def merge(
    sources: Sequence[str | os.PathLike[str]], into: str | os.PathLike[str], *, other_machine: bool = False,
    log_rows: int = LOG_ROWS, tell: Callable[[str], object] | None = None,
) -> Merged:  # fmt: skip
    """Write what `sources` have measured to the new file `into`, whatever their order.

    Sketches are merged, so that the new history is the one that a single process would have that had seen everything.
    Logs are put together by time, and the latest rows kept. Of the ledgers only the count of processes adds up: what
    exploring has spent and earned belongs to the runs that did so. What is kept out (memory that did not suffice, wrong
    results) stays so. Choices and locks are no part of a history.

    Parameters
    ----------
    sources : two or more history files, or folders with one for this host. They are read only, and never changed.
    into : the new file, or a folder; it must not exist.
    other_machine : whether a file that is named after another host may take part.
    log_rows : how many raw outcomes the new file keeps.
    tell : called with each note before anything is written: raising in it stops the merge.

    Raises
    ------
    MergeError
        A source is missing, no history, damaged, of a newer version, given twice or a copy of another; a file is named
        after another machine; `into` exists or cannot be written. Nothing has been written then.
    """
    paths = [history_path(given) for given in sources]
    target = history_path(into)
    _check(paths, target, other_machine=other_machine)
    read = sorted((_read(path) for path in paths), key=lambda source: source.digest)
    _refuse_copies(read)
    notes = _notes(paths, read)
    if tell is not None:
        for note in notes:
            tell(note)
    cells: dict[Key, Sketch] = {}
    now = time.time()
    for source in read:
        for key, sketch in source.cells.items():
            if key in cells:
                cells[key].merge(sketch.as_of(now))
            else:
                cells[key] = sketch.as_of(now).copy()
    marks = Marks()
    for source in read:
        foreign = _machine(source.path) not in (None, fingerprint())  # where memory ends there says nothing of here
        marks.take({} if foreign else source.memory, source.wrong)
    rows = sorted((row for source in read for row in source.rows), key=_in_time)[-log_rows:]
    processes = sum(source.ledger.get(PROCESSES, 0.0) for source in read)
    _write(target, cells, rows, marks, {PROCESSES: processes} if processes else {})
    records = {str(s.path): sum(sketch.records for sketch in s.cells.values()) for s in read}
    told = {str(path): records[str(path)] for path in paths}
    return Merged(str(target), told, len(cells), len(rows), processes, notes)


def _in_time(row: tuple[Any, ...]) -> tuple[float, str]:
    """Where a row of the log stands: by time; what ended at the same moment, by all else."""
    return float(row[0]), repr(row)


# ---- what is refused, and what is told


def _check(paths: Sequence[Path], target: Path, *, other_machine: bool) -> None:
    """Raise for what is wrong before anything is opened."""
    if len(paths) < 2:
        raise MergeError(f"found {len(paths)} history to merge; give two or more")
    for path in paths:
        if not path.is_file():
            raise MergeError(
                f"there is no history file {str(path)!r}; `pointsman history path` says where this one lies"
            )
    if len({identity(path) for path in paths}) < len(paths):
        twice = next(str(one) for one, other in combinations(paths, 2) if identity(one) == identity(other))
        raise MergeError(f"{twice!r} is given twice: its calls would count double; give each history once")
    if os.path.lexists(target):
        which = "is one of those to be merged" if identity(target) in map(identity, paths) else "exists already"
        raise MergeError(f"{str(target)!r} {which}; choose a new file: a merge changes none that is there")
    if not target.parent.is_dir():
        raise MergeError(f"there is no folder {str(target.parent)!r} to write {target.name!r} into; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise MergeError(f"the folder {str(target.parent)!r} may not be written; choose another place")
    foreign = [path for path in (*paths, target) if _machine(path) not in (None, fingerprint())]
    if foreign and not other_machine:
        raise MergeError(
            f"{str(foreign[0])!r} is named after another machine ({_machine(foreign[0])}; this is {fingerprint()}): "
            "times of different machines say nothing about each other. Merge on that machine, or insist with "
            "--other-machine (other_machine=True)"
        )


def _machine(path: Path) -> str | None:
    """The fingerprint that the file's name holds; None: none. The file itself says nothing of its machine."""
    found = _NAMED.match(path.name)
    return found[1] if found else None


def _refuse_copies(read: Sequence[_Source]) -> None:
    for one, other in combinations(read, 2):
        if one.digest == other.digest and (one.cells or one.rows):
            raise MergeError(
                f"{str(one.path)!r} and {str(other.path)!r} hold the same: one is a copy, and its calls would count "
                "double; give one of them"
            )


def _notes(paths: Sequence[Path], read: Sequence[_Source]) -> list[str]:
    notes = []
    by_path = {source.path: source for source in read}
    for one, other in combinations((by_path[path] for path in paths), 2):
        shared = len(_moments(one) & _moments(other))
        if shared:
            notes.append(
                f"{one.path} and {other.path} have at least {shared} outcomes in common, which count double in the "
                "new file: one was copied or merged from the other; merge only the later one"
            )
    notes += [
        f"{path} does not say which machine it comes from: its name is not history-<machine>.sqlite"
        for path in paths
        if _machine(path) is None
    ]
    notes += [f"{source.path} holds nothing" for source in read if not source.cells]
    notes += [f"{s.path}: sketches that are damaged and left out: {len(s.damaged)}" for s in read if s.damaged]
    return notes


def _moments(source: _Source) -> set[tuple[Any, ...]]:
    """What tells outcomes apart, wherever they were written: no two end at the same microsecond and take as long."""
    latest = {
        (round(when, 6), cell.operation, cell.variant, float(f"{seconds:.6g}"))
        for (cell, _), sketch in source.cells.items()
        for when, seconds, _ in sketch.recent
    }
    columns = {name: place for place, name in enumerate(schema.OUTCOME_COLUMNS)}
    picked = [columns[name] for name in ("ended", "operation", "variant", "seconds")]
    logged = ([row[place] for place in picked] for row in source.rows)
    return latest | {(round(when, 6), name, variant, float(f"{s:.6g}")) for when, name, variant, s in logged}


# ---- reading


def _read(path: Path) -> _Source:
    for last in (False, True):
        before = _stamp(path)
        try:
            source = _content(path)
        except MergeError:
            raise
        except _ERRORS as error:
            if last or _stamp(path) == before:
                raise MergeError(
                    f"{str(path)!r} cannot be read as a history ({type(error).__name__}: {error}); leave it out, or "
                    "let pointsman use it once, which moves a damaged file aside"
                ) from error
            continue
        if last or _stamp(path) == before:  # else somebody wrote to it: what was read may be half of it
            break
    return source


def _stamp(path: Path) -> list[tuple[int, int]]:
    beside = [path.with_name(path.name + ending) for ending in ("", "-wal")]
    return [(found.stat().st_mtime_ns, found.stat().st_size) for found in beside if found.exists()]


def _content(path: Path) -> _Source:
    with _opened(path) as connection:
        version = schema.user_version(connection)
        if version > schema.VERSION:
            raise MergeError(
                f"{str(path)!r} was written by a newer pointsman (schema {version}, this one knows {schema.VERSION}); "
                "upgrade pointsman"
            )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if version < 1 or not {"sketch", "outcome"} <= tables:
            raise MergeError(f"{str(path)!r} is no history of pointsman, or an empty one; leave it out")
        content = statements.load(connection)
        has = {row[1] for row in connection.execute("PRAGMA table_info(outcome)")}
        columns = [name if name in has else _NEW_IN_SECOND[name] for name in schema.OUTCOME_COLUMNS]
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM outcome").fetchall()
    digest = hashlib.sha256()
    for key in sorted(content.cells):
        digest.update(json.dumps([*key[0], key[1], content.cells[key].to_json()], sort_keys=True).encode())
    for kept in (content.ledger, content.memory, content.wrong):
        digest.update(repr(sorted(kept.items())).encode())
    for row in sorted(rows, key=_in_time):
        digest.update(repr(row).encode())
    return _Source(path, content.cells, content.ledger, rows, content.memory, content.wrong, content.damaged,
                   digest.hexdigest())  # fmt: skip


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, opened so that neither it nor what lies beside it changes."""
    beside = [path.with_name(path.name + ending) for ending in ("-wal", "-shm", "-journal")]
    if not any(place.exists() for place in beside):
        with _connected(f"{path.as_uri()}?mode=ro&immutable=1") as connection:
            yield connection
    elif beside[0].exists() and beside[1].exists():  # in use now
        with _connected(f"{path.as_uri()}?mode=ro") as connection:
            yield connection
    else:  # left behind by a process that was killed: SQLite would tidy up, and does so in a copy
        with tempfile.TemporaryDirectory() as folder:
            for place in (path, *beside):
                if place.exists():
                    shutil.copyfile(place, Path(folder) / place.name)
            with _connected((Path(folder) / path.name).as_uri()) as connection:
                yield connection


@contextmanager
def _connected(uri: str) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(uri, uri=True, timeout=5.0, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


# ---- writing


def _publish(whole: Path, target: Path) -> None:
    """Give the finished file its name; never over a file that has come up meanwhile, where the file system allows."""
    try:
        os.link(whole, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(f"{target} has come up meanwhile") from error
        os.rename(whole, target)


def _write(
    target: Path, cells: dict[Key, Sketch], rows: Sequence[tuple[Any, ...]], marks: Marks, ledger: dict[str, float]
) -> None:  # fmt: skip
    """Make the file beside its place and move it there when it is whole."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.unfinished")
    try:
        create_private(unfinished)
        with _connected(unfinished.as_uri()) as connection:
            schema.migrate(connection)
            connection.execute("BEGIN IMMEDIATE")
            statements.merge_cells(connection, {key: cells[key] for key in sorted(cells)}, time.time())
            statements.add_ledger(connection, ledger)
            statements.merge_marks(connection, marks, time.time())
            names = ", ".join(schema.OUTCOME_COLUMNS)
            values = ", ".join("?" * len(schema.OUTCOME_COLUMNS))
            connection.executemany(f"INSERT INTO outcome ({names}) VALUES ({values})", rows)
            connection.execute("COMMIT")
        _publish(unfinished, target)
    except (OSError, sqlite3.Error) as error:
        raise MergeError(f"{str(target)!r} cannot be written ({error}); choose another place") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()
