"""The README and the docs: every Python block runs, every command line works, every link leads somewhere."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pointsman as pm
import pytest
from pointsman.executors import registry
from pointsman.executors.mapping import COMMON, MapExecutor
from pointsman.executors.table import BACKENDS, BackendType
from pointsman.kernels.monte_carlo_run import GLOBAL_GENERATOR
from pointsman.selector import maps, settings

from benchmarks import option_price

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def interpreter(folder: Path, *argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    return subprocess.run(
        [sys.executable, *argv], cwd=folder, env={**clean, "POINTSMAN_HISTORY": str(folder), **environ},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


def test_the_pages_are_there_and_have_code():
    assert [page.name for page in PAGES if blocks(page, "python")] == [
        "README.md", "add-a-backend.md", "add-a-kernel.md", "adopt.md", "best-practices.md", "calibrate.md",
        "chains.md", "coming-from.md", "how-selection-decides.md", "map.md", "monte-carlo-examples.md",
        "monte-carlo.md", "pinned.md", "settings.md", "tutorial.md", "wavelets.md",
    ]  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name)
def test_python_blocks_run_in_order(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n\n".join(blocks(page, "python")), encoding="utf-8")
    done = interpreter(tmp_path, str(script))
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_the_first_example_prints_a_decision(tmp_path):
    first = blocks(PAGES[0], "python")[0]
    assert len(first.strip().splitlines()) <= 12
    done = interpreter(tmp_path, "-c", first)
    assert "-> " in done.stdout
    assert "numpy" in done.stdout


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=lambda page: page.name)
def test_command_lines_work(page, tmp_path):
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    for line in dict.fromkeys(lines):
        before, ours, argv = line.partition("pointsman ")
        if not ours:
            continue  # pip install
        given = dict(pair.split("=") for pair in before.split())
        done = interpreter(tmp_path, "-m", "pointsman.cli", *shlex.split(argv), **given)
        assert (done.returncode, bool(done.stdout)) == (0, True), f"{line}: {done.stderr}"


def test_each_trouble_ends_in_a_command_that_shows_the_answer():
    page = ROOT / "docs" / "troubleshooting.md"
    troubles = page.read_text(encoding="utf-8").split("\n## ")[1:]
    assert len(troubles) >= 8
    for trouble in troubles:
        assert re.search(r"```console\n(\$ [^\n]*pointsman [^\n]+\n)+```\s*$", trouble), trouble.splitlines()[0]


def test_the_page_shows_the_example_backend_as_it_is():
    source = (ROOT / "docs" / "example_backend" / "pointsman_strict.py").read_text(encoding="utf-8")
    project = (ROOT / "docs" / "example_backend" / "pyproject.toml").read_text(encoding="utf-8")
    page = ROOT / "docs" / "add-a-backend.md"
    assert source in blocks(page, "python")
    [entry] = blocks(page, "toml")
    assert entry in project


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_the_first_screen_of_the_readme_says_what_it_must():
    screen = PAGES[0].read_text(encoding="utf-8").split("\n---\n")[0]
    assert len(screen.splitlines()) <= 45
    assert len(re.findall(r"^- ", screen, re.MULTILINE)) == 4
    for part in ("pip install", "When not to use it", "Last bits may change"):
        assert part in screen


def test_every_setting_stands_in_the_table():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert set(settings._VARIABLES) <= set(re.findall(r"`(POINTSMAN_[A-Z_]+)`", text))
    for variable, field in settings._VARIABLES.items():
        assert f"| `{variable}` | `{field}` |" in text
    for mode in settings.MODES:
        assert f"`{mode}`" in text


def test_every_option_of_monte_carlo_stands_in_the_table():
    page = (ROOT / "docs" / "monte-carlo.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \| (all|`\w+`) \| (.+) \|$", page, re.MULTILINE)
    executors = {name: executor for name, executor in ((name, registry.executor(name)) for name in BACKENDS)
                 if isinstance(executor, MapExecutor)}  # fmt: skip
    own = [(option, f"`{name}`", told) for name, found in executors.items() for option, told in found.options.items()]
    common = [(option, "all", told) for option, told in COMMON.items()]
    named = set(inspect.signature(pm.run_monte_carlo).parameters)
    by_hand = [row for row in shown if row[1] == "all" and row[0] in named - set(COMMON)]
    assert [row[0] for row in by_hand] == ["prefer", "rerun"]
    assert shown == [*common, *by_hand, *own]


def test_the_reasons_against_threads_are_quoted_as_they_are_told():
    page = (ROOT / "docs" / "monte-carlo-examples.md").read_text(encoding="utf-8")
    facts = [maps.Facts(1.0, 1.0, 1.0, shares) for shares in (None, False)]
    told = {maps.objections(each, None, set())["threads"] for each in facts}
    assert set(re.findall(r'^\| "(?!the worker draws)(.+?)" \|', page, re.MULTILINE)) == told
    [quoted] = re.findall(r'^\| "(the worker draws.+?) \.\.\." \|', page, re.MULTILINE)
    assert GLOBAL_GENERATOR.startswith(quoted)


def test_the_page_shows_the_price_of_an_option_as_the_benchmark_simulates_it():
    page = ROOT / "docs" / "monte-carlo-examples.md"
    assert any(inspect.getsource(option_price.simulated_price) in block for block in blocks(page, "python"))


def test_the_glossary_names_only_backends_that_exist():
    row = next(
        line for line in (ROOT / "docs" / "glossary.md").read_text().splitlines() if line.startswith("| backend")
    )
    assert set(re.findall(r"`(\w+)`", row)) <= set(BackendType)
