"""One policy's calls, for real, in a process of its own: `live` starts it and reads what it says.

A line of JSON comes in and says what to do; lines of JSON that begin with `MARK` go out, for a library may print what
it likes. Before a neighbour comes or goes the run says so and waits for an answer.
Nothing but NumPy has been imported when the first clock starts.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from pointsman.executors import registry
from pointsman.executors.conversion import kind_of
from pointsman.executors.errors import BackendUnavailableError
from pointsman.kernels.base import Arguments, Kernel
from pointsman.selector import operations
from pointsman.telemetry.outcome import Outcome

from ..priors import prepared
from .plan import SMALLEST, Form, forms_of

MARK = "live: "
clock = time.perf_counter


class Input(NamedTuple):
    """What one call is made on; `form` is the name of a family of shapes, "" for the plain one."""

    operation: str
    dtype: str
    form: str
    size: int  # as asked of the family: a square has as many elements as it can

    @property
    def kernel(self) -> Kernel:
        """The operation."""
        found = operations.find(self.operation)
        assert isinstance(found, Kernel)
        return found

    def make(self) -> Arguments:
        """The arrays and parameters, the same in every process; parameters are those of the smallest, as recorded."""
        kernel = self.kernel
        form: Form = next(form for form in forms_of(kernel, (self.size,)) if form.name == self.form)
        args, kwargs = form.sample(np.random.default_rng(self.size), self.size, self.dtype)
        kept = kernel.sample(np.random.default_rng(SMALLEST), SMALLEST, self.dtype)[1]
        return args, {name: value if kind_of(value) else kept.get(name, value) for name, value in kwargs.items()}


class Ready:
    """Variants made ready on their first use, which is when their library is imported."""

    def __init__(self, inputs: Sequence[Input]) -> None:
        self.inputs = inputs
        self.given = [one.make() for one in inputs]
        self.kinds = [(tuple(kind_of(a) for a in args), tuple(kwargs)) for args, kwargs in self.given]
        self.import_s = self.compile_s = 0.0
        self._seen: set[int] = set()  # prepared variants whose import has been counted

    def first(self, number: int, variant: str) -> tuple[Callable[..., Any], float]:
        """The call, and the seconds that making it ready and calling it once took, import and compilation included."""
        args, kwargs = self.given[number]
        started = clock()
        ready = prepared(self.inputs[number].operation, variant, *self.kinds[number])
        prepared_at = clock()
        known = ready.executor.signatures(ready.function)
        resumed = clock()
        ready.call(*args, **kwargs)
        ended = clock()
        if id(ready) not in self._seen:
            self._seen.add(id(ready))
            self.import_s += ready.import_s
        if known is not None and (ready.executor.signatures(ready.function) or 0) > known:
            self.compile_s += ended - resumed
        return ready.call, (prepared_at - started) + (ended - resumed)


def fixed(ready: Ready, calls: Sequence[int], choices: Sequence[str], pause: Callable[[int], None]) -> dict[str, Any]:
    """Every input on the variant that was chosen for it beforehand."""
    seconds: list[float] = []
    bound: dict[int, Callable[..., Any]] = {}
    for index, number in enumerate(calls):
        pause(index)
        args, kwargs = ready.given[number]
        call = bound.get(number)
        if call is None:
            bound[number], took = ready.first(number, choices[number])
            seconds.append(took)
            continue
        started = clock()
        call(*args, **kwargs)
        seconds.append(clock() - started)
    return {
        "seconds": seconds, "import_s": ready.import_s, "compile_s": ready.compile_s, "explore_s": 0.0, "explored": 0,
        "variants": dict(Counter(choices[number] for number in calls)),
    }  # fmt: skip


def learning(ready: Ready, calls: Sequence[int], pause: Callable[[int], None]) -> dict[str, Any]:
    """The calls as a user of pointsman writes them; history and settings come from the environment."""
    import pointsman as pm

    told: list[Outcome] = []
    seconds: list[float] = []
    started = clock()
    selector = pm.default_selector()  # opens the history and reads it, as the first call would
    opened_s = clock() - started
    selector.history.subscribe(lambda outcomes, _: told.extend(outcomes))
    for index, number in enumerate(calls):
        pause(index)
        args, kwargs = ready.given[number]
        operation = ready.inputs[number].operation
        started = clock()
        pm.run(operation, *args, **kwargs)
        seconds.append(clock() - started)
    seconds[0] += opened_s
    selector.flush()
    return {"seconds": seconds, **parts_of([outcome for outcome in told if outcome.failure is None])}


def parts_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What imports, compiling and trials took, and how many calls each variant had, as the history was told."""
    calls = [outcome for outcome in outcomes if outcome.site.operation != "import"]  # which is no call
    variants: Counter[str] = Counter()
    compile_s = 0.0
    for outcome in calls:
        kernel = operations.find(outcome.site.operation)
        if not isinstance(kernel, Kernel):  # a conversion, which is part of a call
            continue
        variants[outcome.site.variant] += outcome.calls
        # Whatever runs for the first time is recorded as compiling; of what never compiles it is no more than a call.
        if registry.executor(kernel.variant(outcome.site.variant).backend).capabilities.compiles != "never":
            compile_s += outcome.compile_s
    trials = [outcome for outcome in outcomes if outcome.rule == "explore"]
    return {
        "import_s": sum(outcome.import_s for outcome in outcomes), "compile_s": compile_s, "variants": dict(variants),
        "explore_s": sum(outcome.seconds for outcome in trials),
        "explored": sum(outcome.site.operation != "import" for outcome in trials),
    }  # fmt: skip


