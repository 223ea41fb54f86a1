"""The ranks that a map runs on: a job that we start, or the job that this process is part of."""

from __future__ import annotations

import os
import queue
import secrets
import socket
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from multiprocessing import AuthenticationError, connection
from pathlib import Path
from typing import Any

from . import mpi_rank
from .deadline import arrived, left_s
from .errors import BackendUnavailableError
from .mapping import WorkerDiedError
from .native import VARIABLES

START_PATIENCE_S = 120.0
END_PATIENCE_S = 5.0
STALE_S = 0.9 * mpi_rank.IDLE_S
"""A job that was idle for so long is taken for gone: it leaves on its own, and may do so just now."""
NOT_OURS = ("PMI_", "PMIX_", "OMPI_COMM_", "OMPI_UNIVERSE_", "HYDI_", "MPI_LOCAL")
"""Variables that say that a process is a rank of another job."""
SHARING = {"OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
"""Open MPI 4 and 5 refuse more ranks than cores unless told; rank 0 only hands on."""
FAST = {"MPIR_CVAR_NOLOCAL": "1"}
"""MPICH moves a large message through shared memory a piece at a time whenever both sides look, and the ranks of
mpi4py.futures look once in a millisecond: 14 MB/s, where its sockets give 250."""


def shared_ranks() -> bool:
    """Whether this process is rank 0 under ``mpiexec ... python -m mpi4py.futures``, and there are others."""
    core: Any = sys.modules.get("mpi4py.futures._core")
    return core is not None and getattr(core.SharedPool, "workers", None) is not None


class Shared:
    """The other ranks of the job that this process is part of."""

    own = False

    def __init__(self) -> None:
        self._found: queue.SimpleQueue[tuple[int, str, bytes]] = queue.SimpleQueue()
        text = Path(mpi_rank.__file__).read_text(encoding="utf-8")
        self._ranks = mpi_rank.Ranks(text, lambda *found: self._found.put(found), own=False)
        self._numbers = count()
        self.size = self._ranks.size

    def begin(self, token: str, header: mpi_rank.Header) -> None:
        """What is sent from now on is for this work."""
        self._ranks.begin(token, header)

    def send(self, payload: bytes) -> int:
        """Have a rank run a chunk; gives the number under which its result comes."""
        number = next(self._numbers)
        self._ranks.send(number, payload)
        return number

    def receive(self, until: float | None) -> tuple[int, str, bytes]:
        """(number, kind, body) of what is done next; a RunTimeoutError where nothing is in time."""
        return arrived(self._found, until)

    def leave(self, out: set[int], patience_s: float) -> bool:  # noqa: ARG002 (nothing can end a chunk here)
        """Drop what does not run yet. True: these ranks go on."""
        if out:
            self._ranks.drop()
        return True


class Job:
    """A job of ranks that mpiexec starts for this process.

    Raises
    ------
    BackendUnavailableError : it does not start.
    RunTimeoutError : not before `until`.
    """

    own = True

    def __init__(self, command: str, parts: list[str], n_jobs: int, native_threads: int, until: float | None) -> None:
        self.command = command
        self.size = n_jobs
        self._numbers = count()
        self._whole = True  # whether no message was broken off in the middle
        key = secrets.token_bytes(32)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(NOT_OURS)}
        environment = FAST | environment | dict.fromkeys(VARIABLES, str(native_threads)) | SHARING
        environment[mpi_rank.KEY] = key.hex()
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            # Rank 0 hands on, the others compute. A session of its own: Ctrl-C is the caller's to answer.
            ranks = ["-n", str(n_jobs + 1), sys.executable, "-P", "-m", "mpi4py.futures", mpi_rank.__file__, str(port)]
            try:
                self._process = subprocess.Popen(
                    [*parts, *ranks], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
                    start_new_session=True,
                )  # fmt: skip
            except OSError as error:
                raise BackendUnavailableError(f"{command} cannot be run: {error}") from error
            try:
                self._caller = self._accept(server, key, until)
                self._used = time.monotonic()
                _, _, found = self.receive(until)
            except BaseException:
                self._break_off()
                raise
        if int(found) != n_jobs:
            self.end()
            raise BackendUnavailableError(
                f"{command} was asked for {n_jobs} ranks that compute and gave {found}: it belongs to another MPI than "
                "the one that mpi4py uses. Put the right one on the PATH, or name it: mpiexec='/path/to/mpiexec'"
            )

    def _break_off(self) -> None:
        """End a job that has not begun: its ranks may have files that none of them has come to remove."""
        import psutil

        files, stopped = set[str](), list[psutil.Process]()
        with suppress(psutil.NoSuchProcess):
            found = [psutil.Process(self._process.pid)]
            while found:  # one after the other, from the top: what stands still starts and opens no more
                for process in found:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()
                        files |= mpi_rank.shared_files(process.pid)
                stopped += found
                found = [child for child in stopped[0].children(recursive=True) if child not in stopped]
        for process in stopped:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        for file in files:
            with suppress(OSError):
                os.unlink(file)

    def _accept(self, server: socket.socket, key: bytes, until: float | None) -> connection.Connection:
        server.settimeout(0.05)
        end = time.monotonic() + START_PATIENCE_S
        while time.monotonic() < end:
            left_s(until)
            try:
                caller = connection.Connection(server.accept()[0].detach())
            except TimeoutError:
                status = self._process.poll()
                if status is None:
                    continue
                raise BackendUnavailableError(
                    f"{self.command} ended with status {status} before its ranks had begun; what it said stands on "
                    "stderr"
                ) from None
            try:
                connection.deliver_challenge(caller, key)
                connection.answer_challenge(caller, key)
            except (AuthenticationError, EOFError, OSError):  # somebody else's call
                caller.close()
                continue
            mpi_rank.prompt(caller)
            return caller
        raise BackendUnavailableError(f"{self.command} started no ranks within {START_PATIENCE_S:.0f} s")

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None and time.monotonic() - self._used < STALE_S

    def begin(self, token: str, header: mpi_rank.Header) -> None:
        """What is sent from now on is for this work."""
        self._ask("begin", token, header)

    def send(self, payload: bytes) -> int:
        """Have a rank run a chunk; gives the number under which its result comes."""
        number = next(self._numbers)
        self._ask("send", number, payload)
        return number

    def receive(self, until: float | None) -> tuple[int, str, Any]:
        """(number, kind, body) of what is done next; a RunTimeoutError where nothing is in time."""
        try:
            while not self._caller.poll(0):
                self._caller.poll(left_s(until))
            self._whole = False
            found: tuple[int, str, Any] = self._caller.recv()
        except (EOFError, ConnectionError) as error:
            raise self._lost() from error
        self._whole, self._used = True, time.monotonic()
        return found

    def leave(self, out: set[int], patience_s: float) -> bool:
        """Drop what does not run yet, and see off what does. False: this job is of no more use."""
        if not self._whole:
            return False
        self._used = time.monotonic()
        try:
            if out:
                self._ask("drop")
            while out:
                out.discard(self.receive(self._used + patience_s)[0])
        except (WorkerDiedError, TimeoutError):
            return False
        return True

    def end(self) -> None:
        """End all of its processes: rank 0 leaves when nobody is on the line, and mpiexec ends the others."""
        with suppress(OSError), socket.socket(fileno=os.dup(self._caller.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)  # forked children that hold it, too, notwithstanding
        self.hang_up()
        try:
            self._process.wait(END_PATIENCE_S)
        except BaseException as error:
            self._process.kill()  # its proxies end the ranks when it is gone
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def hang_up(self) -> None:
        """Close the socket, here."""
        self._whole = False
        self._caller.close()

    def _ask(self, *message: Any) -> None:
        self._whole = False
        try:
            self._caller.send(message)
        except ConnectionError as error:
            raise self._lost() from error
        self._whole = True

    def _lost(self) -> WorkerDiedError:
        try:
            status = f"with status {self._process.wait(END_PATIENCE_S)}"
        except subprocess.TimeoutExpired:
            status = "its connection"
        return WorkerDiedError(f"an MPI rank was lost, and its job with it: mpiexec ended {status}")
