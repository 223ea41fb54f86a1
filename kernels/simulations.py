"""What a simulation is: a worker, the seed that belongs to its index, and arguments that it cannot change."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

SEEDS = ("sequence", "int")


class Root(NamedTuple):
    """Where the seeds of a run come from: the child of index i is that of ``SeedSequence.spawn(n)[i]``, for any n."""

    entropy: int | tuple[int, ...]
    key: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class FailedSimulation:
    """What stands in the place of a result where the worker raised and failures are collected.

    Attributes
    ----------
    index : of the simulation.
    error : "ValueError: what it said".
    traceback : as text, from where it ran.
    """

    index: int
    error: str
    traceback: str


def root_of(seed: Any) -> Root:
    """The root that `seed` stands for; None draws one.

    Raises
    ------
    TypeError, ValueError : what is no seed, or a number below zero.
    """
    if isinstance(seed, np.random.SeedSequence):
        if seed.pool_size != 4:
            raise ValueError(f"seed: found a SeedSequence of pool_size={seed.pool_size}; give one of the usual size, 4")
        entropy: Any = seed.entropy
        return Root(_entropy(entropy), tuple(seed.spawn_key))
    if seed is None:
        drawn: Any = np.random.SeedSequence().entropy
        return Root(int(drawn))
    return Root(_entropy(seed))


def _entropy(seed: Any) -> int | tuple[int, ...]:
    if isinstance(seed, np.ndarray) and seed.ndim == 0:
        seed = seed.item()
    numbers = seed if isinstance(seed, Sequence | np.ndarray) and not isinstance(seed, str | bytes) else [seed]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | np.integer):
            raise TypeError(
                f"seed: found {seed!r}; give a whole number, a sequence of such, a SeedSequence, or None to have one "
                "drawn and reported"
            )
        if number < 0:
            raise ValueError(f"seed: found {seed!r}; the least is 0")
    plain = tuple(int(number) for number in numbers)
    return plain[0] if numbers is not seed else plain


def simulation(
    worker: Callable[..., Any], root: Root, args: Sequence[Any], kwargs: Mapping[str, Any], *, seeds: str = "sequence",
    collect: bool = False, retries: int = 0, native_threads: int = 1,
) -> Callable[[int], Any]:  # fmt: skip
    """`worker` as a function of the simulation's index.

    A closure without globals: cloudpickle sends it by value, and worker processes need not import pointsman.

    Parameters
    ----------
    worker : called with the seed first, then `args` and `kwargs`, whose arrays it finds read-only.
    root : where the seeds come from.
    seeds : "sequence" hands over a `numpy.random.SeedSequence`, "int" 64 bits of it as a number.
    collect : give (True, result), or (False, what `FailedSimulation` is made of) instead of ending the run.
    retries : so many times more a simulation that raised is run, with the same seed.
    native_threads : what an exception's note says to run it with.
    """
    entropy, key, as_int = root.entropy, tuple(root.key), seeds == "int"
    ready = _Fresh()
    rest = (", worker_args" if args else "") + (", worker_kwargs=worker_kwargs" if kwargs else "")
    rest += (f", spawn_key={key!r}" if key else "") + (f", seeds={seeds!r}" if as_int else "")
    rest += f", native_threads={native_threads}" if native_threads != 1 else ""

    def freeze(x: Any) -> Any:
        from copy import copy

        if hasattr(x, "__array_interface__") and hasattr(x, "setflags"):
            # On its way to another process it is made contiguous, and BLAS may give other bits for other strides.
            whole = x.flags.c_contiguous or x.flags.f_contiguous
            frozen = x.view() if whole else x.copy(order="C")
            frozen.setflags(write=False)
            return frozen
        if type(x) in (tuple, list):
            return type(x)(map(freeze, x))
        if type(x) is dict:
            return {name: freeze(value) for name, value in x.items()}
        if isinstance(x, tuple) and hasattr(x, "_make"):
            return x._make(map(freeze, x))
        if isinstance(x, list | dict):  # of a class of its own, which keeps what it has beside
            try:
                frozen = copy(x)
                for place in range(len(x)) if isinstance(x, list) else tuple(x):
                    frozen[place] = freeze(x[place])
            except Exception:  # one that cannot be copied, or not be changed, goes as it is
                return x
            return frozen
        return x

    def simulate(index: int) -> Any:
        if not ready:  # once in each process: what arrives there may be written to again
            from numpy.random import SeedSequence

            ready.append((SeedSequence, freeze(tuple(args)), freeze(dict(kwargs))))
        make, given, named = ready[0]
        left = retries
        while True:
            child = make(entropy, spawn_key=(*key, index))
            seed = int(child.generate_state(1, "uint64")[0]) if as_int else child
            try:
                result = worker(seed, *given, **named)
                return (True, result) if collect else result
            except Exception as error:
                if left > 0:
                    left -= 1
                    continue
                if not collect:
                    again = f"pointsman.replay(worker, {entropy!r}, {index}{rest})"
                    note = f"pointsman: raised by simulation {index}; alone again: {again}"
                    if isinstance(error, StopIteration):  # it would end an iterator somewhere on its way
                        ended = RuntimeError("the worker raised StopIteration")
                        ended.add_note(note)
                        raise ended from error
                    error.add_note(note)
                    raise
                import traceback

                said = "".join(traceback.format_exception_only(error)).partition("\n")[0]
                return False, (index, said, traceback.format_exc())

    simulate.__func__ = worker  # type: ignore[attr-defined]  # what the history knows it by
    return simulate


class _Fresh(list[Any]):
    """A list that arrives empty, and as a plain one, in other processes."""

    def __reduce__(self) -> Any:
        return (list, ())


def generators() -> tuple[Any, ...]:
    """Where the global generators of NumPy and of Python stand."""
    state: Any = np.random.get_state()  # noqa: NPY002 - whether somebody uses it is the question
    return state[1].tobytes(), state[2:], random.getstate()
