"""Budgets of policies: spent evenly over their period, under a ceiling that no number of routers breaks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from logged_traffic import Office
from sqlalchemy import Engine

from workers.errors import WaitableError
from workers.policies import Budget
from workers.replay import apply_policies, replay
from workers.router.pacing import Books, Pacers, PostgresBank, lend_all, period_start
from workers.storage.engine import make_engine, transaction
from workers.storage.policy_spend import Lent, PolicySpend

HOUR = Budget(usd=10.0, period_s=3_600.0)
BEGIN = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)


class Outage:
    """Books that can be away."""

    def __init__(self) -> None:
        self.books = Books()
        self.away = False

    def __call__(
        self, policy: str, budget: Budget, start: datetime, *, need_usd: float, prompts: int
    ) -> Lent:
        """Lend as the books do, or not at all."""
        if self.away:
            raise WaitableError("Postgres", "gone")
        return self.books(policy, budget, start, need_usd=need_usd, prompts=prompts)


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """An engine on a migrated database."""
    made = make_engine(migrated_url)
    yield made
    made.dispose()


def spend_an_hour(pacers: list[Pacers], *, prompts: int, seed: int = 0) -> tuple[float, int]:
    """Let routers in turn decide a stream of prompts, eight a batch, evenly over an hour; give USD, refusals.

    Of three LLMs at 1 : 4 : 20 that err .6, .4, .2 on average; the middle one would cost about twice 10 USD.
    """
    rng = np.random.default_rng(seed)
    spent, refused = 0.0, 0
    for turn in range(prompts // 8):
        now = BEGIN + timedelta(hours=turn * 8 / prompts)
        pacer = pacers[turn % len(pacers)]
        costs = (10.0 / prompts) * rng.lognormal(0, 0.5, (8, 1)) * [0.5, 2.0, 10.0]
        errors = np.clip(rng.normal([0.6, 0.4, 0.2], 0.15, (8, 3)), 0, 1)
        pace = pacer.open("p", HOUR, now)
        wanted = costs[np.arange(8), (errors + pace.error_per_usd * costs).argmin(axis=1)]
        if wanted.sum() > pace.remaining_usd:
            pace = pacer.extend("p", HOUR, float(wanted.sum()) - pace.remaining_usd, now)
        fits = np.cumsum(wanted) <= pace.remaining_usd
        pacer.spend("p", HOUR, wanted[fits].tolist(), now)
        spent += float(wanted[fits].sum())
        refused += int((~fits).sum())
    return spent, refused


@pytest.mark.parametrize("routers", [1, 4])
def test_a_budget_ends_on_its_target(routers: int) -> None:
    """3,000 prompts in an hour end within 2 % of 10 USD, never above, whether one router paces or four."""
    books = Books()
    ticks = iter(range(100_000))
    pacers = [Pacers(books, clock=lambda: float(next(ticks))) for _ in range(routers)]

    spent, refused = spend_an_hour(pacers, prompts=3_000)

    assert 9.8 <= spent <= 10.0 + 1e-9
    assert refused <= 30


def test_what_was_lent_is_all_that_is_spent_while_the_books_are_away() -> None:
    """Nothing is left when it is gone; a second after it failed it asks again, and goes on."""
    books, seconds = Outage(), iter([0.0, 10.0, 10.0, 10.5, 11.0])
    pacers = Pacers(books, clock=lambda: next(seconds))
    before = pacers.extend("p", HOUR, 1.0, BEGIN)
    books.away = True
    pacers.spend("p", HOUR, [before.remaining_usd], BEGIN)

    gone = pacers.extend("p", HOUR, 1.0, BEGIN)
    books.away = False
    silent = pacers.extend("p", HOUR, 1.0, BEGIN)
    back = pacers.extend("p", HOUR, 1.0, BEGIN)

    assert before.remaining_usd == 1.0
    assert gone.remaining_usd == silent.remaining_usd == 0.0
    assert back.remaining_usd == 1.0


def test_a_new_period_starts_with_the_whole_budget_and_the_lambda_of_the_last() -> None:
    """Lambda has been learned; what was lent for the old hour is void."""
    pacers = Pacers(lend_all)
    pacers.extend("p", HOUR, 5.0, BEGIN)
    pacers.spend("p", HOUR, [1.0] * 5, BEGIN)
    before = pacers.open("p", HOUR, BEGIN + timedelta(minutes=59))

    after = pacers.open("p", HOUR, BEGIN + timedelta(minutes=60))

    assert after.error_per_usd == before.error_per_usd > 0
    assert after.remaining_usd == 0.0


@pytest.mark.parametrize(
    ("period_s", "start"),
    [(3_600.0, datetime(2027, 1, 31, 17, tzinfo=UTC)), (86_400.0, datetime(2027, 1, 31, tzinfo=UTC))],
)
def test_periods_are_utc_hours_and_days(period_s: float, start: datetime) -> None:
    """17:59:59 is of the hour that began at 17:00, and of the day that began at 0:00."""
    moment = datetime(2027, 1, 31, 17, 59, 59, tzinfo=UTC)

    assert period_start(Budget(usd=1.0, period_s=period_s), moment) == start


@pytest.mark.stack
def test_books_never_lend_more_than_the_budget(engine: Engine) -> None:
    """Shares of what is left, the last one all of it, then nothing; what a router tells is added up."""
    with transaction(engine) as session:
        lent = [
            PolicySpend(session).lend(
                "p", BEGIN, slot=slot, budget_usd=10.0, need_usd=need, share=0.5, prompts=3
            )
            for slot, need in [("a", 1.0), ("b", 1.0), ("a", 2.0), ("b", 4.0), ("a", 0.1)]
        ]
        other = PolicySpend(session).lend(
            "p", BEGIN + timedelta(hours=1), slot="a", budget_usd=10.0, need_usd=0.0, share=0.5, prompts=0
        )

    assert [one.usd for one in lent] == [5.0, 2.5, 2.0, 0.5, 0.0]
    assert lent[-1] == Lent(usd=0.0, total_usd=10.0, prompts=15)
    assert other == Lent(usd=0.0, total_usd=0.0, prompts=0)


@pytest.mark.stack
def test_decisions_under_a_budget_are_made_again(engine: Engine) -> None:
    """Each logs lambda and what was left for it, the ceiling within a batch included; two routers share it.

    ``large`` costs .00258 USD and ``small`` .000258; .0135 USD are 5 large and 2 small, or less.
    """
    office = Office.open(engine)
    apply_policies(engine, {"paced": {"kind": "budget", "usd": 0.0135, "per": "day", "error_per_usd": 0}})
    texts = ["3 a", "0 b", "3 c", "2 d"]
    records = []
    for turn in range(6):
        pacers = Pacers(PostgresBank(engine, slot=f"router-{turn % 2}"))
        records += office.route(texts, model="auto/paced", pacers=pacers)

    found = replay(engine, records)

    spent = sum(
        next(one.cost_usd for one in record.candidates if one.llm == record.llm) for record in records
    )
    assert 0.012 < spent <= 0.0135
    assert len(records) < 24
    assert {record.llm for record in records} == {"large", "small"}
    assert all(record.pace is not None for record in records)
    assert (found.decisions, found.identical) == (len(records), len(records))
