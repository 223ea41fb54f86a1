"""Pipelines to test chains on, and what makes a route the cheapest: times told instead of taken."""

from __future__ import annotations

import numpy as np
import pointsman as pm
import pytest
from pointsman.executors import conversion, registry
from pointsman.selector import moves, route
from pointsman.telemetry.outcome import Outcome

SIZE = 512
GAIN = np.linspace(1.0, 0.0, SIZE // 2 + 1)
KINDS = ("numpy", "torch", "jax")


def plain(x, gain=GAIN):
    """What the pipeline of `filtering` computes."""
    return float((np.fft.irfft(np.fft.rfft(x) * gain) ** 2).sum())


@pytest.fixture
def multiply(selector):
    @pm.adaptive(name="multiply", pure=True, selector=selector)
    def multiply(x, y, *, xp=None):
        return x * y

    return multiply


@pytest.fixture
def double(selector):
    @pm.adaptive(name="double", pure=True, selector=selector)
    def double(x, *, xp=None):
        return x + x

    return double


@pytest.fixture
def shift(selector):
    @pm.adaptive(name="shift", pure=True, selector=selector)
    def shift(x, *, xp=None):
        return x + 1.0

    return shift


@pytest.fixture
def filtering(selector, multiply):
    """fft -> multiply by a kept spectrum -> inverse fft -> sum of squares."""

    @pm.adaptive(name="inverse", pure=True, selector=selector)
    def inverse(x, *, xp=None):
        return xp.fft.irfft(x)

    return pm.chain("fft", pm.step(multiply, GAIN), inverse, "reduction", selector=selector)


@pytest.fixture
def teach(clock):
    """Say what a chain's steps take: ``teach(chain, x, "torch", 1e-5)``, conversions included by ``move=``."""

    registry.ensure("torch"), registry.ensure("jax")  # data may lie only with libraries that are imported already

    def told(chain, x, place, seconds, steps=None, variant=None):
        noted = chain._noted[next(iter(chain._noted))] if chain._noted else None
        if noted is None:
            chain(x)
            noted = chain._noted[next(iter(chain._noted))]
        for i, dispatcher in enumerate(chain._dispatchers()):
            if steps is not None and i not in steps:
                continue
            planner = route._Planner(noted, chain._dispatchers(), ())
            with moves.inside(moves.scopes_of([place], noted.home)):
                choice = dispatcher.engine.choose(planner._request(i, place))
            dispatcher.engine.warmed(choice.request, choice.variants[variant or place])
            for _ in range(8):
                clock.advance(1.0)
                dispatcher.engine.history.record(Outcome(choice.sites[variant or place], clock(), seconds))
        history = chain._dispatchers()[0].engine.history
        history.flush()

    return told


@pytest.fixture
def teach_moves(selector, clock):
    """Say what bringing `load` from one place to another takes, both ways."""

    def told(load, one, other, seconds):
        for source, target in ((one, other), (other, one)):
            for _ in range(8):
                clock.advance(1.0)
                selector.history.record(Outcome(moves.move_site(load, source, target), clock(), seconds))
        selector.flush()

    return told


def led(chain, x, teach, teach_moves, place):
    """Have `chain` go by way of `place`, because everything is much faster there."""
    chain(x)
    home = conversion.residency(x)
    if place != home:
        for load in chain._noted[next(iter(chain._noted))].loads:
            teach_moves(load, home, place, 1e-7)
    for kind in {"numpy", home} - {place}:
        teach(chain, x, home, 1e-2, variant=kind)
    teach(chain, x, place, 1e-7)
    chain._own.freeze()  # the times that calls really take would change the way again
    return chain.explain(x)


def places(told):
    return [leg.place for leg in told.legs]
