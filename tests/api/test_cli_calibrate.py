"""`pointsman calibrate`: what it prints where, and its exit codes."""

from __future__ import annotations

import json

import pytest
from pointsman import cli
from pointsman.kernels import calibrate as module
from pointsman.kernels.calibrate_result import Calibration, Note, Row

ROWS = (
    Row("fft", "float64", "", "numpy", "numpy to 10^3, fftw from 10^4", 5, 1.8, 2.5, 100_000),
    Row("fft", "complex64", "", "numpy", "numpy throughout", 5, 1.0, 1.0, 10),
)


def result(**changes: object) -> Calibration:
    fields = {
        "ended": "budget", "budget_s": 60.0, "spent_s": 59.5, "samples": 900, "first_calls": 40, "known": 12,
        "failures": {"fft float64 10^3 torch": "unsupported: no"}, "trusted": True, "busy_cores": 0.1, "rows": ROWS,
        "location": "/some/history.sqlite",
    }  # fmt: skip
    return Calibration(**{**fields, **changes})


@pytest.fixture
def said(monkeypatch, capsys):
    """Run the command on a calibration that gives `answer`; returns (code, out, err, options)."""

    def run(answer: Calibration | Exception, *argv: str):
        asked = {}

        def fake(operations, *, tell, **options):
            asked.update(options, operations=operations)
            if isinstance(answer, Exception):
                raise answer
            tell(Note("measuring", "fft float64 10^3: torch", 0.5))
            tell(Note("learned", "fft float64 10^5: fftw 350 us, 2.1x numpy", 1.0))
            return answer

        monkeypatch.setattr(module, "calibrate", fake)
        monkeypatch.setenv("COLUMNS", "150")
        code = cli.main(["calibrate", *argv])
        return code, *capsys.readouterr(), asked

    return run


def test_it_tells_what_was_learned_and_what_to_do_next(said):
    code, out, err, asked = said(result(), "--budget", "20", "fft")
    assert (code, err) == (0, "")
    assert asked == {"budget_s": 20.0, "strict": False, "operations": ["fft"]}
    assert "1.0 s  fft float64 10^5: fftw 350 us, 2.1x numpy" in out
    assert "numpy to 10^3, fftw from 10^4" in out
    assert "2.5x at 1e5" in out
    assert "and 1 more in other dtypes" in out
    assert "left out: fft float64 10^3 torch: unsupported: no" in out
    assert "900 samples and 40 first calls in 59.5 of 60 s; 12 measurements were known already" in out
    assert "run it again, and it goes on from here" in out
    assert "measuring" not in out


def test_json_is_all_that_is_printed(said):
    code, out, err, _ = said(result(), "--json")
    assert (code, err) == (0, "")
    plain = json.loads(out)
    assert [row["best"] for row in plain["rows"]] == ["numpy to 10^3, fftw from 10^4", "numpy throughout"]
    assert (plain["ended"], plain["trusted"], plain["known"]) == ("budget", True, 12)


def test_a_busy_machine_is_exit_code_1_with_advice(said):
    code, _, err, _ = said(result(trusted=False, busy_cores=1.6))
    assert code == 1
    assert "others used up to 1.6 cores" in err
    assert "counts for a busy machine only" in err
    code, out, err, asked = said(result(trusted=False, ended="busy", rows=()), "--strict")
    assert (code, asked["strict"]) == (1, True)
    assert "because of --strict" in out
    assert "counts for" not in err


def test_what_cannot_be_kept_is_not_called_kept(said):
    code, out, err, _ = said(result(obstacle="/some may not be written"))
    assert code == 1
    assert "not kept: /some may not be written" in out
    assert "goes on from here" not in out
    assert "choose another file with POINTSMAN_HISTORY" in err


def test_an_interrupt_before_anything_is_measured_has_no_traceback(monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "calibrate", stopped)
    assert cli.main(["calibrate"]) == 130
    assert capsys.readouterr().err == "pointsman: interrupted\n"


def test_an_interrupt_is_exit_code_130(said):
    code, out, _, _ = said(result(ended="interrupted"))
    assert code == 130
    assert "interrupted; what was measured is kept" in out


def test_wrong_use_is_exit_code_2(said):
    code, out, err, _ = said(ValueError("calibrate: no kernel is called 'ftt'"), "ftt")
    assert (code, out, err) == (2, "", "pointsman: calibrate: no kernel is called 'ftt'\n")


def test_the_real_thing_fills_the_history(capsys, monkeypatch):
    code = cli.main(["calibrate", "--budget", "1", "--json", "reduction"])
    plain = json.loads(capsys.readouterr().out)
    assert code in (0, 1)  # 1 where something else keeps this machine busy
    assert plain["samples"] > 0
    cli.main(["explain", "reduction", "10", "--json"])
    default = json.loads(capsys.readouterr().out)["candidates"][0]
    assert default["source"] in ("measured", "nearby")
