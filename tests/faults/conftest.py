"""A history file, and processes of their own to share it with."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest
from histories import PREAMBLE


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.sqlite"


@pytest.fixture(scope="module")
def no_pool_is_left() -> Iterator[None]:
    """End the workers that map backends keep for the next call."""
    yield
    from joblib.externals.loky import get_reusable_executor
    from pointsman.executors.mapping import map_methods

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
    for _, executor, _ in map_methods():
        for name in ("shutdown", "end"):
            getattr(executor, name, lambda: None)()


@pytest.fixture
def start(path) -> Iterator:
    """Run Python code in a process of its own, with warnings as errors; what is left of them is killed afterwards."""
    started = []

    def run(code: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PREAMBLE + textwrap.dedent(code), str(path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with children of its own
        process.communicate()
