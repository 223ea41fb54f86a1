"""One array-API implementation, many variants: derived for every backend that computes on arrays of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..executors import registry
from ..executors.base import Cost, Variant


@dataclass(frozen=True)
class Portable:
    """A function written once against the array API, and what holds for its variants on any backend.

    Attributes
    ----------
    function : ``f(*operands, *, xp, **parameters)``; `xp` is the backend's namespace.
    algorithm : part of the variants' names: "fft" makes "torch/fft" and "cupy/fft@cuda:0"; "" makes "torch".
    static : names of the parameters that are no arrays: what a compiler must take as constants.
    pure : it depends on nothing but its arguments and changes none of them, so that it may be compiled.
    one_thread : also a variant on one thread, where the library has a cheap setter ("torch/1-thread").
    work, workspace, dtypes, accuracy : as in `Variant`.
    """

    function: Callable[..., Any]
    algorithm: str = ""
    static: tuple[str, ...] = ()
    pure: bool = True
    one_thread: bool = False
    work: Cost | None = None
    workspace: Cost | None = None
    dtypes: frozenset[str] | None = None
    accuracy: Mapping[str, float] = field(default_factory=dict)

    def on(self, backend: str, device: str = "cpu", threads: int | None = None) -> Variant:
        """The variant on one backend and device."""

        def load() -> Callable[..., Any]:
            executor = registry.executor(backend)
            bound = partial(self.function, xp=executor.namespace())
            return executor.compile(bound, self.static) if self.pure else bound

        parts = [backend, self.algorithm, "" if threads is None else f"{threads}-thread"]
        name = "/".join(part for part in parts if part) + ("" if device == "cpu" else f"@{device}")
        return Variant(
            name, backend, load, device=device, threads=threads, work=self.work, workspace=self.workspace,
            dtypes=self.dtypes, gradients=registry.executor(backend).capabilities.gradients, accuracy=self.accuracy,
            reads_only=self.pure,
        )  # fmt: skip

    def everywhere(self) -> Iterator[Variant]:
        """The variants on the host in canonical order, then those on the first device."""
        backends = registry.array_api_backends()
        for name, capable in backends:
            if "cpu" in capable.devices:
                yield self.on(name)
                if self.one_thread and capable.sets_threads:
                    yield self.on(name, threads=1)
        for name, capable in backends:
            if "cuda" in capable.devices:
                yield self.on(name, device="cuda:0")


def with_derived(explicit: tuple[Variant, ...], portable: Portable) -> tuple[Variant, ...]:
    """The explicit variants and the derived ones that they do not replace; a derived default comes first."""
    taken: Collection[str] = {v.name for v in explicit}
    derived = [v for v in portable.everywhere() if v.name not in taken]
    first = [v for v in derived if v.backend == "numpy"]
    return (*first, *explicit, *(v for v in derived if v.backend != "numpy"))
