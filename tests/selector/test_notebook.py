"""What a notebook shows: decisions and summaries as tables, with other people's words escaped."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

EVIL = "<script>alert(1)</script><img src=x onerror='alert(2)'>"
TAGS = {"div", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"}


class Page(HTMLParser):
    """Tags that balance, and the text between them by row."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.texts, self.rows, self.attributes = [], set(), [], [], set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self.rows.append([])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if "tr" in self.open:
            self.rows[-1].append(data)


@pytest.fixture
def taught(selector, workload, feed):
    """A selector that knows one operation with a name made to do harm."""
    asked = workload(10**6, EVIL, parameters={"mode": '"><b>'})
    feed(selector, asked, {"numpy": 4e-3, "torch": 1e-3})
    selector.record(asked, "jax", seconds=0.1, failure="unsupported", message=EVIL)
    selector.flush()
    return selector, asked


def test_a_decision_shows_what_its_text_says(taught):
    selector, asked = taught
    decision = selector.decide(asked, "jax")
    page = Page(decision._repr_html_())
    rows = {row[0]: row for row in page.rows}
    for candidate in decision.candidates:
        assert rows[candidate.variant][1:3] != ["", ""]
        for cell in rows[candidate.variant]:
            assert cell in decision.explain()
    assert {name for name, _ in decision.excluded} <= set(rows)
    said = {*(text.strip() for text in page.texts)}
    for line in decision.explain().splitlines()[2:]:
        if line.startswith("   ") and not line.startswith(("   not", "   candidate", *(f"   {v}" for v in rows))):
            assert line.strip() in said


def test_a_summary_is_plain_data_with_a_table(taught):
    selector, _ = taught
    summary = selector.get_performance_summary()
    assert json.loads(json.dumps(summary)) == summary
    rows = Page(summary._repr_html_()).rows
    assert ["torch", "8", "47%", "1 ms", "1 ms", "-", "-"] in rows
    assert rows.index(next(r for r in rows if r[0] == "torch")) < rows.index(next(r for r in rows if r[0] == "numpy"))


def test_an_empty_summary_says_so(selector):
    assert "Nothing has been recorded yet." in Page(selector.get_performance_summary()._repr_html_()).texts


def test_names_and_messages_are_shown_and_never_run(taught):
    selector, asked = taught
    for shown in (selector.decide(asked), selector.get_performance_summary()):
        html = shown._repr_html_()
        page = Page(html)
        assert page.seen <= TAGS
        assert page.attributes <= {"style", "colspan"}
        assert EVIL in "".join(page.texts)
        assert '"><b>' in "".join(page.texts)


def test_a_call_that_is_left_alone_has_a_page_too(anomaly):
    import numpy as np

    page = Page(anomaly.explain(np.ma.ones(3))._repr_html_())
    assert any("left alone" in text for text in page.texts)
