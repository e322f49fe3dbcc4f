import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import get_args

import pytest
from sqlalchemy import Engine, text

from routing.clusters import ClusterMap
from routing.errors import InvalidInputError, UnknownLLMError, UnknownPriceError
from routing.llms import Price
from workers.errors import UsageError
from workers.storage.cell_counts import CellCounts, Evidence
from workers.storage.engine import transaction
from workers.storage.feedback import Feedback, FeedbackEntry
from workers.storage.llms import LLMs, Registration
from workers.storage.prices import Prices
from workers.storage.routing_state import RoutingState

pytestmark = pytest.mark.stack
Make = Callable[..., Registration]


def test_an_llm_comes_back_as_it_was_registered(engine: Engine, make_registration: Make) -> None:
    """Every fact survives the round trip, floats to the last bit."""
    given = make_registration(
        "meta-llama/Llama 3:8b",
        price=Price(input_usd_per_mtok=0.1 + 0.2, output_usd_per_mtok=0.0, fixed_usd=1e-9),
        context_length=8192,
        capabilities=frozenset({"tools", "json"}),
        simulated=True,
        expected_output_tokens=123.456,
    )
    with transaction(engine) as session:
        LLMs(session).register(given)
    with transaction(engine) as session:
        found = LLMs(session).get("meta-llama/Llama 3:8b")

    assert found is not None
    assert found.registration == given
    assert (found.state, found.retired_at) == ("active", None)


def test_llms_are_listed_in_the_order_routing_sorts_them(engine: Engine, make_registration: Make) -> None:
    """By code point: a database's collation would put b before B or after, depending on where it runs."""
    with transaction(engine) as session:
        for name in ("b", "a", "B", "Ä"):
            LLMs(session).register(make_registration(name))
        names = [found.llm.name for found in LLMs(session).list()]

    assert names == ["B", "a", "b", "Ä"]


def test_a_name_is_taken_once(engine: Engine, make_registration: Make) -> None:
    """Registering over a living LLM is refused, and what it held stays."""
    with transaction(engine) as session:
        LLMs(session).register(make_registration("a", base_url="http://first/v1"))
    with pytest.raises(UsageError, match="'a' is registered already"), transaction(engine) as session:
        LLMs(session).register(make_registration("a", base_url="http://second/v1"))

    with transaction(engine) as session:
        found = LLMs(session).get("a")
    assert found is not None
    assert found.registration.base_url == "http://first/v1"


def test_a_retired_llm_is_kept_and_can_come_back(engine: Engine, make_registration: Make) -> None:
    """Retiring takes an LLM out of routing, not out of the books; registering it again sets a new price."""
    with transaction(engine) as session:
        LLMs(session).register(make_registration("a"))
    with transaction(engine) as session:
        LLMs(session).retire("a")
    with transaction(engine) as session:
        LLMs(session).retire("a")
        retired = LLMs(session).get("a")
        active = LLMs(session).list(states=("active",))
    dearer = Price(input_usd_per_mtok=3.0, output_usd_per_mtok=4.0)
    with transaction(engine) as session:
        LLMs(session).register(make_registration("a", price=dearer))
        back = LLMs(session).get("a")
        history = Prices(session).history("a")

    assert active == []
    assert retired is not None
    assert retired.state == "retired"
    assert retired.retired_at is not None
    assert back is not None
    assert (back.state, back.retired_at, back.llm.price) == ("active", None, dearer)
    assert [entry.price.input_usd_per_mtok for entry in history] == [1.0, 3.0]


