"""History files for tests: opened, written to in a few words, and read past our own code."""

from __future__ import annotations

import sqlite3

from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site

SITE = Site("fft", "numpy", "float64", "20", "", 1e6, 1000)

# What a process of its own begins with; its first argument is the file.
PREAMBLE = """
import os, sys, time
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site
site = Site("fft", "numpy", "float64", "20", "", 1e6, 1000)
path = sys.argv[1]
def tell(word):
    print(word, flush=True)
"""


def opened(path, **options) -> History:
    return History.open(path, background=False, **options)


def put(history: History, count: int = 1, **changes) -> None:
    for _ in range(count):
        history.record(Outcome(SITE._replace(**changes), 1.7e9, 0.01))
    history.flush()


def known(history: History) -> int:
    return sum(sketch.count for sketch in history.state.cells.values())


def counts(history: History) -> dict[str, int]:
    return {cell.variant: sketch.count for (cell, _), sketch in history.state.cells.items()}


def query(path, sql: str):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def records(path) -> dict[str, int]:
    """Outcomes on disk by variant, in quiet times and in busy ones."""
    return dict(query(path, "SELECT variant, sum(records) FROM sketch GROUP BY variant"))
