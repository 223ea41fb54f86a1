"""Runs in processes of their own, which can be killed, interrupted and started again; and what they left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fault_workers import STEP_S
from pointsman.executors import on_mpi, on_threads, warm
from pointsman.executors.mapping import map_methods
from pointsman.kernels.checkpoint import Checkpoint
from pointsman.kernels.checkpoint_file import RecordFile
from pointsman.kernels.collect import SAVE_S

LONGEST_S = 60.0
"""Until something that must happen has happened, on a machine that is busy."""

PREAMBLE = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is born with it ignored
import fault_workers as w
import pointsman as pm
"""

METHODS = {variant: method for variant, _, method in map_methods()}
SHIPPING = [variant for variant, method in METHODS.items() if method.ships]
QUICK = ("sequential", "threads", "joblib/loky")
"""One of each kind. The others take seconds to start or, as joblib's threads, add nothing: soak tests have them."""
BY_JOBLIB = 8
"""Chunks for each worker: two by joblib's default, and what it does without waiting while its caller is held up."""


def grid(variants: Iterable[str]) -> list[Any]:
    """For `parametrize`: a variant each; those that are not `QUICK` are soak tests."""
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.soak) for name in variants]


def groups(variants: Iterable[str]) -> list[Any]:
    """The same for a test that runs several in one process: those that are `QUICK` first, and the others."""
    slow = [name for name in variants if name not in QUICK]
    quick = [name for name in variants if name in QUICK]
    return [pytest.param(quick, id="quick"), pytest.param(slow, id="slow", marks=pytest.mark.soak)]


def ahead(variant: str, n_jobs: int = 2) -> int:
    """Simulations, one to a chunk, that may have begun or ended without the caller having kept them.

    Those are what the executor has handed over, one that has just been given, and, where results are to be folded, what
    came since they were kept last. Dask and Ray get more ahead where chunks are short.
    """
    handed = {
        "threads": on_threads.AHEAD, "joblib": BY_JOBLIB, "dask": warm.MOST_AHEAD, "ray": warm.MOST_AHEAD,
        "mpi": on_mpi.AHEAD,
    }  # fmt: skip
    each = handed.get(variant.partition("/")[0], 2) + 1 + round(SAVE_S / STEP_S)
    return each * n_jobs if METHODS[variant].parallel else each


class Lives:
    """One script, started again and again; all processes of all its lives are known by their environment.

    Parameters
    ----------
    folder : for the script and its log.
    code : of the script, after `PREAMBLE`.
    arguments : of the script.
    """

    def __init__(self, folder: Path, code: str, *arguments: object) -> None:
        self.log = folder / "log"
        self.number = 0
        self.complaints = ""  # of the last life
        self.mark = uuid.uuid4().hex
        self.process: subprocess.Popen[str] | None = None
        script = folder / "script.py"
        script.write_text(PREAMBLE + code)
        self._command = [sys.executable, str(script), *map(str, arguments)]
        self._folder = folder

    def begin(self) -> None:
        """Start the next life."""
        self.number += 1
        environment = {
            **os.environ, "LIFE": str(self.number), "LOG": str(self.log), "LIVES": self.mark,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)]),
            "POINTSMAN_HISTORY": str(self._folder / "history.sqlite"),
        }  # fmt: skip
        self.process = subprocess.Popen(
            self._command, env=environment, cwd=self._folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def logged(self, life: int | None = None) -> list[int]:
        """Simulations that began in a life, this one where none is named."""
        text = self.log.read_text() if self.log.exists() else ""
        lines = [line.split() for line in text.splitlines()]
        return [int(index) for number, index in lines if int(number) == (life or self.number)]

    def until(self, count: int) -> bool:
        """Wait until so many simulations have begun in this life; false where it ended before."""
        assert self.process is not None
        wait_for(lambda: len(self.logged()) >= count or self.process.poll() is not None)
        return self.process.poll() is None

    def kill(self) -> None:
        """As `kill -9` of the script's process does, and of no other."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._close()

    def interrupt(self, everybody: bool) -> None:
        """As Ctrl-C does in a terminal, to all processes in the foreground; or to the script's process alone."""
        assert self.process is not None
        (os.killpg if everybody else os.kill)(self.process.pid, signal.SIGINT)

    def answer(self, told: str = "") -> str:
        """Its next line, after it was `told` one."""
        assert self.process is not None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if told:
            self.process.stdin.write(f"{told}\n")
            self.process.stdin.flush()
        return self.process.stdout.readline().rstrip("\n")

    def end(self, told: str = "") -> str:
        """What it printed, `told` this; an AssertionError with what it complained of where it failed."""
        assert self.process is not None
        try:
            out, complaints = self.process.communicate(told, timeout=LONGEST_S)
        finally:
            self._close()
        assert self.process.returncode == 0, complaints
        self.complaints = complaints
        return out

    def _close(self) -> None:
        """Close our ends of its pipes: workers that have outlived it may hold the others."""
        assert self.process is not None
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            stream.close()  # type: ignore[union-attr]

    def left(self) -> list[psutil.Process]:
        """Its processes of all lives that exist."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("LIVES") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


@contextlib.contextmanager
def lives(folder: Path, code: str, *arguments: object) -> Iterator[Lives]:
    """A script to start; at the end no process of it may be left, ten seconds after its last life."""
    script = Lives(folder, code, *arguments)
    try:
        yield script
        wait_for(lambda: not script.left(), 10.0, script.left)
    finally:
        for process in script.left():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if script.process is not None:
            script.kill()


def wait_for(what: Callable[[], object], seconds: float = LONGEST_S, else_: Callable[[], object] = str) -> None:
    """Wait until `what` is true; an AssertionError that shows `else_` where that takes longer."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"not after {seconds} s: {else_()}"
        time.sleep(0.004)


def held(path: Path) -> Checkpoint:
    """What a checkpoint holds, whosever it is; closed."""
    file = RecordFile(path, {})
    fingerprint: dict[str, Any] = file.about["fingerprint"]
    file.leave()
    with Checkpoint.open(path, fingerprint) as checkpoint:
        return checkpoint


def simulations_in(path: Path, leaf_size: int) -> set[int]:
    """Simulations that need not run again, by a checkpoint of a run with such leaves."""
    if not path.exists():
        return set()
    checkpoint = held(path)
    leaves = {i for leaf in checkpoint.states for i in range(leaf * leaf_size, (leaf + 1) * leaf_size)}
    return {*checkpoint.results, *leaves}
