"""What was known of an LLM stays known: a version per change, those of old databases included."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from routing.errors import UnknownLLMError
from routing.llms import Price
from workers.storage import migrate
from workers.storage.engine import transaction
from workers.storage.llms import LLMs, Registration
from workers.storage.prices import Prices
from workers.storage.routing_state import RoutingState

pytestmark = pytest.mark.stack

Make = Callable[..., Registration]


def test_a_revision_leaves_what_was_known_before(engine: Engine, make_registration: Make) -> None:
    """Price and state stay, routers look again, and each version gives the facts of its time."""
    old = make_registration("a", context_length=1_000)
    new = replace(old, llm=replace(old.llm, context_length=2_000, capabilities=frozenset({"tools"})))
    with transaction(engine) as session:
        LLMs(session).register(old)
        LLMs(session).register(make_registration("b"))
        before = RoutingState(session).version()
        version = LLMs(session).revise(replace(new, base_url="http://127.0.0.1:2/v1"))
        after = RoutingState(session).version()
    with transaction(engine) as session:
        found = LLMs(session).get("a")
        first, last = LLMs(session).at_version(1), LLMs(session).at_version(version)

    assert found is not None
    assert (found.version, version, after) == (3, 3, before + 1)
    assert found.registration.base_url == "http://127.0.0.1:2/v1"
    assert found.llm == new.llm
    assert (first["a"].context_length, first["a"].capabilities) == (1_000, frozenset())
    assert (last["a"].context_length, last["a"].capabilities) == (2_000, frozenset({"tools"}))
    assert set(first) == {"a"}
    assert set(last) == {"a", "b"}


def test_who_is_gone_or_never_was_cannot_be_revised(engine: Engine, make_registration: Make) -> None:
    """The error names those who can."""
    with transaction(engine) as session:
        LLMs(session).register(make_registration("a"))
        LLMs(session).register(make_registration("b"))
        LLMs(session).retire("a")
    for name in ("a", "c"):
        with (
            pytest.raises(UnknownLLMError, match=f"no LLM is named '{name}'; registered: b$"),
            transaction(engine) as session,
        ):
            LLMs(session).revise(make_registration(name))


def test_cached_input_has_a_price_of_its_own_or_none(engine: Engine, make_registration: Make) -> None:
    """Not given is not 0."""
    cached = Price(input_usd_per_mtok=2.0, output_usd_per_mtok=8.0, cached_input_usd_per_mtok=0.5)
    with transaction(engine) as session:
        LLMs(session).register(make_registration("a"))
        Prices(session).set("a", cached)
        history = Prices(session).history("a")

    assert [one.price.cached_input_usd_per_mtok for one in history] == [None, 0.5]
    assert history[1].price == cached


def test_llms_of_before_the_versions_get_their_first(
    engine: Engine, migrated_url: str, make_registration: Make
) -> None:
    """The migration keeps what a database holds then, so that its decisions can be made again."""
    with transaction(engine) as session:
        LLMs(session).register(make_registration("a", context_length=1_000, capabilities=frozenset({"json"})))
    migrate.downgrade(migrated_url, "0003")
    migrate.upgrade(migrated_url)

    with transaction(engine) as session:
        found = LLMs(session).at_version(1)
        rows = session.scalar(text("SELECT count(*) FROM llm_versions"))

    assert rows == 1
    assert (found["a"].context_length, found["a"].capabilities) == (1_000, frozenset({"json"}))
