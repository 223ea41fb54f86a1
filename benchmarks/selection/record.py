"""Record a cost matrix of this machine: python -m benchmarks.selection.record OUT.json [--context busy] [--threads 1]

Every variant of every built-in operation on the host, over a grid of sizes and a few odd shapes. Libraries are imported
before the clock starts; the first call is timed apart, and its result checked before any time counts. Then three rounds
of blocks, the variants in another order each time, with what others used of the machine read beside each round; a round
with somebody in it who was not invited is taken again as long as patience lasts. In the context "busy" exactly one
neighbour is there. The file is written after each row, so whatever ends the recording leaves what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pointsman.executors import registry
from pointsman.executors.base import Variant
from pointsman.executors.conversion import kind_of
from pointsman.executors.errors import BackendUnavailableError
from pointsman.kernels import agreement
from pointsman.kernels.base import Arguments
from pointsman.kernels.binding import CORES
from pointsman.kernels.table import KERNELS
from pointsman.selector.workload import detail_of

from .. import priors
from .blocks import Beside, Contestant, Watch, expected_of, neighbour, short
from .plan import LARGEST, SMALLEST, Plan, Planned, grid

FORMAT = 2
CONTEXTS = ("quiet", "busy")
ROUNDS = 3
LONGEST_S = 1.0  # whatever the budget
LEAVING_CACHE = 2.0  # by so much a prediction from a smaller size may be too low
SLOWEST_S = 3e-8  # for one declared operation: a sort by JAX beside a neighbour (measured); what is beyond is overhead
_PATH = re.compile(r"(?<![\w.])/[^\s:,;]+/[^\s:,;]+")


class Recorder:
    """Measures the rows of a plan and writes the file.

    Attributes
    ----------
    rows : what has been measured so far, as it is written.
    """

    def __init__(
        self, plan: Plan, watch: Watch, out: Path, say: Callable[[str], object], imports: Mapping[str, float]
    ) -> None:
        self._plan, self._watch, self._out, self._say, self._imports = plan, watch, out, say, imports
        self.rows: list[dict[str, Any]] = []
        self.backends: dict[str, dict[str, Any]] = {}
        # Largest work so far, and its shortest call.
        self._steady: dict[tuple[str, str, str], tuple[float, float]] = {}
        self._parameters: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []

    def run(self) -> None:
        """Measure everything; what has been measured is in the file at any time."""
        planned = list(self._plan.rows())
        even_s = self._plan.budget_s / max(len(planned), 1)
        longest_s = min(LONGEST_S, even_s) if self._plan.longest_s is None else self._plan.longest_s
        left_s, started, name = self._plan.budget_s, time.perf_counter(), ""
        for done, row in enumerate(planned):
            if row.kernel.name != name:
                name = row.kernel.name
                self._say(f"{time.perf_counter() - started:6.1f} s  {name}")
            # What long calls overdraw and short ones leave is made up for, but no row goes without.
            share_s = min(max(left_s / (len(planned) - done), even_s / 2), even_s * 2)
            left_s -= self._row(row, share_s, longest_s)
        self._say(f"{time.perf_counter() - started:6.1f} s  {len(self.rows)} rows")

    def _row(self, row: Planned, share_s: float, longest_s: float) -> float:
        """Measure and write one row; returns the seconds that its rounds took."""
        given = self._given(row)
        size = given[0][0].size
        found: dict[str, dict[str, Any]] = {}
        contestants = self._contestants(row, given, size, longest_s, found)
        spent_s, used, others, clean = self._rounds(contestants, share_s)
        for one in contestants:
            found[one.name] = one.summary(used, others)
            self._steady[row.kernel.name, row.dtype, one.name] = (one.work, found[one.name]["min_ns"] * 1e-9)
        order = [variant.name for variant in row.kernel.variants if variant.name in found]
        timed = [name for name in order if "med_ns" in found[name]]
        if not timed:
            return spent_s
        parameters = {name: value for name, value in given[1].items() if kind_of(value) is None}
        self.rows.append(
            {
                "op": row.kernel.name, "dtype": row.dtype, "size": size, "form": row.form.name,
                "shapes": agreement.shapes(*given), "parameters": detail_of(parameters), "default": timed[0],
                "other": [round(cores, 2) for cores in others], "disturbed": not clean,
                "r": {name: found[name] for name in order},
            }
        )  # fmt: skip
        self._lines.append(_line(self.rows[-1]))
        self.write()
        return spent_s

    def _given(self, row: Planned) -> Arguments:
        """The inputs, with the parameters of the smallest ones: a program that goes to larger sizes keeps them."""
        args, kwargs = row.form.sample(np.random.default_rng(row.size), row.size, row.dtype)
        kept = self._parameters.setdefault(row.kernel.name, kwargs)
        return args, {name: value if kind_of(value) else kept.get(name, value) for name, value in kwargs.items()}

    def _contestants(
        self, row: Planned, given: Arguments, size: int, longest_s: float, found: dict[str, dict[str, Any]]
    ) -> list[Contestant]:
        """The variants that fit, can afford this size and compute the right thing; the errors of the others."""
        passed: list[Contestant] = []
        expected: tuple[Any, str] | None = None
        for variant in row.kernel.variants:
            if self._refusal(variant, row.dtype, given) is not None:
                continue
            try:
                one = Contestant(row.kernel, variant.name, given, size)
                self._note(one)
                if self._predicted_s(row, one) > longest_s:
                    continue
                expected = expected or expected_of(row.kernel, given, size)
                one.check(one.first(), *expected)
                one.estimate()
            except Exception as trouble:  # whatever a variant raises here is a finding, and no reason to stop
                found[variant.name] = {"error": _told(trouble)}
                continue
            passed.append(one)
        return passed

    def _refusal(self, variant: Variant, dtype: str, given: Arguments) -> str | None:
        if variant.device != "cpu" or (variant.threads or 1) > self._plan.threads:
            return "not of this matrix"
        reason = agreement.why_hole(variant, dtype)
        if reason is None and variant.supports is not None:
            reason = variant.supports(agreement.shapes(*given), given[1])
        return reason

    def _predicted_s(self, row: Planned, one: Contestant) -> float:
        """Seconds of a call: those of the largest one measured, growing with the declared work; 0.0 for a start.

        Only what the work can have taken grows. With a neighbour, threads that wait for each other may stall for tens
        of milliseconds in every call, however small.
        """
        work, seconds = self._steady.get((row.kernel.name, row.dtype, one.name), (math.inf, 0.0))
        growing = min(seconds, SLOWEST_S * work)
        return seconds + LEAVING_CACHE * growing * max(one.work / work - 1.0, 0.0)

    def _note(self, one: Contestant) -> None:
        """What stands in the file's "backends" about this variant."""
        variant = one.variant
        compiles = variant.compiles or registry.executor(variant.backend).capabilities.compiles
        import_s = self._imports.get(variant.backend, 0.0)
        if one.name not in self.backends:
            self.backends[one.name] = {"backend": variant.backend, "compiles": compiles, "import_s": 0.0}
        # The first of a backend to be made ready imports more of it (`scipy.signal`): the dearest operation counts.
        entry = self.backends[one.name]
        entry["import_s"] = max(entry["import_s"], short(import_s + one.import_s, 3))

    def _rounds(self, contestants: list[Contestant], share_s: float) -> tuple[float, list[int], list[float], bool]:
        """Blocks in shuffled order; returns the seconds spent, the rounds that count, the load beside each of them,
        and whether they were as clean as they should be."""
        started, watch = time.perf_counter(), self._watch
        beside: list[Beside] = []
        if not contestants:
            return 0.0, [], [], True
        block_s = share_s / ROUNDS / len(contestants)
        waited_s = watch.waited_s
        while len(beside) < ROUNDS or (
            watch.patience_s > 0.0 and len(beside) < 2 * ROUNDS and sum(b.clean for b in beside) < ROUNDS
        ):
            if beside and not beside[-1].clean:
                watch.settle()
            watch.read()
            round_started = time.perf_counter()
            for one in self._plan.rng.sample(contestants, len(contestants)):
                one.block(block_s)
            beside.append(watch.read())
            if len(beside) > ROUNDS:
                watch.spend(time.perf_counter() - round_started)
        clean = [n for n, b in enumerate(beside) if b.clean]
        used = clean or list(range(len(beside)))
        spent_s = time.perf_counter() - started - (watch.waited_s - waited_s)
        return spent_s, used, [beside[n].other_cores for n in used], bool(clean)

    def write(self) -> None:
        """Write what there is: a row a line, the file as a whole or not at all."""
        head = {
            "format": FORMAT, "context": self._plan.context, "threads": self._plan.threads, "machine": _machine(self),
            "versions": _versions(self), "backends": dict(sorted(self.backends.items())),
            "waited_s": round(self._watch.waited_s, 1),
        }  # fmt: skip
        lines = ",\n".join(self._lines)
        text = _line(head)[:-1] + f',"rows":[\n{lines}\n]}}\n'
        part = self._out.with_name(self._out.name + ".part")
        part.write_text(text, encoding="utf-8")
        part.replace(self._out)


