"""The report: what it says is in the trace, what is missing is left out, and the file stands alone."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from moe_router import RoutingTrace
from moe_router.metrics.load import normalised_entropy
from moe_router.pages.analysis import analyse, told_apart
from moe_router.pages.figures import as_svg, pictures, save
from moe_router.pages.page import render, write
from moe_router.pages.words import findings, labels
from moe_router.summary import summarise_tokens
from moe_router.token_trace import TokenTrace


def trace(
    *, units: int = 12, groups: int = 2, types: int = 3, top_k: int = 2, planted: bool = True, dead: bool = False
) -> RoutingTrace:
    """Random routing in three layers of six experts; in layer 1 the first group prefers expert 4, and type 2 expert 5 of layer 2."""
    rng = np.random.default_rng(0)
    tokens = 60
    scores = rng.random((groups * units * tokens, 3, 6))
    group_N = np.repeat(np.arange(groups), units).astype(np.int32)
    type_T = rng.integers(0, max(types, 1), len(scores)).astype(np.uint8)
    if planted:
        scores[: units * tokens, 1, 4] += 0.5
        scores[type_T == 2, 2, 5] += 0.6
    if dead:
        scores[:, 0, 3] = -1
    return summarise_tokens(
        TokenTrace(
            model="folder/tiny",
            layers=tuple(f"model.layers.{n}.mlp" for n in range(3)),
            experts_L=(6, 6, 6),
            top_k_L=(top_k,) * 3,
            groups=tuple(f"<group {g}>" for g in range(groups)),
            types=tuple(f"kind {c}" for c in range(types)),
            experts_TLK=np.argsort(-scores, -1)[..., :top_k].astype(np.uint8),
            starts_N=np.arange(0, len(scores) + 1, tokens),
            group_N=group_N,
            type_T=type_T if types else None,
        )
    )


def test_what_is_planted_is_said() -> None:
    analysis = analyse(trace(), permutations=999)
    said = " ".join(findings(analysis))
    assert "All 2 groups are routed differently from the rest." in said
    assert re.search(r"<group 0> most in layer 1: 0\.\d+ bits", said)
    assert "Expert 4 of layer 1 takes" in said
    assert "The strongest: kind 2 to expert 5 of layer 2" in said
    assert "Every expert of every layer received tokens." in said
    assert analysis.layers[0].entropy == pytest.approx(normalised_entropy(trace().layer_counts(0)))
    low, high = analysis.layers[0].entropy_interval
    assert low <= analysis.layers[0].entropy <= high + 1e-3


def test_where_there_is_nothing_nothing_is_said() -> None:
    said = " ".join(findings(analyse(trace(planted=False), permutations=999)))
    assert "no difference was found for <group 0>, <group 1>" in said
    assert "No token type goes with an expert beyond what sequences alone explain" in said


def test_few_sequences_and_dead_experts() -> None:
    analysis = analyse(trace(units=2, dead=True))
    said = " ".join(findings(analysis))
    assert "Not enough sequences to tell whether these groups differ" in said
    assert "1 expert received no token of this text: layer 0 (1)" in said
    assert "not enough: 4 sequences" in said
    page = render(analysis)
    assert "not enough sequences" in page
    assert "this trace has too few for them" in page


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({}, set()),
        ({"groups": 1}, {"groups", "specialisation"}),
        ({"types": 0}, {"types"}),
        ({"top_k": 1}, {"coactivation"}),
    ],
)
def test_pictures_are_those_there_is_something_for(changes, without, tmp_path) -> None:
    drawn = pictures(analyse(trace(**changes), permutations=99))
    everything = {"load", "evenness", "groups", "specialisation", "types", "transitions", "coactivation"}
    assert set(drawn) == everything - without
    for name, picture in drawn.items():
        svg = as_svg(picture)
        assert svg.startswith('<svg role="img"')
        assert f"<title>{picture.description}</title>" in svg
        assert svg == as_svg(picture)  # the same bytes again
        save(picture, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


class Links(HTMLParser):
    """What a page would load from elsewhere, and the tags left open."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.outside += [
            v for k, v in attrs if k in {"src", "href", "xlink:href"} and v and not v.startswith(("#", "data:"))
        ]
        if tag not in {"meta", "link", "br", "img", "input"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.outside += [
            v for k, v in attrs if k in {"src", "href", "xlink:href"} and v and not v.startswith(("#", "data:"))
        ]

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone(tmp_path) -> None:
    write(analyse(trace(), permutations=99), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(page)
    assert links.outside == []
    assert links.open == []
    assert "&lt;group 0&gt;" in page
    assert "<group 0>" not in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert page.count('class="read"') == 8  # each part says how it is read


def test_names_of_layers() -> None:
    assert labels(("model.layers.3.mlp", "model.layers.10.mlp")) == ["layer 3", "layer 10"]
    assert labels(("encoder.moe", "decoder.moe")) == ["encoder.moe", "decoder.moe"]


def test_operations_are_compared_with_one_another_and_not_with_the_prompt() -> None:
    """Type 2 goes to expert 5 of layer 2; as the prompt it must neither show nor weigh in the comparison of the others."""
    named = replace(trace(), types=("setup", "calculate", "outside"))
    told = told_apart(named)
    assert told is not None
    assert named.types_FCLE is not None
    assert named.types_FCLE[:, 2].sum() > 0
    assert told[:, 2].sum() == 0
    np.testing.assert_array_equal(told[:, :2], named.types_FCLE[:, :2])
    found, as_types = analyse(named), analyse(trace())
    assert found.affinity_q_LCE is not None
    assert as_types.affinity_q_LCE is not None
    assert (as_types.affinity_q_LCE <= 0.05).any()
    assert not (found.affinity_q_LCE <= 0.05).any()
    page = render(found)
    assert "Operations of reasoning" in page
    assert "No operation goes with an expert" in page
    assert "Token types" in render(as_types)
