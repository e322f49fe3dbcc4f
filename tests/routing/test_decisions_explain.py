"""An explanation holds every LLM against the winner, in numbers worked by hand."""

import math

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.decisions import Prompts, decide, explain
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.policies import Lagrangian
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions

#: One cell, 1,000,000 tokens in and none out: an LLM's cost is its input price.
SNAPSHOT = Snapshot(
    cluster_map=ClusterMap(
        centroids=np.ones((1, 1), dtype=np.float32),
        sizes=(1,),
        temperature=math.inf,
        fingerprint=Fingerprint(name="tests", dimension=1, precision="f32", max_length=1, checksum=""),
    ),
    llms=tuple(
        LLM(name=name, price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=0))
        for name, usd in [("best", 4), ("cheap", 1), ("good", 2), ("good-too", 2), ("poor", 3), ("vast", 9)]
    ),
    error_rates=np.array([[0.125, 0.75, 0.25, 0.25, 0.5, 0.0]]),
    output_tokens=np.zeros(6),
    versions=Versions(error_rates="5", prices="2", policy="1"),
)
POLICY = Lagrangian(0.125)


def decisions(limits: Limits):  # noqa: ANN201  # the type is what decide gives
    """One prompt, decided."""
    prompts = Prompts(
        embeddings=np.ones((1, 1), dtype=np.float32), input_tokens=np.array([1e6]), limits=[limits]
    )
    return decide(prompts, SNAPSHOT, POLICY, rng=np.random.default_rng(0))


def test_every_llm_is_held_against_the_winner() -> None:
    """Good scores .25 + .125 x 2 = .5. best ties at lambda .0625, cheap at .5; poor is worse in both."""
    why = explain(decisions(Limits(max_cost_usd=8)), 0, policy=POLICY)

    assert why.llm == "good"
    assert [(fact.name, fact.verdict) for fact in why.candidates] == [
        ("good", "chosen"),
        ("good-too", "equal"),
        ("best", "dearer"),
        ("cheap", "cheaper"),
        ("poor", "worse"),
        ("vast", "removed"),
    ]
    assert [fact.score for fact in why.candidates[:3]] == [0.5, 0.5, 0.625]
    assert why.candidates[2].break_even == pytest.approx(0.0625)
    assert why.candidates[3].break_even == pytest.approx(0.5)
    assert why.candidates[5].removed_by == "max_cost"
    assert why.clusters == ((0, 1.0),)
    assert why.versions == SNAPSHOT.versions


def test_no_winner_is_explained_too() -> None:
    """Where the limits leave nothing, each LLM's limit is the explanation."""
    why = explain(decisions(Limits(max_error=0.0, excluded=frozenset({"vast"}))), 0)

    assert why.llm is None
    assert why.propensity == 0
    assert {fact.name: fact.removed_by for fact in why.candidates} == {
        name: "excluded" if name == "vast" else "max_error" for name in SNAPSHOT.names
    }


def test_policy_without_score_sorts_by_error() -> None:
    """Without the policy there is no score, and the allowed come in the order of their errors."""
    why = explain(decisions(Limits()), 0)

    assert [fact.name for fact in why.candidates] == ["good", "vast", "best", "good-too", "poor", "cheap"]
    assert all(fact.score is None for fact in why.candidates)