def measuring(
    ready: Ready, contenders: Sequence[Sequence[str]], phases: int, budget_s: float, seed: int,
    pause: Callable[[int], None],
) -> dict[str, Any]:  # fmt: skip
    """Single calls of all contenders in shuffled rounds, so that data are as cold as in a stream.

    The first calls come apart; then each phase (quiet, and where there are two, with the neighbour) gets its share of
    the budget, three rounds at least.
    """
    imports = {}
    needed = {ready.inputs[n].kernel.variant(v).backend for n, variants in enumerate(contenders) for v in variants}
    for name in registry.names():  # in canonical order, so that what others import too is charged to whom it belongs
        if name not in needed:
            continue
        try:
            imports[name] = registry.ensure(name)[1]
        except BackendUnavailableError:  # nobody else could use it either
            continue
    pairs, first = {}, []
    for number, variants in enumerate(contenders):
        for variant in variants:
            if ready.inputs[number].kernel.variant(variant).backend in imports:
                pairs[number, variant], took = ready.first(number, variant)
                first.append([number, variant, took])
    rng, keys, rounds = np.random.default_rng(seed), list(pairs), []
    for phase in range(phases):
        pause(phase)
        times: dict[tuple[int, str], list[float]] = defaultdict(list)
        ends, turn = clock() + budget_s / phases, 0
        while turn < 3 or clock() < ends:
            for place in rng.permutation(len(keys)).tolist():
                number, variant = keys[place]
                args, kwargs = ready.given[number]
                started = clock()
                pairs[number, variant](*args, **kwargs)
                times[number, variant].append(clock() - started)
            turn += 1
        rounds.append([[number, variant, row] for (number, variant), row in times.items()])
    return {"imports": imports, "first": first, "phases": rounds}


def say(what: dict[str, Any]) -> None:
    """One line to who started this process."""
    sys.stdout.write(MARK + json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> int:
    """Do what the line on standard input says; returns the exit code."""
    task = json.loads(sys.stdin.readline())
    turns = dict(task["turns"])

    def pause(index: int) -> None:
        if index in turns:
            say({"neighbours": turns[index]})
            sys.stdin.readline()  # until it is so

    ready = Ready([Input(*one) for one in task["inputs"]])
    before_s = time.process_time()
    if task["kind"] == "fixed":
        result = fixed(ready, task["calls"], task["choices"], pause)
    elif task["kind"] == "learning":
        result = learning(ready, task["calls"], pause)
    else:
        result = measuring(ready, task["contenders"], task["phases"], task["budget_s"], task["seed"], pause)
    say({"result": {**result, "processor_s": time.process_time() - before_s}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
