"""Ray, beyond what every map backend does: a Ray that the user has started."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile

import pointsman as pm
import pytest

SCRIPT = """
import os, signal, sys, time
import pointsman as pm
import ray

os.environ["RAY_AUTH_MODE"] = "disabled"
ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False,
         object_store_memory=100 * 2**20, _temp_dir=sys.argv[1])
handler = signal.getsignal(signal.SIGTERM)

@ray.remote
def mine():
    return os.getpid()

workers = {ray.get(mine.remote())}
executor = pm.get_backend("ray")
assert executor.running(executor.methods[0])
results, info = pm.map(lambda x: (time.sleep(0.05), os.getpid())[1], range(12), "ray", return_info=True)
assert info.n_jobs == 3, info.n_jobs
assert os.getpid() not in results
try:
    pm.map(lambda x: 1 // x, range(6), "ray", n_jobs=2)
except ZeroDivisionError as error:
    print(error.__notes__)
executor.shutdown()
assert ray.is_initialized()
assert isinstance(ray.get(mine.remote()), int)
assert signal.getsignal(signal.SIGTERM) is handler
ray.shutdown()
"""


def test_a_ray_that_the_user_has_initialised_is_used_with_all_its_cpus_and_never_shut_down():
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, folder], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "HOME": folder},
        )  # fmt: skip
    assert (done.stdout, done.returncode) == ("['pointsman: raised by item 0 of the map']\n", 0), done.stderr


IN_A_THREAD = """
import sys, threading
import pointsman as pm

first = threading.Thread(target=lambda: print(pm.map(abs, range(-2, 2), "ray", n_jobs=2)))
first.start()
first.join()
print(pm.map(abs, range(-4, 0), "ray", n_jobs=2), flush=True)
pm.get_backend("ray").shutdown()
for thread in threading.enumerate():
    if thread.name == "pointsman-ray":
        thread.join(10)
        print(thread.is_alive())
"""


def test_a_ray_that_a_thread_has_started_outlives_it():
    done = subprocess.run(
        [sys.executable, "-c", IN_A_THREAD], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout in ("[2, 1, 0, 1]\n[4, 3, 2, 1]\n", "[2, 1, 0, 1]\n[4, 3, 2, 1]\nFalse\n"), done.stderr


PACKAGE = """
import os, time
import NAME.inner
while os.path.exists(os.path.join(os.path.dirname(__file__), "closed")):
    time.sleep(0.01)
from NAME.inner.task import process
"""
TASK = """
import os
import NAME.other

def process(x):
    return os.getpid()
"""


def by_name(x, name):
    return importlib.import_module(name).process(x)


@pytest.mark.parametrize("name", ["on_arrival", "in_worker"])
def test_after_a_run_that_ended_in_the_midst_of_an_import_the_next_finds_whole_modules(name, tmp_path, monkeypatch):
    # Of the package, half is imported when the first run's time is over: the submodule then stands without it, and
    # whoever imports that one's own modules comes round to it again.
    package = tmp_path / name
    (package / "inner").mkdir(parents=True)
    for module, text in {"__init__": PACKAGE, "other": "", "inner/__init__": "", "inner/task": TASK}.items():
        (package / f"{module}.py").write_text(text.replace("NAME", name))
    monkeypatch.syspath_prepend(str(tmp_path))
    task, closed = f"{name}.inner.task", package / "closed"
    worker, args = (importlib.import_module(task).process, ()) if name == "on_arrival" else (by_name, (task,))
    pm.get_backend("ray").map(abs, range(4), n_jobs=2)  # from now on the workers run
    closed.touch()
    with pytest.raises(pm.RunTimeoutError):
        pm.run_monte_carlo(worker, 4, args, seed=1, backend="ray", n_jobs=2, timeout=1.0)
    closed.unlink()
    assert os.getpid() not in pm.run_monte_carlo(worker, 4, args, seed=1, backend="ray", n_jobs=2)
