"""Folders of engines: gone with their process, however it ends; those of others are left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pointsman.executors import scratch

MADE = """
import os, signal, sys
from pointsman.executors import scratch
folder = scratch.make("pm-test-", sys.argv[1])
open(os.path.join(folder, "file"), "w").close()
print(folder, flush=True)
if sys.argv[2] == "forks" and os.fork() == 0:
    sys.stdout.close()
    os.close(1)
    os._exit(0 if sys.stdin.buffer.read() == b"" else 1)
if sys.argv[2] == "waits":
    sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
ENGINE = """
import os, signal
import pointsman as pm
print(pm.map(abs, range(-4, 0), "dask/threads", n_jobs=2), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def elsewhere(where: Path, how: str) -> tuple[subprocess.Popen[str], Path]:
    """A process with a folder, and the folder."""
    command = [sys.executable, "-c", MADE, str(where), how]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return running, Path(running.stdout.readline().strip())


def test_a_folder_is_there_until_it_is_removed(tmp_path):
    folder = scratch.make("pm-test-", str(tmp_path))
    assert Path(folder).parent == tmp_path
    other = scratch.make("pm-test-", str(tmp_path))
    assert Path(folder).is_dir()
    scratch.remove(folder)
    scratch.remove("")
    assert [str(path) for path in tmp_path.iterdir()] == [other]
    scratch.remove(other)


@pytest.mark.parametrize("how", ["dies", "forks"])
def test_what_a_killed_process_left_goes_with_the_next_of_its_kind(how, tmp_path):
    running, left = elsewhere(tmp_path, how)
    try:
        while running.poll() is None:
            running.wait(60)
        assert running.returncode == -signal.SIGKILL
        assert (left / "file").exists()
        other = scratch.make("pm-other-", str(tmp_path))
        assert left.is_dir()
        folder = scratch.make("pm-test-", str(tmp_path))
        assert not left.exists()
    finally:
        running.stdin.close()
        running.stdout.close()
    scratch.remove(folder)
    scratch.remove(other)


def test_the_folder_of_a_process_that_lives_stays(tmp_path):
    running, theirs = elsewhere(tmp_path, "waits")
    folder = scratch.make("pm-test-", str(tmp_path))
    assert (theirs / "file").exists()
    scratch.remove(folder)
    running.communicate()
    assert running.returncode == -signal.SIGKILL


def test_an_engine_whose_process_was_killed_leaves_nothing_for_long(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ENGINE], env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("[4, 3, 2, 1]\n", -signal.SIGKILL)
    [left] = tmp_path.glob("pointsman-dask-*")
    scratch.remove(scratch.make("pointsman-dask-", str(tmp_path)))
    assert not left.exists()
