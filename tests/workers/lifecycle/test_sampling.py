"""Prompts put to a second LLM: whom, within which limits, at what cost, and what becomes of the scores."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from installations import Installation
from kafka import KafkaProducer

from routing.learning import Watch
from workers import messages
from workers.cascades import Scorer
from workers.client import Client
from workers.decision_ids import DecisionFacts, make_signer
from workers.lifecycle import Graded, KnownAnswer, LiveReader, Sampler, SamplingRule
from workers.lifecycle.dispatching import Probe
from workers.lifecycle.traffic import is_sampled
from workers.messages import CandidateRecord, DecisionRecord, Message, Versions
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction
from workers.storage.llm_journal import Standing
from workers.storage.llms import LLMs
from workers.storage.tenants import Tenant, Tenants
from workers.storage.watches import KeptWatch, Watches

pytestmark = pytest.mark.stack

NOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
JUDGE = Scorer(base_url="http://j/v1", model="j", input_usd_per_mtok=0.0, output_usd_per_mtok=0.0)
#: Right if it is ever asked.
STORED = KnownAnswer(
    body={"messages": [{"role": "user", "content": "what red apple"}]},
    input_tokens=4.0,
    cells=(0, 1),
    grade=lambda _: 1.0,
)


class FakeLane:
    """Answers every probe with a score of .75 for .4 USD."""

    def __init__(self) -> None:
        self.asked: list[Probe] = []
        self.scored: list[tuple[str, float]] = []

    def ask(self, probes: Sequence[Probe]) -> list[Graded | None]:
        """Answer at once."""
        self.asked += probes
        return [Graded(score=0.75, cost_usd=0.3, judge_usd=0.1, decision_id="token") for _ in probes]

    def score(self, graded: Graded, *, source: str) -> None:
        """Note who said what."""
        self.scored.append((source, graded.score))


@pytest.fixture
def installation(kafka_bootstrap: str, database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """Three LLMs that were each right half of the time."""
    with Installation.create(
        kafka_bootstrap=kafka_bootstrap, database_url=database_url, folder=tmp_path
    ) as made:
        for name in ("a", "b", "c"):
            made.register(name)
        yield made


def make_sampler(
    installation: Installation, lane: FakeLane, *, usd: float = 100.0, known: Sequence[KnownAnswer] = ()
) -> Sampler:
    """One that copies every prompt."""
    return Sampler(
        engine=installation.engine,
        settings=installation.settings,
        lane=lane,
        rule=SamplingRule(usd_per_day=usd, share=1.0, band=0.1, batch=4),
        judge=JUDGE,
        known=known,
        rng=np.random.default_rng(0),
        now=lambda: NOON,
    )


def prompt(installation: Installation, number: int, tenant: str = "") -> Message:
    """A live prompt."""
    headers = ((messages.REPLY_TO, f"{installation.settings.reply_prefix}app".encode()),)
    return Message(
        topic=installation.topics.prompts,
        partition=0,
        offset=number,
        timestamp_ms=0,
        key=f"p{number}".encode(),
        value=b'{"model": "auto", "messages": [{"role": "user", "content": "what red pear"}]}',
        headers=(*headers, *(((messages.TENANT, tenant.encode()),) if tenant else ())),
    )


def decision(
    installation: Installation, number: int, errors: dict[str, float], removed: Sequence[str] = ()
) -> DecisionRecord:
    """A decision for ``a``; limits removed some of the others."""
    with transaction(installation.engine) as session:
        version = ClusterMaps(session).active_version() or ""
    facts = DecisionFacts(
        prompt_id=f"p{number}", llm="a", map_version=version, cells=(0, 1), propensity=1.0, decided_at=0
    )
    return DecisionRecord(
        prompt_id=f"p{number}",
        decision_id=make_signer(installation.settings).sign(facts),
        decided_at=NOON,
        llm="a",
        policy="default",
        policy_body={},
        propensity=1.0,
        draw=None,
        cells=(0, 1),
        weights=b"",
        input_tokens=4.0,
        limits={},
        candidates=tuple(
            CandidateRecord(
                llm=name,
                error=error,
                cost_usd=0.0,
                output_tokens=1.0,
                removed_by="candidates" if name in removed else None,
            )
            for name, error in errors.items()
        ),
        versions=Versions(map=version, rates="1", prices="1", policy="1"),
    )


def want_probes(installation: Installation, *names: str) -> None:
    """Have the detector of changes find LLMs worse."""
    with transaction(installation.engine) as session:
        Watches(session).lock(names)
        Watches(session).keep({name: KeptWatch(watch=Watch(standing="worse")) for name in names})


def test_a_prompt_goes_to_the_one_that_was_nearly_chosen(installation: Installation) -> None:
    """``c`` errs .2 more than ``a``, beyond the band of .1: ``b`` gets the copy, its score is feedback."""
    lane = FakeLane()
    sampler = make_sampler(installation, lane)

    found = sampler.step(
        [prompt(installation, 1)], [decision(installation, 1, {"a": 0.3, "b": 0.35, "c": 0.5})]
    )

    assert [(one.llm, one.cells, one.grade) for one in lane.asked] == [("b", (0, 1), None)]
    assert lane.scored == [("judge:sampling", 0.75)]
    assert (found.asked, found.scored, found.usd) == (1, 1, pytest.approx(0.4))


def test_nobody_is_asked_against_limits_or_a_tenants_word(installation: Installation) -> None:
    """A caller's limits hold for copies; a tenant with --no-exploration is never copied."""
    with transaction(installation.engine) as session:
        Tenants(session).add(Tenant(name="shy", exploration_share=0.0))
    lane = FakeLane()
    errors = {"a": 0.3, "b": 0.3, "c": 0.3}

    make_sampler(installation, lane).step(
        [prompt(installation, 1), prompt(installation, 2, tenant="shy")],
        [decision(installation, 1, errors, removed=("b", "c")), decision(installation, 2, errors)],
    )

    assert lane.asked == []


