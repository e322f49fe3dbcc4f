from decimal import Decimal

import pytest

from workers.batches.purse import Purse, as_amount, reservation


def make_purse(**changes: object) -> Purse:
    """A purse of 10 USD, of which 4 are spent and 2 reserved for lines under way."""
    values = {
        "budget_usd": Decimal(10),
        "spent_usd": Decimal(4),
        "reserved_usd": Decimal(7),
        "settled_usd": Decimal(5),
        "largest_overrun_usd": Decimal(0),
        "lines_under_way": 1_000,
    }
    return Purse(**{**values, **changes})  # type: ignore[arg-type]


def test_what_is_left_is_neither_spent_nor_reserved_nor_held_back() -> None:
    """10 - 4 spent - 2 under way = 4; an overrun of 0.25 holds back four times as much."""
    assert make_purse().left_usd == Decimal(4)
    assert make_purse(largest_overrun_usd=Decimal("0.25")).left_usd == Decimal(3)


def test_little_is_held_back_when_little_is_under_way() -> None:
    """With one line under way an overrun of 0.25 is held back for it and for the next: 4 - 0.5."""
    assert make_purse(largest_overrun_usd=Decimal("0.25"), lines_under_way=1).left_usd == Decimal("3.5")


def test_nothing_is_left_below_nothing() -> None:
    """What costs more than was reserved leaves zero, not a debt."""
    assert make_purse(spent_usd=Decimal(11)).left_usd == Decimal(0)


def test_no_budget_leaves_any_amount() -> None:
    """A batch without a budget never waits for money."""
    assert make_purse(budget_usd=None).left_usd is None


@pytest.mark.parametrize("usd", [0.1, 1e-9, 0.000123456789012, 3.0, 0.0])
def test_an_amount_written_and_read_again_is_the_same(usd: float) -> None:
    """So what settles is exactly what was reserved, however many lines there are."""
    amount = as_amount(usd)

    assert as_amount(float(f"{amount:f}")) == amount


def test_a_line_reserves_twice_its_expected_cost() -> None:
    """0.000001 expected is 0.000002 reserved."""
    assert reservation(1e-6) == Decimal("0.000002")
