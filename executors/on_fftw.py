"""FFTW through pyfftw: Fourier transforms of NumPy arrays, by plans made once per shape and kept.

    y = transform(x)                          # rfft or fft along the last axis

    with lend((rows, n), "float64") as t:     # transforms with work arrays of their own, both ways unscaled
        t.samples[...] = x
        t.forward()                           # from t.samples, which is lost, to t.spectrum
        t.spectrum *= response
        t.backward()                          # from t.spectrum, which is lost, to t.samples

A plan never runs in two threads at once: it is taken out of the pool while in use, and a second thread gets another.
Planning by estimate takes 0.05 to 40 ms for lengths from 2e3 to 2e6. By measuring (see `FftwExecutor.effort`) it takes
0.2 s at 2e3, 0.6 s at 2e4, 4 s at 2e5 and 40 s at 2e6, for transforms that are up to 25 % faster. What planning finds
out (FFTW's "wisdom") is kept in a file beside the history that the process has open, and read before the first plan of
the next process: small lengths are then planned 20 to 100 times faster.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..telemetry import history
from ..telemetry.files import replace_private
from ..telemetry.hardware import fingerprint
from ..telemetry.lifetime import free_in_child
from ..telemetry.memory import spare_bytes
from ..telemetry.outcome import Failure
from ..telemetry.trouble import HistoryWarning
from .base import Capabilities, Executor
from .errors import BackendUnavailableError
from .on_numpy import FLOATS

MOST_BYTES: int | None = None  # of plans that nobody uses now, oldest first to go; None: `spare_bytes`
MOST_PLANS = 512
EFFORTS = ("FFTW_ESTIMATE", "FFTW_MEASURE", "FFTW_PATIENT", "FFTW_EXHAUSTIVE")
LONGEST_WISDOM = 4 * 2**20  # characters; a file that has grown so long is left as it is
_FORK_PATIENCE_S = 2.0  # as long as a fork waits for histories
_FORKED = "fftw cannot plan: forked while another thread was planning; fork at another moment, or spawn workers"

_Array = np.ndarray[Any, Any]
_Key = tuple[tuple[int, ...], str, int, int, bool]  # shape, kind, axes, threads, whether the input is kept
_SPECTRUM = {"f": "F", "d": "D", "F": "F", "D": "D"}  # dtype of samples -> dtype of their spectrum
_NULL_PLAN = re.compile(r"led to the planner returning NULL|imensions of the (in|out)put array must be less than")


class FftwExecutor(Executor):
    """Runs functions that take their transforms from `lend` and `transform`."""

    name = "fftw"
    capabilities = Capabilities(dtypes=FLOATS, compiles="shape", general=False)

    @property
    def effort(self) -> str:
        """How hard FFTW looks for the best plan, one of `EFFORTS`; setting it drops the idle plans."""
        return _POOL.effort

    @effort.setter
    def effort(self, effort: str) -> None:
        if effort not in EFFORTS:
            raise ValueError(f"fftw: effort must be one of {', '.join(EFFORTS)}; got {effort!r}")
        _POOL.effort = effort
        _POOL.clear()

    def unusable(self) -> str | None:
        """Why there can be no plan in this forked child."""
        return _FORKED if _PLANNER.lost else None

    def probe(self) -> None:
        """Transform four numbers there and back."""
        with lend((4,), "float64") as t:
            t.samples[:] = 1.0, 2.0, 3.0, 4.0
            t.forward()
            found = t.spectrum.copy()
            t.backward()
            back = t.samples / 4.0
        if not (np.allclose(found, [10, -2 + 2j, -2], rtol=1e-12) and np.allclose(back, [1, 2, 3, 4], rtol=1e-12)):
            raise BackendUnavailableError(f"the FFT of 1, 2, 3, 4 came out as {found}, and back as {back}")

    def version(self) -> str:
        """Version of pyfftw."""
        try:
            return metadata.version("pyfftw")
        except metadata.PackageNotFoundError:
            return ""

    def signatures(self, function: Callable[..., Any]) -> int:  # noqa: ARG002 - plans belong to the process
        """How many plans the process has made so far: a call after which there are more has planned."""
        return _POOL.made

    def classify(self, error: BaseException) -> Failure | None:
        """What FFTW cannot plan is unsupported."""
        if isinstance(error, RuntimeError | ValueError) and _NULL_PLAN.search(str(error)):
            return Failure.UNSUPPORTED
        return super().classify(error)

    def free_caches(self) -> None:
        """Drop the plans that nobody uses now, and their work arrays."""
        _POOL.clear()


def transform(x: _Array, n: int | None = None, *, threads: int = 1) -> _Array:
    """The unscaled Fourier transform along the last axis, batched over the others.

    Parameters
    ----------
    x : real or complex samples (..., length), single or double precision, in any layout; left as they are.
    n : length that the axis is cut or padded to; None: as it is.
    threads : how many threads FFTW may use.

    Returns
    -------
    A fresh array (..., n // 2 + 1) for real `x`, (..., n) for complex `x`, in the same precision.
    """
    kind, length = x.dtype.char, x.shape[-1] if n is None else n
    out: _Array = np.empty((*x.shape[:-1], _bins(length, kind)), _SPECTRUM[kind])
    if out.size:
        shape = (length,) if x.ndim == 1 else (x.size // x.shape[-1], length)
        key = (shape, kind, 1, _allowed(threads), True)
        plan = _POOL.take(key)
        try:
            plan.into(x, out)
        finally:
            _POOL.give(key, plan)
    return out


class lend:
    """Lend a planned transform and its inverse, with work arrays of their own, for the length of a ``with`` block.

    Parameters
    ----------
    shape : of the samples; the last one or two axes are transformed, the others are a batch. None may be empty.
    dtype : of the samples: float32, float64, complex64 or complex128.
    axes : how many of the last axes are transformed; -2: the last but one alone, of complex samples.
    threads : how many threads FFTW may use.
    """

    __slots__ = ("_key", "_plan")

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, axes: int = 1, threads: int = 1) -> None:
        self._key: _Key = (shape, np.dtype(dtype).char, axes, _allowed(threads), False)

    def __enter__(self) -> _Plan:
        self._plan = _POOL.take(self._key)
        return self._plan

    def __exit__(self, *_: object) -> None:
        plan = self._plan
        del self._plan
        _POOL.give(self._key, plan)


class _Plan:
    """A transform with its work arrays; never in two hands at once.

    Attributes
    ----------
    samples, spectrum : aligned arrays; of real samples the spectrum has the bins up to the Nyquist frequency.
    forward, backward : transform one into the other, unscaled; what is transformed is lost.
    """

    __slots__ = ("_fftw", "backward", "forward", "nbytes", "samples", "spectrum")

    def __init__(self, key: _Key, effort: str) -> None:
        import pyfftw

        shape, kind, axes, threads, keeps_input = key
        self.samples: _Array = pyfftw.empty_aligned(shape, kind)
        self.spectrum: _Array = pyfftw.empty_aligned((*shape[:-1], _bins(shape[-1], kind)), _SPECTRUM[kind])
        self.nbytes = self.samples.nbytes + self.spectrum.nbytes
        flags = (effort,) if keeps_input else (effort, "FFTW_DESTROY_INPUT")  # keeping it takes longer to plan

        def plan(x: _Array, y: _Array, direction: str) -> Any:
            where = (axes,) if axes < 0 else tuple(range(-axes, 0))
            return pyfftw.FFTW(x, y, where, direction, flags, threads, normalise_idft=False)

        # Planning may write to the arrays: they are always these, never a caller's.
        self._fftw = plan(self.samples, self.spectrum, "FFTW_FORWARD")
        self.forward: Callable[[], None] = self._fftw.execute
        if not keeps_input:
            self.backward: Callable[[], None] = plan(self.spectrum, self.samples, "FFTW_BACKWARD").execute

    def into(self, x: _Array, out: _Array) -> None:
        """Transform `x`, cut or padded, into the contiguous array `out`."""
        samples, fftw = self.samples, self._fftw
        given, spectrum = x.reshape(*samples.shape[:-1], x.shape[-1]), out.reshape(self.spectrum.shape)
        try:
            try:
                fftw.update_arrays(given, spectrum)
            except ValueError:  # another length, layout or alignment than planned for
                _fill(samples, given)
                fftw.update_arrays(samples, spectrum)
            fftw.execute()
        finally:
            fftw.update_arrays(samples, self.spectrum)  # do not keep the caller's arrays alive


class _Pool:
    """Idle plans, least recently used first, and the one place where plans are made."""

    def __init__(self) -> None:
        self.effort = EFFORTS[0]
        self.made = 0
        self._idle: OrderedDict[_Key, list[_Plan]] = OrderedDict()
        self._count = self._nbytes = 0
        self._lock = threading.Lock()  # of the bookkeeping: held for a microsecond
        free_in_child(self)

    def take(self, key: _Key) -> _Plan:
        """An idle plan of `key`, or a new one."""
        with self._lock:
            plans = self._idle.get(key)
            if plans:
                plan = plans.pop()
                self._count -= 1
                self._nbytes -= plan.nbytes
                return plan
        with _PLANNER:
            _WISDOM.read()
            plan = _Plan(key, self.effort)
            self.made += 1
        return plan

    def give(self, key: _Key, plan: _Plan) -> None:
        """Take `plan` back; drop those that were unused longest where there are too many."""
        dropped = []
        with self._lock:
            self._idle.setdefault(key, []).append(plan)
            self._idle.move_to_end(key)
            self._count += 1
            self._nbytes += plan.nbytes
            while self._count > MOST_PLANS or self._nbytes > (spare_bytes() if MOST_BYTES is None else MOST_BYTES):
                oldest = next(iter(self._idle))
                plans = self._idle[oldest]
                if plans:
                    dropped.append(plans.pop(0))
                    self._count -= 1
                    self._nbytes -= dropped[-1].nbytes
                if not plans:
                    del self._idle[oldest]
        if dropped:
            with _PLANNER:  # pyfftw locks its planner to destroy a plan, which may take as long as planning does
                dropped.clear()

    def clear(self) -> None:
        """Drop all idle plans."""
        if _PLANNER.lost:
            return  # destroying them would wait for ever
        with self._lock:
            dropped, self._idle = self._idle, OrderedDict()
            self._count = self._nbytes = 0
        with _PLANNER:
            dropped.clear()


class _Planner:
    """Held while FFTW plans, and while a process forks.

    pyfftw has a lock of its own around planning. A child forked in the middle would inherit it as taken, with nobody
    to release it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lost = False
        self.is_child = False
        self._held = False

    def __enter__(self) -> None:
        if self.lost:
            raise BackendUnavailableError(_FORKED)
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def before_fork(self) -> None:
        self._held = self.lock.acquire(timeout=_FORK_PATIENCE_S)

    def after_in_parent(self) -> None:
        if self._held:
            self.lock.release()

    def after_in_child(self) -> None:
        self.is_child = True
        self.lost = self.lost or not self._held
        if self._held:
            self.lock.release()


class _Wisdom:
    """What FFTW has found out about this machine, kept in a file beside the history; its troubles only warn."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._process = 0
        self._known: tuple[bytes, ...] = ()
        self._warned = False

    def read(self) -> None:
        """Read the file, once, as soon as a history is open; called with the planner held."""
        if self._path is not None:
            return
        beside = history.kept_in()
        if beside is None:
            return
        import pyfftw

        # FFTW itself refuses wisdom of another version; that of another machine would be merely bad.
        self._path = beside / f"fftw-{pyfftw.fftw_version}-{fingerprint()}.json"
        self._process = os.getpid()
        self._merge(self._path)
        self._known = pyfftw.export_wisdom()
        atexit.register(self.write)

    def write(self) -> None:
        """Put what was learned since into the file, in one step; other processes' additions stay."""
        import pyfftw

        path = self._path
        if path is None or self._process != os.getpid():  # workers leave files to their parent
            return
        with _PLANNER:
            if pyfftw.export_wisdom() == self._known or not os.access(path.parent, os.W_OK):
                return
            self._merge(path)
            self._known = pyfftw.export_wisdom()
        text = json.dumps([part.decode("ascii") for part in self._known])
        if len(text) > LONGEST_WISDOM:
            return
        try:
            replace_private(path, text)
        except PermissionError:
            return
        except OSError as error:
            self._warn(f"asked to keep FFTW's wisdom in {path}: {error}; plans will be made anew next time")

    def _merge(self, path: Path) -> None:
        import pyfftw

        try:
            parts = [part.encode("ascii") for part in json.loads(path.read_text("ascii"))]
            taken = pyfftw.import_wisdom(tuple(parts))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
            self._warn(f"{path} cannot be read as FFTW's wisdom ({type(error).__name__}: {error}); {_HARMLESS}")
            return
        if not all(ok for part, ok in zip(parts, taken, strict=True) if part):
            self._warn(f"{path} holds wisdom that this FFTW does not take; {_HARMLESS}")

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(HistoryWarning(text), stacklevel=2)


_HARMLESS = "plans are made anew, and the file is replaced when the process ends; results are not affected"


def _fill(samples: _Array, x: _Array) -> None:
    """Put `x`, cut or padded with zeros along its last axis, into `samples`."""
    n = min(x.shape[-1], samples.shape[-1])
    samples[..., :n] = x[..., :n]
    samples[..., n:] = 0


def _bins(length: int, kind: str) -> int:
    return length if kind in "FD" else length // 2 + 1


def _allowed(threads: int) -> int:
    # The threads of FFTW's OpenMP do not exist in a forked child, which would wait for them for ever.
    return 1 if _PLANNER.is_child else threads


_PLANNER = _Planner()
_WISDOM = _Wisdom()
_POOL = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_PLANNER.before_fork,
        after_in_parent=_PLANNER.after_in_parent,
        after_in_child=_PLANNER.after_in_child,
    )

EXECUTOR = FftwExecutor
