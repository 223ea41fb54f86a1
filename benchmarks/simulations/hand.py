"""What somebody who knows an engine would write by hand: simulations in stretches, seeds made where they are used.

Only two numbers are sent for a stretch, and the seeds are spawned in parallel: hand-written code that sends one seed
for each simulation is slower. `each` is the naive form: one task for each simulation, as tutorials have it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from .work import SEED, WORKERS, children, native, python

Spans = list[tuple[int, int]]


def stretch(first: int, last: int, kind: str, steps: int) -> list[int]:
    """The simulations from `first` to before `last`."""
    worker = WORKERS[kind]
    return [worker(np.random.SeedSequence(SEED, spawn_key=(i,)), steps) for i in range(first, last)]


def nothing(number: int) -> int:
    """A task that is all overhead."""
    return number


def letters(number: int, nbytes: int) -> bytes:
    """A task whose result is `nbytes` long."""
    return bytes([number % 256]) * nbytes


def spans(n: int, size: int) -> Spans:
    """The stretches of n simulations, `size` to each."""
    return [(first, min(n, first + size)) for first in range(0, n, size)]


class Hand:
    """An engine that is used directly, its workers started."""

    kind = "python"
    """Of simulations that it can run at the same time."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def tasks(self, function: Callable[..., Any], given: list[tuple[Any, ...]]) -> list[Any]:
        """``[function(*args) for args in given]``, one task for each."""
        raise NotImplementedError

    def run(self, n: int, kind: str, steps: int, size: int) -> list[int]:
        """The results of n simulations, `size` to a task."""
        parts = self.tasks(stretch, [(first, last, kind, steps) for first, last in spans(n, size)])
        return [result for part in parts for result in part]

    def each(self, n: int, kind: str, steps: int) -> list[int]:
        """The same, one task for each simulation."""
        return self.tasks({"python": python, "native": native}[kind], [(seed, steps) for seed in children(n)])

    def close(self) -> None:
        """End the workers."""


class Joblib(Hand):
    """`joblib.Parallel` on loky's processes; the naive form has joblib's own batches, as it comes."""

    def tasks(self, function: Callable[..., Any], given: list[tuple[Any, ...]], batch: Any = 1) -> list[Any]:
        import joblib

        call = joblib.delayed(function)
        found: list[Any] = joblib.Parallel(n_jobs=self.jobs, batch_size=batch)(call(*args) for args in given)
        return found

    def each(self, n: int, kind: str, steps: int) -> list[int]:
        return self.tasks(WORKERS[kind], [(seed, steps) for seed in children(n)], batch="auto")

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True, kill_workers=True)


class Dask(Hand):
    """`Client.map` on a `LocalCluster` of processes with one thread each."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        import distributed

        engine: Any = distributed  # its classes are not annotated
        self.cluster = engine.LocalCluster(
            n_workers=jobs, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        )  # fmt: skip
        self.client = engine.Client(self.cluster)

    def tasks(self, function: Callable[..., Any], given: list[tuple[Any, ...]]) -> list[Any]:
        if not given:
            return []
        found: list[Any] = self.client.gather(self.client.map(function, *zip(*given, strict=True), pure=False))
        return found

    def close(self) -> None:
        self.client.close()
        self.cluster.close()


class Ray(Hand):
    """Remote functions, and `ray.get` of all of them."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        import ray

        self.ray: Any = ray
        self.folder = tempfile.mkdtemp(prefix="r")  # short: sockets stand below it
        ray.init(
            num_cpus=jobs, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20,
            _temp_dir=self.folder,
        )  # fmt: skip
        self.remote: dict[Any, Any] = {}

    def tasks(self, function: Callable[..., Any], given: list[tuple[Any, ...]]) -> list[Any]:
        if function not in self.remote:
            self.remote[function] = self.ray.remote(function)
        call = self.remote[function]
        found: list[Any] = self.ray.get([call.remote(*args) for args in given])
        return found

    def close(self) -> None:
        self.ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)


class MPI(Hand):
    """`MPIPoolExecutor`, its workers spawned by a single process."""

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        from mpi4py.futures import MPIPoolExecutor

        self.pool: Any = MPIPoolExecutor(jobs, main=False)
        self.pool.bootup()

    def tasks(self, function: Callable[..., Any], given: list[tuple[Any, ...]]) -> list[Any]:
        return list(self.pool.starmap(function, given))

    def close(self) -> None:
        self.pool.shutdown()


class Threads(Hand):
    """The standard library's `ThreadPoolExecutor`."""

    kind = "native"

    def __init__(self, jobs: int) -> None:
        super().__init__(jobs)
        from concurrent.futures import ThreadPoolExecutor

        self.pool = ThreadPoolExecutor(jobs)

    def tasks(self, function: Callable[..., Any], given: list[tuple[Any, ...]]) -> list[Any]:
        return list(self.pool.map(function, *zip(*given, strict=True)))

    def close(self) -> None:
        self.pool.shutdown()


HANDS: dict[str, type[Hand]] = {"joblib": Joblib, "dask": Dask, "ray": Ray, "mpi": MPI, "threads": Threads}
OURS = {"joblib": "joblib/loky", "dask": "dask/processes", "ray": "ray", "mpi": "mpi", "threads": "threads"}
"""The variant of ours that runs on the same workers."""
