from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from routing.llms import Price
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.errors import RefusedError
from workers.storage.llms import LLMs, Registration
from workers.storage.prices import Prices

pytestmark = pytest.mark.stack


def now() -> datetime:
    """Give the time, which is the database's too."""
    return datetime.now(UTC)


def price_of(usd: float) -> Price:
    """Give a price whose output costs twice its input."""
    return Price(input_usd_per_mtok=usd, output_usd_per_mtok=2 * usd)


def test_the_last_price_is_in_force_and_none_is_lost(stocked: Engine) -> None:
    """A new price takes over; the earlier ones stay as history, oldest first."""
    with transaction(stocked) as session:
        Prices(session).set("a", price_of(7.0))
    with transaction(stocked) as session:
        current = Prices(session).current()
        history = Prices(session).history("a")

    assert current["a"].price == price_of(7.0)
    assert current["b"].price == price_of(1.0)
    assert [entry.price for entry in history] == [price_of(1.0), price_of(7.0)]
    assert history[0].version < history[1].version


def test_one_number_names_the_prices_of_a_moment(stocked: Engine) -> None:
    """A decision logs one price version, from which the prices of every LLM at that time are found again."""
    with transaction(stocked) as session:
        then = Prices(session).set("a", price_of(7.0))
    with transaction(stocked) as session:
        Prices(session).set("b", price_of(8.0))
        Prices(session).set("a", price_of(9.0))
    with transaction(stocked) as session:
        found = Prices(session).named(str(then))

    assert {name: entry.price for name, entry in found.items()} == {"a": price_of(7.0), "b": price_of(1.0)}


def test_a_price_set_for_later_waits_for_its_time(stocked: Engine) -> None:
    """Until then the price before it is in force, whatever was set when; of two for one time, the later."""
    soon, later = now() + timedelta(hours=1), now() + timedelta(hours=2)
    with transaction(stocked) as session:
        Prices(session).set("a", price_of(9.0), valid_from=later)
        Prices(session).set("a", price_of(7.0), valid_from=soon)
        Prices(session).set("a", price_of(8.0), valid_from=soon)
        Prices(session).set("a", price_of(2.0))
    with transaction(stocked) as session:
        current, coming = Prices(session).current(), Prices(session).next_change()
        history = [entry.price for entry in Prices(session).history("a")]
        due = [Prices(session).has_come(moment) for moment in (None, soon, now() - timedelta(hours=1))]

    assert current["a"].price == price_of(2.0)
    assert coming == soon
    assert history == [price_of(usd) for usd in (1.0, 2.0, 7.0, 8.0, 9.0)]
    assert due == [False, False, True]


def test_a_moments_prices_are_found_again_whatever_was_set_for_later(stocked: Engine) -> None:
    """Where the highest version is not in force the name says of which time it is, to the microsecond."""
    names, prices = [], []
    for llm, usd, hours in (("a", 7.0, 1), ("b", 5.0, 0), ("a", 6.0, 2), ("a", 3.0, 0), ("b", 4.0, 0)):
        with transaction(stocked) as session:
            Prices(session).set(
                llm, price_of(usd), valid_from=now() + timedelta(hours=hours) if hours else None
            )
        with transaction(stocked) as session:
            names.append(Prices(session).name_current(["a", "b"]))
            prices.append(Prices(session).current())
    with transaction(stocked) as session:
        found = [Prices(session).named(name) for name in names]

    assert found == prices
    # Registered as b 1 and a 2; 3 and 5 wait for their time, and 4 is above 3.
    assert [name.partition("@")[0] for name in names] == ["2", "4", "5", "6", "7"]
    assert ["@" in name for name in names] == [False, True, True, False, False]


def test_no_price_is_set_for_the_past(stocked: Engine) -> None:
    """What was charged stays charged; a price of before does not come back by its time either."""
    with pytest.raises(UsageError, match="is past"), transaction(stocked) as session:
        Prices(session).set("a", price_of(1.0), valid_from=now() - timedelta(seconds=60))


def test_a_namesake_takes_over_no_price_set_for_later(
    stocked: Engine, make_registration: Callable[..., Registration]
) -> None:
    """What was to hold for an LLM that left does not come into force for the one that took its name."""
    soon = now() + timedelta(hours=1)
    with transaction(stocked) as session:
        Prices(session).set("a", price_of(9.0), valid_from=soon)
        LLMs(session).retire("a")
    with transaction(stocked) as session:
        LLMs(session).register(make_registration("a", price=price_of(4.0)))
        history = Prices(session).history("a")

    assert [entry.price for entry in history] == [price_of(usd) for usd in (1.0, 4.0, 9.0, 4.0)]
    assert [entry.valid_from for entry in history[2:]] == [soon, soon]


def test_a_price_of_nobody_is_refused(engine: Engine) -> None:
    """A price belongs to a registered LLM."""
    with pytest.raises(RefusedError, match="foreign key"), transaction(engine) as session:
        Prices(session).set("ghost", price_of(1.0))


@pytest.mark.parametrize("value", ["-1", "'NaN'", "'Infinity'"])
def test_the_table_takes_no_impossible_price(stocked: Engine, value: str) -> None:
    """Whoever writes past the repository still cannot store a price that is negative or not finite."""
    with pytest.raises(RefusedError) as caught, transaction(stocked) as session:
        session.execute(text(f"UPDATE prices SET input_usd_per_mtok = {value}"))  # noqa: S608 - ours

    assert caught.value.constraint == "ck_prices_input_usd_per_mtok"
