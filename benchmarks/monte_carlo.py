"""Monte Carlo runs against a plain loop, hand-written code and each other: `python -m benchmarks.monte_carlo`.

Arguments: `--only TABLE` (again for more of them), `--quick`, `--json FILE`, and `--write`, which puts the tables into
monte_carlo.md here and into docs/scaling.md. Each table takes one to seven minutes. Answers are compared before
anything is timed, and what is compared takes turns. Nothing of the user's own is read or written.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .report import write_between_markers
from .simulations import choosing, engines, inside, memory, overhead, scaling
from .simulations.hand import HANDS
from .simulations.tables import Effort, Table
from .timing import Watch, conditions

PAGE, SCALING = Path(__file__).with_name("monte_carlo.md"), Path(__file__).parents[1] / "docs" / "scaling.md"
TABLES: dict[str, Callable[[Effort], Table]] = {
    "overhead": overhead.table,
    **{engine: partial(engines.table, engine) for engine in HANDS},
    "auto-cold": choosing.cold,
    "auto-warm": choosing.warm,
    "memory": memory.table,
    "scaling": scaling.table,
}
LIBRARIES = ["joblib", "dask", "distributed", "ray", "mpi4py", "mpich"]


def header(versions: dict[str, str], watch: Watch, name: str) -> list[str]:
    """Machine, versions and load, one line each."""
    about, load = conditions(), watch.parts[name]
    shown = {"numpy": about["versions"]["numpy"], **versions}
    told = ", ".join(f"{library} {version}" for library, version in shown.items())
    # Workers are not this process's own children, and count as others: so no verdict, just the figure.
    return [
        f"{about['date']}; {about['machine']}; Python {about['python']}; {told}",
        f"{load['seconds']:.0f} s; {load['other_cores']:.2f} cores used by other processes, this table's own included",
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code is 0 whether or not targets are met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.monte_carlo", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="TABLE", action="append", choices=TABLES, help=f"of: {', '.join(TABLES)}")
    parser.add_argument("--quick", action="store_true", help="one tiny cell, once; the figures mean nothing")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures as JSON too")
    parser.add_argument("--write", action="store_true", help="put the tables into their pages")
    options = parser.parse_args(argv)
    effort, watch, data = Effort.least() if options.quick else Effort(), Watch(), dict[str, Any]()
    versions = inside.versions(LIBRARIES)
    for name in options.only or TABLES:
        with watch.part(name):
            table = TABLES[name](effort)
        head = header(versions, watch, name)
        print("\n".join([table.text(), *head, ""]), flush=True)
        data[name] = {"conditions": head, "data": table.data}
        if options.write:
            shown = "\n".join([*(f"- {line}" for line in head), table.markdown()])
            write_between_markers(SCALING if name == "scaling" else PAGE, name, shown)
    if options.json is not None:
        options.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
