"""Agreement in production: what is verified, what counts as wrong, and what becomes of who was."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from pointsman.executors import breaker
from pointsman.executors.errors import WrongResultError
from pointsman.selector import verify
from pointsman.selector.adaptive import adaptive
from pointsman.selector.dispatch import Dispatcher
from pointsman.selector.settings import Settings
from pointsman.selector.tables import CLASS_SIZE
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Failure, Outcome

X = np.linspace(1.0, 2.0, 1000)


@pytest.fixture
def toy(make, operation):
    """`toy(plain=f, other=g, verify=1)`: an operation that has learned to run `other`, and its selector."""

    def build(*, rerun=True, history=None, taught=True, **given):
        functions = {name: given.pop(name) for name in list(given) if callable(given[name])}
        more = {} if history is None else {"history": history}
        selector = make(explore=0, **more, **given)
        selector._engine.random.seed(1)
        made = Dispatcher(operation("toy", **functions), selector._engine, rerun=rerun)
        selector.adopt(made)
        for name, taken in {"plain": 1e-3, "other": 1e-4}.items() if taught else ():
            site = made.request((X,), {}).site(made.operation.variant(name))
            for _ in range(8):
                selector.history.record(Outcome(site, selector.history.now(), taken))
        selector.flush()
        return made, selector

    return build


class Counted:
    """A function that counts its runs."""

    def __init__(self, function):
        self.function, self.runs = function, 0

    def __call__(self, *args, **kwargs):
        self.runs += 1
        return self.function(*args, **kwargs)


def plain(x):
    return np.sqrt(x)


def out_of_order(x):
    return np.sqrt(x)[::-1]


def test_a_fast_and_wrong_variant_is_caught_replaced_and_disqualified(toy, caplog):
    other = Counted(out_of_order)
    made, _ = toy(plain=plain, other=other, verify=1)
    assert made.explain(X).variant == "other"
    with caplog.at_level(logging.WARNING, "pointsman"):
        np.testing.assert_array_equal(made(X), plain(X))  # the caught call gives the right result
    (line,) = [record.getMessage() for record in caplog.records]
    assert "toy 1000 float64: other failed (wrong result: " in line
    assert "off by 2.9e-01 of the largest compared with the default plain; 1.5e-08 is allowed" in line
    assert "found on 1000 float64" in line
    for _ in range(3):
        np.testing.assert_array_equal(made(X), plain(X))
    made(np.ones(9))  # at every size
    assert other.runs == 1
    why = dict(made.explain(np.ones(10**6)).excluded)["other"]
    assert why.startswith("disqualified, wrong result (WrongResultError: it is off by 2.9e-01")
    assert "numpy 2" in why or "numpy 1" in why
    assert "pointsman history reset --operation toy" in why
    assert dict(made.explain(np.ones(9, "float32")).excluded) == {}  # the other dtype has not been found wrong


def test_without_the_setting_nothing_is_computed_twice(toy):
    one, other = Counted(plain), Counted(out_of_order)
    made, _ = toy(plain=one, other=other)
    for _ in range(50):
        made(X)
    assert (one.runs, other.runs) == (0, 50)


@pytest.mark.parametrize(("share", "runs"), [(0.1, 20), (0.5, 100), (1, 200)])
def test_that_share_of_an_entrys_calls_is_verified(toy, share, runs):
    one, other = Counted(plain), Counted(plain)
    made, _ = toy(plain=one, other=other, verify=share)
    for _ in range(200):
        made(X)
    assert abs(one.runs - runs) <= 1  # the phase is random
    assert other.runs == 200


def test_the_phase_comes_from_the_injected_source(toy):
    class Fixed:
        def randrange(self, n):
            return n - 2

        def random(self):
            return 0.99

    one = Counted(plain)
    made, selector = toy(plain=one, other=plain, verify=0.1)
    selector._engine.random = Fixed()
    when = []
    for call in range(30):
        before = one.runs
        made(X)
        if one.runs > before:
            when.append(call)
    assert when == [9, 19, 29]  # the first call makes the entry, which counts eight before one that is due


def test_ever_new_shapes_are_verified_too(toy):
    one = Counted(plain)
    made, _ = toy(plain=one, other=plain, verify=0.1)
    for n in range(900, 1100):
        made(np.linspace(1.0, 2.0, n))
    assert 10 <= one.runs <= 32
    assert CLASS_SIZE > 1100


def test_the_default_itself_is_not_verified(toy, monkeypatch):
    one = Counted(plain)
    made, _ = toy(plain=one, other=plain, verify=1, taught=False)
    made(X)
    monkeypatch.setattr(made, "_slow", None)  # nor do its calls leave the hot path
    for _ in range(9):
        made(X)
    assert one.runs == 10


@pytest.mark.parametrize(
    ("spoils", "evidence"),
    [
        (lambda x: np.where(x > 1.9, np.nan, np.sqrt(x)), "not finite where the other is"),
        (lambda x: np.sqrt(x) * (1 + 1e-7), "off by 1.0e-07"),
        (lambda x: np.sqrt(x)[:-1], r"it gave shape \(999,\), the default plain \(1000,\)"),
        (lambda x: (np.sqrt(x), x), "it gave 2 values, the default plain 1"),
    ],
)
def test_what_is_wrong(toy, spoils, evidence):
    made, _ = toy(plain=plain, other=spoils, verify=1, fail_fast=True)
    with pytest.raises(WrongResultError, match=evidence):
        made(X)


def test_what_is_right_enough(toy):
    made, selector = toy(plain=plain, other=lambda x: np.sqrt(x) * (1 + 1e-12), verify=1)
    made(X)
    x = np.array([1.0, np.nan, np.inf] * 300)
    made(x)
    assert made.explain(X).variant == "other"
    assert not selector.history.marks.wrong


def test_what_it_was_compared_with_comes_next_and_no_other_variant(toy):
    third = Counted(out_of_order)
    made, selector = toy(plain=plain, other=out_of_order, third=third, verify=1)
    site = made.request((X,), {}).site(made.operation.variant("third"))
    for _ in range(8):
        selector.history.record(Outcome(site, selector.history.now(), 2e-4))
    selector.flush()
    assert made.explain(X).chain == ("other", "third", "plain")
    np.testing.assert_array_equal(made(X), plain(X))
    assert third.runs == 0


def test_a_changed_argument_is_wrong_and_is_put_back(toy):
    def in_place(x):
        y = np.sqrt(x)
        x[3] = 0.0
        return y

    made, _ = toy(plain=plain, other=in_place, verify=1)
    x = X.copy()
    np.testing.assert_array_equal(made(x), plain(X))
    np.testing.assert_array_equal(x, X)
    assert "it changed its arguments" in dict(made.explain(X).excluded)["other"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_function_that_disagrees_with_itself_accuses_nobody(toy, dtype):
    rng, calls = np.random.default_rng(1), []

    def draws(x):
        return x + rng.standard_normal(x.shape)

    def counts(x):
        calls.append(1)
        return x * len(calls)

    for function in (draws, counts):
        made, selector = toy(plain=function, other=function, verify=1)
        for _ in range(5):
            made(X.astype(dtype))
        assert not selector.history.marks.wrong


def test_a_function_meant_to_work_in_place_accuses_nobody(toy):
    def scale(x):
        x *= 2.0
        return x

    made, selector = toy(plain=scale, other=lambda x: scale(x), verify=1)
    x = X.copy()
    made(x)
    np.testing.assert_array_equal(x, 2 * X)
    assert not selector.history.marks.wrong


def test_what_is_never_verified(toy):
    """Impure functions, outputs given as arguments, sources of randomness, and what is too large to compare."""
    one = Counted(lambda *args, **kwargs: np.sqrt(args[0]))
    made, _ = toy(plain=one, other=lambda *args, **kwargs: np.sqrt(args[0]), verify=1, rerun=False)
    made(X)
    assert one.runs == 0
    made, _ = toy(plain=one, other=lambda *args, **kwargs: np.sqrt(args[0]), verify=1)
    with_out = {"out": np.empty(1000)}
    for args, kwargs in (((X,), with_out), ((X, np.random.default_rng(1)), {}), ((X, object()), {})):
        assert verify.copies(args, kwargs) is None
        made(*args, **kwargs)
    large = np.broadcast_to(0.0, (verify.MOST_BYTES // 8 + 1,))
    assert verify.copies((large,), {}) is None
    assert verify.copies((X, 3, "a", None, (1.5, [X])), {"axis": -1}) is not None


def test_a_gradient_is_left_alone(make):
    import torch

    runs = []

    @adaptive(selector=make(explore=0, verify=1), name="squares")
    def squares(x, *, xp=None):
        runs.append(1)
        return xp.sum(x * x)

    for _ in range(3):
        x = torch.ones(5, requires_grad=True)
        squares(x).backward()
        assert x.grad.tolist() == [2.0] * 5
    assert len(runs) == 3


def test_an_adaptive_functions_tensors_are_verified_against_numpy(make):
    import torch

    seen = []

    @adaptive(selector=make(explore=0, verify=1), name="halved")
    def halved(x, *, xp=None):
        seen.append(type(x).__module__)
        return x / 2 if isinstance(x, np.ndarray) else x / 3

    found = halved(torch.ones(8, dtype=torch.float64))
    assert seen[:3] == ["torch", "numpy", "numpy"]
    assert isinstance(found, torch.Tensor)
    assert found.tolist() == [0.5] * 8  # what came in as a tensor goes out as one, and is right


def test_a_kernel_is_held_to_its_reference_while_that_is_affordable(make, monkeypatch):
    selector = make(explore=0, verify=1)
    runner = selector.dispatcher("fft")
    scipy = runner.operation.variant("scipy")
    x = np.random.default_rng(0).standard_normal(256)
    before = verify.copies((x,), {})
    request = runner.request((x,), {})

    def verdict(result, default=runner._plain):
        return verify.wrong(runner.operation, scipy, request, result, (x,), {}, before, default)

    right = np.fft.rfft(x)
    assert verdict(right) is None
    assert "compared with the float64 reference; 1.0e-14 is allowed" in verdict(right * (1 + 1e-9))
    assert verdict(right * (1 + 1e-9), default=lambda _: right * 2) is None  # so is the default: an odd input
    monkeypatch.setattr(verify, "REFERENCE_WORK", 10.0)
    assert "compared with the default numpy; 2.0e-14 is allowed" in verdict(right * (1 + 1e-9))


def test_trouble_in_verifying_never_reaches_the_caller(toy):
    def breaks(x):
        raise ZeroDivisionError("of the default")

    made, selector = toy(plain=breaks, other=plain, verify=1)
    np.testing.assert_array_equal(made(X), plain(X))
    assert not selector.history.marks.wrong


def test_a_trial_is_always_verified(toy, monkeypatch):
    made, selector = toy(plain=plain, other=out_of_order, verify=1e-6, taught=False)
    made(X)
    entry = made._entries[X.shape, X.dtype]
    assert entry.choice.decision.variant == "plain"
    entry.tickets.append("other")
    monkeypatch.setattr(selector._engine, "take_trial", lambda choice: choice.tickets.pop())
    np.testing.assert_array_equal(made(X), plain(X))
    assert "disqualified" in dict(made.explain(X).excluded)["other"]


def test_the_settings_are_read_as_strictly_as_all_others():
    found = Settings.from_environment({"POINTSMAN_VERIFY": "0.01", "POINTSMAN_FAIL_FAST": "yes"})
    assert (found.verify, found.fail_fast) == (0.01, True)
    assert (Settings().verify, Settings().fail_fast) == (0.0, False)
    with pytest.raises(ValueError, match=r"POINTSMAN_VERIFY: found '1\.5'; allowed is a share from 0 to 1"):
        Settings.from_environment({"POINTSMAN_VERIFY": "1.5"})
    with pytest.raises(ValueError, match="POINTSMAN_FAIL_FAST: found 'perhaps'"):
        Settings.from_environment({"POINTSMAN_FAIL_FAST": "perhaps"})


# ---- remembered


def opened(path, clock):
    return History(path, background=False, clock=clock, monotonic=clock)


def test_the_next_process_keeps_it_out_until_reset(toy, make, tmp_path, clock):
    path = tmp_path / "history.sqlite"
    first = opened(path, clock)
    made, selector = toy(plain=plain, other=out_of_order, verify=1, history=first)
    made(X)
    failures = first.state
    selector.flush()
    assert sum(s.failures[Failure.WRONG_RESULT] for s in failures.cells.values()) == 1
    first.close()

    made, selector = toy(plain=plain, other=out_of_order, history=opened(path, clock), taught=False)
    assert "disqualified, wrong result" in dict(made.explain(X).excluded)["other"]
    selector.reset_performance_history("toy")
    assert made.explain(X).excluded == ()
    selector.history.close()
    made, _ = toy(plain=plain, other=out_of_order, history=opened(path, clock), taught=False)
    assert made.explain(X).excluded == ()


def test_another_version_of_the_library_may_try_again(toy, monkeypatch):
    made, _ = toy(plain=plain, other=out_of_order, verify=1)
    made(X)
    assert "other" in dict(made.explain(X).excluded)
    monkeypatch.setattr(breaker, "version_of", lambda backend: f"{backend} 99.0")
    assert made.explain(X).excluded == ()


def test_what_one_process_resets_another_forgets(toy, tmp_path, clock):
    path = tmp_path / "history.sqlite"
    one, other = opened(path, clock), opened(path, clock)
    made, _ = toy(plain=plain, other=out_of_order, verify=1, history=one)
    made(X)
    one.flush()
    other.flush()
    assert set(other.marks.wrong) == {("toy", "other", "float64")}
    other.reset("toy")
    one.flush()
    assert not one.marks.wrong
    made(np.ones(3))
    one.flush()
    other.flush()
    assert not other.marks.wrong
