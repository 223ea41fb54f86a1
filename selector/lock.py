"""Lock files: one choice per operation, dtype, size class and detail, readable, and the same on every machine."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..executors.errors import NoCandidateError, PointsmanError

FORMAT, VERSION = "pointsman lock", 1
"""What a lock file says of itself; files of a higher version are refused."""

MOST_KEPT = 4096  # classes that one process asks for: a stream of ever-new shapes must not grow memory
_KEYS = ("operation", "dtype", "shape_class", "detail", "variant")
_TOLD = ("expected_s", "evidence", "rule")
_OPERAND = r"(?:(?:e|\d+)(?:x(?:e|\d+))*)?"
_CLASS = re.compile(rf"{_OPERAND}(?:\|{_OPERAND})*")
_EMPTY = -1.0  # an axis of no elements lies below one of a single element


class LockError(PointsmanError, ValueError):
    """A lock file cannot be used; the message names the file and what to do."""


class PinnedError(NoCandidateError):
    """A pinned choice cannot run here; the message says why. Nothing else is run in its place."""


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    """One line of a lock.

    Attributes
    ----------
    operation, dtype, shape_class, detail : the calls that it is about.
    variant : what runs them.
    expected_s, evidence, rule : why, when the lock was made: seconds a call, times measured, rule. Information only.
    """

    operation: str
    dtype: str
    shape_class: str
    detail: str
    variant: str
    expected_s: float | None = field(default=None, compare=False)
    evidence: int = field(default=0, compare=False)
    rule: str = field(default="", compare=False)


@dataclass(frozen=True)
class Lock:
    """The content of a lock file.

    Attributes
    ----------
    pins : one for each class, in order.
    machine : where it was made, in general words: cores, isa, gpus, libraries. Information only.
    """

    pins: tuple[Pin, ...]
    machine: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def _by_family(self) -> dict[tuple[str, str, str], dict[str, Pin]]:
        families: dict[tuple[str, str, str], dict[str, Pin]] = {}
        for pin in sorted(self.pins):
            families.setdefault((pin.operation, pin.dtype, pin.detail), {})[pin.shape_class] = pin
        return families

    @cached_property
    def _nearest(self) -> dict[tuple[str, str, str, str], Pin]:
        return {}

    def find(self, operation: str, dtype: str, shape_class: str, detail: str) -> Pin | None:
        """The pin of this class, else the nearest by size of the same operation, dtype and detail; None: there is none.

        Near is what has axes of about the same length, on a logarithmic scale; where none has as many axes, what has
        about as many elements in all operands together. Among equals the smaller is taken. Nothing but the lock and the
        shapes counts, so that every machine finds the same.
        """
        classes = self._by_family.get((operation, dtype, detail))
        if not classes:
            return None
        found = classes.get(shape_class)
        if found is None:
            key = (operation, dtype, detail, shape_class)
            found = self._nearest.get(key)
            if found is None:
                found = classes[min(classes, key=lambda known: _distance(shape_class, known))]
                if len(self._nearest) >= MOST_KEPT:
                    self._nearest.clear()
                self._nearest[key] = found
        return found

    def text(self) -> str:
        """The file: JSON with one choice a line, always in the same order, so that two of them compare well."""
        machine = json.dumps(dict(self.machine), indent=2, sort_keys=True).replace("\n", "\n  ")
        rows = ["    " + json.dumps({name: getattr(pin, name) for name in _KEYS + _TOLD}) for pin in sorted(self.pins)]
        choices = "[\n" + ",\n".join(rows) + "\n  ]" if rows else "[]"
        head = f'{{\n  "format": {json.dumps(FORMAT)},\n  "version": {VERSION},\n'
        return f'{head}  "machine": {machine},\n  "choices": {choices}\n}}\n'

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Lock:
        """The lock in the file `path`.

        Raises
        ------
        LockError
            It is missing, cannot be read, is no lock, or was written by a newer version.
        """
        again = "make one with `pointsman lock export FILE`, or give another file"
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise LockError(f"there is no lock file {os.fspath(path)!r}; {again}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise LockError(f"the lock file {os.fspath(path)!r} cannot be read ({error}); {again}") from error
        try:
            return cls.parse(text)
        except LockError as error:
            raise LockError(f"the lock file {os.fspath(path)!r} cannot be used: {error}") from error

    @classmethod
    def parse(cls, text: str) -> Lock:
        """The lock that `text` holds; LockError where it holds none."""
        again = "make it again with `pointsman lock export`"
        try:
            data = json.loads(text)
        except ValueError as error:
            raise LockError(f"it is no JSON ({error}); {again}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise LockError(f'it does not say "format": "{FORMAT}"; {again}')
        version = data.get("version")
        if type(version) is not int or version < 1:
            raise LockError(f"its version is {version!r}; this pointsman knows up to {VERSION}; {again}")
        if version > VERSION:
            raise LockError(
                f"it was written by a newer pointsman (format {version}, this one knows up to {VERSION}); upgrade "
                f"pointsman, or {again} here"
            )
        machine, choices = data.get("machine", {}), data.get("choices")
        if not isinstance(machine, dict) or not isinstance(choices, list):
            raise LockError(f'"choices" must be a list and "machine" an object; {again}')
        try:
            pins = sorted(_pin(number, entry) for number, entry in enumerate(choices, 1))
            for before, pin in pairwise(pins):
                if _named(before) == _named(pin):
                    raise LockError(f"two choices for {' '.join(filter(None, _named(pin)))}; delete one of them")
        except LockError as error:
            raise LockError(f"{error}; or {again}") from error
        return cls(tuple(pins), machine)


def _pin(number: int, entry: Any) -> Pin:
    """Entry `number` of a file, checked."""
    if not isinstance(entry, dict):
        raise LockError(f"choice {number} is {entry!r:.60}; give an object with {', '.join(_KEYS)}")
    if unknown := [name for name in entry if name not in _KEYS + _TOLD]:
        raise LockError(f"choice {number} has no field {unknown[0]!r}; there are: {', '.join(_KEYS + _TOLD)}")
    for name in _KEYS:
        value = entry.get(name)
        if not isinstance(value, str) or not (value or name in ("shape_class", "detail")):
            raise LockError(f"choice {number}: {name} is {value!r}; give a text")
    if not _CLASS.fullmatch(entry["shape_class"]):
        raise LockError(
            f"choice {number}: shape_class is {entry['shape_class']!r}; give half-octave classes of axes, such as "
            "'20x14|8' (twice the binary logarithm of each, operands joined by |)"
        )
    expected, evidence, rule = (entry.get(name) for name in _TOLD)
    seconds = 0.0 if expected is None else expected
    number_ok = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0.0 <= seconds < math.inf
    count_ok = evidence is None or (type(evidence) is int and evidence >= 0)
    if not number_ok or not count_ok or not isinstance(rule or "", str):
        raise LockError(f"choice {number}: {', '.join(_TOLD)} are seconds, a count and a text, or left out")
    operation, dtype, shape_class, detail, variant = (entry[name] for name in _KEYS)
    return Pin(operation, dtype, shape_class, detail, variant, expected, evidence or 0, rule or "")


def _named(pin: Pin) -> tuple[str, str, str, str]:
    return pin.operation, pin.dtype, pin.shape_class, pin.detail


def _distance(asked: str, known: str) -> tuple[bool, float, float, str]:
    """How far `known` is from the class asked for; less is nearer, and no two classes are equally far."""
    ours, theirs = _axes(asked), _axes(known)
    unlike = [len(operand) for operand in ours] != [len(operand) for operand in theirs]
    flat, known_flat = ([axis for operand in axes for axis in operand] for axes in (ours, theirs))
    size, total = sum(flat), sum(known_flat)
    apart = abs(total - size) if unlike else sum(abs(a - b) for a, b in zip(flat, known_flat, strict=True))
    return unlike, apart, total, known


@lru_cache(maxsize=MOST_KEPT)
def _axes(shape_class: str) -> list[list[float]]:
    return [
        [_EMPTY if axis == "e" else float(axis) for axis in operand.split("x") if axis]
        for operand in shape_class.split("|")
    ]
