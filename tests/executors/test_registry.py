"""The registry: missing, broken, unknown and registered backends; and that nothing is imported to find out."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
from pointsman.executors import registry
from pointsman.executors.base import Capabilities, Executor
from pointsman.executors.errors import BackendUnavailableError
from pointsman.executors.table import BACKENDS, BackendType, Row

LIBRARIES = [row.library for row in BACKENDS.values() if row.library != "numpy"]
UNWANTED = [*LIBRARIES, "array_api_compat", "rich", "sqlite_utils"]


def test_listing_and_asking_import_no_library(fresh_python):
    code = f"""
import sys
from pointsman.executors import registry, conversion, prepare, fallback, breaker, buffers
infos = registry.list_backends()
[registry.get_backend(info.name) for info in infos if info.available]
[registry.available(name) for name in registry.names()]
registry.array_backends()
import numpy
conversion.kind_of(numpy.ones(2)), conversion.kind_of([1]), conversion.passes_through(numpy.ones(2))
print([name for name in {UNWANTED} if name in sys.modules])
"""
    assert fresh_python(code) == "[]"


def test_first_use_imports_just_the_one_library(fresh_python):
    code = f"""
import sys
from pointsman.executors import registry
before = registry.imported("scipy"), registry.import_cost_s("scipy")
executor, seconds = registry.ensure("scipy")
again = registry.ensure("scipy")
after = registry.imported("scipy"), registry.import_cost_s("scipy") == seconds
print(before, seconds > 0, again == (executor, 0.0), after)
print([name for name in {LIBRARIES} if name in sys.modules])
"""
    assert fresh_python(code).splitlines() == ["(False, 0.35) True True (True, True)", "['scipy']"]


def test_a_library_that_fails_to_import_is_broken_not_missing(fresh_python, tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text("raise OSError('libfoo.so.3: cannot open shared object file')")
    code = """
from pointsman.executors import registry
print(registry.available("numba"))
for _ in range(2):
    try:
        registry.ensure("numba")
    except ImportError as error:
        print(type(error).__name__, type(error.__cause__).__name__, error)
print(registry.available("numba"))
"""
    lines = fresh_python(code).splitlines()
    assert lines[0] == "None"
    assert lines[1].startswith("BackendUnavailableError OSError numba is installed but failed its check: OSError: lib")
    assert lines[2].startswith("BackendUnavailableError NoneType numba is installed but failed its check")  # remembered
    assert lines[3].startswith("numba is installed but failed its check")


def test_a_library_that_computes_wrong_numbers_is_broken(fresh_python, tmp_path):
    (tmp_path / "numba.py").write_text("def njit(f):\n    return lambda x: 11.0\n")
    code = """
from pointsman.executors import registry
try:
    registry.ensure("numba")
except registry.BackendUnavailableError as error:
    print(error)
try:
    registry.get_backend("numba")
except ImportError as error:
    print(error)
[info] = [info for info in registry.list_backends() if info.name == "numba"]
print(info.available, info.reason)
"""
    lines = fresh_python(code).splitlines()
    assert "numba is installed but failed its check" in lines[0]
    assert "came out as 11.0, not 10.0" in lines[0]
    assert lines[1] == lines[0]
    assert lines[2].startswith("False numba is installed but failed")


def test_a_mere_folder_of_that_name_is_no_library(fresh_python, tmp_path, monkeypatch):
    (tmp_path / "jax").mkdir()
    code = """
