"""The commands `pointsman lock export | check` and `pointsman history merge`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pointsman.cli_inputs import WrongUseError, parse_count

MERGED = "merged.sqlite"
Command = Callable[..., argparse.ArgumentParser]
"""Adds a command: (commands, name, handler, what it does, an example)."""


def add_lock(commands: Any, command: Command) -> None:
    """Add `lock export` and `lock check` to the command line."""
    p = command(commands, "lock", None, "write down what would be chosen, to choose the same everywhere, or compare",
                "pointsman lock export production.lock.json")  # fmt: skip
    actions = p.add_subparsers(title="actions", metavar="ACTION", required=True)
    p = command(
        actions, "export", _export,
        "write a lock file: the choice for every size that the history knows. POINTSMAN_LOCK=FILE then repeats these "
        "choices on any machine.",
        "pointsman lock export production.lock.json",
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", nargs="?", type=Path, help="the file to write (default: the output)")
    p.add_argument("--calls", type=parse_count, metavar="N",
                   help="calls of each size in a run, to repay imports (default: so many that they do)")  # fmt: skip
    p = command(
        actions, "check", _check,
        "hold a lock file against this machine: what cannot run here, and what this machine has learned to be faster. "
        "Exit code 1 if something cannot run.",
        "pointsman lock check production.lock.json",
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", type=Path, help="the lock file")
    p.add_argument("--json", action="store_true", help="print plain JSON, for programs")


def add_merge(actions: Any, command: Command) -> None:
    """Add `merge` to the actions of `history`."""
    p = command(
        actions, "merge", _merge,
        "add up what several histories of one machine have measured, in a new file. The files given stay as they are.",
        "pointsman history merge mine.sqlite yours.sqlite --into ours.sqlite",
    )  # fmt: skip
    p.add_argument("file", metavar="FILE", nargs="+", type=Path, help="two or more histories")
    p.add_argument("--into", metavar="FILE", default=MERGED, type=Path,
                   help="the new history; it must not exist (default: %(default)s, in this folder)")  # fmt: skip
    p.add_argument("--other-machine", action="store_true", help="take files that are named after another machine too")
    p.add_argument("--json", action="store_true", help="print plain JSON, for programs")


def _export(arguments: argparse.Namespace) -> int:
    import pointsman
    from pointsman.selector.lock import Lock, LockError

    path: Path | None = arguments.file
    if path is not None and path.exists():
        try:
            Lock.read(path)
        except LockError as error:
            raise WrongUseError(f"{str(path)!r} is there, and is no lock to be replaced ({error})") from error
    try:
        lock = pointsman.export_lock(path, **({"calls": arguments.calls} if arguments.calls else {}))
    except LockError as error:
        raise WrongUseError(str(error)) from error
    if path is None:
        print(lock.text(), end="")
    else:
        print(f"{path}: {_count(len(lock.pins), 'choice')}")
    if not lock.pins:
        where = pointsman.default_selector().history.location
        print(f"pointsman: nothing is known in {where}, so this lock pins everything to the default", file=sys.stderr)
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from pointsman.selector import pinning
    from pointsman.selector.lock import Lock, LockError

    try:
        lock = Lock.read(arguments.file)
    except LockError as error:
        raise WrongUseError(str(error)) from error
    lines, apart = pinning.compare(lock), pinning.versions_apart(lock)
    unknown = pinning.unknown_operations(lock)
    if unknown:
        print(f"pointsman: not known here: {', '.join(unknown)}; of these only the libraries are checked. Right for "
              "functions of your own, else a slip", file=sys.stderr)  # fmt: skip
    if not lock.pins:
        print(f"pointsman: {arguments.file} holds no choice: under it, everything takes the default", file=sys.stderr)
    broken = [line for line in lines if line.why_not]
    if arguments.json:
        told = {
            "runs": not broken,
            "versions": apart,
            "unknown": unknown,
            "choices": [line.to_json() for line in lines],
        }
        print(json.dumps(told, indent=2))
        return 1 if broken else 0
    for text in (*(line.told() for line in lines), *(f"version: {note}" for note in apart)):
        if text:
            print(text)
    differ = sum(bool(line.here) for line in lines)
    counts = f"{len(broken)} cannot run here, {differ} would be chosen differently"
    print(f"{arguments.file}: {_count(len(lines), 'choice')}, {counts}")
    return 1 if broken else 0


def _merge(arguments: argparse.Namespace) -> int:
    from pointsman.telemetry.merging import MergeError, merge

    try:
        done = merge(
            arguments.file, arguments.into, other_machine=arguments.other_machine,
            tell=lambda note: print(f"pointsman: {note}", file=sys.stderr, flush=True),
        )  # fmt: skip
    except MergeError as error:
        raise WrongUseError(str(error)) from error
    if arguments.json:
        print(json.dumps(vars(done), indent=2))
        return 0
    for path, records in done.sources.items():
        print(f"{path}: {_count(records, 'outcome')}")
    print(f"{done.path}: {_count(sum(done.sources.values()), 'outcome')} in {_count(done.cells, 'sketch', 'es')}")
    return 0


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{'' if number == 1 else plural}"
