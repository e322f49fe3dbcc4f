from decimal import Decimal

import numpy as np
import pytest

from workers.batches.purse import Purse, as_amount, reservations


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


def count_paid(purse: Purse, *amounts: float, keep: float = 0.0) -> int:
    """Lines that may be reserved so much for."""
    return purse.count_paid(np.array(amounts), keep_usd=np.full(len(amounts), keep))


def test_what_is_left_is_neither_spent_nor_reserved_nor_held_back() -> None:
    """10 - 4 spent - 2 under way = 4; an overrun of 0.25 holds back four times as much."""
    assert make_purse().left_usd == Decimal(4)
    assert make_purse(largest_overrun_usd=Decimal("0.25")).left_usd == Decimal(3)


def test_the_largest_reservation_is_held_back_three_times() -> None:
    """0.5 reserved for one line under way: it may cost 1.5 more, so 2.5 are left; nothing with none of it."""
    assert make_purse(largest_usd=0.5).left_usd == Decimal("2.5")
    assert make_purse(largest_usd=0.5, lines_under_way=0).left_usd == Decimal(4)


def test_little_is_held_back_when_little_is_under_way() -> None:
    """With one line under way an overrun of 0.25 is held back once."""
    assert make_purse(largest_overrun_usd=Decimal("0.25"), lines_under_way=1).left_usd == Decimal("3.75")


def test_nothing_is_left_below_nothing() -> None:
    """What costs more than was reserved leaves zero, not a debt."""
    assert make_purse(spent_usd=Decimal(11)).left_usd == Decimal(0)


def test_no_budget_leaves_any_amount() -> None:
    """A batch without a budget never waits for money."""
    assert make_purse(budget_usd=None).left_usd is None
    assert count_paid(make_purse(budget_usd=None), 1e6, 1e6) == 2


def test_lines_are_paid_for_while_what_one_may_overrun_is_left_too() -> None:
    """4 are left: 0.5 + 0.5 and three times 0.5 held back make 2.5, a third line 3, a line of 1 too much."""
    assert count_paid(make_purse(), 0.5, 0.5, 0.5) == 3
    assert count_paid(make_purse(), 0.5, 0.5, 1.0) == 2
    assert count_paid(make_purse(), 0.5, 0.5, 0.5, keep=1.25) == 2
    assert count_paid(make_purse(), 1.5) == 0
    assert count_paid(make_purse(), 0.0, 1.5) == 1


def test_a_line_alone_may_cost_four_times_what_is_reserved() -> None:
    """So a quarter of what is left is the most that may be reserved for it, and that is paid for."""
    purse = make_purse(lines_under_way=0)

    most = purse.most_usd()

    assert most == pytest.approx(1.0, abs=1e-9)
    assert count_paid(purse, most) == 1
    assert purse.most_usd(keep_usd=3.0) == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize("usd", [0.1, 1e-9, 0.000123456789012, 3.0, 0.0])
def test_an_amount_written_and_read_again_is_the_same(usd: float) -> None:
    """So what settles is exactly what was reserved, however many lines there are."""
    amount = as_amount(usd)

    assert as_amount(float(f"{amount:f}")) == amount


def test_a_line_reserves_what_its_call_hardly_exceeds() -> None:
    """3 hardly exceeded, 1 expected: 3; 1.5 and 1: twice what is expected; dearer than predicted: more."""
    expected, ceilings = np.array([1.0, 1.0]), np.array([3.0, 1.5])

    assert reservations(expected, ceilings).tolist() == [3.0, 2.0]
    assert reservations(expected, ceilings, correction=1.5).tolist() == [4.5, 3.0]
    assert reservations(expected, ceilings, correction=0.5).tolist() == [3.0, 2.0]
