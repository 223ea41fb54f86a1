"""`run`: a built-in kernel on the backend that suits the call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..selector.shared import default_selector


def run(operation: str, *args: Any, **kwargs: Any) -> Any:
    """Run a kernel: choose, execute, record in one call.

    Parameters
    ----------
    operation : a built-in kernel such as "matmul", "fft" or "derivative", or a registered operation; an unknown name is
        an error that lists them.
    *args, **kwargs : the operation's own arguments; see its module.

    Returns
    -------
    array
        Of the kind that came in: NumPy in gives NumPy out, torch in gives torch out. Last bits may differ between
        variants within the kernel's stated tolerance.

    Raises
    ------
    ValueError, TypeError
        Unknown operation (the known ones are listed), or arguments that the operation refuses.
    NoCandidateError
        Every variant is excluded or failed; each is listed with its reason.

    Examples
    --------
    >>> import numpy as np, pointsman as pm
    >>> pm.run("matmul", np.eye(2), np.ones((2, 2))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    return default_selector().run(operation, *args, **kwargs)


def bind(operation: str, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """Decide once about a kernel on arguments like these; the returned call costs what a plain call costs.

    Parameters
    ----------
    operation : as for `run`.
    *args, **kwargs : arguments of the kinds, dtypes and sizes that the calls will have.

    Returns
    -------
    callable
        Takes the operation's arguments. It chooses, checks, records and falls back on nothing; the library is
        imported already.

    Raises
    ------
    ValueError, TypeError
        As for `run`.
    NoCandidateError
        Every variant is excluded or cannot be imported.

    Examples
    --------
    >>> import numpy as np, pointsman as pm
    >>> product = pm.bind("matmul", np.eye(2), np.ones((2, 2)))
    >>> product(np.eye(2), np.ones((2, 2))).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    return default_selector().dispatcher(operation).bind(*args, **kwargs)
