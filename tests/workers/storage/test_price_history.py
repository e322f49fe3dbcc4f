import pytest
from sqlalchemy import Engine, text

from routing.llms import Price
from workers.storage.engine import transaction
from workers.storage.errors import RefusedError
from workers.storage.prices import Prices

pytestmark = pytest.mark.stack


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
        found = Prices(session).current(at_version=then)

    assert {name: entry.price for name, entry in found.items()} == {"a": price_of(7.0), "b": price_of(1.0)}


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
