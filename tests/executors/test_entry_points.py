"""Backends that installed packages offer: found late, loaded later, never an exception; and the worked example."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

GOOD = """
import sys
import numpy as np
import pointsman as pm

class Mine(pm.Executor):
    "numbers by hand"
    name = "mine"
    library = "json.tool"
    import_s = 0.25
    capabilities = pm.Capabilities(dtypes=frozenset({"float64"}))
    def probe(self): pass
"""


@pytest.fixture
def offer(tmp_path):
    """Lay an installed package into the search path of `fresh_python`."""

    def install(source=GOOD, *, name="mine", value="their_module:Mine", package="theirs"):
        module = value.partition(":")[0]
        if source is not None:
            (tmp_path / f"{module}.py").write_text(source)
        folder = tmp_path / f"{package}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[pointsman.backends]\n{name} = {value}\n")

    return install


def test_importing_and_decorating_look_for_nothing(fresh_python, offer):
    offer()
    code = """
import sys, pointsman as pm
@pm.adaptive
def f(x, *, xp=None):
    return x
from pointsman.executors import registry
print("importlib.metadata" in sys.modules and bool(registry._LOOKED), "their_module" in sys.modules)
print(registry.names()[-1], "their_module" in sys.modules)
infos = pm.list_backends()
print(infos[-1].name, infos[-1].hint, "their_module" in sys.modules, "json.tool" in sys.modules)
print(registry.import_cost_s("mine"), registry.ensure("mine")[0].name, "json.tool" in sys.modules)
"""
    assert fresh_python(code).splitlines() == [
        "False False",
        "mine False",
        "mine numbers by hand [theirs 1.0] True False",
        "0.25 mine True",
    ]


def test_it_is_forced_preferred_and_disabled_like_any_other(fresh_python, offer):
    offer()
    code = """
import pointsman as pm
w = pm.WorkloadCharacteristics(operation_type="mine too", data_shape=(100,))
try:
    d = pm.default_selector().decide(w)
    print(d.variant, d.set_by, dict(d.excluded).get("mine", "fits"))
except ImportError as error:
    print(error)
"""
    assert fresh_python(code) == "numpy  fits"
    assert fresh_python(code, POINTSMAN_FORCE="mine") == "mine POINTSMAN_FORCE fits"
    assert fresh_python(code, POINTSMAN_FORCE_MINE="1") == "mine POINTSMAN_FORCE_MINE fits"
    assert fresh_python(code, POINTSMAN_PREFER="mine") == "mine POINTSMAN_PREFER fits"
    assert fresh_python(code, POINTSMAN_DISABLE="mine") == "numpy  disabled by POINTSMAN_DISABLE"


BROKEN = {  # name -> what its module holds (None: there is no module), what of it is offered, what is told
    "missing_import": ("import no_such_library", "Mine", "ModuleNotFoundError: No module named 'no_such_library'"),
    "missing_module": (None, "Mine", "ModuleNotFoundError: No module named 'missing_module_module'"),
    "failing_import": ("raise OSError('libfoo.so.3 is gone')", "Mine", "OSError: libfoo.so.3 is gone"),
    "exiting_import": ("raise SystemExit('no licence')", "Mine", "SystemExit: no licence"),
    "missing_class": (GOOD, "Yours", "AttributeError: module 'missing_class_module' has no attribute 'Yours'"),
    "no_executor": ("Mine = dict", "Mine", "TypeError: backend 'no_executor': dict is not a subclass of pointsman's"),
    "a_module": (GOOD, "", "TypeError: backend 'a_module': expected an Executor or a subclass of it, got module"),
    "abstract": (GOOD.replace("probe", "prove"), "Mine", "TypeError: backend 'abstract': Mine leaves out probe"),
    "misnamed": (GOOD, "Mine", "ValueError: backend 'misnamed': the executor calls itself 'mine'; use one name"),
    "failing_init": (GOOD + "    def __init__(self): 1 / 0\n", "Mine", "ZeroDivisionError: division by zero"),
    "failing_look": (GOOD.replace("mine", "failing_look") + "    def devices(self): 1 / 0\n", "Mine",
                     "ZeroDivisionError: division by zero"),
}  # fmt: skip


def test_what_is_wrong_with_an_offer_is_told_and_never_raised(fresh_python, offer):
    values = {}
    for name, (source, attribute, _) in BROKEN.items():
        values[name] = f"{name}_module:{attribute}".rstrip(":")
        offer(source, name=name, value=values[name], package=f"package_{name}")
    code = f"""
