"""A map backend of the user's own, in a dozen lines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

from .base import Capabilities
from .deadline import left_s
from .errors import BackendUnavailableError, first_line
from .mapping import MapExecutor, Method


class MonteCarloBackend(MapExecutor):
    """A place to run simulations; subclass it, write `run_tasks`, and ``register_backend("mine", Mine)``.

    Seeds, order, retries, reducers, checkpoints and the note of which simulation failed come from above: a backend
    never sees a seed, so it cannot lose one.

    Attributes
    ----------
    name : what `backend=` calls it; set when it is registered.
    description : one line for listings.
    methods : how it runs tasks; ``Method(ships=True)`` where they run in other processes, with what a start, a run and
        a task cost beside the work, so that "auto" can weigh it.
    options : name -> one line, of each keyword that `run_tasks` takes beyond `n_jobs`.

    Examples
    --------
    >>> import multiprocessing, pointsman as pm
    >>> class Mine(pm.MonteCarloBackend):
    ...     description = "the standard library's thread pool"
    ...
    ...     def run_tasks(self, function, tasks, *, n_jobs, **options):
    ...         with multiprocessing.pool.ThreadPool(n_jobs) as pool:
    ...             yield from pool.imap_unordered(function, tasks)
    >>> pm.register_backend("mine", Mine)
    >>> pm.run_monte_carlo(lambda seed: seed.spawn_key[0], 5, seed=1, backend="mine", n_jobs=2)
    [0, 1, 2, 3, 4]
    """

    name = ""
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods: ClassVar[tuple[Method, ...]] = (Method(floor_s=0.01, chunk_s=1e-3),)

    @abstractmethod
    def run_tasks(
        self, function: Callable[[Any], Any], tasks: Iterable[Any], *, n_jobs: int, **options: Any
    ) -> Iterable[Any]:
        """Give ``function(task)`` for every task, in any order, `n_jobs` at a time.

        Whatever `function` raises must come out; so must whatever keeps a task from being run.
        """

    def is_available(self) -> bool:
        """Whether it can be used here and now; asked often, so it starts nothing."""
        return True

    def unusable(self) -> str | None:
        """See `Executor.unusable`."""
        try:
            return None if self.is_available() else f"{self.name} says that it is not available here"
        except Exception as error:  # one that is faulty must not stop what others can do
            return f"{self.name} cannot say whether it is available: {type(error).__name__}: {first_line(error)}"

    def probe(self) -> None:
        """Square three numbers."""
        found = sorted(self.run_tasks(lambda x: x * x, [1, 2, 3], n_jobs=1))
        if found != [1, 4, 9]:
            raise BackendUnavailableError(f"the squares of 1, 2, 3 came out as {found}")

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`."""
        del native_threads  # `run_tasks` does what its workers need
        self.check_options(options)
        self.method(method)
        left_s(until)
        for found in self.run_tasks(work, chunks, n_jobs=n_jobs, **options):
            yield found
            left_s(until)
