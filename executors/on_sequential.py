"""Sequential: a plain loop in the caller's own thread. The reference of every map, and the end of every chain."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .base import Capabilities
from .errors import BackendUnavailableError
from .mapping import MapExecutor, Method
from .turns import in_turn


class SequentialExecutor(MapExecutor):
    """Runs chunks one after the other. Native threads stay as the process has them."""

    name = "sequential"
    capabilities = Capabilities(dtypes=frozenset(), array=False, map=True)
    methods = (Method(parallel=False),)

    def probe(self) -> None:
        """Square three numbers."""
        found = self.map(lambda x: x * x, [1, 2, 3])
        if found != [1, 4, 9]:
            raise BackendUnavailableError(f"the squares of 1, 2, 3 came out as {found}")

    def version(self) -> str:
        """Python's: its loop is all there is."""
        return platform.python_version()

    def run_chunks(
        self, work: Callable[[Any], Any], chunks: Iterable[Any], *, method: str = "", n_jobs: int = 1,
        native_threads: int = 1, until: float | None = None, **options: Any,
    ) -> Iterator[Any]:  # fmt: skip
        """See `MapExecutor.run_chunks`; order is kept, and `n_jobs` and `native_threads` have no meaning here."""
        self.check_options(options)
        self.method(method)
        del n_jobs, native_threads
        yield from in_turn(work, chunks, until)


EXECUTOR = SequentialExecutor
