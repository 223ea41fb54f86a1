"""Thousands of known signatures follow what was learned: the latest at once, the others some at a time."""

from __future__ import annotations

import numpy as np
import pytest
from pointsman.selector import tables
from toys import teach

ENTRIES = 30


@pytest.fixture
def many(toy, monkeypatch):
    """A dispatcher with entries that run the default, of which few are decided anew at once."""
    monkeypatch.setattr(tables, "CLASS_SIZE", 0)  # each signature has an entry of its own
    monkeypatch.setattr(tables, "RENEWED", 4)
    monkeypatch.setattr(tables, "LATER", 3)
    made, selector = toy(plain=lambda x: "plain", other=lambda x: "other")
    for size in range(1000, 1000 + ENTRIES):
        made(np.ones(size))
    selector.flush()
    assert len(made.tables.entries) == ENTRIES
    return made, selector


def behind(made) -> int:
    return sum(entry.choice.decision.variant == "plain" for entry in made.tables.entries.values())


def rounds(made, selector, monkeypatch, count: int) -> None:
    """So many rounds of the flusher that bring nothing new."""
    with monkeypatch.context() as patch:
        patch.setattr(selector._engine.learner.traffic, "grown", lambda changed: set())
        for _ in range(count):
            made(np.ones(1000 + ENTRIES - 1))
            selector.flush()


def test_what_was_too_much_at_once_is_decided_anew_in_later_rounds(many, monkeypatch):
    made, selector = many
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    left = behind(made)
    assert left >= ENTRIES - 2 * 4
    rounds(made, selector, monkeypatch, 2)
    assert left - 2 * 3 <= behind(made) < left  # a bounded rate
    rounds(made, selector, monkeypatch, ENTRIES // 3)
    assert behind(made) == 0
    assert {made(np.ones(size)) for size in range(1000, 1000 + ENTRIES)} == {"other"}


def test_frozen_choices_stay_as_they_are(many, monkeypatch):
    made, selector = many
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    left = behind(made)
    selector._engine.learner.frozen = True
    rounds(made, selector, monkeypatch, 5)
    assert behind(made) == left > 0


def test_what_was_decided_meanwhile_is_not_decided_again(many, monkeypatch):
    made, selector = many
    teach(selector, made, {"plain": 1e-3, "other": 1e-4})
    made.tables.entries.clear()
    for size in range(1000, 1000 + ENTRIES):
        made(np.ones(size))

    decided: list[object] = []
    monkeypatch.setattr(selector._engine, "choose", lambda *given, **_: decided.append(given))
    for _ in range(ENTRIES):
        made.refresh(set())
    assert decided == []