import json
import numpy as np, pointsman as pm
assert pm.run("reduction", np.ones(3)) == 3.0
told = {{info.name: [info.available, info.reason] for info in pm.list_backends()}}
w = pm.WorkloadCharacteristics(operation_type="o", data_shape=(3,))
for name in {list(BROKEN)}:
    d = pm.default_selector().decide(w, name)
    told[name] += [d.variant, d.passed_over]
    for use in (pm.get_backend, lambda name: pm.default_selector().decide(w.model_copy(update={{"require": name}}))):
        try:
            use(name)
        except ImportError as error:
            told[name].append(str(error))
print(json.dumps(told))
"""
    told = json.loads(fresh_python(code))
    for name, (_, _, text) in BROKEN.items():
        available, reason, variant, passed_over, used, required = told[name]
        assert not available
        assert reason == (
            f"package_{name} 1.0 offers it as {values[name]}, which cannot be used: {text}. "
            f"Mend or uninstall that package, or go on without: POINTSMAN_DISABLE={name}"
        ).replace("pointsman's.", "pointsman's Executor.")
        assert variant == "numpy"
        assert passed_over == f"preferred_backend={name!r} is passed over: {reason}"
        assert used == reason
        assert required.endswith(f"it cannot run: {reason}")


def test_one_that_ends_the_program_when_it_is_first_used_is_broken(fresh_python, offer):
    offer(GOOD.replace("pass", "sys.exit(3)"))
    code = """
import pointsman as pm
from pointsman.executors import registry
for _ in range(2):
    try:
        registry.ensure("mine")
    except ImportError as error:
        print(error)
"""
    told = "json.tool is installed but failed its check: SystemExit: 3. Reinstall it, or go on without: "
    assert fresh_python(code).splitlines() == [f"{told}POINTSMAN_DISABLE=mine"] * 2


def test_two_packages_with_one_name_and_a_wrong_name(fresh_python, offer):
    offer()
    offer(package="others", value="other_module:Mine")
    offer(package="careless", name="My Backend")
    code = """
import pointsman as pm
from pointsman.executors.table import BACKENDS
for info in pm.list_backends():
    if info.name not in BACKENDS:
        print(info.name, "|", info.available, "|", info.reason)
"""
    assert fresh_python(code).splitlines() == [
        "My Backend | False | a backend's name is a lower-case word such as 'cunumeric', not 'My Backend'",
        "mine | False | others 1.0 and theirs 1.0 offer a backend of this name; uninstall all of them but one",
    ]


def test_a_built_in_name_is_not_taken_over_and_told_once(fresh_python, offer):
    offer(GOOD.replace("mine", "torch"), name="torch")
    code = """
import warnings
import pointsman as pm
from pointsman.executors import registry
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    print(type(registry.executor("torch")).__module__)
    pm.list_backends(), pm.list_backends(), registry.names()
print(*(w.message for w in told))
"""
    assert fresh_python(code).splitlines() == [
        "pointsman.executors.on_torch",
        "theirs 1.0 offers a backend called 'torch', which is a built-in name and stays what it is; its maintainer "
        "must choose another",
    ]


def test_what_a_process_registers_itself_may_replace_an_offer_and_be_taken_out(fresh_python, offer):
    offer()
    code = """
import numpy as np, pointsman as pm
from pointsman.executors import registry
class Own(pm.Executor):
    name = "mine"
    capabilities = pm.Capabilities(dtypes=frozenset({"float64"}))
    def probe(self): pass
try:
    pm.register_backend("mine", Own)
except ValueError as error:
    print(error)
pm.register_backend("mine", Own, replace=True)
print(type(registry.executor("mine")).__name__)
registry.unregister_backend("mine")
print("mine" in registry.names())
"""
    assert fresh_python(code).splitlines() == [
        "a backend called 'mine' is registered already by theirs 1.0; pass replace=True to replace it",
        "Own",
        "False",
    ]


def test_a_module_that_decides_something_while_it_is_imported_is_not_broken(fresh_python, offer):
    """A library that brings a backend and uses `@adaptive` itself; the backend counts from when the module is there."""
    offer("import pointsman as pm\nassert pm.list_backends()[-1].name == 'mine'\n" + GOOD)
    code = """
import their_module, pointsman as pm
print([(info.name, info.available, info.reason) for info in pm.list_backends()][-1])
"""
    assert fresh_python(code) == "('mine', True, '')"


def test_threads_that_come_at_once_get_one_executor(fresh_python, offer):
    offer()
    code = """
import threading
from concurrent.futures import ThreadPoolExecutor
from pointsman.executors import registry
gate = threading.Barrier(8)
def first(_):
    gate.wait()
    return registry.names()[-1], id(registry.executor("mine"))
with ThreadPoolExecutor(8) as pool:
    print(len(set(pool.map(first, range(8)))))
