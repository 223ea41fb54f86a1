"""Which backend a Monte Carlo run would get, asked ahead."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

from ..executors.mapping import cores, plain, whole, workers
from ..selector import maps
from ..selector.decision import Decision
from ..selector.maps import Facts
from ..selector.shared import default_selector
from ..telemetry.show import seconds
from .map_worker import worker_name

USUAL_S = 1e-3
"""A simulation is taken to last this long where no run was recorded here and nobody says."""


class Recommendation(str):
    """A backend's name that knows why.

    Attributes
    ----------
    variant : how it would run there, such as "joblib/loky".
    reason : one sentence.
    decision : the whole decision.
    """

    variant: str
    reason: str
    decision: Decision


def get_recommended_backend(
    n_simulations: int, worker: Callable[..., Any] | None = None, *, simulation_s: float | None = None,
    n_jobs: int | None = None,
) -> Recommendation:  # fmt: skip
    """The backend that a run of `n_simulations` would get, as far as can be told without running any.

    Parameters
    ----------
    n_simulations : how many.
    worker : what was recorded of it here counts.
    simulation_s : seconds that one simulation takes. None: as recorded of `worker`, else what is usual here, else 1 ms.
    n_jobs : workers at a time; None: the cores that this process may use.

    Returns
    -------
    Recommendation
        The name as text, for ``backend=``; with `reason`, `variant`, `decision`.

    Notes
    -----
    ``run_monte_carlo(backend="auto")`` knows better: it measures the first simulations, which count.

    Examples
    --------
    >>> import pointsman as pm
    >>> pm.get_recommended_backend(5)
    'sequential'
    """
    n_simulations = plain(n_simulations)
    whole("n_simulations", n_simulations, least=0, none=False)
    if simulation_s is not None and not simulation_s > 0:
        raise ValueError(f"simulation_s: found {simulation_s!r}; give seconds above 0, or None")
    engine = default_selector()._engine
    state = engine.history.state
    name = f"{maps.FAMILY}:{'monte_carlo' if worker is None else worker_name(worker)}"
    facts, measured = maps.remembered(state, name)
    source = "as recorded of this worker"
    if simulation_s is not None:
        facts, source = Facts(simulation_s, simulation_s, simulation_s), "as you say"
    elif facts is None or not facts.item_s:
        usual = [found.item_s for found in _recorded(state) if found.item_s]
        item_s, source = (median(usual), "as is usual here") if usual else (USUAL_S, "a guess, for none was run here")
        facts = Facts(item_s, item_s, item_s)
    against = maps.objections(facts, None, measured)
    request = maps.request(name, max(n_simulations, 1), facts, workers(n_jobs), cores(), against=against, require=None)
    decision = engine.choose(request).decision
    found = Recommendation(decision.backend)
    found.variant, found.decision = decision.variant, decision
    found.reason = f"{n_simulations} simulations of {seconds(facts.item_s)} ({source}): {decision.reason}"
    return found


def _recorded(state: Any) -> list[Facts]:
    names = {operation for operation, _ in state.groups() if operation.startswith(f"{maps.FAMILY}:")}
    return [facts for name in names if (facts := maps.remembered(state, name)[0]) is not None]
