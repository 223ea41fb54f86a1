"""What the ranks of an MPI job run.

It needs the standard library, mpi4py, cloudpickle and threadpoolctl, and nothing of pointsman: its text is sent to the
ranks when they begin, for a worker that has no use for pointsman does not import it.

    the caller --socket--> rank 0 --MPI--> ranks that compute        in a job that pointsman starts
    the caller, which is rank 0 --MPI--> ranks that compute          under mpiexec ... python -m mpi4py.futures
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

NAME = "_pointsman_rank"
KEY = "PMRANK_KEY"  # variable that holds the socket's key; not POINTSMAN_..., for that would be a setting
IDLE_S = 300.0
"""A job leaves after so many idle seconds: idle ranks look for work a thousand times a second, 2 % of a core each."""
BOOT = """
import os, sys, types
module = sys.modules[name] = types.ModuleType(name)
exec(compile(text, name, "exec"), module.__dict__)
if own:
    module.settle()
"""
KEEPS = 2  # works: that of the run, and that of the one before, whose last chunks may still be on their way

Header = tuple[list[str], str, int, bytes]
"""Search path, working folder, native threads, and the pickled work: once for each rank and run."""


# ---------------------------------------------------------------------------------------------- ranks that compute

_WORKS: dict[str, Any] = {}
_LIBRARIES: dict[str, Any] = {}  # how many modules there were, and the libraries with threads of their own then


def settle() -> None:
    """Have this rank of a job of ours print to stderr, and leave no file behind.

    mpiexec writes remarks of its own about lost ranks to stdout, which is closed for that. MPICH 5 has the memory that
    ranks share in a file, which stays there for good if a rank ends without ceremony; they have it open by now.
    """
    os.environ.pop(KEY, None)
    os.dup2(2, 1)
    for name in shared_files("self"):
        with suppress(OSError):  # another rank was faster
            os.unlink(name)


def shared_files(process: int | str) -> set[str]:
    """The files that MPICH has in a process's memory."""
    try:
        with open(f"/proc/{process}/maps", encoding="utf-8", errors="replace") as maps:
            return {line.split()[-1] for line in maps if "/dev/shm/mpich_" in line}
    except OSError:
        return set()


def run(token: str, header: Header | None, payload: bytes) -> tuple[str, bytes]:
    """Run a pickled chunk with the work that `token` stands for.

    Returns
    -------
    tuple
        ("done", pickled result), ("missing", b"") where the work did not reach this rank yet, ("unsent", why) where
        something cannot be pickled or unpickled.
    """
    import cloudpickle

    try:
        if token not in _WORKS:
            if header is None:
                return "missing", b""
            _begin(token, header)
        work, chunk = _WORKS[token], cloudpickle.loads(payload)
    except Exception as error:
        return "unsent", f"{type(error).__name__}: {error}".encode()
    try:
        found = work(chunk)
    except BaseException as error:  # SystemExit, for example: the caller's, not the rank's
        import traceback

        found = False, (error, (), {}, traceback.format_exc())
    try:
        body = cloudpickle.dumps(found)
    except Exception as error:
        return "unsent", f"{type(error).__name__}: {error}".encode()
    sys.stdout.flush()
    return "done", body


def _begin(token: str, header: Header) -> None:
    import cloudpickle
    import threadpoolctl

    path, folder, native_threads, pickled = header
    sys.path[:] = [*path, *(entry for entry in sys.path if entry not in path)]
    if os.path.isdir(folder):  # another machine may not have it
        os.chdir(folder)
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB_MAXIMUM"):  # for what is loaded from now on
        os.environ[f"{name}_THREADS" if name.startswith("VEC") else f"{name}_NUM_THREADS"] = str(native_threads)
    work = cloudpickle.loads(pickled)
    if _LIBRARIES.get("modules") != len(sys.modules):  # to look takes a millisecond; what loads one imports something
        _LIBRARIES.update(modules=len(sys.modules), found=threadpoolctl.ThreadpoolController())
    _LIBRARIES["found"].limit(limits=native_threads)  # for what is loaded; chunks run on this very thread
    while len(_WORKS) >= KEEPS:
        del _WORKS[next(iter(_WORKS))]
    _WORKS[token] = work


# ---------------------------------------------------------------------------------------------- rank 0


class Ranks:
    """The ranks that compute, seen from rank 0. `tell` is called with (number, kind, body), on any thread."""

    def __init__(self, text: str, tell: Callable[[int, str, bytes], None], *, own: bool) -> None:
        from mpi4py.futures import MPIPoolExecutor

        booted: dict[str, Any] = {"name": NAME, "text": text, "own": own}
        exec(BOOT, {**booted, "own": False})
        self._run = sys.modules[NAME].run  # pickled by a name that the ranks know
        self._pool = MPIPoolExecutor(main=False, initializer=exec, initargs=(BOOT, booted))
        self._tell = tell
        self._out: dict[Any, int] = {}
        self._lock = threading.Lock()
        self.size = int(self._pool.num_workers)

    def begin(self, token: str, header: Header) -> None:
        """What is sent from now on is for this work."""
        self._token, self._header, self._carry = token, header, self.size

    def send(self, number: int, payload: bytes) -> None:
        """Have a rank run a chunk. The first ones take the work along: they reach one rank each."""
        header, self._carry = self._header if self._carry > 0 else None, self._carry - 1
        self._submit(number, self._token, header, payload, self._header)

    def drop(self) -> None:
        """Have no chunk run that does not run yet."""
        for future in list(self._out):
            future.cancel()

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._out

    def _submit(self, number: int, token: str, header: Header | None, payload: bytes, again: Header) -> None:
        future = self._pool.submit(self._run, token, header, payload)
        self._out[future] = number
        future.add_done_callback(lambda done: self._done(done, number, token, payload, again))

    def _done(self, future: Any, number: int, token: str, payload: bytes, header: Header) -> None:
        self._out.pop(future, None)
        if future.cancelled():
            kind, body = "dropped", b""
        elif future.exception() is not None:
            kind, body = "lost", str(future.exception()).encode()
        else:
            kind, body = future.result()
            if kind == "missing":
                self._submit(number, token, header, payload, header)
                return
        with self._lock:
            self._tell(number, kind, body)


def prompt(line: Any) -> None:
    """Switch Nagle's algorithm off on `line`, a connection by TCP: it holds small messages back for 40 ms."""
    with socket.socket(fileno=os.dup(line.fileno())) as same:
        same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def main() -> None:
    """Rank 0 of a job that pointsman starts: does what the caller asks for on a socket, and ends the job with it."""
    from multiprocessing.connection import Client
    from pathlib import Path

    try:
        caller = Client(("127.0.0.1", int(sys.argv[1])), authkey=bytes.fromhex(os.environ[KEY]))
        prompt(caller)
        ranks = Ranks(Path(__file__).read_text(encoding="utf-8"), lambda *found: caller.send(found), own=True)
        settle()
        caller.send((-1, "ready", ranks.size))
        while caller.poll(IDLE_S) or not ranks.idle:
            what, *given = caller.recv()
            getattr(ranks, what)(*given)
    except (EOFError, OSError):  # the caller has hung up, or is no more
        pass
    finally:
        os._exit(0)  # mpiexec ends the others, whatever they do


if __name__ == "__main__":
    main()
