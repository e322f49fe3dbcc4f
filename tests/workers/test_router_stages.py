"""The stages of a cascade before any is asked: order, cost so far, ceilings, and bounds on being asked."""

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.decisions import Prompts, decide
from routing.embedders import Fingerprint
from routing.llms import LLM, Price
from routing.policies.cascade import CascadeStart
from routing.requests import Limits
from routing.snapshot import Snapshot, Versions
from workers.cascades import CascadeSpec, Scorer
from workers.router.stages import Stage, plan_stages

#: With 98 tokens of answer a call of 2 is 100 tokens: .0001, .001 and .01 USD.
SNAPSHOT = Snapshot(
    cluster_map=ClusterMap(
        centroids=np.ones((1, 1), dtype=np.float32),
        sizes=(1,),
        temperature=float("inf"),
        fingerprint=Fingerprint(name="one", dimension=1, precision="f32", max_length=8, checksum="a"),
    ),
    llms=tuple(
        LLM(name=name, price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd))
        for name, usd in (("a", 1.0), ("b", 10.0), ("c", 100.0))
    ),
    error_rates=np.array([[0.5, 0.25, 0.125]]),
    output_tokens=np.full(3, 98.0),
    versions=Versions(error_rates="1", prices="1"),
)
SCORER = Scorer(base_url="http://s", model="s", input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)


def plan(spec: CascadeSpec, *llms: str, limits: Limits | None = None) -> tuple[Stage, ...]:
    """Give the stages of one prompt."""
    asked = Prompts(
        embeddings=np.ones((1, 1), dtype=np.float32),
        input_tokens=np.array([2.0]),
        limits=[limits or Limits()],
    )
    start = CascadeStart(llms=llms, error_per_usd=spec.error_per_usd)
    decisions = decide(asked, SNAPSHOT, start, rng=np.random.default_rng(0))
    return plan_stages(spec, llms, decisions, 0, SNAPSHOT, prompt_bytes=8, input_tokens=2.0, most_tokens=None)


def test_a_cascade_in_order_by_hand() -> None:
    """``a`` errs half the time and reaches .8 no more often than .5 / .8: ``b`` is asked 37.5 % at least."""
    first, second = plan(CascadeSpec(accept_at=0.8), "a", "b")

    assert (first.llm, second.llm) == ("a", "b")
    assert (first.asked, second.asked) == ((1.0, 1.0), (pytest.approx(0.375), 1.0))
    assert second.cost_so_far_usd == pytest.approx(0.0011)
    assert (first.scoring_usd, second.most_usd) == (0.0, pytest.approx(0.001))


def test_who_gives_up_asks_nobody() -> None:
    """Below .4 nobody is asked any more, which may be .5 / .6 of the answers: nothing is sure of the rest."""
    _, second = plan(CascadeSpec(accept_at=0.8, abstain_below=0.4), "a", "b")

    assert second.asked == (0.0, 1.0)


def test_a_cascade_by_gain_goes_by_what_each_adds() -> None:
    """At lambda 100 ``b`` scores .35, ``a`` .51 and ``c`` 1.125: ``b`` first.

    ``a`` is worth asking below 1 - .01 / .5 = .98, ``c``, at a USD for .875, never. ``b`` is right 75 % of
    the time: its answer is below .98 no less often than 1 - .75 / .98.
    """
    stages = plan(CascadeSpec(accept_at=1.0, error_per_usd=100.0), "a", "b", "c")

    assert [stage.llm for stage in stages] == ["b", "a"]
    assert stages[1].asked == (pytest.approx(1 - 0.75 / 0.98), 1.0)


def test_what_the_limits_remove_is_not_asked() -> None:
    """A third stage depends on the answer of the second; of those left the first is asked for certain."""
    spec = CascadeSpec(accept_at=1.0, error_per_usd=1.0)

    assert [one.asked for one in plan(spec, "a", "b", "c")][2] is None
    assert [one.llm for one in plan(spec, "a", "b", "c", limits=Limits(excluded=frozenset("c")))] == [
        "b",
        "a",
    ]
    assert plan(spec, "a", limits=Limits(excluded=frozenset("a"))) == ()


def test_a_scorer_judges_all_but_the_last() -> None:
    """In order the last answer is taken unseen; where one may abstain it is judged too."""
    spec = CascadeSpec(accept_at=0.8, measure="scorer", scorer=SCORER)
    strict = CascadeSpec(accept_at=0.8, abstain_below=0.1, measure="scorer", scorer=SCORER)

    assert [one.scoring_usd > 0 for one in plan(spec, "a", "b")] == [True, False]
    assert [one.scoring_usd > 0 for one in plan(strict, "a", "b")] == [True, True]
