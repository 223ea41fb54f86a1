"""Places where arrays lie, and what moving an array from one to another costs.

A place is a residency: "numpy", "torch", "jax", "torch@cuda:0". Moves are recorded as operations of their own
("convert numpy to jax"), so that the history learns their cost like any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from ..executors import conversion, registry
from ..executors.base import Executor
from ..executors.prepare import outward
from ..telemetry.outcome import Site
from .arguments import all_leaves, key_of
from .engine import Engine

BYTES_PER_UNIT = 16.0
"""Bytes of a conversion that count as one unit of work: an unmeasured one is then expected to go at 8 GB/s."""


class Load(NamedTuple):
    """What is handed from one step to the next."""

    shape: tuple[int, ...] | None  # None: no single array
    dtype: str
    elements: int
    nbytes: int


def load_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Load:
    """The load that these values are."""
    elements = nbytes = 0
    dtype = ""
    for leaf in all_leaves(args, kwargs):
        if conversion.kind_of(leaf) is not None or isinstance(leaf, np.generic):
            dtype = dtype or conversion.dtype_name(leaf)
            count = math.prod(leaf.shape)
            elements += count
            nbytes += count * leaf.dtype.itemsize
    shape = getattr(args[0], "shape", None) if len(args) == 1 and not kwargs else None
    return Load(None if shape is None else tuple(shape), dtype or "float64", elements, nbytes)


def handed(value: Any) -> Any:
    """What a step may rest on of the value it is handed: class, shape and dtype; of a list, those of its items."""
    shape = getattr(value, "shape", None)
    return key_of((value,), {}) if shape is None else (type(value), shape, getattr(value, "dtype", None))


def place_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Where these values lie: the first place that is not NumPy's, as for a single call."""
    for leaf in all_leaves(args, kwargs):
        if conversion.kind_of(leaf) not in (None, "numpy"):
            return conversion.residency(leaf)
    return "numpy"


def kind_at(place: str) -> str:
    """Whose arrays lie at `place`."""
    return place.partition("@")[0]


def own_place(backend: str, device: str) -> str:
    """Where a backend computes: the place of its own arrays on `device`."""
    kind = registry.executor(backend).kind
    return kind if device == "cpu" else f"{kind}@{device}"


def places(home: str, engine: Engine) -> tuple[str, ...]:
    """Where intermediate arrays may lie: at home, with NumPy, and with every library that is imported already."""
    found = dict.fromkeys((home, "numpy"))
    accelerators = engine.machine.devices(engine.settings())
    for name, capable in registry.array_api_backends():
        if name == "numpy" or not registry.imported(name) or registry.available(name) is not None:
            continue
        if "cpu" in capable.devices:
            found[name] = None
        reachable = engine.machine.reachable(name) if accelerators and "cuda" in capable.devices else ()
        found.update(dict.fromkeys(f"{name}@{device}" for device in accelerators if device in reachable))
    return tuple(found)


def scopes_of(visited: Iterable[str], home: str) -> tuple[Executor, ...]:
    """The executors of these places whose calls must happen inside a scope of theirs.

    A library whose own arrays came in computes under the process's own settings, as in a single call.
    """
    kinds = sorted({kind_at(place) for place in visited} - {kind_at(home), "numpy"})
    found = (registry.of_kind(kind) for kind in kinds)
    return tuple(executor for executor in found if executor is not None and executor.scope() is not None)


def inside(executors: tuple[Executor, ...]) -> AbstractContextManager[Any]:
    """The scopes of these executors, to be entered once."""
    if not executors:
        return nullcontext()
    return (executors[0].scope() if len(executors) == 1 else _all_of(executors)) or nullcontext()


@contextmanager
def _all_of(executors: tuple[Executor, ...]) -> Iterator[None]:
    with ExitStack() as stack:
        for executor in executors:
            stack.enter_context(executor.scope() or nullcontext())
        yield


def mover(source: str, target: str) -> Callable[[Any], Any]:
    """Converts an array, or the arrays in a tuple, list or dictionary, from one place to another."""
    executor = registry.of_kind(kind_at(source))
    if executor is None:
        raise ValueError(f"no backend has arrays of kind {kind_at(source)!r}")
    return outward(executor, kind_at(target), target.partition("@")[2] or "cpu")


def moved(
    into: Callable[[Any], Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call, each put through the mover `into`."""
    return tuple(map(into, args)), {name: into(given) for name, given in kwargs.items()}


def brought_home(value: Any, home: str) -> Any:
    """A result as the caller has his arrays; a tensor that carries a gradient stays what it is."""
    place = place_of((value,), {})
    if place == home or conversion.requires_grad(value) or conversion.kind_of(value) in ("foreign", "tracer"):
        return value
    return mover(place, home)(value)


def waiting_mover(source: str, target: str) -> Callable[[Any], Any]:
    """As `mover`, for a measurement: where a device takes part, its work is waited for."""
    move = mover(source, target)
    device = target if "@" in target else source
    executor = registry.of_kind(kind_at(device)) if "@" in device else None
    if executor is None:
        return move

    def waits(x: Any) -> Any:
        moved = move(x)
        executor.synchronize(moved)
        return moved

    return waits


def move_site(load: Load, source: str, target: str) -> Site:
    """Where outcomes of this move are recorded: a cost of bytes, whatever their shape."""
    return Site(
        f"convert {source} to {target}", kind_at(target), load.dtype, str(round(2 * math.log2(max(load.nbytes, 1)))),
        "", max(load.nbytes / BYTES_PER_UNIT, 1.0), load.elements,
    )  # fmt: skip


def move_s(load: Load, source: str, target: str, engine: Engine) -> float:
    """Expected seconds of this move, learned where it has been made before; 0.0 for staying."""
    if source == target:
        return 0.0
    return engine.learner.expected_s(move_site(load, source, target), kind_at(target))
