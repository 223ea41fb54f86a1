"""The `log` setting."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from pointsman.selector import logs
from pointsman.selector.settings import Settings

CODE = """
import numpy as np, pointsman as pm
def broken(): raise MemoryError('no room')
@pm.adaptive
def total(x, *, xp=None): return xp.sum(x)
@total.variant('scipy')
def on_scipy(x): raise MemoryError('no room')
with pm.use('scipy'):
    try: total(np.ones(3))
    except pm.NoCandidateError: pass
"""


@pytest.fixture(autouse=True)
def _as_before():
    level, handlers = logs.log.level, list(logs.log.handlers)
    yield
    logs.log.setLevel(level)
    logs.log.handlers[:] = handlers


def test_where_nobody_asked_the_logger_is_left_to_the_application():
    logs.log.handlers.clear()
    logs.log.setLevel(logging.INFO)
    logs.follow(Settings())
    assert logs.log.level == logging.INFO
    assert logs.log.handlers == []


@pytest.mark.parametrize(("level", "told"), [("info", True), ("error", False)])
def test_who_asks_for_it_is_told_of_failures(level, told, tmp_path):
    environment = {"POINTSMAN_LOG": level, "POINTSMAN_HISTORY": str(tmp_path / "h.sqlite"), "PATH": "/usr/bin"}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=environment, check=True)
    assert ("scipy failed (out of memory" in done.stderr) is told
