"""How a router asks for a dispatch to be served: as its policy says, or as the caller wishes otherwise."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.llms import LLM, Price
from routing.snapshot import Snapshot, Versions
from workers.cascades import Scorer, wish_again
from workers.decision_ids import DecisionSigner
from workers.messages import Message, Record
from workers.router import NamedPolicy, Router, RoutingView
from workers.settings import Settings
from workers.storage.grants import Grant
from workers.storage.tenants import Tenant
from workers.tenants import Purses

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
RICH = Grant(id=1, day=NOW.date(), usd=Decimal(100))
FINGERPRINT = Fingerprint(name="one", dimension=1, precision="f32", max_length=8, checksum="a")
CURVE = {"confidences": [-1.0, 0.0], "chances": [0.5, 1.0]}
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "default": {"kind": "fixed", "llm": "a", "fallbacks": ["b", "c"]},
    "two": {
        "kind": "cascade",
        "llms": ["b", "a"],
        "accept": 0.8,
        "abstain": 0.1,
        "calibration": CURVE,
        "fallbacks": ["c"],
    },
    "three": {"kind": "cascade", "llms": ["a", "b", "c"], "error_per_usd": 100, "calibration": CURVE},
    "judged": {
        "kind": "cascade",
        "llms": ["b", "a"],
        "accept": 0.8,
        "confidence": "scorer",
        "scorer": {"base_url": "http://scorer", "model": "s", "input_price": 100, "output_price": 1000},
    },
    "kept": {"kind": "fixed", "llm": "a", "cache_seconds": 60, "on_failure": "both"},
}


class OneEmbedder:
    """Every prompt is alike."""

    fingerprint = FINGERPRINT

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give a row of 1 for each."""
        return np.ones((len(texts), 1), dtype=np.float32)


#: A prompt of 8 bytes is 2 tokens: with 98 of answer a call is 100 tokens, at 1, 10 and 100 USD per million
#: .0001, .001 and .01 USD. At lambda 100 the scores are .51, .4 and 1.1: b first.
VIEW = RoutingView(
    snapshot=Snapshot(
        cluster_map=ClusterMap(
            centroids=np.ones((1, 1), dtype=np.float32),
            sizes=(1,),
            temperature=float("inf"),
            fingerprint=FINGERPRINT,
        ),
        llms=tuple(
            LLM(name=name, price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd))
            for name, usd in (("a", 1.0), ("b", 10.0), ("c", 100.0))
        ),
        error_rates=np.array([[0.5, 0.3, 0.1]]),
        output_tokens=np.full(3, 98.0),
        versions=Versions(error_rates="1", prices="1"),
    ),
    embedder=OneEmbedder(),
    policies={name: NamedPolicy.build(name, 1, body) for name, body in POLICIES.items()},
    tenants={
        "poor": Tenant(name="poor", usd_per_day=1.0, at_limit="degrade"),
        "rich": Tenant(name="rich", usd_per_day=100.0),
    },
)


def route(policy: str, *headers: tuple[str, str], tenant: str = "") -> list[Record]:
    """Route one prompt; of the tenants that are named ``rich`` has something left."""
    router = Router(
        view=lambda: VIEW,
        signer=DecisionSigner({0: b"0123456789abcdef"}, current=0),
        settings=Settings(),
        rng=np.random.default_rng(0),
        purses=Purses(lambda name, _day, _need: RICH if name == "rich" else None),
        now=lambda: NOW,
    )
    wishes = [("uniroute-reply-to", "uniroute.replies.app"), ("uniroute-policy", policy), *headers]
    wishes += [("uniroute-tenant", tenant)] if tenant else []
    body = {"model": "auto", "messages": [{"role": "user", "content": "8 apples"}]}
    message = Message(
        topic="uniroute.prompts",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=b"p-1",
        value=json.dumps(body).encode(),
        headers=tuple((name, text.encode()) for name, text in wishes),
    )
    [records] = router.handle([message])
    return list(records)


def headers_of(record: Record) -> dict[str, str]:
    """As text, less the prefix."""
    return {name.removeprefix("uniroute-"): value.decode() for name, value in record.headers}


def dispatched(policy: str, *headers: tuple[str, str], tenant: str = "") -> dict[str, str]:
    """The headers of the dispatch."""
    return headers_of(route(policy, *headers, tenant=tenant)[0])


def rule_of(headers: Mapping[str, str]) -> dict[str, Any]:
    """The cascade that a dispatch asks for."""
    rule: dict[str, Any] = json.loads(headers["cascade"])
    return rule


def test_a_cascade_in_order_begins_with_its_first() -> None:
    """First b, then a if b is not sure; c where one of them fails. What is predicted of a is told."""
    headers = dispatched("two")
    rule = rule_of(headers)

    assert (headers["llm"], headers["fallbacks"]) == ("b", "a,c")
    assert (rule["accept_at"], rule["abstain_below"], rule["chances"]) == (0.8, 0.1, [0.5, 1.0])
    [[name, error, cost]] = rule["candidates"]
    assert (name, round(error, 6), round(cost, 9)) == ("a", 0.5, 0.0001)


