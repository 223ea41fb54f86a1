"""An interrupt while the command is still loading: one line and 130, but a user's own script keeps its traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pointsman.cli_start import is_command

START = """
import sys
sys.argv = [sys.argv[1], "calibrate"]

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
from pointsman.cli import main
sys.exit(main())
"""


def started(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START, program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("program", ["/usr/bin/pointsman", "-m"])
def test_an_interrupt_while_the_command_loads_ends_in_one_line(program):
    ended = started(program)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "pointsman: interrupted\n")


def test_a_script_of_somebody_else_keeps_its_traceback():
    ended = started("mine.py")
    assert ended.returncode != 130
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("KeyboardInterrupt\n")


def test_what_counts_as_our_command():
    assert is_command("pointsman.exe")
    assert is_command("/opt/venv/bin/pointsman")
    assert not any(map(is_command, ["", "-c", "pytest", "/work/pointsman_bench.py", "pointsman.py"]))
