"""Budgets of policies: spent evenly over their period, under a ceiling that no number of routers breaks."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import numpy as np
import pytest
from logged_traffic import Office
from sqlalchemy import Engine

from routing.policies import Candidates, LoggedDraws
from workers.errors import WaitableError
from workers.policies import Budget
from workers.policies.exploring import Exploring
from workers.replay import apply_policies, replay
from workers.router.banks import Books, PostgresBank
from workers.router.pacing import HELD_BACK, Account, PacedBatch, Pacers, Reserved, Told, period_start
from workers.storage.engine import make_engine, transaction
from workers.storage.grants import Grant, Grants
from workers.storage.ledger import Ledger, Reservation, Settlement
from workers.storage.policy_books import PolicyBooks, PolicyStanding

HOUR = Budget(usd=10.0, period_s=3_600.0)
NO_DRAWS = LoggedDraws(np.empty(0))
BEGIN = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)


class Outage(Books):
    """Books that can be away."""

    away = False

    def lend(self, account: Account, need: Decimal, share: float) -> Grant | None:
        """Lend as the books do, or not at all."""
        self._check()
        return super().lend(account, need, share)

    def tell(self, account: Account, told: Told) -> PolicyStanding:
        """Listen as the books do, or not at all."""
        self._check()
        return super().tell(account, told)

    def _check(self) -> None:
        if self.away:
            raise WaitableError("Postgres", "gone")


@pytest.fixture
def engine(migrated_url: str) -> Iterator[Engine]:
    """An engine on a migrated database."""
    made = make_engine(migrated_url)
    yield made
    made.dispose()


def draw(n: int, rng: np.random.Generator, usd: float) -> Candidates:
    """Three LLMs at .5 : 2 : 10 times ``usd`` that err .6, .4, .2; hardly a call exceeds twice its cost."""
    costs = usd * rng.lognormal(0, 0.5, (n, 1)) * [0.5, 2.0, 10.0]
    return Candidates(
        errors=np.clip(rng.normal([0.6, 0.4, 0.2], 0.15, (n, 3)), 0, 1),
        costs=costs,
        allowed=np.ones((n, 3), dtype=bool),
        names=("a", "b", "c"),
        ceilings=2 * costs,
    )


def choose(pacers: Pacers, candidates: Candidates, now: datetime = BEGIN) -> PacedBatch:
    """Let a batch be decided under ten USD an hour."""
    batch = pacers.start("p", HOUR, now)
    batch.choose(candidates, rng=NO_DRAWS)
    return batch


@pytest.mark.parametrize("routers", [1, 4])
def test_a_budget_ends_on_its_target(routers: int) -> None:
    """3,000 prompts in an hour, four a batch, each settled 5 s later at .8 of what was expected: 10 USD.

    Within 1 % and never above, whether one router paces or four, of which none knows of the others but by the
    books. The middle LLM alone would cost about 1.8 times as much.
    """
    rng, seconds, spent = np.random.default_rng(0), 0.0, 0.0
    books = Books(clock=lambda: seconds)
    pacers = [Pacers(books, clock=lambda: seconds) for _ in range(routers)]
    in_flight: deque[tuple[float, Reserved]] = deque()
    unserved = 0
    for turn in range(750):
        seconds = turn * 4.8
        while in_flight and in_flight[0][0] <= seconds:
            reserved = in_flight.popleft()[1]
            books.settle(reserved, 0.8 * reserved.expected_usd)
        now = BEGIN + timedelta(seconds=seconds)
        for reserved in choose(pacers[turn % routers], draw(4, rng, 10.0 / 3_000), now).reserved:
            if reserved is None:
                unserved += 1
                continue
            books.reserve(reserved)
            in_flight.append((seconds + 5.0, reserved))
            spent += 0.8 * reserved.expected_usd

    assert 9.9 <= spent <= 10.0
    assert unserved <= 15


def test_lambda_follows_what_calls_cost_not_what_they_were_expected_to() -> None:
    """Of two budgets that are spent alike by expectation, the one whose calls cost double is the stricter."""
    lambdas = []
    for dearer in (1.0, 2.0):
        rng, seconds = np.random.default_rng(0), 0.0
        books = Books(clock=lambda: seconds)  # noqa: B023  # of this round alone
        pacers = Pacers(books, clock=lambda: seconds)  # noqa: B023
        for turn in range(60):
            seconds = turn * 10.0
            batch = choose(pacers, draw(8, rng, 10.0 / 3_000), BEGIN + timedelta(seconds=seconds))
            for reserved in filter(None, batch.reserved):
                books.reserve(reserved)
                books.settle(reserved, dearer * reserved.expected_usd)
        lambdas.append(batch.paces[0].error_per_usd)

    assert lambdas[1] > 1.3 * lambdas[0] > 0


def test_what_was_lent_is_all_that_is_spent_while_the_books_are_away() -> None:
    """Then it is said that nothing is known; a second after they failed they are asked again."""
    books, seconds = Outage(), 0.0
    pacers = Pacers(books, clock=lambda: seconds)
    one = draw(1, np.random.default_rng(0), 0.01)
    served = choose(pacers, one)
    books.away = True
    seconds = 10.0
    away = [choose(pacers, one) for _ in range(60)]
    books.away = False
    silent = choose(pacers, one)
    seconds = 11.0
    back = choose(pacers, one)
    held = [reserved.held for batch in (served, *away) for reserved in batch.reserved if reserved is not None]

    assert {one.grant for one in held} == {1}
    assert 1 < len(held) < 60
    assert (away[-1].reserved, away[-1].shortage) == ([None], "unknown")
    assert silent.reserved == [None]
    assert back.reserved[0] is not None


def test_a_prompt_whose_llm_is_not_paid_for_gets_one_that_is() -> None:
    """All want ``a``, which may come to 20 USD of 10: two get ``b``, one ``c``, and the last is refused."""
    costs = np.tile([[10.0, 2.0, 0.5]], (4, 1))
    candidates = Candidates(
        errors=np.tile([[0.1, 0.2, 0.9]], (4, 1)),
        costs=costs,
        allowed=np.ones((4, 3), dtype=bool),
        names=("a", "b", "c"),
        ceilings=2 * costs,
    )
    batch = Pacers(Books()).start("p", replace(HOUR, error_per_usd=0.0), BEGIN)

    llms = batch.choose(candidates, rng=NO_DRAWS).llms

    # 9.98 USD: 4, 4, then 1, and of the .98 that are left nothing.
    assert llms.tolist() == [1, 1, 2, -1]
    assert [pace.remaining_usd for pace in batch.paces] == [4.0, 4.0, 1.0, 0.0]
    assert batch.shortage == "spent"


@pytest.mark.parametrize(("usd", "odds"), [(0.5, [1 / 2, 1 / 2, 0.0]), (5.0, [1 / 3, 1 / 3, 1 / 3])])
def test_the_logged_propensity_is_that_of_the_choice_at_the_edge_of_a_budget(
    usd: float, odds: list[float]
) -> None:
    """Every LLM is explored alike; where ``dear`` is not left, the others are, whatever was drawn.

    Over all draws each is chosen as often as its propensity says, a replay from the log gives the same, and
    no more stays reserved than the choice comes to.
    """
    offered = Candidates(
        errors=np.full((1, 3), 0.3),
        costs=np.array([[0.001, 0.002, 1.0]]),
        allowed=np.ones((1, 3), dtype=bool),
        names=("cheap", "common", "dear"),
    )
    budget = Budget(usd=usd, period_s=3_600.0, error_per_usd=0.0, exploring=Exploring(share=1.0, band=1.0))
    chosen = np.zeros(3)
    for draw_ in (np.arange(600) + 0.5) / 600:
        batch = Pacers(Books()).start("p", budget, BEGIN)
        found = batch.choose(offered, rng=LoggedDraws(np.array([draw_])))
        [pace], [reserved] = batch.paces, batch.reserved
        again = budget.in_force(
            error_per_usd=pace.error_per_usd, remaining_usd=pace.remaining_usd, by_ceiling=True
        ).choose(offered, rng=LoggedDraws(found.draws))
        chosen[found.llms[0]] += 1 / 600

        assert found.propensities[0] == pytest.approx(odds[found.llms[0]])
        assert (again.llms[0], again.propensities[0]) == (found.llms[0], found.propensities[0])
        assert reserved is not None
        assert reserved.held.usd == pytest.approx(offered.costs[0, found.llms[0]])
    assert chosen == pytest.approx(odds)


def test_the_first_prompts_are_told_at_once() -> None:
    """A router that gets none for hours has told of them; the second batch waits for its time."""
    pacers = Pacers(books := Books(), clock=lambda: 0.0)
    choose(pacers, draw(3, np.random.default_rng(0), 0.01))
    choose(pacers, draw(2, np.random.default_rng(0), 0.01))

    found = books.tell(Account(policy="p", budget=HOUR, period_start=BEGIN), Told())

    assert found.prompts == 3


def test_what_is_not_published_is_taken_back() -> None:
    """A decision that its tenant cannot pay for leaves the policy's budget as it was."""
    seconds = 0.0
    pacers = Pacers(books := Books(), clock=lambda: seconds)
    one = draw(1, np.random.default_rng(0), 0.01)
    first = choose(pacers, one).reserved[0]
    assert first is not None
    pacers.undo(first)
    again = choose(pacers, one).reserved[0]
    seconds = 5.0
    choose(pacers, one)
    told = books.tell(Account(policy="p", budget=HOUR, period_start=BEGIN), Told())

    assert again == first
    assert (told.prompts, told.told) == (1, pytest.approx(first.expected_usd))


