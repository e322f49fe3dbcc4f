"""What routers hold of the state: one consistent read, and a thread that keeps it fresh."""

import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self, cast

import numpy as np
import psycopg
import structlog
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from routing.clusters import PromptMap
from routing.errors import RoutingError
from routing.snapshot import Snapshot, Versions
from workers.errors import WorkersError
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import transaction, translate_errors
from workers.storage.error_rates import ErrorRates
from workers.storage.errors import NotMigratedError
from workers.storage.lengths import Lengths
from workers.storage.llm_journal import LLMJournal
from workers.storage.llms import LLMs, RegisteredLLM
from workers.storage.policies import Policies
from workers.storage.prices import Prices
from workers.storage.routing_state import CHANNEL, RoutingState
from workers.storage.tenants import Tenant, Tenants

log = structlog.get_logger(__name__)

#: Only LLMs in these states take traffic; of a canary, a share.
ROUTED_STATES = ("active", "canary")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedState:
    """Everything routers need of Postgres, as it stood at one version."""

    #: Of ``routing_state``.
    version: int
    #: ``None`` until a map is active and error rates of it are published.
    snapshot: Snapshot | None
    #: Version and body of each policy in force, by name.
    policies: dict[str, tuple[int, dict[str, Any]]]
    #: Active LLMs that take no traffic yet, because the error rates in force do not cover them.
    unrated: tuple[str, ...]
    #: Every LLM ever registered, by name: what was dispatched before an LLM was retired is still answered.
    registered: dict[str, RegisteredLLM]
    #: When the next price comes into force that was set for later.
    next_price_at: datetime | None = None
    #: Every tenant that was declared, by name.
    tenants: dict[str, Tenant] = field(default_factory=dict)


def load_snapshot(session: Session) -> Snapshot | None:
    """Give the snapshot in force in one consistent read; see ``load_state``."""
    return load_state(session).snapshot


def load_state(session: Session, *, previous: PublishedState | None = None) -> PublishedState:
    """Read everything routers need as of one moment (REPEATABLE READ), whatever others write meanwhile.

    The session must not have begun a transaction. The snapshot's columns are the active LLMs that the error
    rates in force cover; those that joined since the lengths and seconds of answers were learned are judged
    by the others. The cluster map of ``previous`` is used again, unparsed, while it is the active one.
    ``UnknownPriceError`` for an active LLM without a price.
    """
    session.connection(execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True})
    version = RoutingState(session).version()
    policies = Policies(session).current()
    registered = LLMs(session).list()
    active = [found for found in registered if found.state in ROUTED_STATES]
    map_version = ClusterMaps(session).active_version()
    rates = None if map_version is None else ErrorRates(session).current(map_version)
    columns = {} if rates is None else {name: column for column, name in enumerate(rates.llms)}
    routed = [found for found in active if found.llm.name in columns]
    unrated = tuple(found.llm.name for found in active if found.llm.name not in columns)
    snapshot = None
    if rates is not None:
        llms = tuple(found.llm for found in routed)
        learned = Lengths(session).current(rates.map_version)
        prior_tokens = np.array([llm.expected_output_tokens for llm in llms])
        models = None if learned is None else learned.of([llm.name for llm in llms], prior_tokens)
        snapshot = Snapshot(
            cluster_map=_read_map(session, rates.map_version, previous),
            llms=llms,
            error_rates=rates.rates[:, [columns[llm.name] for llm in llms]],
            output_tokens=prior_tokens,
            versions=Versions(
                error_rates=str(rates.version),
                prices=Prices(session).name_current([llm.name for llm in llms]),
                llms=str(max((found.version for found in routed), default=0)),
                lengths="" if learned is None or models is None else str(learned.version),
            ),
            lengths=None if models is None else models[0],
            latencies=None if models is None else models[1],
            error_deviations=None
            if rates.deviations is None
            else rates.deviations[:, [columns[llm.name] for llm in llms]],
            canaries=_read_canaries(session, routed),
        )
    return PublishedState(
        version=version,
        snapshot=snapshot,
        policies=policies,
        unrated=unrated,
        registered={found.llm.name: found for found in registered},
        tenants=Tenants(session).list(),
        next_price_at=Prices(session).next_change(),
    )


def _read_canaries(session: Session, routed: list[RegisteredLLM]) -> dict[str, float]:
    """Give the shares of the LLMs on trial, together at most 1."""
    standings = LLMJournal(session).standings()
    shares = {
        found.llm.name: standings[found.llm.name].canary_share if found.llm.name in standings else 0.0
        for found in routed
        if found.state == "canary"
    }
    total = max(1.0, sum(shares.values()))
    return {name: share / total for name, share in shares.items()}


def _read_map(session: Session, version: str, previous: PublishedState | None) -> PromptMap:
    """Give a map that is kept; maps never change, so one that was read is as good."""
    held = None if previous is None or previous.snapshot is None else previous.snapshot.cluster_map
    if held is not None and held.version == version:
        return held
    fitted = ClusterMaps(session).get(version)
    if fitted is None:  # the foreign key of the rates rules it out
        raise NotMigratedError(f"cluster map {version} is in force and not there")
    return fitted.cluster_map


