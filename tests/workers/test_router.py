"""What the router makes of a batch: two cells and two LLMs, whose numbers are worked by hand."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np
import pytest

from routing.clusters import ClusterMap
from routing.embedders import Fingerprint, FloatMatrix
from routing.errors import FingerprintMismatchError
from routing.llms import LLM, Price
from routing.policies import Lagrangian
from routing.snapshot import Snapshot, Versions
from workers.decision_ids import DecisionSigner
from workers.errors import WaitableError
from workers.messages import DecisionRecord, Headers, Message, Record
from workers.router import NamedPolicy, Router, RoutingView, build_view
from workers.settings import Settings
from workers.storage.snapshots import PublishedState
from workers.storage.tenants import Tenant

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
SIGNER = DecisionSigner({0: b"0123456789abcdef"}, current=0)
FINGERPRINT = Fingerprint(name="axes", dimension=2, precision="f32", max_length=8, checksum="a")
REPLY_TO = ("uniroute-reply-to", b"uniroute.replies.app")
#: Prompts of 8 bytes: 2 tokens. With 100 tokens of answer, ``large`` costs 102 * 10 / 1e6 = .00102 USD and
#: ``small`` .000102. At lambda 200 that is .204 and .0204 of error: 0.* goes to ``small`` (.1 + .204 against
#: .2 + .0204), 1.* to ``large`` (.304 against .8204).
EASY, HARD = "0 apples", "1 apples"


class AxisEmbedder:
    """Gives the unit vector of the axis that a text's first letter names."""

    fingerprint = FINGERPRINT

    def encode(self, texts: Sequence[str]) -> FloatMatrix:
        """Give the rows, in order."""
        return np.eye(2, dtype=np.float32)[[int(text[0]) for text in texts]].reshape(len(texts), 2)


def make_llm(name: str, usd: float, **facts: Any) -> LLM:
    """Make an LLM whose tokens cost ``usd`` per million, in and out."""
    return LLM(name=name, price=Price(input_usd_per_mtok=usd, output_usd_per_mtok=usd), **facts)


SNAPSHOT = Snapshot(
    cluster_map=ClusterMap(
        centroids=np.eye(2, dtype=np.float32), sizes=(2,), temperature=float("inf"), fingerprint=FINGERPRINT
    ),
    llms=(make_llm("large", 10.0, capabilities=frozenset({"tools"})), make_llm("small", 1.0)),
    error_rates=np.array([[0.1, 0.2], [0.1, 0.8]]),
    output_tokens=np.array([100.0, 100.0]),
    versions=Versions(error_rates="7", prices="3"),
)


def name_policy(name: str, error_per_usd: float) -> NamedPolicy:
    """Put a Lagrangian policy in force, as version 1."""
    return NamedPolicy.build(name, 1, {"kind": "lagrangian", "error_per_usd": error_per_usd})


VIEW = RoutingView(
    snapshot=SNAPSHOT,
    embedder=AxisEmbedder(),
    policies={"default": name_policy("default", 200.0), "best": name_policy("best", 0.0)},
    tenants={"acme": Tenant(name="acme")},
)


def make_router(
    view: RoutingView | None = VIEW,
    failing: frozenset[str] = frozenset(),
    cancelled: frozenset[str] = frozenset(),
) -> Router:
    """Make a router with a fixed clock."""
    return Router(
        view=lambda: view,
        failing=lambda: failing,
        is_cancelled=cancelled.__contains__,
        signer=SIGNER,
        settings=Settings(),
        rng=np.random.default_rng(0),
        now=lambda: NOW,
    )


def ask(
    text: str = EASY,
    *headers: tuple[str, bytes],
    key: bytes | None = b"p-1",
    raw: bytes | None = None,
    **body: Any,
) -> Message:
    """Make a prompt with a legal reply topic."""
    content = {"model": "auto", "messages": [{"role": "user", "content": text}], **body}
    return Message(
        topic="uniroute.prompts",
        partition=2,
        offset=5,
        timestamp_ms=0,
        key=key,
        value=msgspec.json.encode(content) if raw is None else raw,
        headers=(REPLY_TO, *headers),
    )


def route(message: Message) -> list[Record]:
    """Route one message."""
    [records] = make_router().handle([message])
    return records


def read_headers(headers: Headers) -> Mapping[str, str]:
    """Give headers as text."""
    return {name: value.decode() for name, value in headers}