"""
    assert fresh_python(code) == "1"


# ---- the worked example of the docs, installed for real


@pytest.fixture(scope="module")
def example(tmp_path_factory, request):
    """A folder that holds the installed example."""
    folder = tmp_path_factory.mktemp("example")
    source = folder / "source"  # building leaves files behind
    shutil.copytree(request.config.rootpath / "docs" / "example_backend", source)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", "install", "--no-deps",
               "--no-build-isolation", "--target", str(folder / "site"), str(source)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture
def with_example(fresh_python, example, tmp_path):
    shutil.copytree(example, tmp_path, dirs_exist_ok=True)
    return fresh_python


def test_the_example_is_listed_and_loads_no_library(with_example):
    code = """
import json, sys, pointsman as pm
[info] = [info for info in pm.list_backends() if info.name == "strict"]
print(json.dumps([info.available, info.reason, info.hint, info.version, "array_api_strict" in sys.modules]))
"""
    available, reason, hint, version, loaded = json.loads(with_example(code))
    assert (available, reason, loaded) == (True, "", False)
    assert hint == "refuses whatever the array API standard lacks; for checks, not for speed [pointsman-strict 1.0]"
    assert version.startswith("2.")


def test_the_example_runs_every_portable_kernel_and_agrees(with_example):
    """Its arrays are of a kind of their own: so each kernel with a portable implementation has a variant on it."""
    code = """
import json
import numpy as np, pointsman as pm
from pointsman.kernels.table import KERNELS
from pointsman.selector.operations import find
told = {}
for name in KERNELS:
    kernel = find(name)
    own = [v.name for v in kernel.variants if v.backend == "strict"]
    args, kwargs = kernel.sample(np.random.default_rng(0), 1000, "float64")
    if own:
        with pm.use("strict"):
            found = pm.run(name, *args, **kwargs)
        wanted = kernel.reference(*args, **kwargs)
        error = float(np.max(np.abs(found - wanted)) / np.max(np.abs(wanted)))
        told[name] = [type(found).__module__, found.dtype == wanted.dtype, error <= kernel.tolerances["float64"]]
    elif kernel.portable is not None:
        told[name] = "no variant"
print(json.dumps(told))
"""
    told = json.loads(with_example(code))
    assert {"matmul", "element_wise", "reduction"} <= set(told)
    assert set(map(tuple, told.values())) == {("numpy", True, True)}, told


def test_the_example_keeps_its_own_arrays_and_tells_sizes_and_dtypes_apart(with_example):
    code = """
import array_api_strict as xp, numpy as np, pointsman as pm
@pm.adaptive
def centred(x, *, xp=None):
    return x - xp.mean(x)
for n, dtype in [(4, xp.float64), (6, xp.float64), (4, xp.float32)]:
    x = xp.asarray(np.arange(n), dtype=dtype)
    y = centred(x)
    d = centred.explain(x)
    print(type(y).__name__, y.dtype, y.shape, d.variant, d.workload.split()[1:3])
w = pm.WorkloadCharacteristics.of("w", x)
print(w.residency, w.dtype, type(pm.convert(x, "numpy")).__name__, type(pm.convert(np.ones(2), "strict")).__name__)
print(pm.default_selector()._runners, len(centred._dispatcher()._entries))
"""
    assert with_example(code).splitlines() == [
        "Array array_api_strict.float64 (4,) strict ['4', 'float64']",
        "Array array_api_strict.float64 (6,) strict ['6', 'float64']",
        "Array array_api_strict.float32 (4,) strict ['4', 'float32']",
        "strict float32 ndarray Array",
        "{} 3",
    ]


def test_the_example_says_what_is_not_in_the_standard(with_example):
    code = """
import numpy as np, pointsman as pm
@pm.adaptive
def careless(x, *, xp=None):
    return xp.median(x)
print(float(careless(np.ones(3))))
with pm.use("strict"):
    try:
        careless(np.ones(3))
    except AttributeError as error:
        print(error)
"""
    lines = with_example(code).splitlines()
    assert lines[0] == "1.0"
    assert "has no attribute 'median'" in lines[1]


def test_without_its_library_the_example_is_missing_and_uninstalled_it_is_gone(with_example, tmp_path):
    code = """
import sys
sys.modules["array_api_strict"] = None
import pointsman as pm
print([info.reason for info in pm.list_backends() if info.name == "strict"])
try:
    pm.get_backend("strict")
except ValueError as error:
    print(error)
except ImportError as error:
    print("missing:", error)
"""
    missing = "array_api_strict is not installed; pip install array_api_strict"
    assert with_example(code).splitlines() == [f"['{missing}']", f"missing: {missing}"]
    [info] = tmp_path.glob("pointsman_strict-*.dist-info")
    shutil.rmtree(info)
    lines = with_example(code).splitlines()
    assert lines[0] == "[]"
    assert lines[1].startswith("no backend is called 'strict'")