class SnapshotSource:
    """Keeps the published state in memory and swaps it when its version in Postgres moves.

    It does so too once a price comes into force that was set for later, at the first poll from then on.
    A thread of its own polls every ``poll_seconds`` and listens for notifications, so that a change is seen
    within milliseconds, or within a poll where notifications do not arrive. While Postgres is away, or holds
    what cannot be used, the last state stays and ``problem`` says why; so it does after an error that nobody
    foresaw. The thread ends when it is told to, and for nothing else. Reading ``state`` never waits.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        poll_seconds: float = 1.0,
        on_state: Callable[[PublishedState], None] = lambda _: None,
        on_problem: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """Callbacks run on the source's thread, before ``state`` and ``problem`` change.

        Whatever ``on_state`` raises is a problem: the old state stays, the new one is offered again at each
        poll. ``on_problem`` gets ``None`` when all is well again; it must not raise.
        """
        self._engine = engine
        self._poll_seconds = poll_seconds
        self._on_state = on_state
        self._on_problem = on_problem
        self._changed = threading.Condition()
        self._state: PublishedState | None = None
        self._problem: str | None = None
        self._wake, self._wakened = socket.socketpair()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uniroute-snapshots", daemon=True)

    @property
    def state(self) -> PublishedState | None:
        """The last state that could be read; ``None`` before the first."""
        return self._state

    @property
    def snapshot(self) -> Snapshot | None:
        """The snapshot of the last state."""
        state = self._state
        return None if state is None else state.snapshot

    @property
    def problem(self) -> str | None:
        """Why the state may be stale, in one sentence; ``None`` while it is fresh."""
        return self._problem

    def start(self) -> None:
        """Begin to watch; once per source."""
        self._thread.start()

    def stop(self, *, timeout_seconds: float = 3.0) -> None:
        """End the thread and wait for it, at most ``timeout_seconds``; safe to call twice.

        A thread that is stuck in a statement, or in a callback, by then is left to end with the process.
        """
        if not self._stopping.is_set():
            self._stopping.set()
            self._wake.send(b"\0")
        if self._thread.ident is not None:
            self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            log.warning("state_watcher_lingers", seconds=timeout_seconds)
            return
        self._wake.close()
        self._wakened.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for(self, wanted: Callable[["SnapshotSource"], bool], *, timeout_seconds: float) -> bool:
        """Wait until ``wanted(self)`` holds, and tell whether it does; False after the time-out."""
        with self._changed:
            return self._changed.wait_for(lambda: wanted(self), timeout_seconds)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._watch()
            except (WorkersError, RoutingError) as error:
                self._set_problem(str(error))
            except Exception as error:
                problem = f"the watcher of routing state failed: {type(error).__name__}"
                if problem != self._problem:
                    log.exception("state_watcher_failed")
                self._set_problem(problem)
            self._pause(())

    def _watch(self) -> None:
        """Follow the version until stopped; raises where Postgres is lost or holds what cannot be used."""
        with translate_errors(), _detached(self._engine) as listener:
            listener.execute(f"LISTEN {CHANNEL}")
            seen = None  # a new connection may lead to a restored database, whose versions say nothing
            while not self._stopping.is_set():
                seen = self._refresh(seen)
                self._set_problem(None)
                self._pause((listener,))
                for _ in listener.notifies(timeout=0):
                    pass  # however many changes there were, one look sees them all

    def _refresh(self, seen: int | None) -> int:
        with transaction(self._engine) as session:
            due = None if self._state is None else self._state.next_price_at
            if RoutingState(session).version() == seen and not Prices(session).has_come(due):
                return seen
        with transaction(self._engine) as session:
            state = load_state(session, previous=self._state)
        self._on_state(state)
        with self._changed:
            self._state = state
            self._changed.notify_all()
        return state.version

    def _set_problem(self, problem: str | None) -> None:
        if problem == self._problem:
            return
        self._on_problem(problem)
        with self._changed:
            self._problem = problem
            self._changed.notify_all()

    def _pause(self, connections: tuple[psycopg.Connection[Any], ...]) -> None:
        """Wait for a poll's time, a notification or a stop, whichever is first."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakened, selectors.EVENT_READ)
            for connection in connections:
                selector.register(connection, selectors.EVENT_READ)
            selector.select(self._poll_seconds)


@contextmanager
def _detached(engine: Engine) -> Iterator[psycopg.Connection[Any]]:
    """Take a connection out of the pool, in autocommit; it is closed at the end of the block."""
    pooled = engine.raw_connection()
    connection = cast(psycopg.Connection[Any], pooled.driver_connection)
    pooled.detach()
    connection.autocommit = True
    try:
        yield connection
    finally:
        connection.close()
