"""What a run is known by: the same in every process, another one for everything that its results depend on."""

from __future__ import annotations

import datetime
import enum
import fractions
import functools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass

import numba
import numpy as np
import pytest
import torch
from pointsman.kernels.checkpoint_file import CheckpointError
from pointsman.kernels.fingerprint import digest, fingerprint_of
from pointsman.kernels.simulations import root_of
from scipy import stats

SCRIPT = """
    import functools, sys
    import numpy as np
    from pointsman.kernels.fingerprint import digest, fingerprint_of
    from pointsman.kernels.simulations import root_of

    STRIKES = [90, 100]
    NAMES = {"a": {"b"}, "c": (1.5, None)}
    calls = 0

    class Model:
        def __init__(self, drift):
            self.drift, self.tags = drift, {"x", "y", "zz"}
        def price(self, x):
            return x + self.drift

    def helper(x):
        return x + 1

    def worker(seed, model, n=3):
        global calls
        calls += 1
        return helper(model.price(n)) + len(STRIKES) + (n in {"a", "bb", "ccc"})

    def run(*given, **named):
        made = fingerprint_of(functools.partial(worker, n=4), given, named, root_of(1), seeds="int", native_threads=1)
        return " ".join([made["code"], *(str(value) for name, value in made.items() if "argument" in name)])

    def printed():
        print(run(Model(0.5), [Model(1)], [np.arange(3), {"a": None}], x=Model))
"""


def in_process(folder, script, name="study.py", hash_seed="1"):
    (folder / name).write_text(textwrap.dedent(script) + "\nprinted()\n")
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run([sys.executable, folder / name], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_another_process_knows_it_again_and_sees_each_change(tmp_path):
    first = in_process(tmp_path, SCRIPT)
    assert (
        in_process(tmp_path, SCRIPT.replace("printed():", "printed():\n        global calls; calls = 7"), hash_seed="2")
        == first
    )
    for old, new in [("x + 1", "x + 2"), ("100]", "101]"), ("self.drift\n", "2 * self.drift\n")]:
        assert old in SCRIPT
        assert in_process(tmp_path, SCRIPT.replace(old, new)) != first


def worker(seed, n=1):
    return n


def fingerprint(worker=worker, args=(), kwargs=None, seed=1, key=None, **options):
    return fingerprint_of(
        worker, args, kwargs, root_of(seed), **{"seeds": "sequence", "native_threads": 1, **options}, key=key
    )


def test_it_is_json_that_people_can_read():
    made = fingerprint(args=(100_000, np.zeros((3, 4), "f4")), kwargs={"rate": 0.05}, seed=[1, 2], key="v2", n_leaf=8)
    assert json.loads(json.dumps(made)) == made
    assert made["worker"] == f"{__name__}.worker"
    assert made["argument 0"] == "100000"
    assert made["argument 1"].startswith("float32 (3, 4) ")
    assert made["argument rate"] == "0.05"
    assert (made["seed"], made["spawn_key"], made["checkpoint_key"], made["n_leaf"]) == ([1, 2], [], "v2", 8)


@pytest.mark.parametrize(
    "other",
    [{"seed": 2}, {"seed": np.random.SeedSequence(1, spawn_key=(3,))}, {"seeds": "int"}, {"native_threads": 2},
     {"key": "x"}, {"args": (1,)}, {"kwargs": {"n": 1}}, {"reduce": functools.partial(max)}, {"leaf": 3},
     {"worker": functools.partial(worker, n=1)}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_whatever_makes_another_run_makes_another_fingerprint(other):
    assert fingerprint(**other) != fingerprint()


def test_keywords_may_come_in_any_order():
    assert fingerprint(kwargs={"a": [1], "b": [2]}) == fingerprint(kwargs={"b": [2], "a": [1]})


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass
class Model:
    drift: float
    parts: tuple = ()

    def step(self, seed):
        return self.drift


def closing_over(value):
    return lambda seed: value


def numba_compiled(n):
    def f(x):
        return x + n

    return numba.njit(f)


one, two = lambda seed: 1, lambda seed: 2
LARGE = np.arange(12.0).reshape(3, 4)
DIFFERENT = [
    1, 1.0, True, "1", b"1", None, (), [], {}, (1, 2), [1, 2], [(1,), 2], [1, (2,)], {"a": 1}, {"a": 2}, {"b": 1},
    {1, 2}, {1, 3}, frozenset({1, 2}), 0.0, -0.0, np.float64(1), np.float32(1), LARGE, LARGE.T,
    np.asfortranarray(LARGE), LARGE.ravel(), LARGE + 1,
    LARGE.astype(">f8"), LARGE.astype("f4"), np.ma.masked_equal(LARGE, 3), np.array([1, "a", None], object),
    np.array([1, "b", None], object), torch.arange(3), torch.arange(3.0), torch.ones(3, requires_grad=True), one, two,
    closing_over(1), closing_over(2), closing_over(LARGE), functools.partial(worker), functools.partial(worker, 2),
    Model(1.0).step, Model(2.0).step, Model(1.0), Model(1.0, (LARGE,)), Model, Colour.RED, Colour.BLUE,
    numba_compiled(1), numba_compiled(2), len, [].append, str.upper, np.mean, np.sin, np.cos,
    np, json, datetime.date(2020, 1, 1), datetime.date(2020, 1, 2),
    fractions.Fraction(1, 3), pathlib.Path("a"), range(3), range(4), slice(3), np.dtype("f8"), np.random.default_rng(1),
    np.random.default_rng(2), np.random.SeedSequence(1),
]  # fmt: skip


def test_no_two_different_arguments_look_alike():
    digests = [digest(value) for value in DIFFERENT]
    assert len(set(digests)) == len(digests)
    assert [digest([value]) for value in DIFFERENT] != digests
    assert digest(numba_compiled(1)) == digest(numba_compiled(1))


def test_frozen_distributions_are_known_again_whatever_was_drawn_meanwhile():
    before = digest(stats.norm(0, 1))
    np.random.random()  # noqa: NPY002 - they hold the global generator
    assert digest(stats.norm(0, 1)) == before != digest(stats.norm(0, 2))


def test_whether_equal_parts_are_one_object_makes_no_difference():
    part = [LARGE, {"a": 1}]
    assert digest([part, part]) == digest([part, [LARGE.copy(), {"a": 1}]])
    endless: list = [1]
    endless.append(endless)
    assert digest(endless) != digest([1, [1]])


def test_what_decorators_leave_of_a_function_is_seen_too():
    def twice(f):
        @functools.wraps(f)
        def wrapper(seed):
            return 2 * f(seed)

        return wrapper

    def thrice(f):
        @functools.wraps(f)
        def wrapper(seed):
            return 3 * f(seed)

        return wrapper

    assert len({digest(f) for f in (worker, twice(worker), twice(one), twice(two), thrice(worker))}) == 5


def test_what_cannot_be_known_again_needs_a_key():
    lock = threading.Lock()
    with pytest.raises(CheckpointError, match=r"argument 1 \(_thread.lock\) cannot be known again .* checkpoint_key="):
        fingerprint(args=(1, lock))
    with pytest.raises(CheckpointError, match=r"the worker \(.*closing_over.* cannot be known again"):
        fingerprint(closing_over(lock))
    with pytest.raises(CheckpointError, match="argument pages"):
        fingerprint(kwargs={"pages": (page for page in [])})
    assert fingerprint(args=(lock, 2), key="a") == fingerprint(args=(threading.Lock(), 2), key="a")
    assert len({json.dumps(fingerprint(args=(lock, n), key=key)) for n in (1, 2) for key in ("a", "b")}) == 4
