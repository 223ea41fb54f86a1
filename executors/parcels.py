"""What goes to the workers of a cluster and what comes back: bytes of our own making.

So what cannot be sent is found on the side where it is, arrays arrive writable on every engine, and neither engine
looks into what it carries. The work of a run is one parcel, sent once and unpacked once in each worker process.

The functions below give closures without globals, as `mapping` explains: a worker does not import pointsman.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from typing import Any

from .errors import UnsupportedError
from .native import VARIABLES
from .raised import guarded, reraise

Dumps = Callable[[Any], bytes]


def packed(thing: Any, dumps: Dumps) -> bytes:
    """`thing` as bytes; an UnsupportedError where it cannot be sent."""
    try:
        return dumps(thing)
    except MemoryError:
        raise
    except Exception as error:  # whatever a __reduce__ raises
        raise unsendable(f"{type(error).__name__}: {error}") from error


def unpacked(answer: bytes) -> Any:
    """The result in what `unpack` gave, or whatever the work raised.

    Raises
    ------
    UnsupportedError : something could not be sent there, or not back.
    Exception : of the work, of its own class, with its notes and the remote traceback.
    """
    try:
        good, result = pickle.loads(answer)
    except Exception as error:
        raise unsendable(f"{type(error).__name__}: {error}") from error
    if good is None:
        raise unsendable(result)
    if not good:
        reraise(result)
    return result


def unsendable(told: str) -> UnsupportedError:
    """The error for what cannot reach another process, or not come back."""
    lines = [line for line in told.splitlines() if line.strip(' "')] or [told]
    return UnsupportedError(
        f"worker, items and results must be picklable to reach another process, and one is not: {lines[-1]}"
    )


def parcel(work: Callable[[Any], Any], native_threads: int, dumps: Dumps) -> bytes:
    """`work` as bytes for `unpack`: it will run with `native_threads`, and give what `guarded` gives."""
    return packed(capped(guarded(work), native_threads), dumps)


def unpacker(pickler: str) -> Callable[[str, tuple[str, ...], Any, bytes], bytes]:
    """What a worker process runs for each chunk: ``(token, paths, parcel, chunk) -> answer``, for `unpacked`.

    Parameters
    ----------
    pickler : module that pickles results which pickle itself cannot.
    token : of the run; the work stays unpacked until another run comes.
    paths : where modules may be found, beside where the process looks by itself.
    parcel, chunk : anything that pickle takes for bytes.
    """

    def unpack(token: str, paths: tuple[str, ...], parcel: Any, chunk: bytes) -> bytes:
        import importlib
        import multiprocessing
        import pickle
        import sys

        kept = vars(multiprocessing.current_process()).setdefault("kept_by_pointsman", {})
        try:
            run = kept.get(token)
            if run is None:
                sys.path.extend(path for path in paths if path not in sys.path)
                run = pickle.loads(parcel)
                while len(kept) > 1:  # two, for threads of one process may serve two runs
                    kept.pop(next(iter(kept)), None)
                kept[token] = run
            given = pickle.loads(chunk)
        except Exception as error:
            told = f"{type(error).__name__}: {error} (in the worker process, where its modules must be installed too)"
            return pickle.dumps((None, told))
        found = run(given)
        try:
            return pickle.dumps(found, protocol=5)
        except Exception:
            try:
                answer: bytes = importlib.import_module(pickler).dumps(found)
                return answer
            except Exception as error:
                return pickle.dumps((None, f"{type(error).__name__}: {error}"))

    return unpack


def paths() -> tuple[str, ...]:
    """Where this process finds modules, for worker processes on the same machine."""
    return tuple(os.path.abspath(path) for path in sys.path)


def forgetter(token: str) -> Callable[[], None]:
    """What has a worker process let go of the work of a run."""

    def forget() -> None:
        import multiprocessing

        vars(multiprocessing.current_process()).get("kept_by_pointsman", {}).pop(token, None)

    return forget


def capped(run: Callable[[Any], Any], number: int) -> Callable[[Any], Any]:
    """`run` in another process with BLAS and OpenMP threads at `number`, those of libraries loaded later too.

    Afterwards the process has its own numbers again, for it may be the user's: only what was loaded meanwhile keeps
    `number`. Threads of one process share it; a run that wants another waits. Where threadpoolctl is missing, libraries
    that were loaded before keep the number that they have. See `native` for the same in the caller's process.
    """
    variables = VARIABLES

    def run_capped(chunk: Any) -> Any:
        import multiprocessing
        import os
        import sys
        import threading
        from contextlib import nullcontext

        try:
            from threadpoolctl import ThreadpoolController
        except ImportError:
            ThreadpoolController = None
        state = vars(multiprocessing.current_process()).setdefault(
            "native_threads_by_pointsman",
            {"turn": threading.Condition(), "runs": 0, "number": 0, "modules": -1, "found": None},
        )
        turn = state["turn"]
        with turn:
            turn.wait_for(lambda: not state["runs"] or state["number"] == number)
            if ThreadpoolController is not None and state["modules"] != len(sys.modules):
                # Looking through the libraries takes half a millisecond; what loads one imports something.
                state["found"], state["modules"] = ThreadpoolController(), len(sys.modules)
            found = state["found"]
            if not state["runs"]:
                state["number"] = number
                state["before"] = {name: os.environ.get(name) for name in variables}
                os.environ.update(dict.fromkeys(variables, str(number)))
                state["limits"] = found and found.select(user_api="blas").limit(limits=number)
            state["runs"] += 1
        try:
            # OpenMP's number belongs to the thread.
            with found.select(user_api="openmp").limit(limits=number) if found else nullcontext():
                return run(chunk)
        finally:
            with turn:
                state["runs"] -= 1
                if not state["runs"]:
                    for name, value in state["before"].items():
                        if value is None:
                            os.environ.pop(name, None)
                        else:
                            os.environ[name] = value
                    if state["limits"]:
                        state["limits"].restore_original_limits()
                    turn.notify_all()

    return run_capped
