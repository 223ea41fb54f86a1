"""Exceptions of workers: packed where they are raised, and raised again where the caller is."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from .mapping import MARK

SPARED = "spared_its_process"
"""Attribute of what has ended a worker: whether its process is as good as before.

It is not where an import was cut short: Python takes the module back, but not those that it had imported by then, and
to import one of these without its package may fail from then on.
"""


# A closure without globals, as `mapping` explains.


def guarded(work: Callable[[Any], Any]) -> Callable[[Any], tuple[bool, Any]]:
    """`work` for another process: (True, result), or (False, what `reraise` takes).

    So exceptions of the worker can be told from troubles of the engine, and arrive whatever their class is like. What
    ends the worker from outside comes out, with `SPARED` told.
    """
    mark, spared, here = MARK, SPARED, (os.getpid(), socket.gethostname())

    def run(chunk: Any) -> tuple[bool, Any]:
        import multiprocessing
        import os
        import pickle
        import socket
        import traceback

        if (os.getpid(), socket.gethostname()) != here:  # a cluster may well run in the caller's own process
            setattr(multiprocessing.current_process(), mark, True)
        try:
            return True, work(chunk)
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as end:  # the engine's own way to end a task or a worker
            codes = [frame.f_code for frame, _ in traceback.walk_tb(end.__traceback__)]
            importing = any(c.co_name == "<module>" or c.co_filename.startswith("<frozen importlib") for c in codes)
            vars(end)[spared] = not importing
            raise
        except BaseException as error:  # the others are for the caller: an engine would take them for a crash
            text = traceback.format_exc()
            if (os.getpid(), socket.gethostname()) == here:
                return False, (error, (), {}, text)
            try:
                pickle.loads(pickle.dumps(error))
            except Exception:  # its class wants other arguments than it passed on; the parts will do
                kept = {}
                for name, value in vars(error).items():
                    try:
                        kept[name] = pickle.loads(pickle.dumps(value))
                    except Exception:
                        kept[name] = repr(value)
                return False, (type(error), error.args, kept, text)
            return False, (error, (), {}, text)

    return run


class RemoteTraceback(Exception):
    """The traceback of a worker process, as the cause of its exception."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}"""'


def reraise(packed: tuple[Any, tuple[Any, ...], dict[str, Any], str]) -> None:
    """Raise what `guarded` packed: of the same class, with its attributes, notes and the remote traceback."""
    error, args, attributes, text = packed
    if isinstance(error, type):
        error = error.__new__(error, *args)
        error.args = args
        error.__dict__.update(attributes)
    raise error from (error.__cause__ or RemoteTraceback(text))  # from a thread it comes with a cause of its own
