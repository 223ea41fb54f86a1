"""Processes that share a history, and asking without running: nothing is spent, nothing is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.history import History

TELL = """
import sys
from pathlib import Path
from pointsman.selector.selector import IntelligentBackendSelector
from pointsman.selector.workload import WorkloadCharacteristics
from pointsman.telemetry.history import History
selector = IntelligentBackendSelector(history=History(Path(sys.argv[1]), background=False))
w = WorkloadCharacteristics(operation_type="shared", data_size=10**5, expected_calls=10**7)
for _ in range(40):
    if len(sys.argv) > 2:
        selector.record(w, sys.argv[2], seconds=float(sys.argv[3]))
selector.flush()
print(selector.select_backend(w))
"""


def _process(path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", TELL, str(path), *arguments], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.usefixtures("all_imported")
def test_two_processes_that_share_a_history_teach_each_other_and_a_third(make, clock, tmp_path, libraries):
    path = tmp_path / "shared.sqlite"
    here = make(history=History(path, background=False, clock=clock), explore=0)
    w = WorkloadCharacteristics(operation_type="shared", data_size=10**5, expected_calls=10**7)
    assert here.select_backend(w) == "numpy"
    at_once = [_process(path, "numpy", "2e-3"), _process(path, "torch", "1e-4")]
    assert [process.communicate(timeout=60)[1] for process in at_once] == [None, None]
    assert [process.returncode for process in at_once] == [0, 0]
    here.flush()
    decision = here.decide(w)
    assert decision.backend == "torch"
    assert [decision.candidate(name).prediction.evidence for name in ("numpy", "torch")] == [40, 40]
    third = _process(path)
    assert third.communicate(timeout=60)[0].split() == ["torch"]


def test_asking_a_thousand_times_spends_no_trial_and_changes_no_answer(make, feed, workload):
    selector, sizes = make(explore=1.0), [10**5 + n for n in range(50)]
    for size in sizes[:3]:
        feed(selector, workload(size), {"numpy": 0.05}, times=100)
    engine = selector._engine
    first = selector.decide(workload(sizes[0]))
    assert first.trial is not None
    for n in range(1000):
        selector.select_backend(workload(sizes[n % 50], parameters={"taps": n % 7}))
        selector.select_backend(workload(sizes[n % 3]))
    assert selector.decide(workload(sizes[0])) == first
    assert engine.learner.ledger.trials == 0
    assert engine.learner.ledger.explored_s == 0.0
    choice = engine.choose(selector._known(workload(sizes[0]), None).request)
    assert engine.take_trial(choice) == first.trial  # nobody has had it


ASK = """
import sys
import pointsman as pm
from pointsman.executors import registry
for n in range(1000):
    pm.select_backend(("matmul", "fft", "sort")[n % 3], ((64 + n % 40,) * 2, (2**20 + n,), (10**6 + n % 5,))[n % 3])
libraries = {registry.row(name).library for name in registry.names()} - {"numpy", None}
print(sorted(libraries & set(sys.modules)), "pandas" in sys.modules)
"""


def test_asking_a_thousand_times_imports_no_library():
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split("\n")[0] == "[] False"