def read_decision(records: Sequence[Record]) -> DecisionRecord:
    """Give the decision among the records."""
    [record] = [record for record in records if record.topic == "uniroute.decisions"]
    return msgspec.json.decode(record.value or b"", type=DecisionRecord)


def read_error(record: Record) -> Mapping[str, Any]:
    """Give an error reply's error."""
    error: Mapping[str, Any] = msgspec.json.decode(record.value or b"")["error"]
    return error


def test_each_prompt_becomes_a_dispatch_and_a_decision() -> None:
    """Rows keep the batch's order, and go to the LLM with the least error + lambda * cost."""
    first, second = make_router().handle([ask(HARD, key=b"p-1"), ask(EASY, key=b"p-2")])

    assert [record.topic for record in first] == ["uniroute.dispatch.large", "uniroute.decisions"]
    assert [record.topic for record in second] == ["uniroute.dispatch.small", "uniroute.decisions"]
    assert [record.key for record in first + second] == [b"p-1", b"p-1", b"p-2", b"p-2"]


def test_a_dispatch_carries_the_body_byte_for_byte() -> None:
    """Fields that nobody here knows, odd spacing and number formats arrive as they were sent."""
    raw = b'{ "model":"auto","x-new":[1.50,1e2],\n"messages":[{"role":"user","content":"0 a","y":null}] }'

    dispatch, _ = route(ask(raw=raw))

    assert dispatch.value == raw