def test_a_new_period_starts_with_the_whole_budget() -> None:
    """What was lent for the old hour is void, and the rate of prompts that it came to is believed."""
    rng, seconds, lambdas = np.random.default_rng(0), 0.0, []
    books = Books(clock=lambda: seconds)
    pacers = Pacers(books, clock=lambda: seconds)
    for turn in range(100):
        seconds = turn * 36.0
        batch = choose(pacers, draw(30, rng, 10.0 / 3_000), BEGIN + timedelta(seconds=seconds))
        for reserved in filter(None, batch.reserved):
            books.reserve(reserved)
            books.settle(reserved, reserved.expected_usd)
        lambdas.append(batch.paces[0].error_per_usd)
    seconds = 3_600.0
    after = choose(pacers, draw(30, rng, 10.0 / 3_000), BEGIN + timedelta(hours=1))

    assert {reserved.period_start for reserved in filter(None, after.reserved)} == {
        BEGIN + timedelta(hours=1)
    }
    assert after.paces[0].error_per_usd == pytest.approx(np.median(lambdas), rel=0.3)


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
    """Shares of what is left, and nothing where less is left than is needed; another hour is another."""
    banks = {slot: PostgresBank(engine, slot=slot) for slot in "ab"}
    account = Account(policy="p", budget=replace(HOUR, usd=10 / (1 - HELD_BACK)), period_start=BEGIN)
    grants = [
        banks[slot].lend(account, Decimal(need), 0.5)
        for slot, need in [("a", "1"), ("b", "1"), ("a", "2"), ("b", "0.5"), ("a", "0.1")]
    ]
    other = banks["a"].lend(replace(account, period_start=BEGIN + timedelta(hours=1)), Decimal(1), 0.0)

    assert [None if one is None else round(float(one.usd), 6) for one in grants] == [
        5.0,
        2.5,
        2.0,
        None,
        0.25,
    ]
    assert other is not None
    assert other.usd == 1


