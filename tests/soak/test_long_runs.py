"""What shows only after minutes: tables and memory stay bounded, and a hammered history stays whole."""

from __future__ import annotations

import importlib
import random
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from pointsman.selector.adaptive import adaptive
from pointsman.selector.selector import IntelligentBackendSelector

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

WRITER = """
import sys, numpy as np, pointsman as pm
rng = np.random.default_rng(int(sys.argv[1]))
while True:
    pm.run("reduction", rng.standard_normal(int(rng.integers(1, 5000))))
"""


def test_a_storm_of_new_shapes_neither_grows_nor_slows_for_ever(tmp_path):
    selector = IntelligentBackendSelector(history=tmp_path / "h.sqlite")

    @adaptive(selector=selector)
    def total(x, *, xp=None):
        return xp.sum(x * x)

    for library in ("scipy.fft", "numba", "torch", "jax"):
        importlib.import_module(library)  # an import on the way would be taken for growth
    rng = np.random.default_rng(0)
    x = rng.standard_normal(20_000)
    for n in rng.integers(1, 20_000, 20_000):
        total(x[:n])
    before = psutil.Process().memory_info().rss
    for n in rng.integers(1, 20_000, 60_000):
        total(x[:n])
    selector.flush()
    assert psutil.Process().memory_info().rss - before < 100 * 2**20
    assert len(total._dispatcher()._entries) <= 4096


def test_processes_that_are_killed_at_random_leave_a_whole_history(tmp_path, monkeypatch):
    monkeypatch.setenv("POINTSMAN_HISTORY", str(tmp_path / "h.sqlite"))
    rng = random.Random(1)
    running: list[subprocess.Popen[bytes]] = []
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        while len(running) < 4:
            running.append(subprocess.Popen([sys.executable, "-c", WRITER, str(rng.randrange(10**6))]))
        time.sleep(rng.uniform(0.2, 3.0))
        victim = running.pop(rng.randrange(len(running)))
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    for process in running:
        process.kill()
        process.wait()
    with sqlite3.connect(tmp_path / "h.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM outcome").fetchone()[0] > 0