def test_a_dispatch_carries_what_the_executor_needs() -> None:
    """Reply topic, deadline, tenant and trace travel on; the decision's facts join them."""
    wishes = (
        ("traceparent", b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01"),
        ("uniroute-deadline", b"2030-01-31T12:00:00Z"),
        ("uniroute-tenant", b"acme"),
    )

    dispatch, record = route(ask(EASY, *wishes, ("uniroute-max-cost-usd", b"1"), ("x-own", b"stays behind")))
    headers = read_headers(dispatch.headers)

    assert set(wishes) | {REPLY_TO} <= set(dispatch.headers)
    assert wishes[0] in record.headers
    assert "x-own" not in headers
    assert headers["uniroute-llm"] == "small"
    assert headers["uniroute-policy"] == "default@1"
    assert float(headers["uniroute-predicted-error"]) == pytest.approx(0.2, abs=2**-28)
    assert float(headers["uniroute-predicted-cost-usd"]) == pytest.approx(0.000102)
    assert float(headers["uniroute-input-tokens"]) == len(EASY) / 4
    assert (headers["ce_type"], headers["ce_id"], headers["ce_specversion"]) == (
        "uniroute.dispatch",
        "p-1",
        "1.0",
    )
    assert headers["ce_time"] == "2027-01-31T12:00:00+00:00"


def test_the_decision_id_says_what_learning_needs() -> None:
    """LLM, map, cell, propensity and time are in the token of both records."""
    records = route(ask(HARD))
    token = read_headers(records[0].headers)["uniroute-decision-id"]

    facts = SIGNER.verify(token)

    assert read_decision(records).decision_id == token
    assert (facts.prompt_id, facts.llm, facts.cells, facts.propensity) == ("p-1", "large", (1,), 1.0)
    assert facts.map_version == SNAPSHOT.cluster_map.version
    assert facts.decided_at == int(NOW.timestamp())


def test_a_decision_record_holds_what_a_replay_needs() -> None:
    """Weights, candidates with their numbers, limits, policy and versions, in full precision."""
    record = read_decision(route(ask(HARD, ("uniroute-max-cost-usd", b"0.5"), max_tokens=50)))
    large, small = record.candidates

    assert np.frombuffer(record.weights, "<f4").tolist() == [0.0, 1.0]
    assert (record.llm, record.cells, record.propensity, record.draw) == ("large", (1,), 1.0, None)
    assert record.input_tokens == 2.0
    # 2 tokens in and no more than the 50 that the caller allows out: 52 * 10 / 1e6 and 52 * 1 / 1e6.
    assert (large.llm, large.cost_usd) == ("large", pytest.approx(0.00052))
    assert (small.llm, small.cost_usd) == ("small", pytest.approx(0.000052))
    assert (large.error, small.error) == (pytest.approx(0.1), pytest.approx(0.8))
    assert record.limits == {"max_cost_usd": 0.5, "max_output_tokens": 50}
    assert record.policy_body == {"kind": "lagrangian", "error_per_usd": 200.0}
    assert (record.versions.rates, record.versions.prices) == ("7", "3")
    assert record.versions.map == SNAPSHOT.cluster_map.version
    assert record.decided_at == NOW


@pytest.mark.parametrize(
    ("message", "llm", "policy"),
    [
        (ask(EASY), "small", "default@1"),
        (ask(EASY, model="auto/best"), "large", "best@1"),
        (ask(EASY, ("uniroute-policy", b"best")), "large", "best@1"),
        (ask(EASY, ("uniroute-policy", b"default"), model="auto/best"), "small", "default@1"),
        (ask(EASY, model="large"), "large", "default@1"),
        (ask(EASY, ("uniroute-candidates", b"large, of-old")), "large", "default@1"),
        (ask(EASY, tools=[{"type": "function"}]), "large", "default@1"),
        (ask(EASY, ("uniroute-max-error", b"0.15")), "large", "default@1"),
        (ask(HARD, ("uniroute-max-cost-usd", b"0.001")), "small", "default@1"),
    ],
)
def test_wishes_decide(message: Message, llm: str, policy: str) -> None:
    """The policy asked for is used, by header before model; limits come before the score."""
    record = read_decision(route(message))

    assert (record.llm, record.policy) == (llm, policy)


def test_policies_of_one_batch_do_not_mix() -> None:
    """Prompts of two policies, interleaved, are each decided by their own, in place."""
    batch = [ask(EASY, model="auto/best" if row % 2 else "auto", key=b"p-%d" % row) for row in range(6)]

    routed = make_router().handle(batch)

    assert [read_decision(records).llm for records in routed] == ["small", "large"] * 3
    assert [read_decision(records).prompt_id for records in routed] == [f"p-{row}" for row in range(6)]


@pytest.mark.parametrize(
    ("headers", "removed"),
    [
        ((("uniroute-excluded", b"large, small"),), "large: excluded; small: excluded"),
        ((("uniroute-capabilities", b"tools,audio"),), "large: capabilities; small: capabilities"),
        ((("uniroute-languages", b"de"),), "large: languages; small: languages"),
        (
            (("uniroute-candidates", b"small"), ("uniroute-excluded", b"small")),
            "large: candidates; small: excl",
        ),
        ((("uniroute-max-cost-usd", b"0.00001"),), "large: max_cost; small: max_cost"),
        ((("uniroute-max-error", b"0.01"),), "large: max_error; small: max_error"),
    ],
)
def test_each_limit_of_a_header_is_named(headers: tuple[tuple[str, bytes], ...], removed: str) -> None:
    """With the LLMs that it removed."""
    [reply] = route(ask(HARD, *headers))

    assert read_error(reply)["code"] == "no_candidate"
    assert removed in read_error(reply)["message"]


def test_limits_that_leave_nothing_are_named() -> None:
    """The caller is told which limit removed which LLM; nothing is dispatched and nothing dead-lettered."""
    # ``small`` has no tools, ``large`` costs .00102.
    [reply] = route(ask(EASY, ("uniroute-max-cost-usd", b"0.001"), tools=[{"type": "function"}]))
    error = read_error(reply)

    assert (reply.topic, reply.key) == ("uniroute.replies.app", b"p-1")
    assert error["code"] == "no_candidate"
    assert "large: max_cost" in error["message"]
    assert "small: capabilities" in error["message"]


@pytest.mark.parametrize(
    ("message", "error_class"),
    [
        (ask(raw=b"{"), "not_json"),
        (ask(raw=b'{"model": 1}'), "invalid_body"),
        (ask(model="nobody"), "unknown_llm"),
        (ask(EASY, ("uniroute-candidates", b"nobody")), "unknown_llm"),
        (ask(model="auto/nothing"), "unknown_policy"),
        (ask(model="auto/"), "unknown_policy"),
        (ask(EASY, ("uniroute-candidates", b" , ")), "bad_header"),
        (ask(EASY, ("uniroute-deadline", b"soon")), "bad_header"),
        (ask(raw=b""), "empty"),
        (ask(raw=b" " * 1_000_001), "too_large"),
    ],
)
def test_poison_with_a_legal_reply_topic_is_answered(message: Message, error_class: str) -> None:
    """Its caller gets the class and the sentence, operators get the message itself."""
    letter, reply = route(message)
    headers = read_headers(letter.headers)
    error = read_error(reply)

    assert (letter.topic, letter.key, letter.value) == ("uniroute.dlq.prompts", message.key, message.value)
    assert (headers["uniroute-dlq-class"], headers["uniroute-dlq-answered"]) == (error_class, "true")
    assert (headers["__dlq.errors.partition"], headers["__dlq.errors.offset"]) == ("2", "5")
    assert (reply.topic, reply.key) == ("uniroute.replies.app", b"p-1")
    assert (error["code"], error["type"]) == (error_class, "invalid_request_error")
    assert error["message"] == headers["__dlq.errors.message"]


@pytest.mark.parametrize(
    "reply_to", [(), (("uniroute-reply-to", b"payments"),), (("uniroute-reply-to", b"\xff"),)]
)
def test_poison_without_a_legal_reply_topic_is_a_dead_letter_alone(reply_to: Headers) -> None:
    """Nothing is written to a topic that the caller may not name."""
    message = Message(
        topic="uniroute.prompts",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=b"p",
        value=b"{",
        headers=reply_to,
    )

    assert [record.topic for record in route(message)] == ["uniroute.dlq.prompts"]


@pytest.mark.parametrize(
    ("key", "headers", "reply_key"),
    [(None, (), None), (b"\xff", (), b"\xff"), (None, (("ce_id", b"k" * 201),), b"k" * 201)],
)
def test_an_error_reply_has_the_key_that_came(
    key: bytes | None, headers: Headers, reply_key: bytes | None
) -> None:
    """A prompt without a usable id is answered all the same."""
    letter, reply = route(ask(EASY, *headers, key=key))

    assert read_headers(letter.headers)["uniroute-dlq-class"] == "bad_key"
    assert reply.key == reply_key


def test_a_prompt_may_be_named_by_its_event_id() -> None:
    """Where there is no key, ``ce_id`` is the prompt's id, on answers and on error replies alike."""
    dispatch, decision = route(ask(EASY, ("ce_id", b"p-9"), key=None))
    _, reply = route(ask(EASY, ("ce_id", b"p-9"), key=None, model="nobody"))

    assert (dispatch.key, decision.key, reply.key) == (b"p-9", b"p-9", b"p-9")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"auto","x":"\xff","messages":[{"role":"user","content":"0"}]}',
        b'{"model":"auto","seed":1e999,"messages":[{"role":"user","content":"0"}]}',
        b'{"model":"auto","seed":1' + b"0" * 5_000 + b',"messages":[{"role":"user","content":"0"}]}',
        b'{"model":"auto","max_tokens":1' + b"0" * 400 + b',"messages":[{"role":"user","content":"0"}]}',
    ],
)
def test_what_an_executor_could_not_send_on_is_refused_at_once(raw: bytes) -> None:
    """A body is poison also where the fault is in a field that the router itself does not read."""
    good, bad = make_router().handle([ask(EASY), ask(raw=raw)])

    assert good[0].topic == "uniroute.dispatch.small"
    assert bad[0].topic == "uniroute.dlq.prompts"


