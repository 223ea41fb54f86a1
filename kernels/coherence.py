"""stub docstring"""

from __future__ import annotations

from typing import Any

import numpy as np

from .wavelet_plan import Plan

Array = np.ndarray[Any, Any]


def coherence_of_batch(x: Array, y: Array, plan: Plan) -> Array:
    """Squared wavelet coherence of pairs of series.

    Parameters
    ----------
    x, y : real series (..., n) of one shape and dtype, float32 or float64.
    plan : from `wavelet_plan.plan(n, dt, ...)`.

    Returns
    -------
    Array (..., J + 1, n) of that dtype, from 0 to 1; NaN where a series has no power at all.
    """
    n, wide = x.shape[-1], np.result_type(x.dtype, np.complex64)
    rows_x, rows_y = x.reshape(-1, n), y.reshape(-1, n)
    out = np.empty((len(rows_x), len(plan.scales), n), x.dtype)
    bank, smoother = plan.bank(x.dtype), plan.smoother(x.dtype)
    for a, b, result in zip(rows_x, rows_y, out, strict=True):
        first, second = (_transformed(series, bank, plan, wide) for series in (a, b))
        cross = _smoothed(first * np.conj(second), smoother, plan)
        powers = _smoothed(np.abs(first) ** 2 + 1j * np.abs(second) ** 2, smoother, plan)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = (cross.real**2 + cross.imag**2) / (powers.real * powers.imag)
        np.minimum(ratio, 1, out=result)
    return out.reshape(*x.shape[:-1], *out.shape[1:])


def _transformed(x: Array, bank: Array, plan: Plan, dtype: Any) -> Array:
    spectrum = np.fft.rfft(x - x.mean() if plan.pad else x, plan.size)
    full = np.zeros((len(bank), plan.size), dtype)
    full[:, : spectrum.size] = spectrum * bank
    return np.asarray(np.fft.ifft(full)[:, : plan.n], dtype)


def _smoothed(values: Array, smoother: Array, plan: Plan) -> Array:
    in_time = np.fft.ifft(np.fft.fft(values, plan.size) * smoother)[:, : plan.n]
    whole, part = plan.boxcar
    count = len(in_time)
    total = in_time.copy()
    for away in range(1, min(whole + 1, count - 1) + 1):
        weight = 1.0 if away <= whole else part
        total[away:] += weight * in_time[: count - away]
        total[: count - away] += weight * in_time[away:]
    return total
