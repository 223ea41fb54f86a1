"""`pointsman lock export | check` and `pointsman history merge`: what they print, write and return."""

from __future__ import annotations

import json

import pointsman as pm
import pytest
from pointsman import cli
from pointsman.selector.lock import Lock, Pin
from pointsman.telemetry.history import History
from pointsman.telemetry.outcome import Outcome, Site

W = pm.WorkloadCharacteristics(operation_type="fft", data_size=1000)


def run(capsys, *argv) -> tuple[int, str, str]:
    try:
        code = cli.main([str(part) for part in argv])
    except SystemExit as stop:  # argparse leaves this way
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def known():
    """A shared history in which scipy is worth its import for one size of an operation."""
    selector = pm.default_selector()
    for variant, seconds in (("numpy", 3e-3), ("scipy", 1e-3)):
        for i in range(20):
            site = Site("mylib.blur", variant, "float64", "20", "", 1000.0, 1000)
            selector.history.record(Outcome(site, selector.history.now() - i, seconds, calls=1000))
    selector.flush()
    return selector


@pytest.mark.parametrize(
    "command", [["lock"], ["lock", "export"], ["lock", "check"], ["history", "merge"]], ids=" ".join
)
def test_help_stands_on_its_own(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert out.startswith(f"usage: pointsman {' '.join(command)}")
    assert "example: pointsman" in out


@pytest.mark.usefixtures("known")
def test_an_exported_lock_is_read_back_and_decides(capsys, tmp_path, monkeypatch):
    path = tmp_path / "a.lock.json"
    assert run(capsys, "lock", "export", path) == (0, f"{path}: 1 choice\n", "")
    [pin] = Lock.read(path).pins
    assert (pin.operation, pin.shape_class, pin.variant) == ("mylib.blur", "20", "scipy")
    code, out, err = run(capsys, "lock", "export")
    assert (code, out, err) == (0, path.read_text(), "")
    pm.configure(lock=path)
    code, out, _ = run(capsys, "explain", "mylib.blur", "1000", "--json")
    told = json.loads(out)
    assert (told["variant"], told["rule"], told["chain"]) == ("scipy", "pinned", ["scipy"])
    assert str(path) in told["reason"]
    assert run(capsys, "lock", "export", path)[0] == 0  # a lock is replaced, and what is exported heeds none
    assert [pin.variant for pin in Lock.read(path).pins] == ["scipy"]


def test_export_says_where_nothing_is_known_and_replaces_no_stranger(capsys, tmp_path):
    code, out, err = run(capsys, "lock", "export")
    assert (code, Lock.parse(out).pins) == (0, ())
    assert "pins everything to the default" in err
    other = tmp_path / "thesis.json"
    other.write_text("{}")
    code, _, err = run(capsys, "lock", "export", other)
    assert (code, other.read_text()) == (2, "{}")
    assert "no lock to be replaced" in err
    code, _, err = run(capsys, "lock", "export", tmp_path / "nowhere" / "a.json")
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.usefixtures("known")
def test_check_tells_what_differs_and_fails_only_where_something_cannot_run(capsys, tmp_path):
    path = tmp_path / "a.lock.json"
    slower = Pin("mylib.blur", "float64", "20", "", "numpy")
    machine = {"libraries": {"numpy": "0.9"}}
    path.write_text(Lock((slower, Pin("fft", "float64", "20", "", "numpy")), machine).text())
    code, out, err = run(capsys, "lock", "check", path)
    assert (code, err) == (0, "")
    assert "mylib.blur 1024 float64: locked numpy 3 ms, here scipy 1 ms, 3x faster" in out
    assert "version: numpy: locked with 0.9, here " in out
    assert "2 choices, 0 cannot run here, 1 would be chosen differently" in out
    path.write_text(Lock((slower, Pin("fft", "float64", "20", "", "torch@cuda:7")), machine).text())
    code, out, _ = run(capsys, "lock", "check", path)
    assert code == 1
    assert "fft 1024 float64: locked torch@cuda:7 cannot run here: there is no usable cuda:7 here" in out
    code, out, _ = run(capsys, "lock", "check", path, "--json")
    told = json.loads(out)
    assert (code, told["runs"], len(told["versions"])) == (1, False, 1)
    assert [(row["operation"], row["runs"], row["here"]) for row in told["choices"]] == [
        ("fft", False, None), ("mylib.blur", True, "scipy"),
    ]  # fmt: skip


def test_check_of_what_is_no_lock_fails_with_the_fix(capsys, tmp_path):
    code, out, err = run(capsys, "lock", "check", tmp_path / "none.json")
    assert (code, out) == (2, "")
    assert "there is no lock file" in err
    assert "pointsman lock export" in err


def test_check_says_what_it_cannot_judge(capsys, tmp_path):
    path = tmp_path / "a.lock.json"
    path.write_text(Lock((Pin("mylib.blurr", "float64", "20", "", "numpy"),)).text())
    code, out, err = run(capsys, "lock", "check", path)
    assert (code, out) == (0, f"{path}: 1 choice, 0 cannot run here, 0 would be chosen differently\n")
    assert "not known here: mylib.blurr;" in err
    path.write_text(Lock(()).text())
    code, _, err = run(capsys, "lock", "check", path)
    assert code == 0
    assert f"{path} holds no choice: under it, everything takes the default" in err


def test_a_pinned_decision_says_so_once(capsys, tmp_path):
    path = tmp_path / "a.lock.json"
    path.write_text(Lock(()).text())
    pm.configure(lock=path)
    _, out, _ = run(capsys, "explain", "fft", "1000")
    assert f"not scipy: pinned to numpy: {path} holds no fft float64: the default" in out


def test_histories_are_merged_from_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, when in (("a", 1.7e9), ("b", 1.8e9)):
        history = History.open(tmp_path / f"{name}.sqlite", background=False)
        history.record(Outcome(Site("fft", "numpy", "float64", "20", "", 1e3, 1000), when, 0.01))
        history.close()
    a, b, c = (tmp_path / f"{name}.sqlite" for name in "abc")
    code, out, err = run(capsys, "history", "merge", a, b, "--into", c)
    assert (code, out.splitlines()) == (0, [f"{a}: 1 outcome", f"{b}: 1 outcome", f"{c}: 2 outcomes in 1 sketch"])
    assert "does not say which machine" in err
    code, _, err = run(capsys, "history", "merge", a, b, "--into", c)
    assert code == 2
    assert "exists already" in err
    code, out, _ = run(capsys, "history", "merge", a, b, "--into", tmp_path / "d.sqlite", "--json")
    assert json.loads(out)["sources"] == {str(a): 1, str(b): 1}
    assert run(capsys, "history", "merge", a, b)[1].splitlines()[-1].endswith("merged.sqlite: 2 outcomes in 1 sketch")
    assert run(capsys, "history", "merge", a, b)[0] == 2  # there now
