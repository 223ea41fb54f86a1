"""Curves that are known before anything was measured: those that the package ships with, and declared ones."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

_DECLARED: dict[tuple[str, str], Mapping[str, Any]] = {}


def declare(family: str, variant: str, overhead_s: float, rate: float) -> None:
    """Expect `variant` of every operation "family:..." to take overhead + work / rate, as a shipped curve would say.

    The first word counts: a curve does not change under what was fitted to it.
    """
    if (family, variant) not in _DECLARED:
        points = [[x, math.log2(overhead_s + math.exp2(x) / rate)] for x in range(64)]
        _DECLARED[family, variant] = {"points": points, "first_s": 0.0}


def curve_of(
    operation: str, variant: str, dtype: str, given: Mapping[str, Any] | None = None
) -> Mapping[str, Any] | None:
    """The curve of a variant in `given` (None: what the package ships), else a declared one, else None."""
    priors = shipped_priors() if given is None else given
    found: Mapping[str, Any] | None = priors.get(f"{operation}|{variant}|{dtype}")
    return found or _DECLARED.get((operation.partition(":")[0], variant))


@lru_cache(maxsize=1)
def shipped_priors() -> Mapping[str, Any]:
    """The curves that come with the package (measured on a two-core CPU; `python -m benchmarks.priors` makes them)."""
    text = resources.files(__package__).joinpath("priors.json")
    if not text.is_file():
        return {}
    loaded: dict[str, Any] = json.loads(text.read_text(encoding="utf-8"))
    curves: dict[str, Any] = loaded.get("curves", {})
    return curves