@pytest.mark.stack
def test_what_routers_tell_is_added_up(engine: Engine) -> None:
    """Two routers: prompts and what they are expected to cost; the lambda is that of who told last."""
    account = Account(policy="p", budget=HOUR, period_start=BEGIN)
    for slot, prompts, error_per_usd in (("a", 3, 10.0), ("b", 4, 20.0), ("a", 5, 30.0)):
        told = Told(prompts=prompts, expected_usd=prompts / 10, error_per_usd=error_per_usd)
        found = PostgresBank(engine, slot=slot).tell(account, told)
    with transaction(engine) as session:
        paced = PolicyBooks(session).pace("p", BEGIN)
        unknown = PolicyBooks(session).pace("q", BEGIN)

    assert (found.prompts, found.told) == (12, pytest.approx(1.2))
    assert found.begun_at is not None
    assert paced is not None
    assert (paced.error_per_usd, paced.slot) == (30.0, "a")
    assert unknown is None


@pytest.mark.stack
def test_what_a_dead_router_was_lent_comes_back(engine: Engine) -> None:
    """Of 1 USD lent .3 is reserved by a decision that was committed; the rest comes back."""
    account = Account(policy="p", budget=HOUR, period_start=BEGIN)
    grant = PostgresBank(engine, slot="dead").lend(account, Decimal(1), 0.0)
    assert grant is not None
    entry = Reservation(
        decision_id="d",
        decided_at=int(BEGIN.timestamp()),
        tenant="acme",
        llm="a",
        grant=0,
        usd=0.0,
        policy="p",
        period=int(BEGIN.timestamp()),
        policy_grant=grant.id,
        policy_usd=0.3,
    )
    with transaction(engine) as session:
        Ledger(session).book([entry])
        lent = PolicyBooks(session).standing("p", BEGIN).held
        grants = Grants(session)
        grants.expire("dead")
        assert grants.release(before=grants.now() + timedelta(seconds=1)) == 1
        left = PolicyBooks(session).standing("p", BEGIN).held
    with transaction(engine) as session:
        Ledger(session).book([settle("d", 0.1)])
        settled = PolicyBooks(session).standing("p", BEGIN)

    assert (lent, left) == (1.0, 0.3)
    assert (settled.held, settled.paid, settled.expected) == (0.0, 0.1, 0.2)


def settle(decision: str, usd: float | None, *, expected_usd: float = 0.2) -> Settlement:
    """Make the entry of an answer that was decided by ``p``."""
    return Settlement(
        usage_id="t/0/0",
        decision_id=decision,
        decided_at=int(BEGIN.timestamp()),
        tenant="acme",
        llm="a",
        failed=False,
        usd=usd,
        input_tokens=1,
        output_tokens=1,
        policy="p",
        period=int(BEGIN.timestamp()),
        expected_usd=expected_usd,
    )


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
    assert 0.010 < spent <= 0.0135
    assert len(records) <= 24
    assert {record.llm for record in records} == {"large", "small"}
    assert all(record.pace is not None for record in records)
    assert (found.decisions, found.identical) == (len(records), len(records))