def test_poison_does_not_touch_its_neighbours() -> None:
    """Good prompts before, between and after poison are routed as if they were alone."""
    poison = ask(raw=b"[" * 50_000)
    batch = [poison, ask(HARD, key=b"p-1"), poison, poison, ask(EASY, key=b"p-2"), poison]

    routed = make_router().handle(batch)

    assert [records[0].topic.removeprefix("uniroute.") for records in routed] == [
        "dlq.prompts", "dispatch.large", "dlq.prompts", "dlq.prompts", "dispatch.small", "dlq.prompts"
    ]  # fmt: skip
    assert routed[1][0].value == make_router().handle([ask(HARD, key=b"p-1")])[0][0].value


def test_a_batch_of_poison_alone_is_settled() -> None:
    """There is nothing to embed, which is no error."""
    [letter, reply] = route(ask(raw=b"{"))

    assert (letter.topic, reply.topic) == ("uniroute.dlq.prompts", "uniroute.replies.app")


def test_prompts_wait_while_there_is_nothing_to_decide_from() -> None:
    """Without a map and error rates the batch is kept; the sentence names the command that helps."""
    with pytest.raises(WaitableError, match="uniroute map fit"):
        make_router(None).handle([ask()])


def publish(snapshot: Snapshot | None = SNAPSHOT) -> PublishedState:
    """Give a state with one policy in its third version."""
    policies = {"default": (3, {"kind": "lagrangian", "error_per_usd": 5.0})}
    return PublishedState(version=1, snapshot=snapshot, policies=policies, unrated=(), registered={})


