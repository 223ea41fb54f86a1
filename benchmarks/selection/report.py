"""The figures of a replay as Markdown, one table per stream, losses told beside the wins.

``python -m benchmarks.selection MATRIX... --json > FILE`` makes the figures;
``python -m benchmarks.selection.report FILE [--about LINE ...] [--write]`` prints them or renews README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..report import seconds_text, write_between_markers

OURS, ORACLE, ALWAYS = "pointsman", "oracle", "always-"
PAGE = Path(__file__).with_name("README.md")
MARKER = "selection"

Figures = Mapping[str, float | None]
Results = Mapping[str, Mapping[str, Figures]]  # stream -> policy -> measure -> figure


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 10.0 else f"{value:.3g}"


def _share(value: float) -> str:
    return f"{100.0 * value:.1f} %"


def _count(value: float) -> str:
    return f"{value:,.0f}"


# Heading, measure, how it is written, and whether less is better (None: the column is not a contest).
COLUMNS: tuple[tuple[str, str, Callable[[float], str], bool | None], ...] = (
    ("total / oracle", "total_over_oracle", _ratio, True),
    ("regret", "regret_geomean", _ratio, True),
    ("p95", "regret_p95", _ratio, True),
    ("max", "regret_max", _ratio, True),
    ("harm", "harm_rate", _share, True),
    ("worst harm", "harm_worst", _ratio, True),
    ("gap closed", "closed_gap", _share, False),
    ("learning cost", "learning_cost_s", seconds_text, None),  # always-X pays none and learns nothing
    ("recovery, calls", "recovery_calls", _count, True),
    ("recovery", "recovery_s", seconds_text, True),
    ("flips", "flips", _ratio, None),
    ("90 % interval covers", "coverage", _share, None),
    ("typical error", "median_error", _share, None),
    ("decisions/s", "decisions_per_s", _count, False),
)
FREE = ("harm_rate", "harm_worst", "decisions_per_s")  # whoever never leaves one backend has these for nothing
NOT_RIVALS = ("oracle", "best-fixed", "threshold")  # fitted on the stream or on the very cells that are asked


def markdown(results: Results, about: Sequence[str] = ()) -> str:
    """One table per stream, policies by total, and below each what ours loses and to whom.

    Parameters
    ----------
    results
        What ``--json`` prints: stream -> policy -> measure -> figure; None and nan are left blank.
    about
        Lines that stand above the tables: matrices, calls, seed, date.
    """
    blocks = ["\n".join(f"- {line}" for line in about)] if about else []
    for stream, policies in results.items():
        blocks.append(f"### {stream}\n\n{stream_table(policies)}")
        if (told := losses(policies)) is not None:
            blocks.append(told)
    return "\n\n".join(blocks)


def stream_table(policies: Mapping[str, Figures]) -> str:
    """The table of one stream; columns that nobody fills are left out."""
    columns = [column for column in COLUMNS if any(_known(figures, column[1]) for figures in policies.values())]
    lines = [_line(["policy", *(heading for heading, *_ in columns)]), _line(["---", *("---:" for _ in columns)])]
    for policy in ranked(policies):
        figures = policies[policy]
        cells = [write(value) if (value := _value(figures, name)) is not None else "" for _, name, write, _ in columns]
        texts = [policy, *cells]
        lines.append(_line([f"**{text}**" if text and policy == OURS else text for text in texts]))
    return "\n".join(lines)


def losses(policies: Mapping[str, Figures]) -> str | None:
    """One sentence that says in which columns ours is beaten, and by whom; None where ours was not replayed."""
    ours = policies.get(OURS)
    if ours is None:
        return None
    told = []
    for heading, name, write, less in COLUMNS:
        mine = _value(ours, name)
        rivals = {
            policy: value
            for policy, figures in policies.items()
            if policy != OURS
            and policy not in NOT_RIVALS
            and not (name in FREE and policy.startswith(ALWAYS))
            and (value := _value(figures, name)) is not None
        }
        if less is None or mine is None or not rivals:
            continue
        best = (min if less else max)(rivals, key=lambda policy: rivals[policy])
        beaten = rivals[best] < mine if less else rivals[best] > mine
        if beaten and write(rivals[best]) != write(mine):
            told.append(f"{heading} {write(mine)} ({best}: {write(rivals[best])})")
    if not told:
        return f"{OURS} is beaten in no column by a policy that does not know the stream."
    return f"{OURS} is beaten in: {'; '.join(told)}."


def ranked(policies: Mapping[str, Figures]) -> list[str]:
    """Policies by total over the oracle, the oracle first, those without a total last."""

    def place(policy: str) -> tuple[bool, float]:
        total = _value(policies[policy], "total_over_oracle")
        return policy != ORACLE, math.inf if total is None else total

    return sorted(policies, key=place)


def write(results: Results, about: Sequence[str] = (), page: Path = PAGE) -> None:
    """Put the tables between the markers of a page; ValueError where it has none."""
    write_between_markers(page, MARKER, markdown(results, about))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selection.report", description=__doc__)
    parser.add_argument("file", type=Path, help="what `python -m benchmarks.selection ... --json` printed")
    parser.add_argument("--about", action="append", default=[], metavar="LINE", help="a line above the tables")
    parser.add_argument(
        "--write", action="store_true", help=f"put the tables into {PAGE.name} instead of printing them"
    )
    options = parser.parse_args(arguments)
    try:
        results = read(options.file)
    except ValueError as error:
        parser.error(str(error))
    if options.write:
        write(results, options.about)
    else:
        print(markdown(results, options.about))
    return 0


def read(path: Path) -> Results:
    """Results of a file; ValueError where it holds something else."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); expected a file of what --json prints") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}); expected what --json prints") from None
    if not isinstance(results, dict) or not all(
        isinstance(policies, dict) and policies and all(map(_are_figures, policies.values()))
        for policies in results.values()
    ):
        raise ValueError(f"{path} holds no results; expected {{stream: {{policy: {{measure: figure}}}}}}")
    return results


def _are_figures(found: object) -> bool:
    return isinstance(found, dict) and all(
        value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in found.values()
    )


def _value(figures: Figures, name: str) -> float | None:
    value = figures.get(name)
    return None if value is None or math.isnan(value) else value


def _known(figures: Figures, name: str) -> bool:
    return _value(figures, name) is not None


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
