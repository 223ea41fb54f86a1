"""Workers for maps: in a module of their own, because worker processes import them by name."""

from __future__ import annotations

import decimal
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pointsman as pm
from pointsman.selector import settings
from pointsman.selector.maps import Facts

RESULTS: list[Any] = [1, None, "text", {"a": [1, 2]}, (3.5,), [[1], [2, 3]], b"bytes", {4}]


class Awkward(Exception):
    """An exception that pickle cannot rebuild: its class wants two arguments and passes one on."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code
        self.lock = threading.Lock()


def square(x: int) -> int:
    return x * x


def any_result(x: int) -> Any:
    return RESULTS[x % len(RESULTS)]


def fails_at_five(x: int) -> int:
    if x == 5:
        raise KeyError("five")
    return x


def stops_at_five(x: int) -> int:
    if x == 5:
        next(iter(()))
    return x


def file_missing(x: int) -> int:
    raise FileNotFoundError(2, "gone", f"file{x}")


def awkward(x: int) -> int:
    raise Awkward("odd", 7)


def gives_a_lock(x: int) -> Any:
    return threading.Lock()


def environment(name: str) -> str | None:
    return os.environ.get(name)


def loaded(name: str) -> bool:
    return name in sys.modules


def threads_after_loading(library: str) -> set[int]:
    importlib.import_module(library)
    from threadpoolctl import threadpool_info

    return {found["num_threads"] for found in threadpool_info() if found["user_api"] in ("blas", "openmp")}


def process(x: int) -> int:
    return os.getpid()


def doubled(x: Any) -> Any:
    x *= 2
    return x


def context(x: int) -> tuple[Any, ...]:
    return settings.scope(), np.geterr()["divide"], decimal.getcontext().prec


def dies(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def dies_once(item: tuple[str, int]) -> int:
    mark, x = item
    if x == 3 and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def notes_and_dies_once(item: tuple[str, int]) -> int:
    folder, x = item
    with Path(folder, str(x)).open("a") as file:
        file.write("x")
    time.sleep(0.02)
    return dies_once((str(Path(folder, "mark")), x))


def marks_and_sleeps(mark: str) -> None:
    Path(mark).write_text(str(os.getpid()))
    time.sleep(120)


def maps_again(backend: str) -> str:
    results, info = pm.map(square, range(6), backend, return_info=True)
    assert results == [0, 1, 4, 9, 16, 25]
    assert info.variant == "sequential"
    return info.reason


def known(worker: Any, facts: Facts) -> Any:
    """Say what is known of `worker`, as an earlier run would have found out."""
    from pointsman.kernels import map_run

    map_run._remember(worker, facts)
    return worker


class Clock:
    """Seconds that pass only when a worker says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def worker(self, *seconds: float) -> Callable[[Any], Any]:
        """A worker that takes these seconds in turn, the last of them for ever."""
        calls = count()

        def work(x: Any) -> Any:
            self.now += seconds[min(next(calls), len(seconds) - 1)]
            return x

        return work
