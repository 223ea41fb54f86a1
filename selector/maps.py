"""Choosing where a map runs: what a pilot found out about its worker, as a request that the engine understands.

The work of a map is the nanoseconds that its items would take in place; the work of a variant, what it needs beside its
floor by construction (shared by its workers, shipping included). So a curve over work is the floor of a variant and how
well it really shares, learned like any other; what was declared stands until then (`declare`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..executors import registry
from ..executors.base import Variant
from ..executors.mapping import COMMON, MapExecutor, Method, map_methods
from ..telemetry.outcome import Failure, Site
from ..telemetry.show import seconds
from ..telemetry.state import State
from . import operations, shipped
from .constraints import only_costs_decide
from .operations import Operation, meant
from .request import Request
from .signature import detail_of, shape_class

FAMILY = "map"
DTYPE = "object"
WAITS = 0.5
"""A worker that uses the processor for less than this share of its time waits for something, and not for the GIL."""

SHARED = 0.9
"""No run takes less than this share of what its items took in place, perfectly shared among workers."""


@dataclass(frozen=True)
class Facts:
    """What is known of one item.

    Attributes
    ----------
    item_s : wall seconds in place, beyond the first item.
    cpu_s : processor seconds of the whole process meanwhile: more than `item_s` where native threads are at work.
    own_s : processor seconds of the calling thread: far less than `item_s` where it waits.
    shares : whether other threads could run meanwhile, that is whether the GIL was released; None: not known.
    item_bytes : of one item and one result, pickled.
    """

    item_s: float
    cpu_s: float = 0.0
    own_s: float = 0.0
    shares: bool | None = None
    item_bytes: int = 0

    @property
    def waits(self) -> bool:
        """Whether an item mostly waits: for a disk, a network, a sleep."""
        return self.cpu_s < WAITS * self.item_s

    def taking(self, item_s: float) -> Facts:
        """The same where an item takes `item_s`."""
        if not self.item_s:
            return Facts(item_s, item_s, item_s, self.shares, self.item_bytes)
        change = item_s / self.item_s
        return replace(self, item_s=item_s, cpu_s=self.cpu_s * change, own_s=self.own_s * change)

    def work_ns(self, method: Method, items: int, jobs: int, cores: int) -> float:
        """Nanoseconds that `items` take with `method` beyond its floor, if it shares them out perfectly."""
        if not method.parallel:
            return max(items * self.item_s * 1e9, 1.0)
        at_once = min(jobs, items) if self.waits else min(jobs, items, cores)
        rounds = -(-items // at_once)  # five items on four workers take as long as eight
        if method.ships:  # native threads are capped there, so that one worker does all of it
            seconds = max(self.item_s, self.cpu_s) + self.item_bytes / method.bytes_per_s
            return max(rounds * seconds * 1e9, 1.0)
        native = self.cpu_s / self.item_s if self.item_s else 1.0  # less than one where items wait, which needs no core
        return max(rounds * self.item_s * 1e9, items * self.item_s * min(native, cores) / cores * 1e9, 1.0)


@dataclass(frozen=True, slots=True)
class MapRequest(Request):
    """A run of `items` items of a worker of which `facts` are known."""

    facts: Facts = Facts(0.0)
    items: int = 0
    jobs: int = 1
    cores: int = 1
    methods: Mapping[str, Method] = field(default_factory=dict)
    own: Operation | None = None
    forgone: Mapping[str, float] = field(default_factory=dict)

    def known_operation(self) -> Operation | None:
        """The worker's operation, with what speaks against each variant now."""
        return self.own

    def heeds(self, wish: str) -> bool:
        """Whether it is a map backend: one for arrays that something insists on says nothing about maps."""
        return registry.executor(wish).capabilities.map

    def insists_on(self, variant: Variant) -> bool:
        """Whether it was named: what failed before was an argument that could not be sent, or a worker that died."""
        return self.require in (variant.backend, variant.name)

    def work_of(self, variant: Variant) -> float:
        """See `Facts.work_ns`."""
        return self.facts.work_ns(self.methods[variant.name], self.items, self.jobs, self.cores)

    def least_s(self, variant: Variant) -> float:
        """What the items took in place, perfectly shared: no curve of other sizes knows better."""
        return SHARED * self.work_of(variant) * 1e-9 if self.facts.item_s else 0.0

    def repaid_s(self, variant: Variant) -> float:
        """What earlier maps forwent because it would have had to start."""
        return self.forgone.get(variant.name, 0.0)

    def bytes_of(self, variant: Variant) -> int:
        """Items and results, where they exist twice."""
        return self.items * self.facts.item_bytes if self.methods[variant.name].ships else 0

    def site(self, variant: Variant) -> Site:
        """Where outcomes of `variant` are recorded."""
        return Site(
            self.operation, variant.name, DTYPE, self.shape_class, self.detail, self.work_of(variant), self.items
        )

    def describe(self) -> str:
        """The request in one line."""
        return f"{self.operation}: {self.items} items of {seconds(self.facts.item_s)}, {self.jobs} workers"


