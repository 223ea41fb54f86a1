"""Workers for runs that go wrong: in a module of their own, because worker processes import them by name.

What runs is seen in a log, a line "life index" for each simulation that begins. Scripts that are killed and started
again name it in the environment, others in an argument: worker processes keep the environment that they began with.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pointsman as pm

STEP_S = 0.006


SECOND = 1000
"""Simulations of the second run of a script stand in the log with this added to their number."""


def announce(seed: Any, offset: int = 0, log: str = "") -> int:
    handle = os.open(log or os.environ["LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{os.environ.get('LIFE', 1)} {number(seed) + offset}\n".encode())
    os.close(handle)
    return number(seed)


def steps(seed: Any, log: str = "") -> float:
    announce(seed, log=log)
    time.sleep(STEP_S)
    return normal(seed)


def steps_of_the_second(seed: Any) -> float:
    announce(seed, SECOND)
    time.sleep(STEP_S)
    return normal(seed)


def precise(value: Any, n: int) -> bool:
    """For `stop_when`, of a mean of normal draws."""
    return bool(value.half_width(0.9) < 0.2)


def arrays(seed: Any) -> np.ndarray:
    """0.8 kB each."""
    announce(seed)
    return np.random.default_rng(seed).random(100)


def fails_at_ten(seed: Any, log: str, mark: str = "") -> float:
    """Simulation 10 raises for as long as there is no file `mark`; simulation 20 always does."""
    index = announce(seed, log=log)
    if index == 20 or (index == 10 and not (mark and Path(mark).exists())):
        raise ArithmeticError(f"simulation {index}")
    return normal(seed)


def kills_its_process(seed: Any, log: str, times: int, mended: str = "") -> float:
    """The process of simulation 20 is killed the first `times` times that it runs, while there is no file `mended`."""
    index = announce(seed, log=log)
    if index == 20 and not (mended and Path(mended).exists()) and Path(log).read_text().split().count("20") <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(STEP_S)
    return normal(seed)


def moves_at_ten(seed: Any, folder: str) -> float:
    """Simulation 10 moves a folder away."""
    if number(seed) == 10:
        os.rename(folder, f"{folder} elsewhere")
    return normal(seed)


def never(seed: Any) -> float:
    raise AssertionError("nothing was to run")


def number(seed: Any) -> int:
    return int(seed.spawn_key[-1])


# ---------------------------------------------------------------------------------------------- odd at simulation 5


class Unusual(BaseException):
    """No Exception: code that catches those lets it pass."""


def prints_and_forks(seed: Any) -> int:
    sys.stdout.write("a line\n")
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return number(seed)


def exits(seed: Any) -> int:
    return sys.exit(3) if number(seed) == 5 else number(seed)


def ends_its_process(seed: Any) -> int:
    return os._exit(3) if number(seed) == 5 else number(seed)


def raises_unusual(seed: Any) -> int:
    if number(seed) == 5:
        raise Unusual("five")
    return number(seed)


def gives_a_lock(seed: Any) -> Any:
    return threading.Lock() if number(seed) == 5 else number(seed)


def gives_bytes(seed: Any, size: int) -> Any:
    return np.full(size // 8, 5.0) if number(seed) == 5 else number(seed)


def runs_again(seed: Any, backend: str) -> list[float]:
    return pm.run_monte_carlo(normal, 6, seed=number(seed), backend=backend, n_jobs=2)


def normal(seed: Any) -> float:
    return float(np.random.default_rng(seed).standard_normal())
