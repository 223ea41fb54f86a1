"""The command line: what it prints, for people and for programs, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pointsman import cli
from pointsman.executors.table import BACKENDS
from pointsman.kernels.table import KERNELS
from pointsman.selector import settings
from pointsman.selector import shared as selectors

COMMANDS = [
    ["backends"], ["explain"], ["run"], ["agreement"], ["calibrate"], ["summary"], ["history"], ["history", "path"],
    ["history", "reset"], ["demo"],
]  # fmt: skip


@pytest.fixture(autouse=True)
def shared(monkeypatch, tmp_path):
    """A shared selector with a history of its own, and an environment that says nothing else."""
    for name in list(settings.os.environ):
        if name.startswith("POINTSMAN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("POINTSMAN_HISTORY", str(tmp_path / "history.sqlite"))
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setattr(selectors, "_shared", None)
    yield
    if selectors._shared is not None:
        selectors._shared.history.close()


def run(capsys, *argv: str) -> tuple[int, str, str]:
    try:
        code = cli.main(argv)
    except SystemExit as stop:  # argparse leaves this way
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_stands_on_its_own(capsys, command):
    code, out, _ = run(capsys, *command, "--help")
    assert code == 0
    assert out.startswith(f"usage: pointsman {' '.join(command)}")
    assert "example: pointsman" in out
    assert len(out.splitlines()) > 5


def test_the_help_of_run_lists_the_operations(capsys):
    _, out, _ = run(capsys, "run", "--help")
    assert all(name in out for name in KERNELS)


def test_backends_lists_every_one_of_the_table(capsys):
    code, out, _ = run(capsys, "backends", "--json")
    listed = json.loads(out)
    assert (code, [row["name"] for row in listed]) == (0, list(BACKENDS))
    for row in listed:
        told = row["version"] or not BACKENDS[row["name"]].library if row["available"] else row["reason"]
        assert told, row
    assert next(row for row in listed if row["name"] == "torch")["capabilities"]["gradients"] is True
    code, out, _ = run(capsys, "backends")
    assert code == 0
    assert all(name in out for name in BACKENDS)


def test_backends_says_what_is_switched_off_or_forced_and_by_what(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("POINTSMAN_DISABLE", "scipy")
    monkeypatch.setenv("POINTSMAN_FORCE", "numpy")
    _, out, _ = run(capsys, "backends")
    lines = out.splitlines()
    assert [line.split()[1] for line in lines if "switched off by POINTSMAN_DISABLE" in line] == ["scipy"]
    assert lines[-1] == "for arrays, only numpy may be chosen: POINTSMAN_FORCE"
    _, out, _ = run(capsys, "backends", "--json")
    said = {row["name"]: (row["disabled"], row["forced"]) for row in json.loads(out)}
    assert {name: flags for name, flags in said.items() if any(flags)} == {
        "scipy": (True, False),
        "numpy": (False, True),
    }
    _, out, _ = run(capsys, "backends", "--available", "--json")
    assert "scipy" not in [row["name"] for row in json.loads(out)]


def test_backends_tells_a_forced_map_backend_from_one_for_arrays(capsys, monkeypatch):
    monkeypatch.setenv("POINTSMAN_FORCE_SEQUENTIAL", "1")
    _, out, _ = run(capsys, "backends")
    assert out.endswith("for maps, only sequential may be chosen: POINTSMAN_FORCE_SEQUENTIAL\n")


def test_explain_prints_the_decision(capsys):
    code, out, _ = run(capsys, "explain", "matmul", "300x300", "--dtype", "float32")
    assert code == 0
    assert out.startswith("matmul 300x300 300x300 float32\n-> ")
    code, out, _ = run(capsys, "explain", "matmul", "300x300|300x4", "--json")
    decision = json.loads(out)
    assert (code, decision["operation"], decision["chain"][0]) == (0, "matmul", decision["variant"])


def test_explain_knows_any_name_and_honours_gradients(capsys):
    code, out, _ = run(capsys, "explain", "my_own_solver", "1000,1000", "--json")
    assert (code, json.loads(out)["workload"]) == (0, "my_own_solver 1000x1000 float64")
    code, out, _ = run(capsys, "explain", "fft", "1000x1000", "--grad", "--json")
    assert (code, json.loads(out)["backend"] in ("torch", "jax")) == (0, True)
    code, out, _ = run(capsys, "explain", "derivative", "4096", "--param", "order=1.5")
    assert (code, "derivative" in out) == (0, True)


def test_explain_notes_the_kernel_that_a_mistyped_name_may_have_meant(capsys):
    note = "no kernel is called 'ftt'; did you mean 'fft'?"
    _, out, _ = run(capsys, "explain", "ftt", "10")
    assert note in out
    _, out, _ = run(capsys, "explain", "ftt", "10", "--json")
    assert json.loads(out)["notes"][-1] == note
    _, out, _ = run(capsys, "explain", "my_own_solver", "10")
    assert "did you mean" not in out


def test_explain_takes_no_memory_for_the_operands(capsys):
    code, out, _ = run(capsys, "explain", "element_wise", "1000000x100000", "--json")
    assert code in (0, 1)  # 800 GB: whether anything can run it is the machine's business
    assert "Traceback" not in out


def test_run_runs_and_records(capsys):
    code, out, _ = run(capsys, "run", "fft", "64x128", "--repeat", "3", "--json")
    report = json.loads(out)
    assert (code, report["calls"], report["result"]) == (0, 3, {"shape": [64, 65], "dtype": "complex128"})
    assert report["median_s"] > 0
    code, out, _ = run(capsys, "summary", "--json")
    (fft,) = json.loads(out)["operations"]["fft"]
    assert code == 0
    assert sum(v["count"] + v["cold_count"] for v in fft["variants"].values()) == 3
    code, out, _ = run(capsys, "run", "matmul", "8x8")
    assert (code, "next call: " in out) == (0, True)


def test_run_finds_fitting_shapes_for_operands_left_out(capsys):
    for operation, shape, result in [
        ("matmul", "6x4", [6, 6]), ("conv", "100", [109]), ("conv", "100x25", [109, 29]),
        ("pairwise_distance", "7x3", [7, 7]),
    ]:  # fmt: skip
        code, out, err = run(capsys, "run", operation, shape, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["result"]["shape"] == result


@pytest.mark.parametrize("operation", ["sort", "mylib.sort"])
def test_explain_counts_the_calls_that_are_said_to_come(capsys, operation):
    told = [json.loads(run(capsys, "explain", operation, "1000000", "--calls", n, "--json")[1]) for n in ("1", "1000")]
    assert [decision["calls"] for decision in told] == [1.0, 1000.0]


def test_summary_is_a_table_for_people(capsys):
    run(capsys, "run", "fft", "64x128", "--repeat", "3")
    code, out, _ = run(capsys, "summary")
    assert code == 0
    assert "fft" in out
    assert "numpy" in out


def test_history_says_where_it_is_and_forgets(capsys, tmp_path):
    run(capsys, "run", "fft", "64")
    run(capsys, "run", "matmul", "8x8")
    code, out, _ = run(capsys, "history", "path")
    assert (code, out.strip()) == (0, str(tmp_path / "history.sqlite"))
    code, out, _ = run(capsys, "history", "reset", "--operation", "fft")
    assert (code, out.startswith("forgot fft")) == (0, True)
    _, out, _ = run(capsys, "summary", "--json")
    assert list(json.loads(out)["operations"]) == ["matmul"]
    code, out, _ = run(capsys, "history", "reset")
    assert (code, out.startswith("forgot everything")) == (0, True)
    _, out, _ = run(capsys, "summary", "--json")
    assert json.loads(out)["operations"] == {}


@pytest.mark.parametrize("command", [["history", "path"], ["summary"]], ids=" ".join)
def test_a_history_that_cannot_be_kept_is_told_before_it_is_written(capsys, monkeypatch, tmp_path, command):
    _, out, err = run(capsys, *command)
    assert (bool(out), err) == (True, "")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("POINTSMAN_HISTORY", str(tmp_path / "file" / "below" / "history.sqlite"))
    monkeypatch.setattr(settings, "_current", None)
    monkeypatch.setattr(selectors, "_shared", None)
    code, _, err = run(capsys, *command)
    assert code == 0
    assert f"cannot be kept: {tmp_path / 'file'} is no folder; choose another with POINTSMAN_HISTORY" in err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([], "COMMAND"),
        (["explian"], "explain"),
        (["explain", "fft"], "SHAPE"),
        (["explain", "fft", "10xfoo"], "'10xfoo' is no shape"),
        (["explain", "fft", "-5"], "-5"),
        (["explain", "fft", "10", "--dtype", "float46"], "complex128"),
        (["explain", "fft", "10", "--calls", "9" * 400], "1 or more"),
        (["run", "ftt", "10"], "did you mean 'fft'"),
        (["run", "fft", "10", "--repeat", "0"], "1 or more"),
        (["run", "fft", "10", "--dtype", "int32"], "float64"),
        (["run", "matmul", "3x4|5x6"], "must agree"),
        (["run", "fft", "10", "--param", "order"], "NAME=VALUE"),
        (["demo", "--budget", "soon"], "seconds, 0 or more"),
        (["run", "fft", "10", "--param", "taps=3"], "no parameter 'taps'; it has: n, norm"),
        (["explain", "matmul", "8x8", "--param", "a=1"], "it has none"),
        (["history", "reset", "--operation", "never"], "nothing is known of 'never'"),
        (["history"], "ACTION"),
        (["history", "forget"], "reset"),
    ],
)
def test_wrong_use_ends_with_code_2_and_says_what_is_right(capsys, argv, told):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert told in err


def test_a_wrong_environment_is_wrong_use(capsys, monkeypatch):
    monkeypatch.setenv("POINTSMAN_FORCE", "jaxx")
    code, _, err = run(capsys, "explain", "fft", "10")
    assert code == 2
    assert "POINTSMAN_FORCE: no backend is called 'jaxx'" in err


def test_what_nothing_can_run_is_a_failure(capsys, monkeypatch):
    monkeypatch.setenv("POINTSMAN_FORCE", "numba")
    code, out, err = run(capsys, "run", "matmul", "8x8")
    assert (code, out) == (1, "")
    assert "numba" in err


def test_demo_hands_its_options_on_and_its_code_back(capsys, monkeypatch):
    from pointsman import demo

    told: list[list[str]] = []
    monkeypatch.setattr(demo, "main", lambda argv: told.append(argv) or 1)
    assert run(capsys, "demo", "--quick", "--budget", "3")[0] == 1
    assert told == [["--quick", "--budget", "3.0"]]


def test_the_version_can_be_asked_for(capsys):
    code, out, _ = run(capsys, "--version")
    assert (code, out.startswith("pointsman ")) == (0, True)


def test_the_installed_command_answers():
    done = subprocess.run(
        [sys.executable, "-m", "pointsman.cli", "backends", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["name"] == "numpy"
