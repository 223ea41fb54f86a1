"""The benchmark's command lines: what they print, and how they refuse nonsense."""

from __future__ import annotations

import json
import os
import re

import pytest
from costs_on_file import grid, write

from benchmarks.selection import __main__ as command
from benchmarks.selection import report, streams


def test_json_is_all_that_is_printed(tmp_path, capsys):
    quiet = write(tmp_path / "quiet.json", grid(("sums",)))
    busy = write(tmp_path / "busy.json", grid(("sums",), slower=5.0), context="busy")
    asked = ["--policy", "always-numpy", "--policy", "oracle", "--calls", "120", "--json"]
    assert command.main([str(quiet), str(busy), *asked]) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results) == list(streams.STREAMS)
    for policies in results.values():
        assert sorted(policies) == ["always-numpy", "oracle"]
        assert policies["oracle"]["total_over_oracle"] == 1.0
        assert policies["always-numpy"]["harm_rate"] == 0.0
    assert results["uniform"]["oracle"]["recovery_calls"] is None


def test_without_json_each_stream_is_a_table(tmp_path, capsys):
    path = write(tmp_path / "quiet.json", grid(("sums",)))
    single = write(tmp_path / "single.json", grid(("sums",)), threads=1)
    asked = ["--policy", "always-numpy", "--stream", "uniform", "--calls", "50"]
    assert command.main([str(path), str(single), *asked]) == 0
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert [table.splitlines()[0] for table in tables] == [
        "uniform: 50 calls, 5 cells, quiet",
        "uniform@single: 50 calls, 5 cells, single",
    ]
    assert tables[0].splitlines()[-1].startswith("always-numpy  ")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["--policy", "wisest"], "no policy 'wisest'; there are: .*oracle, always-numpy"),
        (
            ["--stream", "flood"],
            "no stream 'flood'; there are: uniform, zipf, unseen, storm, switch, break, step, cold",
        ),
        (["--stream", "switch"], "does not suffice for the stream 'switch': it needs a quiet and a busy matrix"),
        (["--calls", "1"], "found --calls 1; expected at least 20"),
        (["--seed", "-1"], "found --seed -1; expected 0 or more"),
        (["--figures", "quiet.json"], "--figures quiet.json: .*quiet.json is no folder"),
        (["--figures", "quiet.json/below"], "quiet.json is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_replayed(asked, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "measured", None)
    path = write(tmp_path / "quiet.json", grid(("sums",)))
    with pytest.raises(SystemExit) as end:
        command.main([str(path), *asked])
    assert end.value.code == 2
    assert re.search(told, capsys.readouterr().err.replace("\n", " "))


def test_a_file_that_is_no_matrix_ends_with_its_name(tmp_path, capsys):
    path = tmp_path / "odd.json"
    path.write_text("{}", encoding="utf-8")
    for given in (path, tmp_path / "gone.json", tmp_path):
        with pytest.raises(SystemExit) as end:
            command.main([str(given)])
        assert end.value.code == 2
        assert given.name in capsys.readouterr().err


@pytest.mark.parametrize("stream", list(streams.STREAMS))
def test_the_shortest_stream_has_every_measure(stream, tmp_path, capsys):
    quiet = write(tmp_path / "quiet.json", grid(("sums",)))
    busy = write(tmp_path / "busy.json", grid(("sums",), slower=5.0), context="busy")
    asked = ["--policy", "always-numpy", "--calls", str(command.LEAST_CALLS), "--json", "--stream", stream]
    assert command.main([str(quiet), str(busy), *asked]) == 0
    assert json.loads(capsys.readouterr().out)[stream]["always-numpy"]["regret_p95"] >= 1.0


def test_a_machine_without_a_stream_is_passed_over_where_another_has_it(tmp_path, capsys):
    quiet = write(tmp_path / "quiet.json", grid(("sums",)))
    busy = write(tmp_path / "busy.json", grid(("sums",), slower=5.0), context="busy")
    single = write(tmp_path / "single.json", grid(("sums",)), threads=1)
    asked = ["--policy", "oracle", "--calls", "60", "--json", "--stream", "switch"]
    assert command.main([str(quiet), str(busy), str(single), *asked]) == 0
    out, err = capsys.readouterr()
    assert list(json.loads(out)) == ["switch"]
    assert "single: no stream 'switch': it needs a quiet and a busy matrix" in err


def test_figures_for_a_folder_that_may_not_be_written_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "may not be written" in command._no_figures(tmp_path / "new")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "is not JSON"),
        (b"[]", "holds no results"),
        (b'{"uniform": {}}', "holds no results"),
        (b'{"uniform": {"oracle": {"total_s": "much"}}}', "holds no results"),
    ],
)
def test_a_report_of_something_else_ends_with_the_file(content, told, tmp_path, capsys):
    path = tmp_path / "results.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        report.main([str(path)])
    assert end.value.code == 2
    assert re.search(rf"results.json.*{told}", capsys.readouterr().err.replace("\n", " "))
