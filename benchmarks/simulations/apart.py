"""A process of its own that calls functions when told to: pools stay warm in it, and what hangs there can be ended."""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
END_S = 20.0
"""So long a process may take to end by itself, its pools with it."""


class TooLongError(Exception):
    """A call took longer than it may; its process is gone."""


class FailedError(Exception):
    """A call raised, or its process died; the text says how."""


class Apart:
    """A fresh Python that answers `call`. Use it in a ``with``; it ends with it, and so do the processes it started.

    Its history is an empty one, and POINTSMAN_* variables are left aside.
    """

    def __init__(self) -> None:
        # Short: Ray's sockets stand below it. What was just killed may still write to it.
        self._folder = tempfile.TemporaryDirectory(prefix="pmb", ignore_cleanup_errors=True)
        self._ended = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.simulations.apart"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, env=self._environment(), cwd=ROOT, start_new_session=True,
        )  # fmt: skip
        self._rest = b""

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        paths = [str(ROOT), *filter(None, [own.get("PYTHONPATH")])]
        return {
            **own,
            "PYTHONPATH": os.pathsep.join(paths),  # the engines' workers import the simulations as well
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), own.get("PATH", "")]),  # mpiexec stands there
            "POINTSMAN_HISTORY": str(Path(self._folder.name) / "history.sqlite"),
            "TMPDIR": self._folder.name,  # what is ended by force cannot clean up
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # else it writes a token into the home folder
        }

    def call(self, function: str, timeout_s: float = 60.0, **given: Any) -> Any:
        """What a function of `benchmarks.simulations.inside` gives there, for plain data.

        Raises
        ------
        TooLongError : no answer within `timeout_s`.
        FailedError : it raised, or the process died.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer tells
            self._process.stdin.write(json.dumps([function, given]).encode() + b"\n")
            self._process.stdin.flush()
        good, found = json.loads(self._line(function, time.monotonic() + timeout_s))
        if not good:
            raise FailedError(f"{function}({given}):\n{found}")
        return found

    def _line(self, function: str, until: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            left = until - time.monotonic()
            if left <= 0.0 or not select.select([pipe], [], [], left)[0]:
                self._kill()
                raise TooLongError(f"{function} took too long")
            data = os.read(pipe, 1 << 16)
            if not data:
                self._errors.seek(0)
                said = self._errors.read()[-2000:].decode(errors="replace")
                raise FailedError(f"{function}: the process died; it said last:\n{said}")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def close(self) -> None:
        """End the process: by itself, or by force where that takes too long."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._kill()
        self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()

    def _kill(self) -> None:
        if not self._ended:
            self._ended = True
            with suppress(ProcessLookupError):  # what is left of its session, itself gone or not
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _serve() -> None:
    """Answer calls until standard input ends. Engines may print: what they print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        function, given = json.loads(line)
        try:
            found = getattr(importlib.import_module("benchmarks.simulations.inside"), function)(**given)
            text = json.dumps([True, found])
        except Exception:
            text = json.dumps([False, traceback.format_exc()])
        answers.write(text + "\n")
        answers.flush()
    importlib.import_module("benchmarks.simulations.inside").end()


if __name__ == "__main__":
    _serve()
