"""An LLM goes from probe to active on what it shows, back on a word, and out when it is drained."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from fake_embedders import FakeEmbedder
from sqlalchemy import Engine, text

from routing.learning import StoppingRule
from routing.llms import LLM, Price
from workers.errors import UsageError
from workers.lifecycle import (
    Conditions,
    Graded,
    Probed,
    ProbesFailedError,
    demote,
    drain,
    probe,
    promote,
)
from workers.onboarding import fit_map
from workers.storage.cell_counts import CellCounts
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.error_rates import ErrorRates
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.llm_journal import LLMJournal, Standing
from workers.storage.llms import LLMs, Registration
from workers.storage.policies import Policies
from workers.storage.snapshots import load_state

pytestmark = pytest.mark.stack

EMBEDDER = FakeEmbedder()
TEXTS = [f"prompt {number}" for number in range(200)]
EMBEDDINGS = EMBEDDER.encode(TEXTS)
TOKENS = np.full(200, 10.0)
RULE = StoppingRule(fewest=20, most=120, batch=20)


@pytest.fixture
def engine(migrated_url: str) -> Any:
    """A map in force, ``old`` active with error .3 everywhere, and a lambda of 0; ``new`` is to be probed."""
    made = make_engine(migrated_url)
    fit_map(made, EMBEDDER, EMBEDDINGS, sizes=(2, 3, 4))
    with transaction(made) as session:
        LLMs(session).register(registration("old"))
        LLMs(session).register(registration("new"), state="probe", standing=Standing(cautious=True))
        version = ClusterMaps(session).active_version()
        assert version is not None
        flat = np.full((9, 1), 0.3)
        ErrorRates(session).publish(version, ["old"], flat, reason="tests", deviations=flat * 0.0)
        Policies(session).put("default", {"kind": "lagrangian", "error_per_usd": 0.0})
    yield made
    made.dispose()


def registration(name: str) -> Registration:
    """Make a registration; nobody calls the endpoint here."""
    llm = LLM(name=name, price=Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0))
    return Registration(llm=llm, base_url="http://127.0.0.1:1/v1", provider_model=name)


def right_in(share: float) -> Callable[[Sequence[int]], list[Graded | None]]:
    """Answer so that a share of the prompts, spread over the file, is right."""
    return lambda rows: [Graded(score=float((row * 7919) % 100 < 100 * share)) for row in rows]


def run_probe(engine: Engine, share: float, rule: StoppingRule = RULE) -> Probed:
    """Probe ``new``, which is right in a share of the prompts."""
    return probe(
        engine,
        "new",
        texts=TEXTS,
        embeddings=EMBEDDINGS,
        input_tokens=TOKENS,
        ask=right_in(share),
        rule=rule,
    )


def state_of(engine: Engine) -> str:
    """Give the state of ``new``."""
    with transaction(engine) as session:
        found = LLMs(session).get("new")
    assert found is not None
    return found.state


def routed(engine: Engine) -> tuple[str, ...]:
    """Give the LLMs that routers choose from."""
    with transaction(engine) as session:
        snapshot = load_state(session).snapshot
    return () if snapshot is None else snapshot.names


def give_feedback(engine: Engine, count: int, score: float) -> None:
    """Count live feedback on ``new``."""
    with transaction(engine) as session:
        version = ClusterMaps(session).active_version()
        Feedback(session).record(
            [
                FeedbackEntry(
                    feedback_id=f"f-{number}",
                    decision_id=f"d-{number}",
                    prompt_id=f"p-{number}",
                    llm="new",
                    map_version=version or "",
                    cells=(0, 2, 5),
                    score=score if number % 2 else 1.0,
                    event_time=datetime(2030, 1, 1, tzinfo=UTC),
                )
                for number in range(count)
            ]
        )


def test_a_clear_case_stops_at_the_fewest_labels(engine: Engine) -> None:
    """Always right against .3, or always wrong: 20 labels settle it, and a shadow gets no traffic."""
    found = run_probe(engine, 1.0)

    assert (found.labels, found.settled, found.mean_score) == (20, True, 1.0)
    assert found.share == 1.0
    assert state_of(engine) == "shadow"
    assert routed(engine) == ("old",)

    demote(engine, "new")
    assert run_probe(engine, 1.0).labels_now == 0


def test_a_close_case_uses_all_labels_and_is_judged_with_caution(engine: Engine) -> None:
    """Errors of .3 and .3 cannot be told apart by 60 labels: its rates are their upper ends."""
    found = run_probe(engine, 0.7, StoppingRule(fewest=20, most=60, batch=20))

    assert (found.labels, found.settled) == (60, False)
    with pytest.raises(UsageError, match="ran out before the routes were settled"):
        promote(engine, "new")
    with transaction(engine) as session:
        version = ClusterMaps(session).active_version()
        rates = ErrorRates(session).current(version or "")
        assert LLMJournal(session).standings()["new"].cautious
    assert rates is not None
    assert rates.rates[:, rates.llms.index("new")].mean() > found.error + 0.03


def test_a_budget_ends_probing(engine: Engine) -> None:
    """20 labels at .01 USD, then more than .3 USD are wanted and pay for 30: .5 may be spent."""
    right = right_in(0.7)

    found = probe(
        engine,
        "new",
        texts=TEXTS,
        embeddings=EMBEDDINGS,
        input_tokens=TOKENS,
        ask=lambda rows: [replace(one, cost_usd=0.008, judge_usd=0.002) for one in right(rows) if one],
        rule=RULE,
        max_usd=0.5,
    )

    assert (found.labels, found.settled) == (50, False)
    assert found.cost_usd == pytest.approx(0.4)
    assert found.judge_usd == pytest.approx(0.1)


def test_no_prompt_is_a_label_twice(engine: Engine) -> None:
    """A run that breaks off after 20 goes on with others, in a file that has grown; then none is left."""
    asked: list[str] = []

    def ask(texts: Sequence[str], rows: Sequence[int], *, until: int) -> list[Graded | None]:
        if len(asked) >= until:
            raise ConnectionError
        asked.extend(texts[row] for row in rows)
        return right_in(0.7)(rows)

    def run(count: int, until: int) -> Probed:
        texts = [*TEXTS[:count], TEXTS[0]]
        return probe(
            engine,
            "new",
            texts=texts,
            embeddings=EMBEDDER.encode(texts),
            input_tokens=np.full(len(texts), 10.0),
            ask=lambda rows: ask(texts, rows, until=until),
            rule=RULE,
        )

    with pytest.raises(ConnectionError):
        run(30, until=20)
    found = run(50, until=120)

    assert len(asked) == len(set(asked)) == 50
    assert (found.labels, found.labels_now) == (50, 30)
    demote(engine, "new")
    assert run(50, until=120).labels_now == 0


def test_an_llm_goes_on_by_what_it_shows(engine: Engine) -> None:
    """Labels, a share to win, live feedback as good as predicted: each step but with what it takes."""
    with pytest.raises(UsageError, match="has 0 labels of 20"):
        promote(engine, "new")
    found = run_probe(engine, 0.95)

    assert promote(engine, "new", conditions=Conditions(canary_share=0.1)) == "canary"
    assert routed(engine) == ("new", "old")
    with transaction(engine) as session:
        snapshot = load_state(session).snapshot
    assert snapshot is not None
    assert snapshot.canaries == {"new": 0.1}

    with pytest.raises(UsageError, match="has 0 pieces of live feedback of 30"):
        promote(engine, "new")
    give_feedback(engine, 40, score=0.9)
    assert promote(engine, "new") == "active"
    with pytest.raises(UsageError, match="no step on"):
        promote(engine, "new")
    with transaction(engine) as session:
        steps = LLMJournal(session).steps("new")
    assert [step.to_state for step in steps] == ["probe", "shadow", "canary", "active"]
    assert steps[1].evidence["labels"] == found.labels
    assert steps[3].evidence["feedback"] == 40


def test_worse_than_predicted_stays_a_canary_unless_forced(engine: Engine) -> None:
    """Half of its live answers are wrong where next to none was predicted to be."""
    run_probe(engine, 1.0)
    promote(engine, "new")
    give_feedback(engine, 40, score=0.0)

    with pytest.raises(UsageError, match=r"live it errs 0\.[2-5]"):
        promote(engine, "new")
    assert promote(engine, "new", reason="we know better", force=True) == "active"
    with transaction(engine) as session:
        last = LLMJournal(session).steps("new")[-1]
    assert last.reason.startswith("we know better: forced, though live it errs")


def test_a_flagged_source_neither_holds_an_llm_back_nor_helps_it(engine: Engine) -> None:
    """40 lies of a source that is flagged are no feedback at all: none of 30 is there."""
    run_probe(engine, 1.0)
    promote(engine, "new")
    give_feedback(engine, 40, score=0.0)
    with transaction(engine) as session:
        session.execute(text("INSERT INTO feedback_sources (name, kind, trust) VALUES ('human', 'human', 0)"))

    with pytest.raises(UsageError, match="has 0 pieces of live feedback of 30"):
        promote(engine, "new")


def test_conditions_are_the_operators_and_stand_in_the_journal(engine: Engine) -> None:
    """Asked for more labels than the 20 that there are, it stays; the step tells what was asked for."""
    found = run_probe(engine, 1.0)
    with pytest.raises(UsageError, match=r"would win 100\.0%, less than 200\.0%"):
        promote(engine, "new", conditions=Conditions(share=2.0))
    demote(engine, "new")
    with pytest.raises(UsageError, match=f"has {found.labels} labels of 50"):
        promote(engine, "new", conditions=Conditions(labels=50))

    promote(engine, "new", conditions=Conditions(labels=10))

    with transaction(engine) as session:
        last = LLMJournal(session).steps("new")[-1]
    assert (last.to_state, last.evidence["labels"], last.evidence["asked"]["labels"]) == ("shadow", 20, 10)


def test_a_worse_llm_is_not_tried_on_anybody(engine: Engine) -> None:
    """Wrong in nine of ten, it would win nothing and stays a shadow."""
    found = run_probe(engine, 0.1)

    assert (found.labels, found.settled, found.share) == (20, True, 0.0)
    with pytest.raises(UsageError, match=r"it would win 0\.0%"):
        promote(engine, "new")


def test_every_step_leads_back(engine: Engine) -> None:
    """From active down to probe; drained from anywhere, and back to where it was, as it stood."""
    run_probe(engine, 0.95)
    promote(engine, "new", conditions=Conditions(canary_share=0.2))

    assert drain(engine, "new") == "draining"
    assert routed(engine) == ("old",)
    assert promote(engine, "new") == "canary"
    with transaction(engine) as session:
        assert LLMJournal(session).standings()["new"].canary_share == 0.2
    assert [demote(engine, "new") for _ in range(2)] == ["shadow", "probe"]
    with pytest.raises(UsageError, match="no step back"):
        demote(engine, "new")


def test_an_llm_that_joined_with_labels_comes_back_on_them(engine: Engine) -> None:
    """Demoted from active to shadow it was never probed; 30 labels take it up again, 10 do not."""
    with transaction(engine) as session:
        version = ClusterMaps(session).active_version() or ""
        CellCounts(session).add(version, ["old"], [0], [3.0], [10.0], evidence="label")
    assert [demote(engine, "old") for _ in range(2)] == ["canary", "shadow"]
    with pytest.raises(UsageError, match="it has 10 labels of 20"):
        promote(engine, "old")
    with transaction(engine) as session:
        CellCounts(session).add(version, ["old"], [1], [6.0], [20.0], evidence="label")

    assert promote(engine, "old") == "canary"
    with transaction(engine) as session:
        assert LLMJournal(session).steps("old")[-1].evidence["labels"] == 30
    promote(engine, "new", force=True)
    with pytest.raises(UsageError, match="was not probed: `uniroute llm demote new`"):
        promote(engine, "new")


def test_probes_without_an_answer_are_no_labels(engine: Engine) -> None:
    """Every other probe fails: about 40 are asked for 20 labels. Where all fail, that is said."""

    def every_other(rows: Sequence[int]) -> list[Graded | None]:
        return [Graded(score=1.0) if row % 2 else None for row in rows]

    with pytest.raises(ProbesFailedError, match="answered none of 20"):
        probe(
            engine,
            "new",
            texts=TEXTS,
            embeddings=EMBEDDINGS,
            input_tokens=TOKENS,
            ask=lambda rows: [None] * len(rows),
            rule=RULE,
        )
    assert state_of(engine) == "probe"
    found = probe(
        engine,
        "new",
        texts=TEXTS,
        embeddings=EMBEDDINGS,
        input_tokens=TOKENS,
        ask=every_other,
        rule=RULE,
    )
    assert found.labels >= 20
    assert found.failures >= 10


def test_an_llm_from_before_the_journal_comes_back_too(engine: Engine) -> None:
    """Its first step there is that it was drained: from active, so it is active again."""
    with transaction(engine) as session:
        session.execute(text("DELETE FROM llm_journal"))

    drain(engine, "old")

    assert promote(engine, "old") == "active"
    assert routed(engine) == ("old",)
