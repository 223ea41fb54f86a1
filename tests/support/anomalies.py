"""The function that tests of `@adaptive` share, and what they ask of a selector."""

from __future__ import annotations

BACKENDS = ("numpy", "torch", "jax")


def plain_anomaly(x, *, xp=None):
    """Deviations from the mean, in standard deviations."""
    x = x - xp.mean(x, axis=-1, keepdims=True)
    return x / xp.std(x, axis=-1, keepdims=True)


def force(selector, **changes):
    """Another setting from here on."""
    selector._fixed = selector.settings.updated(**changes)
    selector._drop_tables()


def records(selector):
    """Outcomes of operations; imports are booked apart."""
    found = selector.get_performance_summary()["operations"]
    return sum(
        v["count"] + v["cold_count"] for name in found if name != "import" for c in found[name]
        for v in c["variants"].values()
    )  # fmt: skip
