"""Large runs on the host that are killed: what they leave, and who reads it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest
from announced import attempts
from pointsman.telemetry.attempts import Begun, announced, is_gone, owner
from pointsman.telemetry.history import History
from pointsman.telemetry.marks import Mark

PLACE = ("fft", "torch", "cuda:0")
MIB, GIB = 2**20, 2**30


@pytest.fixture
def opened(path):
    def open_():
        return History(path, background=False, clock=lambda: 1.7e9, monotonic=lambda: 1.7e9)

    return open_


def test_the_owner_of_a_run_is_known_by_more_than_its_number():
    name = owner(os.getpid())
    assert not is_gone(name)
    assert is_gone(owner(os.getpid(), lambda pid: "12345"))  # the number has been given away again
    where, _, _ = name.rpartition("/")
    assert is_gone(f"{where}0/1")
    boot, _, rest = name.partition("/")
    assert is_gone(f"another boot/{rest}")
    space, _, process = rest.partition("/")
    assert not is_gone(f"{boot}/{space}0/{process}")  # of a container: it cannot be seen from here


def test_an_announcement_that_cannot_be_made_or_struck_out_disturbs_nothing(opened, path, monkeypatch):
    history = opened()
    history.marks.fitted(PLACE, 1)
    history.flush()
    blocker = sqlite3.connect(path, isolation_level=None)
    monkeypatch.setattr("pointsman.telemetry.attempts.PATIENT_S", 0.0)
    with announced(history, PLACE, GIB, 0):
        blocker.execute("BEGIN IMMEDIATE")
    with announced(history, PLACE, GIB, 0):
        pass
    blocker.execute("ROLLBACK")
    assert len(attempts(path)) == 1
    history.marks.fitted(PLACE, 2)
    history.flush()
    assert attempts(path) == []
    blocker.close()
    with announced(opened(), PLACE, GIB, 0):  # which may have been given the number that is free again
        history.marks.fitted(PLACE, 3)
        history.flush()
        assert len(attempts(path)) == 1
    with announced(History(None, background=False), PLACE, GIB, 0):
        pass


CHILD = """
import os, sys
import numpy as np
from pointsman.executors.base import Variant
from pointsman.selector import operations
from pointsman.selector.operations import Operation
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.settings import Settings

GIB = 2**30

def killed(x):
    print("running", flush=True)
    sys.stdin.read()

def workspace(shapes, parameters):
    return float(GIB * shapes[0][0])

operations.register_operation(Operation(name="toy", variants=tuple(
    Variant(name, "numpy", lambda f=f: f, compiles="never", workspace=workspace)
    for name, f in {"plain": lambda x: "plain", "other": killed}.items())))
selector = IntelligentBackendSelector(
    history=sys.argv[1], settings=Settings().updated(explore=0, disable_gpu=True), host_budget=lambda: 64 * GIB)
dispatcher = selector.dispatcher("toy")
x = np.ones(3)
if sys.argv[2] == "run":
    choice = selector._engine.choose(dispatcher.request((x,), {}))
    dispatcher._walk(choice, ("other", "plain"), "asked", None, (x,), {})
else:
    for n in (2, 3, 40):
        decision = dispatcher.explain(np.ones(n))
        print(n, decision.chain, dict(decision.excluded).get("other", ""))
"""


def test_a_run_that_was_killed_is_passed_over_by_the_next_process(path, tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))

    def start(what):
        command = [sys.executable, str(script), str(path), what]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told():
        process = start("ask")
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        return out.splitlines()

    child = start("run")
    assert child.stdout.readline() == "running\n"
    assert told()[1] == "3 ('plain', 'other') "  # it runs still: nothing is held against it
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    small, same, larger = told()
    assert small == "2 ('plain', 'other') "
    assert same.startswith("3 ('plain',) needs 3,072.0 MiB, and 3,072.0 MiB failed (its process was killed in the ")
    assert larger.startswith("40 ('plain',) needs 40,960.0 MiB")
    assert told()[1:] == [same, larger]  # and whoever comes then knows as well


def test_a_killed_runs_word_becomes_a_mark_in_the_file(opened, path):
    history = opened()
    history.marks.fitted(PLACE, MIB)
    history.flush()
    gone = owner(os.getpid(), lambda pid: "1")
    with history._disk:
        history._recorder.announce(Begun(PLACE, 3 * GIB, 7 * GIB, history.now(), gone), 1.0)
    later = opened()
    assert later.marks.memory[PLACE] == Mark(
        MIB, history.now(), 3 * GIB, history.now(), 7 * GIB, "its process was killed in the middle of it"
    )
    later.marks.fitted(PLACE, 2 * MIB)
    later.flush()
    assert attempts(path) == []
    assert opened().marks.memory[PLACE].failed == 3 * GIB