def test_a_view_keeps_its_embedder_while_the_map_stays() -> None:
    """A new state of the same fingerprint opens nothing; policies are built anew."""
    opened: list[Fingerprint] = []

    def open_embedder(fingerprint: Fingerprint) -> AxisEmbedder:
        opened.append(fingerprint)
        return AxisEmbedder()

    first = build_view(publish(), open_embedder=open_embedder)
    second = build_view(publish(), open_embedder=open_embedder, previous=first)

    assert first is not None
    assert second is not None
    assert opened == [FINGERPRINT]
    assert second.embedder is first.embedder
    assert second.policies["default"].version == "default@3"
    assert second.policies["default"].declaration.policy == Lagrangian(5.0)
    assert build_view(publish(None), open_embedder=open_embedder) is None


def test_a_view_refuses_another_embedder() -> None:
    """Vectors of another space never meet the map; the error names what differs."""
    other = ClusterMap(
        centroids=np.eye(2, dtype=np.float32),
        sizes=(2,),
        temperature=1.0,
        fingerprint=Fingerprint(name="axes", dimension=2, precision="f32", max_length=8, checksum="b"),
    )
    snapshot = Snapshot(
        cluster_map=other,
        llms=SNAPSHOT.llms,
        error_rates=SNAPSHOT.error_rates,
        output_tokens=SNAPSHOT.output_tokens,
        versions=SNAPSHOT.versions,
    )

    with pytest.raises(FingerprintMismatchError, match="checksum is 'a', not 'b'"):
        build_view(publish(snapshot), open_embedder=lambda _: AxisEmbedder())


def test_an_llm_that_fails_is_not_chosen() -> None:
    """What would go to ``small`` goes to ``large``, and says that it is not what the policy chose."""
    [[dispatch, decision]] = make_router(failing=frozenset({"small"})).handle([ask(EASY)])

    assert dispatch.topic == "uniroute.dispatch.large"
    assert read_headers(dispatch.headers)["uniroute-degraded"] == "llm_failing"
    assert read_decision([dispatch, decision]).limits["excluded"] == ["small"]


def test_where_every_llm_fails_one_is_chosen_all_the_same() -> None:
    """Each prompt of a batch gets an LLM that its caller may have, and is marked."""
    router = make_router(failing=frozenset({"small", "large"}))
    batch = router.handle([ask(EASY, key=b"1"), ask(HARD, key=b"2"), ask(EASY, key=b"3", model="large")])
    headers = [read_headers(records[0].headers) for records in batch]

    assert [one["uniroute-llm"] for one in headers] == ["small", "large", "large"]
    assert {one["uniroute-degraded"] for one in headers} == {"llm_failing"}


def test_who_never_wanted_the_failing_llm_is_not_degraded() -> None:
    """A prompt for ``large`` alone does not care about ``small``."""
    [[dispatch, _]] = make_router(failing=frozenset({"small"})).handle([ask(EASY, model="large")])

    assert "uniroute-degraded" not in read_headers(dispatch.headers)


def test_a_lane_has_a_topic_and_fallbacks_are_within_the_limits() -> None:
    """A batch prompt goes to the batch lane; a declared fallback that the caller excludes is left out."""
    body = {"kind": "lagrangian", "error_per_usd": 200.0, "fallbacks": ["small", "large"]}
    view = replace(VIEW, policies={"default": NamedPolicy.build("default", 1, body)})
    lane = ("uniroute-lane", b"batch")
    [[free, _], [bound, _]] = make_router(view).handle(
        [ask(EASY, lane), ask(EASY, lane, ("uniroute-excluded", b"large"), key=b"p-2")]
    )

    assert free.topic == "uniroute.dispatch-batch.small"
    assert read_headers(free.headers)["uniroute-fallbacks"] == "large"
    assert "uniroute-fallbacks" not in read_headers(bound.headers)


def test_a_cancelled_prompt_is_not_dispatched() -> None:
    """Its caller is told, and its neighbour is routed."""
    router = make_router(cancelled=frozenset({"p-1"}))
    [gone], [first, *_] = router.handle([ask(key=b"p-1"), ask(key=b"p-2")])

    assert (gone.topic, gone.key) == ("uniroute.replies.app", b"p-1")
    assert read_error(gone)["code"] == "cancelled"
    assert (first.topic, first.key) == ("uniroute.dispatch.small", b"p-2")