def test_a_cascade_by_gain_begins_with_the_best_score() -> None:
    """At lambda 100 that is b; the others follow as their gain says, prompt by prompt."""
    headers = dispatched("three")
    rule = rule_of(headers)

    assert headers["llm"] == "b"
    assert rule["error_per_usd"] == 100.0
    assert [one[0] for one in rule["candidates"]] == ["a", "c"]


def test_limits_hold_for_everybody_whom_a_cascade_may_ask() -> None:
    """Without a, nobody is asked after b; c may stand in."""
    headers = dispatched("two", ("uniroute-excluded", "a"))

    assert (headers["llm"], headers["fallbacks"]) == ("b", "c")
    assert "candidates" not in rule_of(headers)


def test_a_caller_may_ask_for_more_certainty() -> None:
    """What the header says stands, what it leaves out is the policy's."""
    rule = rule_of(dispatched("two", ("uniroute-cascade", '{"accept_at": 0.95}')))

    assert (rule["accept_at"], rule["abstain_below"]) == (0.95, 0.1)


def test_a_caller_may_ask_for_a_cascade_over_the_fallbacks_of_any_policy() -> None:
    """Those are the candidates then."""
    rule = rule_of(dispatched("default", ("uniroute-cascade", '{"accept_at": 0.95, "error_per_usd": 2}')))

    assert [one[0] for one in rule["candidates"]] == ["b", "c"]


@pytest.mark.parametrize(
    "wish",
    [
        "{",
        "{}",
        '{"accept_at": 2}',
        '{"accept_at": 1, "chances": [0, 3]}',
        '{"accept_at": 1, "error_per_usd": -1}',
        '{"accept_at": 1, "measure": "scorer"}',
        '{"accept_at": 1, "scorer": {"base_url": "http://elsewhere"}}',
    ],
)
def test_a_wish_that_cannot_be_is_told(wish: str) -> None:
    """As an error reply and a dead letter; nobody else's endpoint is shown a prompt."""
    letter, reply = route("default", ("uniroute-cascade", wish))

    assert letter.topic == "uniroute.dlq.prompts"
    assert json.loads(reply.value or b"")["error"]["code"] == "bad_header"


def test_a_policy_says_what_is_kept_and_what_becomes_of_a_failure() -> None:
    """Unless the caller does."""
    declared = dispatched("kept")
    wished = dispatched("kept", ("uniroute-cache-seconds", "0"), ("uniroute-on-failure", "reply"))

    assert (declared["cache-seconds"], declared["on-failure"]) == ("60.0", "both")
    assert wished.keys().isdisjoint({"cache-seconds", "on-failure"})


def test_a_fate_that_there_is_not_is_told() -> None:
    """By class, and by what is known."""
    _, reply = route("default", ("uniroute-on-failure", "shrug"))

    assert "known are reply, dead-letter, both" in json.loads(reply.value or b"")["error"]["message"]


def test_a_tenant_beyond_its_budget_gets_no_cascade() -> None:
    """It gets its cheapest LLM, and no other is paid for."""
    headers = dispatched("two", tenant="poor")

    assert (headers["llm"], headers["degraded"]) == ("a", "tenant_budget")
    assert headers.keys().isdisjoint({"cascade", "fallbacks"})


def test_a_cascade_that_is_redriven_is_wished_for_again() -> None:
    """A dead letter's rule becomes a wish: without what the router alone may say."""
    wish = wish_again(dispatched("two")["cascade"].encode())
    again = rule_of(dispatched("two", ("uniroute-cascade", (wish or b"").decode())))

    assert again == rule_of(dispatched("two"))
    assert wish_again(b"nonsense") is None


def reserved(policy: str, *headers: tuple[str, str]) -> float:
    """USD that are held of the budget of a tenant that has one."""
    return float(dispatched(policy, *headers, tenant="rich")["reserved-usd"])


def test_a_cascade_reserves_for_its_scorer() -> None:
    """The LLMs' .0011 USD, and the scorer's call for the first answer, at 100 USD a million in and 1,000 out.

    It is shown what it is told, the prompt's body of 72 bytes (18 tokens) and an answer of 98 tokens; it says
    16 tokens at most.
    """
    scorer = Scorer(base_url="", model="", input_usd_per_mtok=100, output_usd_per_mtok=1000)
    told = scorer.request_tokens(scorer.write_request([], {}))
    held = reserved("judged")

    assert held == pytest.approx(0.0011 + (told + 18 + 98) * 1e-4 + 16 * 1e-3)
    assert reserved("two") == pytest.approx(0.01)  # no scorer, and ``c`` may stand in


def test_a_scorer_that_judges_the_last_answer_too_is_reserved_for_it() -> None:
    """Where a caller would rather have no answer than a bad one: two calls, twice as much."""
    once = reserved("judged") - 0.0011
    twice = reserved("judged", ("uniroute-cascade", '{"abstain_below": 0.1}')) - 0.0011

    assert twice == pytest.approx(2 * once)