def test_a_shadow_gets_copies_that_it_may_see(installation: Installation) -> None:
    """No decision knows it; the prompt's own limits say whether it is asked."""
    with transaction(installation.engine) as session:
        LLMs(session).set_state("c", "shadow", standing=Standing(), reason="tests")
    lane = FakeLane()
    pinned = prompt(installation, 2)
    pinned = replace(pinned, headers=(*pinned.headers, (messages.CANDIDATES, b"a,b")))

    make_sampler(installation, lane).step(
        [prompt(installation, 1), pinned],
        [decision(installation, number, {"a": 0.1, "b": 0.9}) for number in (1, 2)],
    )

    assert [one.llm for one in lane.asked] == ["c"]


def test_the_days_budget_ends_it(installation: Installation) -> None:
    """At .4 USD a copy, 1 USD is passed by the third; what the estimate missed is seen before the next."""
    lane = FakeLane()
    sampler = make_sampler(installation, lane, usd=1.0)
    errors = {"a": 0.3, "b": 0.3}

    steps = [
        sampler.step([prompt(installation, one)], [decision(installation, one, errors)]) for one in range(5)
    ]

    assert [one.asked for one in steps] == [1, 1, 1, 0, 0]
    assert [one.unaffordable for one in steps] == [0, 0, 0, 1, 1]
    assert make_sampler(installation, lane, usd=0.0).step([], []).asked == 0


def test_an_llm_that_got_worse_is_asked_stored_prompts_and_copies(installation: Installation) -> None:
    """Half of a batch of 4 is left to copies; ``c`` gets them though it errs far more, as it is wanted."""
    want_probes(installation, "c")
    lane = FakeLane()
    errors = {"a": 0.1, "b": 0.1, "c": 0.9}
    live = [prompt(installation, number) for number in range(2)]
    decided = [decision(installation, number, errors) for number in range(2)]

    sampler = make_sampler(installation, lane, known=[STORED])
    both, alone = sampler.step(live, decided), sampler.step([], [])

    assert {one.llm for one in lane.asked} == {"c"}
    assert (both.asked, alone.asked) == (4, 4)
    assert [source for source, _ in lane.scored] == [*["checker:sampling"] * 2, *["judge:sampling"] * 2] + [
        "checker:sampling"
    ] * 4


def test_only_what_comes_from_now_on_is_read(installation: Installation) -> None:
    """Prompts and decisions of before are not copied; those of after are read from both topics."""
    producer = KafkaProducer(bootstrap_servers=installation.settings.kafka_bootstrap)
    with Client(app="app", settings=installation.settings) as client:
        client.submit("what red pear", prompt_id="before")
        client.flush()
        with LiveReader(installation.settings) as reader:
            client.submit("what red pear", prompt_id="after")
            client.flush()
            record = decision(installation, 1, {"a": 0.3})
            producer.send(installation.topics.decisions, key=b"after", value=msgspec.json.encode(record))
            producer.flush()
            read, decided = list[Message](), list[DecisionRecord]()
            for _ in range(50):
                new, made = reader.poll(timeout_ms=200)
                read += new
                decided += made
                if read and decided:
                    break
    producer.close()

    assert [one.key for one in read] == [b"after"]
    assert decided == [record]


def test_a_share_holds_the_same_prompts_whoever_asks() -> None:
    """Of 20,000 ids a tenth, within four standard deviations (170); the fifth holds all of the tenth."""
    ids = [f"prompt {number}".encode() for number in range(20_000)]
    tenth = {one for one in ids if is_sampled(one, 0.1)}

    assert abs(len(tenth) - 2_000) < 170
    assert tenth < {one for one in ids if is_sampled(one, 0.2)}
    assert all(is_sampled(one, 1.0) for one in ids)
