"""Ray, beyond what every map backend does: a Ray that the user has started."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

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