def request(
    name: str, items: int, facts: Facts, jobs: int, cores: int, *, against: Mapping[str, str], require: str | None,
    forgone: Mapping[str, float] | None = None,
) -> MapRequest:  # fmt: skip
    """The request for a map.

    Parameters
    ----------
    against : by variant, the sentence why it must not run now.
    forgone : by variant, the seconds that earlier maps would have taken less, had its workers been started.
    """
    methods, variants = {}, []
    for variant, executor, method in map_methods():
        methods[variant] = method
        shipped.declare(FAMILY, variant, max(method.floor_s, 1e-7), 1e9)
        why = against.get(variant)
        variants.append(Variant(variant, executor.name, _not_by_arrays, supports=lambda *_, why=why: why))
    if operations.find(name) is None:  # so that a summary knows its default
        operations.register_operation(Operation(name=name, variants=tuple(replace(v, supports=None) for v in variants)))
    shapes = ((items, max(1, round(facts.item_s * 1e9))), (facts.item_bytes,))
    parameters = {"n_jobs": jobs}
    return MapRequest(
        name, shapes, DTYPE, parameters, require=require, shape_class=shape_class(shapes), detail=detail_of(parameters),
        facts=facts, items=items, jobs=jobs, cores=cores, methods=methods,
        own=Operation(name=name, variants=tuple(variants), protected=True),  # nobody's worker is sent anywhere on trial
        forgone=forgone or {},
    )  # fmt: skip


def objections(
    facts: Facts, prefer: str | None, measured: set[str], *, asked: str | None = None, patient: bool = False
) -> dict[str, str]:
    """What speaks against each variant now: variant -> sentence. `patient`: a turn on busy workers is waited for.

    Threads are no candidate for a worker that holds the GIL, or may hold it, unless they were measured or asked for.
    """
    against: dict[str, str] = {}
    found = [(name, executor, method) for name, executor, method in map_methods() if method.parallel]
    wanted = {name for name, _, method in found if prefer and method.ships == (prefer == "processes")}
    for name, executor, method in found:
        if wanted and name not in wanted:
            against[name] = f"prefer={prefer!r} was asked for"
        elif not patient and asked is None and executor.busy(method):
            against[name] = "its workers run a map of another thread"
        elif method.ships or name in measured or name == asked or name in wanted:
            continue
        elif facts.shares is None and not (facts.waits and facts.item_s):
            against[name] = "whether the worker releases the interpreter lock (GIL) is not known, nor was it measured"
        elif not facts.shares and not facts.waits:
            against[name] = "the worker holds the interpreter lock (GIL): threads would take turns"
    return against


def remembered(state: State, name: str) -> tuple[Facts | None, set[str]]:
    """What the history knows of a worker: roughly what an item takes, and the variants that were measured."""
    sketches = [(sketch.last_seen, cell) for (cell, _), sketch in state.of(name, DTYPE).items() if sketch.count]
    if not sketches:
        return None, set()
    _, latest = max(sketches)
    first, _, second = latest.shape_class.partition("|")
    item_ns, nbytes = _middle(first.rpartition("x")[2]), _middle(second)
    return Facts(item_ns * 1e-9, item_ns * 1e-9, item_ns * 1e-9, None, round(nbytes)), {c.variant for _, c in sketches}


def _middle(axis: str) -> float:
    """The middle of the half-octave class of an axis; "e" is an empty one."""
    return 0.0 if axis == "e" else 2.0 ** (int(axis) / 2.0)


def by_costs() -> bool:
    """Whether nothing but the costs decides where a map runs: then its pilot may run first, in place."""
    return only_costs_decide("map", "sequential")


def alike(variant: str, failure: Failure) -> list[str]:
    """The variants of which `failure` is just as true: what cannot be sent to one process cannot to another."""
    if failure is not Failure.UNSUPPORTED or not executor_of(variant)[1].ships:
        return [variant]
    return [name for name, _, method in map_methods() if method.ships]


def executor_of(variant: str) -> tuple[MapExecutor, Method]:
    """The executor and the method that a variant's name means; a ValueError lists the names."""
    for name, executor, method in map_methods():
        if name == variant:
            return executor, method
    raise unknown(variant)


def executor_named(backend: str) -> MapExecutor:
    """The executor of a backend or of one of its variants; a ValueError for what is unknown or maps nothing."""
    root, _, method = backend.partition("/")
    executor = registry.executor(root)
    if not isinstance(executor, MapExecutor):
        raise unknown(backend)
    executor.method(method)
    return executor


def on_named(backend: str, options: Mapping[str, Any]) -> tuple[dict[str, str], int | None]:
    """What the options of a named backend rule out, variant -> sentence; and the workers of the cluster of its user."""
    root, _, only = backend.partition("/")
    against, there = dict[str, str](), None
    if registry.available(root) is None:
        for name, executor, method in map_methods():
            if executor.name == root and only in ("", method.name):
                why = executor.objection(method, options)
                if why is not None:
                    against[name] = why
                else:
                    there = executor.capacity(method, options) or there
    return against, there


def no_option(name: str) -> TypeError:
    """The error for an option that "auto" does not take: mistyped, or a named backend's own."""
    valid = ", ".join(COMMON)
    hint = "" if any(name in executor.options for _, executor, _ in map_methods()) else meant(name, COMMON)
    if hint:
        return TypeError(f"map has no option {name!r}{hint}; valid are: {valid}")
    return TypeError(f"option {name!r} needs a named backend; auto takes: {valid}")


def unknown(variant: str) -> ValueError:
    """The error for what maps nothing; it lists what does."""
    known = ", ".join(name for name, _, _ in map_methods())
    return ValueError(f"no map runs on {variant!r}; it does on: {known}")


def _not_by_arrays() -> Any:
    raise TypeError("a map has no function of arrays; run it by pointsman.map")
