"""The benchmarks run, tiny: every row is there, and a wrong answer is never timed. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

ROWS = {
    "selecting": {
        "select_backend(workload), learned",
        "pm.select_backend(operation, shape)",
        "WorkloadCharacteristics(...)",
        "WorkloadCharacteristics.of(name, x)",
        "selector.record(...)",
    },
    "running": {
        *(
            f"execute_with_monitoring, {form}, learning {learning}"
            for form in ("closure", "mapping", "takes backend")
            for learning in ("on", "off")
        ),
        "@adaptive, one NumPy array",
        "@adaptive, one array, each call recorded",
        "@adaptive, two NumPy arrays",
        "@adaptive, one torch tensor",
        "@adaptive, a new shape each time",
        "f.bind(x)",
        "pm.run('reduction', x)",
        "recording inside a call",
    },
    "starting": {
        "import pointsman and its main names, all in",
        "the same beyond numpy and a pydantic model",
        "first decision of a process",
        "first decision on an unknown workload, nothing measured",
        "first decision on an unknown workload, its operation measured",
        "next decision after its operation was learned anew",
        "load a history of a million outcomes",
        "recording in a tight loop",
        "the same, all threads, learned and on disk",
    },
}
BASES = {"an empty call", "a dict lookup", "the size-blind rule"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One quick run in a process of its own, as a user starts it, with an environment that must not matter."""
    folder = tmp_path_factory.mktemp("bench")
    out, history = folder / "overhead.json", folder / "mine.sqlite"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.overhead", "--quick", "--json", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={"PATH": "", "HOME": str(folder), "POINTSMAN_HISTORY": str(history), "POINTSMAN_FORCE": "jax"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {"text": done.stdout, "users_history": history.exists(), **json.loads(out.read_text())}


@pytest.fixture
def timing(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import timing

    return timing


def test_every_row_is_there(run: dict[str, Any]) -> None:
    found: dict[str, set[str]] = {}
    for row in run["rows"]:
        found.setdefault(row["part"], set()).add(row["name"])
    assert found == ROWS


def test_figures_are_held_against_the_bases_and_their_targets(run: dict[str, Any]) -> None:
    assert set(run["bases_s"]) == BASES
    select = next(row for row in run["rows"] if row["name"].startswith("select_backend"))
    assert set(select["ratios"]) == BASES
    targets = {(row["name"], row["statistic"]): row["target_s"] for row in run["rows"] if row["target_s"]}
    assert targets[("select_backend(workload), learned", "median")] == 3e-7
    assert targets[("select_backend(workload), learned", "p99")] == 1e-6
    assert len([name for name in targets if name[0].endswith("learning on")]) == 3


def test_misses_are_shown_as_plainly_as_wins(run: dict[str, Any]) -> None:
    for row in run["rows"]:
        line = next(line for line in run["text"].splitlines() if line.startswith(f"{row['name']} "))
        assert "met" in row
        if row["met"] is False:
            assert row["name"] in run["text"].splitlines()[-1]
        assert line


def test_conditions_are_told(run: dict[str, Any]) -> None:
    assert run["conditions"]["versions"]["numpy"]
    assert set(run["load"]) == set(ROWS)
    assert all({"busy", "other_cores"} <= set(seen) for seen in run["load"].values())


def test_the_users_own_history_and_settings_are_left_alone(run: dict[str, Any]) -> None:
    assert not run["users_history"]


def test_a_wrong_answer_is_never_timed(timing: Any) -> None:
    ran: list[int] = []
    case = timing.Case("two and two", "ran.append(1)", {"ran": ran}, lambda: 2 + 2 == 5)
    with pytest.raises(timing.WrongAnswerError, match="two and two"):
        timing.interleaved([case], timing.Effort.quick())
    assert ran == []


def test_a_difference_is_taken_within_rounds(timing: Any) -> None:
    blocks = {"with": [3.0, 13.0, 4.0], "bare": [1.0, 10.0, 2.5]}
    assert timing.difference(blocks, "with", "bare") == 2.0


def test_the_size_blind_rule_is_the_published_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.baselines import SizeBlindRule, Work

    rule = SizeBlindRule(("numba", "torch", "jax"))
    assert rule.select(Work("fft", 10)) == "numba"
    assert rule.select(Work("fft", 1_000_000)) == "jax"
    assert rule.select(Work("fft", 1_000_000, requires_gradient=True)) == "torch"
    for _ in range(5):
        rule.record("torch", "fft", 1.0)
        rule.record("jax", "fft", 0.9)
    rule.record("jax", "fft", 0.0, success=False)  # one failure in six: the score is 0.9 x 7/6
    assert rule.select(Work("fft", 10)) == "torch"  # sizes do not matter to it: that is the point


def test_the_table_is_put_between_its_markers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.report import BEGIN, END, write_between_markers

    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN.format(name='t')}\nold\n{END.format(name='t')}\nafter\n", encoding="utf-8")
    write_between_markers(page, "t", "new")
    write_between_markers(page, "t", "new")
    assert page.read_text(encoding="utf-8").count("new") == 1
    assert "old" not in page.read_text(encoding="utf-8")
    assert page.read_text(encoding="utf-8").startswith("before\n")
    assert page.read_text(encoding="utf-8").endswith("\nafter\n")
    with pytest.raises(ValueError, match="begin"):
        write_between_markers(page, "absent", "new")