def test_an_llm_that_comes_back_starts_without_evidence(
    stocked: Engine, cluster_map: ClusterMap, make_registration: Make
) -> None:
    """It may be another model under the name: counts go, feedback stays as replaced, others keep theirs."""
    with transaction(stocked) as session:
        for evidence in get_args(Evidence):
            CellCounts(session).add(
                cluster_map.version, ["a", "b"], [0, 0], [1.0, 1.0], [2.0, 2.0], evidence=evidence
            )
        Feedback(session).record(
            FeedbackEntry(
                feedback_id=name,
                decision_id=None,
                prompt_id="p",
                llm=name,
                map_version=cluster_map.version,
                cells=(0,),
                score=0.5,
                event_time=datetime(2026, 11, 3, tzinfo=UTC),
            )
            for name in "ab"
        )
        LLMs(session).retire("a")
        kept = CellCounts(session).read(cluster_map.version, ["a", "b"], n_cells=4)
    with transaction(stocked) as session:
        LLMs(session).register(make_registration("a"))
        CellCounts(session).add(cluster_map.version, ["a"], [0], [1.0], [1.0], evidence="label")
    with transaction(stocked) as session:
        found = CellCounts(session).read(cluster_map.version, ["a", "b"], n_cells=4)
        counted = [entry.llm for entry in Feedback(session).counted(cluster_map.version)]

    assert kept.labels[0].tolist() == [4.0, 4.0]
    assert found.labels[0].tolist() == [1.0, 4.0]
    assert found.errors[0].tolist() == [1.0, 2.0]
    assert counted == ["b"]


def test_an_unknown_name_is_answered_with_those_there_are(engine: Engine, make_registration: Make) -> None:
    """Retiring an LLM nobody registered says which ones there are."""
    with transaction(engine) as session:
        for name in ("b", "a"):
            LLMs(session).register(make_registration(name))

    with pytest.raises(UnknownLLMError, match="registered: a, b"), transaction(engine) as session:
        LLMs(session).retire("c")


def test_an_unknown_state_is_refused(stocked: Engine) -> None:
    """The life cycle has six states."""
    with pytest.raises(InvalidInputError, match="probe, shadow"), transaction(stocked) as session:
        LLMs(session).set_state("a", "asleep")  # type: ignore[arg-type]


def test_an_llm_without_a_price_is_an_error(stocked: Engine) -> None:
    """An LLM whose price is gone is never read as free."""
    with transaction(stocked) as session:
        session.execute(text("DELETE FROM prices WHERE llm = 'a'"))

    with pytest.raises(UnknownPriceError, match="'a' has no price"), transaction(stocked) as session:
        LLMs(session).list()


@pytest.mark.parametrize(
    "reference", ["sk-proj-0123secret", "env:sk-0123secret", "env:", "file:0123secret", "env:A\n"]
)
def test_a_key_in_place_of_its_reference_is_refused_and_not_repeated(
    make_registration: Make, reference: str
) -> None:
    """Keys never reach the database, nor the message or the traceback about them."""
    with pytest.raises(InvalidInputError, match="env:NAME") as caught:
        make_registration("a", api_key_ref=reference)

    assert "0123secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_url", "ftp://x/v1"),
        ("base_url", "http://user:0123secret@x/v1"),
        ("base_url", "x"),
        ("provider_model", ""),
    ],
)
def test_an_endpoint_that_cannot_be_called_is_refused(
    make_registration: Make, field: str, value: str
) -> None:
    """The endpoint is checked when it is registered, not when the first prompt needs it."""
    good = make_registration("a")
    with pytest.raises(InvalidInputError, match=f"^{field}: ") as caught:
        replace(good, **{field: value})

    assert "0123secret" not in "".join(traceback.format_exception_only(caught.value))


def test_the_name_of_the_scorer_is_refused(make_registration: Make) -> None:
    """Among the calls of a reply the two could not be told apart."""
    with pytest.raises(InvalidInputError, match="scorer"):
        make_registration("scorer")


def test_a_name_too_long_for_a_decision_id_is_refused(make_registration: Make) -> None:
    """101 letters of two bytes each are 202 bytes."""
    with pytest.raises(InvalidInputError, match="200 bytes"):
        make_registration("é" * 101)


def test_every_change_of_the_registry_moves_the_version(engine: Engine, make_registration: Make) -> None:
    """Routers look again after a registration, a price and a retirement."""
    seen = []
    for change in (
        lambda session: LLMs(session).register(make_registration("a")),
        lambda session: Prices(session).set("a", Price(input_usd_per_mtok=5.0, output_usd_per_mtok=5.0)),
        lambda session: LLMs(session).retire("a"),
    ):
        with transaction(engine) as session:
            change(session)
        with transaction(engine) as session:
            seen.append(RoutingState(session).version())

    assert sorted(set(seen)) == seen
    assert seen[0] > 0
