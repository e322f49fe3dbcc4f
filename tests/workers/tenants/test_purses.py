"""What a router's purses promise, with books that are counted on fingers."""

from datetime import date
from decimal import Decimal

from workers.errors import WaitableError
from workers.storage.grants import Grant
from workers.tenants import Held, Purses, Shortage

DAY = date(2027, 1, 31)


class Books:
    """Lends a fixed amount as long as it has any, on a clock that a test moves."""

    def __init__(self, *, usd: str, grant: str) -> None:
        self.left = Decimal(usd)
        self.grant = Decimal(grant)
        self.asked: list[Decimal] = []
        self.away = False
        self.now = 0.0

    def __call__(self, _tenant: str, day: date, need: Decimal) -> Grant | None:
        """Lend the fixed amount, or what is needed if that is more."""
        self.asked.append(need)
        if self.away:
            raise WaitableError("Postgres", "down")
        usd = max(self.grant, need)
        if usd > self.left:
            return None
        self.left -= usd
        return Grant(id=len(self.asked), day=day, usd=usd)

    def purses(self) -> Purses:
        """Make purses with leases of a minute."""
        return Purses(self, lease_s=60.0, clock=lambda: self.now)


def held(purses: Purses, usd: float, *, tenant: str = "acme", day: date = DAY) -> Held:
    """Reserve what must be there."""
    found = purses.reserve(tenant, usd, day=day)

    assert isinstance(found, Held)
    return found


def test_the_books_are_asked_once_a_grant() -> None:
    """Nine prompts of .01 out of grants of .03: three questions."""
    books = Books(usd="1", grant="0.03")
    purses = books.purses()
    grants = [held(purses, 0.01).grant for _ in range(9)]

    assert grants == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert books.asked == [Decimal("0.01")] * 3


def test_a_grant_is_spent_to_the_last_billionth() -> None:
    """Ten times .1 is 1, where ten doubles fall short of it; a fraction of a billionth is rounded up."""
    books = Books(usd="1", grant="1")
    purses = books.purses()
    amounts = [held(purses, 0.1).usd for _ in range(10)]

    assert amounts == [0.1] * 10
    assert purses.reserve("acme", 1e-12, day=DAY) == Shortage(reason="spent")
    assert books.asked == [Decimal("0.1"), Decimal("1e-9")]


def test_what_costs_nothing_needs_no_grant() -> None:
    """An LLM without a price is served to a tenant without a cent."""
    books = Books(usd="0", grant="1")

    assert held(books.purses(), 0.0) == Held(grant=0, usd=0.0)
    assert books.asked == []


def test_small_change_serves_small_prompts() -> None:
    """After .02 of .03, a prompt of .02 takes a new grant, and one of .01 the rest of the old."""
    books = Books(usd="1", grant="0.03")
    purses = books.purses()

    assert [held(purses, usd).grant for usd in (0.02, 0.02, 0.01)] == [1, 2, 1]


def test_tenants_and_days_have_purses_of_their_own() -> None:
    """Nobody pays from another's purse, nor today from yesterday's."""
    books = Books(usd="1", grant="0.03")
    purses = books.purses()
    grants = [
        held(purses, 0.01).grant,
        held(purses, 0.01, tenant="zeta").grant,
        held(purses, 0.01, day=date(2027, 2, 1)).grant,
    ]

    assert grants == [1, 2, 3]


def test_nothing_is_reserved_after_the_lease() -> None:
    """After a minute a new grant is asked for; the old one's rest is the books' business."""
    books = Books(usd="1", grant="0.03")
    purses = books.purses()
    first = held(purses, 0.01).grant
    books.now = 59.9
    second = held(purses, 0.01).grant
    books.now = 60.0

    assert (first, second, held(purses, 0.01).grant) == (1, 1, 2)


def test_a_refused_tenant_is_not_asked_for_again_at_once() -> None:
    """For a second as much or more is refused from memory; less is asked for, and so is all after that."""
    books = Books(usd="0.02", grant="0.01")
    purses = books.purses()
    refused = [purses.reserve("acme", usd, day=DAY) for usd in (0.03, 0.03, 0.05)]
    small = held(purses, 0.02)
    books.now = 1.0
    purses.reserve("acme", 0.03, day=DAY)

    assert refused == [Shortage(reason="spent")] * 3
    assert small.usd == 0.02
    assert [float(need) for need in books.asked] == [0.03, 0.02, 0.03]


def test_a_grant_outlives_the_books() -> None:
    """While Postgres is away what was lent is spent on; then the budget is unknown, until it is back."""
    books = Books(usd="1", grant="0.02")
    purses = books.purses()
    held(purses, 0.01)
    books.away = True
    found = [purses.reserve("acme", 0.01, day=DAY) for _ in range(3)]
    books.away, books.now = False, 1.0

    assert found == [Held(grant=1, usd=0.01), *[Shortage(reason="unknown")] * 2]
    assert held(purses, 0.01).grant == 3


def test_what_is_given_back_is_reserved_again() -> None:
    """Out of a grant that was used up, too; with its lease it is gone."""
    books = Books(usd="1", grant="0.03")
    purses = books.purses()
    first = [held(purses, 0.01) for _ in range(3)]
    purses.give_back("acme", first[0], day=DAY)
    purses.give_back("acme", first[1], day=DAY)
    greatest = purses.greatest("acme", day=DAY)
    again = held(purses, 0.02)
    purses.give_back("acme", again, day=DAY)
    books.now = 60.0
    later = held(purses, 0.02)

    assert greatest == 0.02
    assert again == Held(grant=1, usd=0.02)
    assert later.grant == 2
    assert books.asked == [Decimal("0.01"), Decimal("0.02")]


def test_what_is_held_beyond_the_choice_is_let_go() -> None:
    """Of .03 held .01 is reserved; the rest pays for two more out of the same grant, and none is let grow."""
    books = Books(usd="1", grant="0.03")
    purses = books.purses()
    kept = purses.trim("acme", held(purses, 0.03), 0.01, day=DAY)
    free = purses.trim("acme", held(purses, 0.02), 0.0, day=DAY)
    again = held(purses, 0.02)

    assert (kept, free, again) == (
        Held(grant=1, usd=0.01),
        Held(grant=0, usd=0.0),
        Held(grant=1, usd=0.02),
    )
    assert purses.trim("acme", again, 0.5, day=DAY) == again
    assert books.asked == [Decimal("0.03")]
