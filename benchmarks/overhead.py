"""What choosing costs: `python -m benchmarks.overhead [--quick] [--json FILE] [--write]`.

Answers are checked before anything is timed. Nothing of the user's own is read or written: the history lies in a
temporary folder and POINTSMAN_* variables are left aside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pointsman as pm

from . import running, selecting, starting
from .report import Report, markdown, print_report, write_between_markers
from .timing import Effort, Watch, conditions

README = Path(__file__).with_name("README.md")


def measure(effort: Effort, folder: Path) -> Report:
    """Every row; `folder` takes the histories."""
    pm.configure(history=str(folder / "history.sqlite"))
    selector, watch = pm.default_selector(), Watch()
    if Path(selector.history.location).parent != folder:
        raise RuntimeError("the shared selector was in use already; run the benchmarks in a process of their own")
    with watch.part(selecting.PART):
        rows, bases = selecting.bench(selector, effort)
    with watch.part(running.PART):
        rows += running.bench(selector, effort)
    with watch.part(starting.PART):
        rows += starting.bench(selector, effort, folder)
    selector.history.close()
    return Report(conditions(), watch.parts, bases, tuple(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 0 whether or not targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description="Measure what choosing costs.")
    parser.add_argument("--quick", action="store_true", help="seconds instead of a minute; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures as JSON too")
    parser.add_argument("--write", action="store_true", help="put the table into benchmarks/README.md")
    arguments = parser.parse_args(argv)
    for name in [name for name in os.environ if name.startswith("POINTSMAN_")]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as folder:
        report = measure(Effort.quick() if arguments.quick else Effort(), Path(folder).resolve())
    print_report(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.to_json(), indent=2) + "\n", encoding="utf-8")
    if arguments.write:
        write_between_markers(README, "overhead", markdown(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