import sys, importlib.util
real = importlib.util.find_spec
from pointsman.executors import registry
sys.path[:] = [sys.path[0] or ".", *(p for p in sys.path[1:] if "site-packages" not in p)]
sys.path_importer_cache.clear()
print(registry.available("jax"))
"""
    assert fresh_python(code) == "jax is not installed; pip install 'pointsman[jax]'"


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "absent", Row("on_scipy", "scipy", "for this test", "no_such_library", 0.1))
    sentence = "no_such_library is not installed; pip install 'pointsman[scipy]'"
    assert registry.available("absent") == sentence
    for use in (registry.get_backend, registry.ensure):
        with pytest.raises(ImportError) as caught:
            use("absent")
        assert isinstance(caught.value, BackendUnavailableError)
        assert str(caught.value) == sentence
    [info] = [info for info in registry.list_backends() if info.name == "absent"]
    assert (info.available, info.reason, info.devices) == (False, sentence, ())
    assert "absent" not in [info.name for info in registry.list_backends(available_only=True)]
    table = io.StringIO()
    registry.print_backend_info(table)
    assert sentence in table.getvalue()
    registry._EXECUTORS.pop("absent", None)


def test_a_module_blocked_by_hand_is_missing_and_a_stub_is_there(monkeypatch):
    monkeypatch.setitem(registry.BACKENDS, "absent", Row("on_scipy", "", "for this test", "no_such_library", 0.1))
    monkeypatch.setitem(sys.modules, "no_such_library", None)
    assert registry.available("absent") == "no_such_library is not installed; pip install no_such_library"
    assert not registry.imported("absent")
    monkeypatch.setitem(sys.modules, "no_such_library", types.ModuleType("no_such_library"))
    assert registry.available("absent") is None


def test_a_library_that_an_import_hook_refuses_is_missing(monkeypatch):
    class Refuses:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "no_such_library":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setitem(registry.BACKENDS, "absent", Row("on_scipy", "", "for this test", "no_such_library", 0.1))
    monkeypatch.setattr(sys, "meta_path", [Refuses, *sys.meta_path])
    assert registry.available("absent") == "no_such_library is not installed; pip install no_such_library"


def test_unknown_names_list_the_valid_ones_and_the_closest():
    for use in (registry.get_backend, registry.executor, registry.ensure, registry.check_name, registry.available):
        with pytest.raises(ValueError, match=r"no backend is called 'trch': did you mean 'torch'.*numpy, scipy"):
            use("trch")
    with pytest.raises(ValueError, match="'auto' is no backend"):
        registry.get_backend(BackendType.AUTO)


@pytest.mark.parametrize("name", sorted(set(BackendType) - set(BACKENDS) - {"auto"}))
def test_names_without_an_executor_yet_say_so(name):
    with pytest.raises(BackendUnavailableError, match=f"'{name}' is not part of this version; it has: numpy, scipy"):
        registry.get_backend(name)


def test_one_executor_per_process_by_string_or_enum():
    assert registry.get_backend("numpy") is registry.executor(BackendType.NUMPY)
    assert registry.ensure(BackendType.NUMPY)[0] is registry.get_backend("numpy")
    assert [info.name for info in registry.list_backends()] == list(BACKENDS)
    assert [name for name, capabilities in registry.array_backends() if capabilities.gradients] == ["torch", "jax"]


def test_the_printed_table_has_a_line_per_backend(capsys):
    registry.print_backend_info()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["backend", *BACKENDS]
    assert "cpu" in lines[1]


class Mine(Executor):
    """Numbers by hand."""

    name = "mine"
    capabilities = Capabilities(dtypes=frozenset({"float64"}))
    probes = 0

    def probe(self):
        Mine.probes += 1
        if np.ones(2).sum() != 2:
            raise BackendUnavailableError("wrong sum")


@pytest.mark.usefixtures("own_backends")
class TestOwnBackend:
    def test_is_listed_last_and_checked_once(self):
        registry.register_backend("mine", Mine)
        Mine.probes = 0
        assert registry.names()[-1] == "mine"
        [info] = [info for info in registry.list_backends() if info.name == "mine"]
        assert (info.available, info.hint, info.devices) == (True, "Numbers by hand.", ("cpu",))
        assert registry.ensure("mine")[0] is registry.get_backend("mine")
        registry.ensure("mine")
        assert Mine.probes == 1
        registry.unregister_backend("mine")
        with pytest.raises(ValueError, match="no backend is called 'mine'"):
            registry.get_backend("mine")

    def test_may_be_replaced_only_on_purpose(self):
        registry.register_backend("mine", Mine)
        with pytest.raises(ValueError, match="replace=True"):
            registry.register_backend("mine", Mine())
        other = Mine()
        registry.register_backend("mine", other, replace=True)
        assert registry.executor("mine") is other

    def test_a_failing_check_is_told_as_broken(self):
        class Broken(Mine):
            def probe(self):
                raise ArithmeticError("1 + 1 = 3")

        registry.register_backend("mine", Broken)
        with pytest.raises(BackendUnavailableError, match="failed its check: ArithmeticError: 1 \\+ 1 = 3"):
            registry.ensure("mine")
        assert "failed its check" in registry.available("mine")
        registry.register_backend("mine", Mine, replace=True)
        assert registry.available("mine") is None

    def test_an_interrupted_check_is_not_a_broken_backend(self):
        class Interrupted(Mine):
            def probe(self):
                raise KeyboardInterrupt

        registry.register_backend("mine", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            registry.ensure("mine")
        assert registry.available("mine") is None

    def test_wrong_registrations_say_what_is_wrong(self):
        class Abstract(Executor):
            name = "mine"
            capabilities = Mine.capabilities

        class Unnamed(Mine):
            name = "other"

        class Bare(Mine):
            capabilities = {"float64"}  # noqa: RUF012 - wrong on purpose

        for given, error, text in [
            (Abstract, TypeError, "leaves out probe"),
            (Unnamed, ValueError, "calls itself 'other'"),
            (Bare, TypeError, "Capabilities record"),
            (dict, TypeError, "not a subclass"),
            (object(), TypeError, "expected an Executor"),
        ]:
            with pytest.raises(error, match=text):
                registry.register_backend("mine", given)
        for name in ("Mine", "my backend", "", 3):
            with pytest.raises(ValueError, match="lower-case word"):
                registry.register_backend(name, Mine)
        for name in ("numpy", "dask", "auto"):
            with pytest.raises(ValueError, match="built-in name"):
                registry.register_backend(name, Mine, replace=True)
        with pytest.raises(ValueError, match="there are: none"):
            registry.unregister_backend("mine")
