"""Reducers: what becomes of the results of a Monte Carlo run as they come, so that none of them need be kept.

Results are folded in leaves of so many simulations, and leaves are merged in the order of the simulations: the value
does not depend, to the last bit, on where they ran. A state is a dictionary of numbers and arrays; it travels between
processes and stands in checkpoints as such.

>>> import pointsman as pm
>>> pm.run_monte_carlo(lambda seed: float(seed.spawn_key[0]), 5000, seed=1, reduce="mean").mean
2499.5
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import numpy as np

from .reduced import Counts, MeanAndVariance, PValue, item

LEAST_ERROR = 1e-9
"""Bins of a smaller relative width are too narrow to be told apart."""

State = dict[str, Any]
Leaf = Callable[[Sequence[Any]], State]


class Reducer(ABC):
    """The contract of a reducer; subclass it for one of your own.

    An instance may be asked in any process, so it holds parameters only. `merge` must not depend on how leaves are
    grouped beyond rounding: it is called in the order of the simulations.
    """

    @abstractmethod
    def leaf(self, results: Sequence[Any]) -> State:
        """Fold some results, in order, into a state: a dictionary of arrays, numbers, text and lists of such."""

    @abstractmethod
    def merge(self, first: State, second: State) -> State:
        """The state of the simulations of both; those of `first` come before those of `second`."""

    @abstractmethod
    def result(self, state: State) -> Any:
        """What the caller gets."""

    def in_workers(self) -> Leaf:
        """`leaf` as worker processes get it."""
        return self.leaf

    def describe(self) -> dict[str, Any]:
        """Name and parameters, as plain data: a checkpoint goes on only where they are the same."""
        kind = type(self)
        return {"reducer": f"{kind.__module__}.{kind.__qualname__}", **{k: _plain(v) for k, v in vars(self).items()}}


class _Own(Reducer):
    """A reducer of this module. Its `leaf` is a function without globals, which travels by value: worker processes
    need not import pointsman."""

    def leaf(self, results: Sequence[Any]) -> State:
        return self.in_workers()(results)


# ---------------------------------------------------------------------------------------------- mean and variance


@dataclass(frozen=True)
class Moments(_Own):
    """Mean and variance of each element of the results: numbers, or arrays of one shape.

    Leaves in two passes, merged as by Chan, Golub and LeVeque (1979), eq. 2.1: the relative error of the variance stays
    near that of the data, whatever the mean is.
    """

    def in_workers(self) -> Leaf:
        def leaf(results: Sequence[Any]) -> State:
            import numpy as np

            x = np.asarray(results)
            if x.dtype.kind not in "bifuc":
                raise TypeError(
                    "reduce='mean': results must be numbers, or arrays of one shape; found "
                    f"{type(results[0]).__name__}. Give a reducer of your own, or let the worker return numbers"
                )
            # In one order, for the sums over leaves of an array must not depend on how it was made.
            x = np.ascontiguousarray(x, "complex128" if x.dtype.kind == "c" else "float64")
            n = len(results)
            mean = x.mean(axis=0) if n else np.zeros(x.shape[1:])
            spread = x - mean
            return {"n": n, "mean": mean, "m2": (spread * spread.conj()).real.sum(axis=0)}

        return leaf

    def merge(self, first: State, second: State) -> State:
        n, m = first["n"], second["n"]
        if not n or not m:
            return second if not n else first
        _need_one_shape(first["mean"], second["mean"])
        gap = second["mean"] - first["mean"]
        return {
            "n": n + m,
            "mean": first["mean"] + gap * (m / (n + m)),
            "m2": first["m2"] + second["m2"] + (gap * np.conj(gap)).real * (n * m / (n + m)),
        }

    def result(self, state: State) -> MeanAndVariance:
        n, mean, m2 = state["n"], state["mean"], state["m2"]
        if np.ndim(mean) == 0:
            mean, m2 = np.asarray(mean)[()].item(), float(m2)
        return MeanAndVariance(n, mean if n else math.nan, m2 / (n - 1) if n > 1 else m2 * math.nan)


# ---------------------------------------------------------------------------------------------- extremes


@dataclass(frozen=True)
class Maximum(_Own):
    """The largest value of each element of the results; NaN where one is NaN."""

    def in_workers(self) -> Leaf:
        def leaf(results: Sequence[Any]) -> State:
            import numpy as np

            return {"n": len(results), "most": np.max(np.asarray(results), axis=0) if len(results) else None}

        return leaf

    def merge(self, first: State, second: State) -> State:
        if not first["n"] or not second["n"]:
            return second if not first["n"] else first
        _need_one_shape(first["most"], second["most"])
        return {"n": first["n"] + second["n"], "most": np.maximum(first["most"], second["most"])}

    def result(self, state: State) -> Any:
        return item(state["most"])


@dataclass(frozen=True)
class Minimum(_Own):
    """The smallest value of each element of the results; NaN where one is NaN."""

    def in_workers(self) -> Leaf:
        def leaf(results: Sequence[Any]) -> State:
            import numpy as np

            return {"n": len(results), "least": np.min(np.asarray(results), axis=0) if len(results) else None}

        return leaf

    def merge(self, first: State, second: State) -> State:
        if not first["n"] or not second["n"]:
            return second if not first["n"] else first
        _need_one_shape(first["least"], second["least"])
        return {"n": first["n"] + second["n"], "least": np.minimum(first["least"], second["least"])}

    def result(self, state: State) -> Any:
        return item(state["least"])


# ---------------------------------------------------------------------------------------------- p-values


@dataclass(frozen=True)
class Exceedances(_Own):
    """How often each element of the results is at least as large as the observed one: p-values.

    Parameters
    ----------
    observed : a number, or an array of the results' shape; single results are held against each of its numbers. A
        result that is NaN counts as large: that is the side on
        which a test errs safely.
    """

    observed: Any

    def in_workers(self) -> Leaf:
        observed = np.asarray(self.observed)

        def leaf(results: Sequence[Any]) -> State:
            import numpy as np

            if not len(results):
                return {"n": 0, "r": np.zeros(observed.shape, "int64")}
            x = np.asarray(results)
            x = x.reshape(len(x), *[1] * (observed.ndim - x.ndim + 1), *x.shape[1:])  # a number, against each observed
            return {"n": len(results), "r": np.sum(~(x < observed), axis=0, dtype="int64")}

        return leaf

    def merge(self, first: State, second: State) -> State:
        if not first["n"] or not second["n"]:
            return second if not first["n"] else first
        _need_one_shape(first["r"], second["r"])
        return {"n": first["n"] + second["n"], "r": first["r"] + second["r"]}

    def result(self, state: State) -> PValue:
        return PValue(state["n"], item(state["r"]))


# ---------------------------------------------------------------------------------------------- distributions


@dataclass(frozen=True)
class Histogram(_Own):
    """Counts of each element of the results in bins of one width.

    Parameters
    ----------
    low, high : where the first bin begins and the last one ends (it includes its end).
    bins : how many.
    """

    low: float
    high: float
    bins: int = 100

    def __post_init__(self) -> None:
        numbers = isinstance(self.low, Real) and isinstance(self.high, Real) and isinstance(self.bins, Integral)
        if not numbers or not (-math.inf < self.low < self.high < math.inf and self.bins >= 1):
            raise ValueError(f"Histogram: found low={self.low}, high={self.high}, bins={self.bins}; give low < high")

    def in_workers(self) -> Leaf:
        low, high, bins = float(self.low), float(self.high), int(self.bins)

        def leaf(results: Sequence[Any]) -> State:
            import numpy as np

            x = np.asarray(results, "float64")
            shape, cells = x.shape[1:], x[0].size if len(results) else 1
            x = x.reshape(len(results), cells)
            with np.errstate(invalid="ignore", over="ignore"):
                # Below and above are counted in bins of their own, 0 and bins + 1; NaN in the last, bins + 2.
                place = np.floor((x - low) * (bins / (high - low))).clip(-1, bins) + 1
                place[(x < low) & (place > 0)] = 0
                place[(x > high) & (place <= bins)] = bins + 1
                # Rounding must not carry a value across an end.
                inside = (x >= low) & (x <= high)
                place[inside] = place[inside].clip(1, bins)
            place[np.isnan(x)] = bins + 2
            flat = (place.astype("int64") + np.arange(cells) * (bins + 3)).ravel()
            counts = np.bincount(flat, minlength=cells * (bins + 3)).reshape(*shape, bins + 3)
            return {"n": len(results), "counts": counts.astype("int64")}

        return leaf

    def merge(self, first: State, second: State) -> State:
        if not first["n"] or not second["n"]:
            return second if not first["n"] else first
        _need_one_shape(first["counts"], second["counts"])
        return {"n": first["n"] + second["n"], "counts": first["counts"] + second["counts"]}

    def result(self, state: State) -> Counts:
        counts = np.asarray(state["counts"])
        edges = np.linspace(self.low, self.high, self.bins + 1)
        return Counts(state["n"], edges, counts[..., 1:-2], item(counts[..., 0]), item(counts[..., -2]),
                      item(counts[..., -1]))  # fmt: skip


@dataclass(frozen=True)
class Quantiles(_Own):
    """Quantiles of numbers whose range is not known before, within a relative error.

    Counts in bins of constant ratio (Masson, Rim and Lee, 2019, "DDSketch", sec. 2): whole numbers, so their order does
    not matter.

    Parameters
    ----------
    q : shares, from 0 to 1.
    error : largest relative error of a quantile. Values below 1e-300 count as zero.
    """

    q: Sequence[float] = (0.025, 0.5, 0.975)
    error: float = 0.005

    def __post_init__(self) -> None:
        if not isinstance(self.q, Sequence | np.ndarray) or isinstance(self.q, str):
            raise TypeError(f"Quantiles: found q={self.q!r}; give a sequence of shares, such as (0.5,)")
        if not all(0.0 <= q <= 1.0 for q in self.q) or not LEAST_ERROR <= self.error < 1.0:
            raise ValueError(
                f"Quantiles: found q={self.q!r}, error={self.error}; both are shares, between 0 and 1, the error "
                f"is {LEAST_ERROR:g} at least"
            )

    def in_workers(self) -> Leaf:
        scale = 1.0 / math.log((1.0 + self.error) / (1.0 - self.error))

        def leaf(results: Sequence[Any]) -> State:
            import numpy as np

            x = np.asarray(results, "float64")
            if x.ndim != 1:
                raise TypeError(f"Quantiles: results must be single numbers; found arrays of shape {x.shape[1:]}")
            x = x[~np.isnan(x)]
            state: dict[str, Any] = {"n": int(x.size)}
            for name, part in (("up", x[x > 1e-300]), ("down", -x[x < -1e-300])):
                bins, counts = np.unique(np.ceil(np.log(part) * scale).clip(-(2**53), 2**53), return_counts=True)
                state[f"{name}_bins"], state[f"{name}_counts"] = bins, counts.astype("int64")
            return state

        return leaf

    def merge(self, first: State, second: State) -> State:
        out: State = {"n": first["n"] + second["n"]}
        for name in ("up", "down"):
            both = np.concatenate([first[f"{name}_bins"], second[f"{name}_bins"]])
            bins, place = np.unique(both, return_inverse=True)
            counts = np.zeros(bins.size, "int64")
            np.add.at(counts, place, np.concatenate([first[f"{name}_counts"], second[f"{name}_counts"]]))
            out[f"{name}_bins"], out[f"{name}_counts"] = bins, counts
        return out

    def result(self, state: State) -> dict[float, float]:
        ratio = (1.0 + self.error) / (1.0 - self.error)
        # The middle of a bin, in the sense that its relative distance to both ends is the same.
        with np.errstate(over="ignore"):  # infinities
            up, down = (2.0 * ratio ** state[f"{side}_bins"] / (ratio + 1.0) for side in ("up", "down"))
        zeros = state["n"] - int(state["up_counts"].sum()) - int(state["down_counts"].sum())
        values = np.concatenate([-down[::-1], [0.0], up])
        reached = np.cumsum(np.concatenate([state["down_counts"][::-1], [zeros], state["up_counts"]]))
        ranks = [q * (state["n"] - 1) + 1 for q in self.q]
        found = (int(np.searchsorted(reached, rank, side="left")) for rank in ranks)
        return {q: float(values[i]) if state["n"] else math.nan for q, i in zip(self.q, found, strict=True)}


# ---------------------------------------------------------------------------------------------- several at once


@dataclass(frozen=True)
class Several(Reducer):
    """Reducers by name, each of which sees every result; gives a dictionary. `reduce={...}` makes one."""

    parts: Mapping[str, Reducer] = field(default_factory=dict)

    def leaf(self, results: Sequence[Any]) -> State:
        return {name: part.leaf(results) for name, part in self.parts.items()}

    def merge(self, first: State, second: State) -> State:
        return {name: part.merge(first[name], second[name]) for name, part in self.parts.items()}

    def result(self, state: State) -> dict[str, Any]:
        return {name: part.result(state[name]) for name, part in self.parts.items()}

    def in_workers(self) -> Leaf:
        leaves = {name: part.in_workers() for name, part in self.parts.items()}
        return lambda results: {name: leaf(results) for name, leaf in leaves.items()}

    def describe(self) -> dict[str, Any]:
        return {name: part.describe() for name, part in self.parts.items()}


NAMED: Mapping[str, Callable[[], Reducer]] = {
    "mean": Moments,
    "maximum": Maximum,
    "minimum": Minimum,
    "quantiles": Quantiles,
}
"""What a word stands for in ``reduce=``."""


def reducer_of(given: Any) -> Reducer | None:
    """The reducer that `given` means: None, one, its name, or a dictionary of such.

    Raises
    ------
    TypeError, ValueError : it means none.
    """
    if given is None or isinstance(given, Reducer):
        return given
    if isinstance(given, str):
        if given not in NAMED:
            raise ValueError(f"reduce: found {given!r}; names are {', '.join(NAMED)}, or give a Reducer")
        return NAMED[given]()
    if isinstance(given, Mapping) and given:
        parts = {str(name): reducer_of(part) for name, part in given.items()}
        if len(parts) < len(given):
            raise ValueError(f"reduce: found {', '.join(map(repr, given))}; names must differ as text")
        if None not in parts.values():
            return Several({name: part for name, part in parts.items() if part is not None})
    raise TypeError(f"reduce: found {given!r}; give a Reducer, one of {', '.join(NAMED)}, or a dictionary of such")


def _need_one_shape(first: Any, second: Any) -> None:
    """Raise where elements of one leaf would be taken for those of another."""
    if np.shape(first) != np.shape(second):
        raise ValueError(
            f"reduce: results must have one shape; found {np.shape(first)} and, later on, {np.shape(second)}"
        )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
