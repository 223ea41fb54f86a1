"""Settings: strict parsing, contradictions, origins, scopes, and changes that are noticed."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pointsman.selector import settings
from pointsman.selector.settings import Settings

BACKENDS = ("numpy", "scipy", "numba", "torch", "jax")


def read(**environ: str) -> Settings:
    return Settings.from_environment({f"POINTSMAN_{name}": text for name, text in environ.items()}, BACKENDS)


@pytest.fixture(autouse=True)
def _as_found(monkeypatch):
    """Every test starts from a clean environment and leaves no process-wide setting behind."""
    for name in list(settings.os.environ):
        if name.startswith("POINTSMAN_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setattr(settings, "_listeners", [])


def test_defaults_are_those_of_the_docs():
    assert read() == Settings(
        force=None, prefer=None, disable=frozenset(), disable_gpu=False, mode="select", explore=0.02,
        history=None, gpu_memory_reserve=0.3, log="warning", cache=None,
    )  # fmt: skip
    assert not read().origin


def test_every_variable_is_read_and_remembered_as_the_origin():
    found = read(
        FORCE="JAX", PREFER="torch", DISABLE="scipy, numba", DISABLE_GPU="yes", MODE="observe", EXPLORE="0",
        HISTORY=":memory:", GPU_MEMORY_RESERVE="0.5", LOG="info", CACHE="off",
    )  # fmt: skip
    assert (found.force, found.prefer, found.disable) == ("jax", "torch", {"scipy", "numba"})
    assert (found.disable_gpu, found.mode, found.explore) == (True, "observe", 0.0)
    assert (found.history, found.gpu_memory_reserve, found.log) == (":memory:", 0.5, "info")
    assert found.cache == "off"
    assert found.origin["force"] == "POINTSMAN_FORCE"
    assert set(found.origin) == {
        "force", "prefer", "disable", "disable_gpu", "mode", "explore", "history", "gpu_memory_reserve", "log",
        "cache",
    }  # fmt: skip


def test_aliases_name_the_backend_in_the_variable():
    found = read(FORCE_JAX="1", DISABLE_TORCH="on", DISABLE="numba")
    assert (found.force, found.origin["force"]) == ("jax", "POINTSMAN_FORCE_JAX")
    assert found.disable == {"torch", "numba"}
    assert found.origin["disable"] == "POINTSMAN_DISABLE and POINTSMAN_DISABLE_TORCH"


@pytest.mark.parametrize("word", ["0", "false", "No", "OFF", ""])
def test_zero_is_false(word):
    found = read(FORCE_JAX=word, DISABLE_TORCH=word, DISABLE_GPU=word)
    assert (found.force, found.disable, found.disable_gpu) == (None, frozenset(), False)


@pytest.mark.parametrize(
    ("variable", "text", "told"),
    [
        ("FORCE_JAX", "maybe", ["POINTSMAN_FORCE_JAX", "'maybe'", "1, true, yes, on"]),
        ("DISABLE_GPU", "2", ["POINTSMAN_DISABLE_GPU", "0, false, no, off"]),
        ("FORCE", "jaxx", ["'jaxx'", "did you mean 'jax'", "numpy, scipy, numba, torch, jax"]),
        ("FORCE", "cupy", ["'cupy' is not part of this version", "numpy, scipy, numba, torch, jax"]),
        ("DISABLE", "torch,tensorflow", ["'tensorflow'", "numpy, scipy"]),
        ("MODE", "on", ["POINTSMAN_MODE", "off, observe, advise, select"]),
        ("EXPLORE", "2", ["POINTSMAN_EXPLORE", "0 to 1"]),
        ("EXPLORE", "nan", ["POINTSMAN_EXPLORE", "0 to 1"]),
        ("GPU_MEMORY_RESERVE", "1", ["POINTSMAN_GPU_MEMORY_RESERVE", "below 1"]),
        ("LOG", "loud", ["POINTSMAN_LOG", "warning"]),
        ("FORECE", "jax", ["POINTSMAN_FORECE is no setting", "did you mean 'POINTSMAN_FORCE'", "POINTSMAN_MODE"]),
        ("FORCE_CUPYX", "1", ["POINTSMAN_FORCE_CUPYX is no setting", "POINTSMAN_FORCE_JAX"]),
    ],
)
def test_what_makes_no_sense_is_an_error_that_lists_what_does(variable, text, told):
    with pytest.raises(ValueError, match="POINTSMAN_") as error:
        read(**{variable: text})
    for part in told:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"FORCE": "jax", "DISABLE_JAX": "1"}, ("POINTSMAN_FORCE", "POINTSMAN_DISABLE_JAX")),
        ({"FORCE_JAX": "1", "DISABLE": "torch,jax"}, ("POINTSMAN_FORCE_JAX", "POINTSMAN_DISABLE")),
        ({"FORCE_JAX": "1", "FORCE_TORCH": "1"}, ("POINTSMAN_FORCE_JAX", "POINTSMAN_FORCE_TORCH")),
        ({"FORCE": "jax", "FORCE_TORCH": "1"}, ("POINTSMAN_FORCE", "POINTSMAN_FORCE_TORCH")),
        ({"PREFER": "jax", "DISABLE": "jax"}, ("POINTSMAN_PREFER", "POINTSMAN_DISABLE")),
    ],
)
def test_two_that_contradict_each_other_are_both_named(environ, named):
    with pytest.raises(ValueError, match="contradict") as error:
        read(**environ)
    for name in named:
        assert name in str(error.value)


@pytest.mark.parametrize("setting", ["disable", "history", "cache"])
def test_a_value_of_the_wrong_type_is_named(setting):
    with pytest.raises(ValueError, match=rf"configure\({setting}=3\): found 3; "):
        Settings().updated(**{setting: 3})


def test_what_agrees_twice_is_no_contradiction():
    assert read(FORCE="jax", FORCE_JAX="1", DISABLE_JAX="0").force == "jax"


def test_disabling_everything_is_refused():
    with pytest.raises(ValueError, match="leaves no backend"):
        read(DISABLE=",".join(BACKENDS))


def test_configure_goes_over_the_environment_and_contradicts_it_by_name():
    found = read(PREFER="torch", DISABLE_JAX="1").updated(prefer="numba", explore=0.1, backends=BACKENDS)
    assert (found.prefer, found.explore, found.disable) == ("numba", 0.1, {"jax"})
    assert found.origin["prefer"] == "configure(prefer='numba')"
    assert found.origin["disable"] == "POINTSMAN_DISABLE_JAX"
    with pytest.raises(ValueError, match=r"configure\(force='jax'\) and POINTSMAN_DISABLE_JAX contradict"):
        found.updated(force="jax", backends=BACKENDS)
    with pytest.raises(TypeError, match=r"'explor' \(did you mean 'explore'\?\); valid are: force, prefer"):
        found.updated(explor=0.1, backends=BACKENDS)


def test_the_environment_is_read_at_the_first_decision_and_wrong_values_keep_failing(monkeypatch):
    monkeypatch.setenv("POINTSMAN_MODE", "fast")
    for _ in range(2):
        with pytest.raises(ValueError, match="POINTSMAN_MODE"):
            settings.current()
    monkeypatch.setenv("POINTSMAN_MODE", "observe")
    assert settings.current().mode == "observe"
    monkeypatch.setenv("POINTSMAN_MODE", "off")
    assert settings.current().mode == "observe"
    assert settings.reload().mode == "off"


def test_changes_are_noticed_and_a_failed_change_changes_nothing():
    class Selector:
        drops = 0

        def drop(self) -> None:
            self.drops += 1

    kept, lost = Selector(), Selector()
    settings.current()
    settings.on_change(kept.drop)
    settings.on_change(lost.drop)
    del lost  # held weakly: it goes, and is not called
    before = settings.generation
    settings.configure(prefer="torch")
    assert (kept.drops, settings.generation) == (1, before + 1)
    with pytest.raises(ValueError, match="torhc"):
        settings.configure(prefer="torhc")
    settings.configure(prefer="torch")
    assert (settings.current().prefer, kept.drops, settings.generation) == ("torch", 1, before + 1)
    assert settings.reload().prefer is None
    assert kept.drops == 2


def test_use_nests_and_restores_on_error():
    def fail_within_jax() -> None:
        with settings.use("jax"):
            assert settings.scope() == "jax"
            raise RuntimeError("inner")

    assert settings.scope() is None
    with settings.use("torch"):
        with pytest.raises(RuntimeError, match="inner"):
            fail_within_jax()
        assert settings.scope() == "torch"
        with settings.use("auto"):
            assert settings.scope() is None
    assert settings.scope() is None


def test_use_of_an_unknown_backend_fails_before_the_block():
    with pytest.raises(ValueError, match=r"'troch' \(did you mean 'torch'\?\); valid are: numpy"):
        settings.use("troch")


def test_use_is_seen_by_its_own_task_and_thread_only():
    async def chosen(backend: str, barrier: asyncio.Barrier) -> str | None:
        with settings.use(backend):
            await barrier.wait()  # both tasks are inside their blocks now
            return settings.scope()

    async def both() -> list[str | None]:
        barrier = asyncio.Barrier(2)
        return await asyncio.gather(chosen("torch", barrier), chosen("jax", barrier))

    assert asyncio.run(both()) == ["torch", "jax"]
    seen: list[str | None] = []
    with settings.use("torch"):
        thread = threading.Thread(target=lambda: seen.append(settings.scope()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_other_packages_backends_are_looked_for_only_where_one_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(settings, "known_backends", lambda: asked.append(1) or ("numpy", "torch"))
    plain = {"POINTSMAN_HISTORY": ":memory:", "POINTSMAN_LOG": "info", "POINTSMAN_FORCE": " "}
    assert Settings.from_environment(plain).log == "info"
    assert not asked
    for naming in ({"POINTSMAN_FORCE": "torch"}, {"POINTSMAN_DISABLE_TORCH": "1"}, {"POINTSMAN_PREFER": "torch"}):
        Settings.from_environment(naming)
        assert asked.pop()