def _line(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)


def _told(trouble: Exception) -> str:
    """An error in one line, without the places in this machine's file system that some libraries name."""
    text = _PATH.sub("...", str(trouble).strip().partition("\n")[0])
    return f"{type(trouble).__name__}: {text}"[:160]


def _versions(recorder: Recorder) -> dict[str, str]:
    names = dict.fromkeys(["numpy", *(entry["backend"] for entry in recorder.backends.values())])
    return {name: registry.executor(name).version() for name in names}


def _machine(recorder: Recorder) -> dict[str, Any]:
    about = priors.machine()
    isa = about["machine"].partition(", ")[2]
    return {
        "cores": CORES,
        "isa": isa,
        "python": about["python"],
        "versions": _versions(recorder),
        "date": about["date"],
    }


# ---- threads


def thread_environment(threads: int, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with all that the libraries read, while they are imported, about how many threads to use."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "NPROC")
    made = {**environ, **dict.fromkeys(names, str(threads))}
    if threads == 1 and "xla_cpu_multi_thread_eigen" not in environ.get("XLA_FLAGS", ""):
        made["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false".strip()
    return made


def fresh_import_s(backend: str) -> float:
    """Seconds of importing and checking `backend` in a process of its own: here, others have imported parts of it."""
    code = f"from pointsman.executors import registry; print(registry.ensure({backend!r})[1])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _import(plan: Plan, import_s: Callable[[str], float]) -> dict[str, float]:
    """Import every backend that is needed and there, in canonical order; the seconds of each."""
    kernels = [row.kernel for row in plan.rows()]
    needed = {variant.backend for kernel in kernels for variant in kernel.variants if variant.device == "cpu"}
    seconds = {}
    for backend in registry.names():
        if backend in needed:
            with contextlib.suppress(BackendUnavailableError):  # what is missing is a hole later on
                registry.ensure(backend)
                seconds[backend] = import_s(backend)
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() > plan.threads:
        torch.set_num_threads(plan.threads)
    return seconds


# ---- the command


def record(
    plan: Plan, out: Path, say: Callable[[str], object], import_s: Callable[[str], float] = fresh_import_s
) -> None:
    """Measure what `plan` says and write it to `out`, with a neighbour beside it where the context is "busy"."""
    with contextlib.ExitStack() as stack:
        invited = stack.enter_context(neighbour()) if plan.context == "busy" else None
        watch = Watch(invited, plan.patience_s)
        watch.settle()
        Recorder(plan, watch, out, say, _import(plan, import_s)).run()


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection.record", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT.json", help="file to write")
    parser.add_argument("--context", choices=CONTEXTS, default="quiet", help="alone, or with exactly one neighbour")
    parser.add_argument("--threads", type=int, help=f"threads of every library (default: all {CORES} cores)")
    parser.add_argument("--operations", default=",".join(KERNELS), help="comma-separated names (default: all)")
    parser.add_argument("--budget", type=float, default=Plan.budget_s, help="seconds of blocks, in all (default 50)")
    parser.add_argument(
        "--patience", type=float, default=Plan.patience_s, help="seconds to wait for quiet (default 30)"
    )
    parser.add_argument("--largest", type=float, default=LARGEST, help="largest size, in elements (default 1e7)")
    parser.add_argument("--per-decade", type=int, default=1, help="sizes in each decade (default 1)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Record; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    options = parser.parse_args(arguments)
    names = options.operations.split(",")
    if unknown := set(names) - set(KERNELS):
        parser.error(f"unknown operations {sorted(unknown)}; there are: {', '.join(KERNELS)}")
    folder = options.out.absolute().parent
    if not folder.is_dir():
        parser.error(f"there is no folder {options.out.parent} to write {options.out.name} into; make it first")
    if options.out.is_dir():
        parser.error(f"{options.out} is a folder; give the name of a file in it")
    if not os.access(folder, os.W_OK | os.X_OK):
        parser.error(f"the folder {options.out.parent} may not be written; choose another")
    if not 0.0 < options.budget < math.inf or not 0.0 <= options.patience < math.inf:
        found = f"got {options.budget:g} and {options.patience:g}"
        parser.error(f"--budget is a number of seconds above 0, and --patience of 0 or more; {found}")
    if not SMALLEST <= options.largest < math.inf or options.per_decade < 1:
        found = f"got {options.largest:g} and {options.per_decade}"
        parser.error(f"--largest is at least {SMALLEST} elements, and --per-decade at least 1; {found}")
    if options.threads is not None:
        if not 1 <= options.threads <= CORES:
            parser.error(f"--threads is a number from 1 to {CORES} on this machine; got {options.threads}")
        wanted = thread_environment(options.threads, os.environ)
        if wanted != dict(os.environ):  # libraries read it when they are imported, and NumPy is already
            os.execve(sys.executable, [sys.executable, "-m", "benchmarks.selection.record", *arguments], wanted)
    sizes = grid(int(options.largest), options.per_decade)
    plan = Plan(names, options.context, options.threads or CORES, sizes, options.budget, options.patience)
    try:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["NUMBA_CACHE_DIR"] = cache  # an empty one: a first call's price is to be seen
            record(plan, options.out, lambda line: print(line, file=sys.stderr, flush=True))
    except KeyboardInterrupt:
        print(f"stopped; {options.out} has the rows that were complete", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
