"""What the books of tenants' budgets promise, on the real Postgres."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text

from workers.storage.engine import transaction
from workers.storage.grants import Balance, Grant, Grants
from workers.storage.ledger import Entry, Ledger, Reservation, Settlement
from workers.storage.tenants import Tenant, Tenants

pytestmark = pytest.mark.stack

DAY = date(2027, 1, 31)
NOON = int(datetime(2027, 1, 31, 12, tzinfo=UTC).timestamp())
Budgets = tuple[float | None, float | None]


@pytest.fixture
def books(engine: Engine) -> Engine:
    """A database in which tenant ``acme`` may spend 1 USD a day and 10 a month."""
    with transaction(engine) as session:
        Tenants(session).add(Tenant(name="acme", usd_per_day=1.0, usd_per_month=10.0))
    return engine


def lend(
    engine: Engine, need: str, *, share: float = 0.0, day: date = DAY, slot: str = "r-0"
) -> Grant | None:
    """Ask for a grant to ``acme`` of a lease of a minute."""
    with transaction(engine) as session:
        grants = Grants(session)
        return grants.grant("acme", slot=slot, day=day, need=Decimal(need), share=share, lease_s=60.0)


def book(engine: Engine, *entries: Entry) -> int:
    """Book entries, and count those that were new."""
    with transaction(engine) as session:
        return len(Ledger(session).book(entries))


def balance(engine: Engine, *, day: date = DAY, budgets: Budgets = (1.0, 10.0)) -> Balance:
    """Read where ``acme`` stands on a day."""
    with transaction(engine) as session:
        return Grants(session).balances("acme", day=day, budgets=budgets)[0]


def release(engine: Engine) -> int:
    """End every lease, and give back what is left of the grants."""
    with transaction(engine) as session:
        session.execute(text("UPDATE budget_grants SET expires_at = now() - interval '1 second'"))
        grants = Grants(session)
        return grants.release(before=grants.now())


def reservation(decision: str, grant: int, usd: float, *, decided_at: int = NOON) -> Reservation:
    """Make the entry of a decision for LLM ``a``."""
    return Reservation(
        decision_id=decision, decided_at=decided_at, tenant="acme", llm="a", grant=grant, usd=usd
    )


def settlement(decision: str, usd: float | None, *, usage_id: str = "t/0/0", **fields: Any) -> Settlement:
    """Make the entry of an answer of LLM ``a``."""
    values: dict[str, Any] = {"decided_at": NOON, "failed": False, "input_tokens": 3, "output_tokens": 5}
    return Settlement(
        usage_id=usage_id, decision_id=decision, tenant="acme", llm="a", usd=usd, **{**values, **fields}
    )


def parts(found: Balance) -> Sequence[str]:
    """Give granted, reserved, settled, untold and remaining as they are printed."""
    values = (found.granted, found.reserved, found.settled, found.untold, found.remaining or Decimal(0))
    return [f"{value:f}".rstrip("0").rstrip(".") or "0" for value in values]


def test_a_decisions_money_goes_from_granted_to_reserved_to_settled(books: Engine) -> None:
    """Of a grant of .4, .1 is reserved, and comes to .07: the budget has .03 more than was feared."""
    grant = lend(books, "0.4")
    lent = parts(balance(books))
    book(books, reservation("d-1", grant.id if grant else 0, 0.1))
    reserved = parts(balance(books))
    book(books, settlement("d-1", 0.07))

    assert lent == ["0.4", "0", "0", "0", "0.6"]
    assert reserved == ["0.3", "0.1", "0", "0", "0.6"]
    assert parts(balance(books)) == ["0.3", "0", "0.07", "0", "0.63"]


def test_an_entry_is_booked_once(books: Engine) -> None:
    """A batch that comes again, whole or mixed with news, adds nothing."""
    grant = lend(books, "0.4")
    entries: list[Entry] = [reservation("d-1", grant.id if grant else 0, 0.1), settlement("d-1", 0.07)]
    counts = [book(books, *entries), book(books, *entries), book(books, *entries, settlement("d-2", 0.01))]

    assert counts == [2, 0, 1]
    assert parts(balance(books)) == ["0.3", "0", "0.08", "0", "0.62"]


def test_a_decision_that_is_redriven_pays_for_both_dispatches(books: Engine) -> None:
    """Its reservation is given back once, its costs are added: both were paid."""
    grant = lend(books, "0.4")
    book(books, reservation("d-1", grant.id if grant else 0, 0.1), settlement("d-1", 0.07, failed=True))
    book(books, settlement("d-1", 0.02, usage_id="t/0/9"))

    assert parts(balance(books)) == ["0.3", "0", "0.09", "0", "0.61"]


def test_costs_add_up_to_the_last_digit(books: Engine) -> None:
    """Ten times .1 is 1, not what ten doubles make of it; nor is a small cost lost beside."""
    book(books, *(settlement(f"d-{number}", 0.1) for number in range(10)))
    book(books, settlement("d-odd", 1.1102230246251565e-16))

    assert balance(books).settled == Decimal("1.00000000000000011102230246251565")


def test_an_answer_whose_cost_is_not_known_is_taken_for_what_was_reserved(books: Engine) -> None:
    """An endpoint that tells no usage is not free: the budget counts the reservation, apart from costs."""
    grant = lend(books, "0.4")
    book(books, reservation("d-1", grant.id if grant else 0, 0.1), settlement("d-1", None))
    book(books, reservation("d-2", grant.id if grant else 0, 0.1), settlement("d-2", None, failed=True))

    assert parts(balance(books)) == ["0.2", "0", "0", "0.1", "0.7"]


def test_a_grant_is_a_share_of_what_is_left_or_what_is_needed(books: Engine) -> None:
    """A tenth of 1, then a tenth of .9, then the .5 that is needed; more than is left is not given."""
    grants = [lend(books, need, share=0.1) for need in ("0.01", "0.01", "0.5", "0.32")]

    assert [None if one is None else float(one.usd) for one in grants] == [0.1, 0.09, 0.5, None]


def test_the_month_binds_as_the_day_does(books: Engine) -> None:
    """After 9.8 USD on other days of January, .2 are left on the 31st, and all of the day on 1 February."""
    book(books, settlement("d-0", 9.8, decided_at=NOON - 20 * 86_400))
    grants = [lend(books, "0.3"), lend(books, "0.2"), lend(books, "0.3", day=date(2027, 2, 1))]

    assert [one is not None for one in grants] == [False, True, True]


def test_a_spend_belongs_to_the_day_of_the_decision(books: Engine) -> None:
    """One second before midnight is January, whenever the answer comes."""
    book(books, settlement("d-1", 0.5, decided_at=NOON + 12 * 3600 - 1))
    book(books, settlement("d-2", 0.25, decided_at=NOON + 12 * 3600))

    assert balance(books).settled == Decimal("0.5")
    assert balance(books, day=date(2027, 2, 1)).settled == Decimal("0.25")


def test_grants_asked_for_at_once_never_exceed_the_budget(books: Engine) -> None:
    """Eight threads ask for .03 until they are refused: 33 get it, for 34 would be 1.02 USD."""

    def ask(thread: int) -> int:
        given = 0
        while lend(books, "0.03", slot=f"r-{thread}") is not None:
            given += 1
        return given

    with ThreadPoolExecutor(8) as pool:
        given = sum(pool.map(ask, range(8)))

    assert given == 33
    assert parts(balance(books))[0] == "0.99"


def test_an_overrun_is_what_was_in_flight_and_no_more(books: Engine) -> None:
    """Ten calls of .1 reserved that cost .15 spend 1.5 of 1 USD, .05 more for each; nothing is lent after."""
    for number in range(10):
        grant = lend(books, "0.1")
        book(books, reservation(f"d-{number}", grant.id if grant else 0, 0.1))
    full = [lend(books, "0.001")]
    for number in range(10):
        book(books, settlement(f"d-{number}", 0.15))
        full.append(lend(books, "0.001"))

    assert full == [None] * 11
    assert parts(balance(books)) == ["0", "0", "1.5", "0", "-0.5"]


def test_a_released_grant_gives_back_what_no_decision_took(books: Engine) -> None:
    """Of .4 the .1 that a decision took stays reserved, and .3 may be lent again."""
    grant = lend(books, "0.4")
    book(books, reservation("d-1", grant.id if grant else 0, 0.1))
    count = release(books)

    assert (count, release(books)) == (1, 0)
    assert parts(balance(books)) == ["0", "0.1", "0", "0", "0.9"]


def test_a_reservation_booked_after_the_release_still_counts(books: Engine) -> None:
    """What came too late is not lost: it is in the books until it is settled."""
    grant = lend(books, "0.4")
    release(books)
    book(books, reservation("d-1", grant.id if grant else 0, 0.1))

    assert parts(balance(books)) == ["0", "0.1", "0", "0", "0.9"]


def test_a_router_claims_back_its_own_leases_only(books: Engine) -> None:
    """The leases of the slot that starts again end; those of others run on."""
    lend(books, "0.1", slot="r-0")
    lend(books, "0.2", slot="r-1")
    with transaction(books) as session:
        Grants(session).expire("r-0")
    with transaction(books) as session:
        grants = Grants(session)
        released = grants.release(before=grants.now() + timedelta(seconds=1))

    assert released == 1
    assert parts(balance(books))[0] == "0.2"


def test_usage_that_never_comes_is_written_off(books: Engine) -> None:
    """Reservations of decisions before then go back to the budget; later ones stay."""
    grant = lend(books, "0.4")
    number = grant.id if grant else 0
    book(books, reservation("d-1", number, 0.1), reservation("d-2", number, 0.2, decided_at=NOON + 10))
    with transaction(books) as session:
        count = Ledger(session).write_off(before=datetime.fromtimestamp(NOON + 10, tz=UTC))

    assert count == 1
    assert parts(balance(books))[1] == "0.2"


def test_what_was_booked_is_forgotten_with_the_topic(books: Engine) -> None:
    """Entries of decisions before then go; the spend stays."""
    book(books, settlement("d-1", 0.1), settlement("d-2", 0.2, decided_at=NOON + 10))
    with transaction(books) as session:
        count = Ledger(session).prune(before=datetime.fromtimestamp(NOON + 10, tz=UTC))

    assert count == 1
    assert parts(balance(books))[2] == "0.3"


def test_two_learners_side_by_side_book_each_entry_once(books: Engine) -> None:
    """Four threads are given the same 200 entries in batches of different cuts."""
    grant = lend(books, "0.9")
    entries: list[Entry] = []
    for number in range(100):
        entries += [
            reservation(f"d-{number}", grant.id if grant else 0, 0.002),
            settlement(f"d-{number}", 0.001),
        ]

    def learn(size: int) -> int:
        return sum(book(books, *entries[start : start + size]) for start in range(0, len(entries), size))

    with ThreadPoolExecutor(4) as pool:
        booked = sum(pool.map(learn, (20, 30, 50, 70)))

    assert booked == 200
    assert parts(balance(books)) == ["0.7", "0", "0.1", "0", "0.2"]


def test_spend_tells_each_llm(books: Engine) -> None:
    """Replies, errors, answers of unknown cost, tokens and USD, by LLM."""
    book(
        books,
        settlement("d-1", 0.1),
        settlement("d-2", None),
        settlement("d-3", 0.02, failed=True, input_tokens=0, output_tokens=0),
    )
    with transaction(books) as session:
        [spend] = Ledger(session).spend("acme", since=DAY, until=DAY)

    assert (spend.llm, spend.replies, spend.failures, spend.untold) == ("a", 3, 1, 1)
    assert (spend.input_tokens, spend.output_tokens, spend.settled) == (6, 10, Decimal("0.12"))


def test_a_tenant_without_a_budget_is_lent_nothing(engine: Engine) -> None:
    """Nothing needs to be lent to one that may spend anything, nor to one that is not there."""
    with transaction(engine) as session:
        Tenants(session).add(Tenant(name="acme"))
    with transaction(engine) as session:
        grants = Grants(session)
        given = [
            grants.grant(name, slot="r", day=DAY, need=Decimal(1), share=0.1, lease_s=60.0)
            for name in ("acme", "nobody")
        ]

    assert given == [None, None]


def test_what_calls_may_have_cost_is_untold_beside_what_is_known(books: Engine) -> None:
    """.03 known, .05 estimated; a timeout of .02; of an answer of which nothing is known the reserved .1."""
    grant = lend(books, "0.4")
    for number, one in enumerate(
        [
            settlement("d-0", 0.03, unsettled_usd=0.05),
            settlement("d-1", None, failed=True, unsettled_usd=0.02),
            settlement("d-2", None, unsettled_usd=0.04),
        ]
    ):
        book(books, reservation(f"d-{number}", grant.id if grant else 0, 0.1), one)

    assert parts(balance(books)) == ["0.1", "0", "0.03", "0.17", "0.7"]
