"""The page is one file that asks nothing of any network, and carries its data unharmed."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_comparison import made_comparison, made_setup

from ringattn.report.comparison import Comparison, Result
from ringattn.report.comparison_page import page


class Parts(HTMLParser):
    """Tags that were opened and never closed, ids, attributes, and what scripts and styles hold."""

    EMPTY = frozenset({"meta", "input", "wbr", "br", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.attributes, self.blocks = [], [], [], [("", {}, "")]
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag not in self.EMPTY:
            self.open.append(tag)
        self.attributes += [(tag, *pair) for pair in attributes]
        self.ids += [value for name, value in attributes if name == "id"]
        self.blocks.append((tag, dict(attributes), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.blocks.append(("", {}, ""))

    def handle_data(self, data):
        tag, attributes, before = self.blocks[-1]
        self.blocks[-1] = (tag, attributes, before + data)

    def data(self, name):
        return next(json.loads(text) for _, attributes, text in self.blocks if attributes.get("id") == name)


@pytest.fixture(scope="module")
def made():
    return page(made_comparison())


@pytest.fixture(scope="module")
def parts(made):
    return Parts(made)


def test_it_is_well_formed(parts):
    assert parts.open == []
    assert len(parts.ids) == len(set(parts.ids))
    references = {value for _, name, value in parts.attributes if name in ("aria-labelledby", "aria-describedby")}
    assert references and all(value in parts.ids for value in references)


def test_it_names_nothing_outside_itself(made, parts):
    loads = (r"\bsrc\s*=", r"@import", r"url\(", r"\bfetch\(", r"XMLHttp", r"WebSocket", r"\bimport\b", r"<link")
    for pattern in (r"http:", r"https", r"//\w", *loads):
        assert not re.search(pattern, made), pattern
    links = [value for _, name, value in parts.attributes if name == "href"]
    assert links and all(value.removeprefix("#") in parts.ids for value in links)


def test_its_policy_allows_its_own_script_and_style_alone(parts):
    policy = next(
        attributes["content"]
        for _, attributes, _ in parts.blocks
        if attributes.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy and "connect-src 'none'" in policy and "unsafe" not in policy
    for tag in ("script", "style"):
        (text,) = (text for name, attributes, text in parts.blocks if name == tag and "type" not in attributes)
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    # A policy without `unsafe-inline` refuses these.
    assert not [name for _, name, _ in parts.attributes if name == "style" or name.startswith("on")]


def test_its_data_is_that_of_the_comparison(parts):
    comparison = made_comparison()
    results = parts.data("data")["results"]
    assert [result["schedule"] for result in results] == ["ring", "tokenring", "ulysses", "biring"]
    assert results[0]["passes"]["forward"]["seconds"] == comparison.results[0].forward.seconds
    timeline = parts.data("timeline-1-backward")
    for source, ranks in (
        ("measured", comparison.results[1].backward.timeline),
        ("predicted", comparison.results[1].backward.predicted_timeline),
    ):
        for shown, made in zip(timeline[source], ranks, strict=True):
            assert shown["rank"] == made.rank
            assert [timeline["kinds"][kind] for kind in shown["kind"]] == [event.kind for event in made.events]
            assert shown["start"] == pytest.approx([1e6 * event.start for event in made.events], abs=0.01)
            assert [shown[name][0] for name in ("step", "peer", "bytes")] == [0, -1, made.events[0].bytes]


def test_both_ends_of_a_message_name_each_other(parts):
    timeline = parts.data("timeline-0-forward")
    ranks = timeline["measured"]
    send = timeline["kinds"].index("send")
    ends = [(of, n) for of in ranks for n, kind in enumerate(of["kind"]) if kind == send]
    assert len(ends) == 3 * 4
    for of, n in ends:
        peer = ranks[of["peer"][n]]
        assert peer["pair"][of["pair"][n]] == n


def test_no_text_can_leave_its_place():
    evil = '</script><script>alert(1)</script><!-- {{data}} & "quotes"'
    base = made_comparison().results[0]
    setup = made_setup(command=evil, mask=evil, hosts=(evil,) * 4)
    made = page(Comparison(setup=setup, results=(replace(base, schedule=evil), Result(schedule=evil, skipped=evil))))
    parts = Parts(made)
    assert parts.open == []
    assert "alert(1)" not in "".join(text for tag, of, text in parts.blocks if tag == "script" and "type" not in of)
    assert parts.data("data")["results"][0]["schedule"] == evil
    assert parts.data("data")["setup"]["hosts"][0] == evil


def test_the_table_and_the_reasons_need_no_script(made):
    assert "<b>biring</b> was skipped: needs an even number of chunks per rank, got 1" in made
    assert made.count('<span class="best">fastest</span>') == 2
    assert made.count("<tr>") == 2 + 3 and made.count('<tr class="skipped">') == 1
    cell = made_comparison().results[0].forward.seconds
    assert f'data-value="{cell:.12g}"' in made


def test_one_direction_or_none_is_enough():
    ring = made_comparison().results[0]
    for result in (replace(ring, backward=None), replace(ring, forward=None), Result(schedule="a", skipped="why")):
        assert Parts(page(Comparison(setup=made_setup(), results=(result,)))).open == []
    assert Parts(page(Comparison(setup=made_setup(), results=()))).open == []
