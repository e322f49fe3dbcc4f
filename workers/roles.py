"""The composition root: which parts make the loop of each role."""

import random
import resource
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Protocol

import numpy as np
import structlog
from sqlalchemy import Engine

from routing.embedders import Embedder, Fingerprint
from workers import telemetry
from workers.batcher import Batcher
from workers.batches.folders import Store
from workers.batches.handle import Workplace
from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.gates import Limits
from workers.calls.retries import RetryPolicy
from workers.cancels import Cancels
from workers.decision_ids import make_signer
from workers.embedding.loading import open_configured
from workers.errors import WaitableError
from workers.executor import AnswerCache, CallableLLM, DatabaseStore, Executor, Gates
from workers.health import BELIEVED_S, HealthBoard, HealthReporter
from workers.learner import Learner, Refitter
from workers.router import Router, RoutingView, build_view
from workers.router.banks import PostgresBank
from workers.router.pacing import Pacers
from workers.settings import Role, Settings
from workers.storage.engine import make_engine, transaction
from workers.storage.snapshots import PublishedState, SnapshotSource, load_state
from workers.tenants import Lender, Purses, Returns, TopicProgress
from workers.topics import Topics
from workers.transactions.batch_work import BatchWork
from workers.transactions.call_journal import CallJournal
from workers.transactions.call_work import CallWork
from workers.transactions.config import LoopConfig
from workers.transactions.follower import TopicFollower
from workers.transactions.loop import TransactionLoop

#: How many LLMs may have all their calls in flight in one executor before it takes no more.
_LLMS_AT_FULL_LOAD = 16

#: Open files beside connections to LLMs.
_OTHER_FILES = 1_000
#: A cancel message is heeded for so long by executors that start after it.
_CANCELS_S = 3_600.0
_CATCH_UP_S = 3.0

log = structlog.get_logger(__name__)

#: How long a role that ends waits for a thread that may be stuck in a statement.
_JOIN_SECONDS = 3.0


class ViewKeeper:
    """Holds the view a router decides from, and makes a new one whenever the state moves."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.view: RoutingView | None = None

    def update(self, state: PublishedState) -> None:
        """Take over a state; where no view can be made of it, raise and keep the old one."""
        view = build_view(state, open_embedder=self._open, previous=self.view)
        if view is not None:
            self.view = view

    def _open(self, fingerprint: Fingerprint) -> Embedder:
        return open_configured(self._settings, fingerprint)


class Directory:
    """Holds where each LLM answers and what it costs, as of the last state that was read."""

    def __init__(self) -> None:
        self._llms: Mapping[str, CallableLLM] | None = None

    def read(self) -> Mapping[str, CallableLLM]:
        """Give the LLMs by name; ``WaitableError`` before the first state."""
        if self._llms is None:
            raise WaitableError("Postgres", "the registry of LLMs has not been read yet")
        return self._llms

    def names(self) -> frozenset[str]:
        """Give the LLMs' names; none before the first state."""
        return frozenset(self._llms or ())

    def update(self, state: PublishedState) -> None:
        """Take over a state."""
        self._llms = {
            name: CallableLLM(
                endpoint=Endpoint(
                    llm=name,
                    base_url=found.registration.base_url,
                    provider_model=found.registration.provider_model,
                    api_key_ref=found.registration.api_key_ref,
                ),
                price=found.llm.price,
                price_version=found.price_version,
                output_tokens=found.llm.expected_output_tokens,
                limits=Limits(
                    requests_per_minute=found.registration.requests_per_minute,
                    tokens_per_minute=found.registration.tokens_per_minute,
                ),
            )
            for name, found in state.registered.items()
        }


def build_router(settings: Settings, stack: ExitStack) -> TransactionLoop:
    """Give the router's loop.

    Refuses to start, by ``FingerprintMismatchError``, where the map in force was fitted on another embedder
    than the artifact here; where there is no map yet, or no Postgres, its prompts wait.
    """
    engine = _engine(settings, "router", stack)
    keeper = ViewKeeper(settings)
    try:
        with transaction(engine) as session:
            keeper.update(load_state(session))
    except WaitableError as error:
        log.warning("router_waits_for_state", problem=str(error))
    stack.enter_context(SnapshotSource(engine, on_state=keeper.update, on_problem=_report("router")))
    topics = (Topics(settings.topic_prefix).prompts,)
    config = LoopConfig.from_settings(settings, role="router", topics=topics)
    books = _budget_engine(settings, stack)
    router = Router(
        view=lambda: keeper.view,
        signer=make_signer(settings),
        settings=settings,
        rng=np.random.default_rng(),
        purses=Purses(_lender(books, config.transactional_id, stack)),
        pacers=Pacers(PostgresBank(books, slot=config.transactional_id)),
        failing=_follow_health(settings, stack).failing,
        is_cancelled=_follow_cancels(settings, stack).is_cancelled,
    )
    return TransactionLoop(
        config,
        BatchWork(router.handle, max_batch=settings.max_batch),
        observer=telemetry.RoleMetrics("router"),
    )


def _follow_health(settings: Settings, stack: ExitStack) -> HealthBoard:
    board = HealthBoard()
    topic = Topics(settings.topic_prefix).health
    stack.enter_context(
        TopicFollower(settings.kafka_bootstrap, topic, since_s=2 * BELIEVED_S, on_message=board.read)
    )
    return board


def _follow_cancels(settings: Settings, stack: ExitStack) -> Cancels:
    """Give what knows of cancels; those of before this process are waited for, but not for long."""
    cancels = Cancels()
    follower = TopicFollower(
        settings.kafka_bootstrap,
        Topics(settings.topic_prefix).cancels,
        since_s=_CANCELS_S,
        on_message=lambda message: cancels.cancel(message.id_bytes.decode()),
    )
    stack.enter_context(follower)
    follower.caught_up.wait(_CATCH_UP_S)
    return cancels


def build_executor(settings: Settings, stack: ExitStack) -> TransactionLoop:
    """Give the executor's loop: every LLM's dispatch topic, those of LLMs yet to come included."""
    _allow_connections(settings.max_in_flight)
    engine = _engine(settings, "executor", stack)
    directory = Directory()
    source = SnapshotSource(engine, on_state=directory.update, on_problem=_report("executor"))
    stack.enter_context(source)
    topics = Topics(settings.topic_prefix)
    reporter = stack.enter_context(HealthReporter(settings))
    gates = Gates(topics=topics, most=settings.max_in_flight, on_state=reporter.report)
    cancels = _follow_cancels(settings, stack)
    executor = Executor(
        gates=gates,
        cancels=cancels,
        cache=AnswerCache(DatabaseStore(engine), claim_s=2 * settings.call_timeout_s),
        caller=EndpointCaller(
            timeout_s=settings.call_timeout_s, max_connections=_LLMS_AT_FULL_LOAD * settings.max_in_flight
        ),
        llms=directory.read,
        retries=RetryPolicy(),
        settings=settings,
        rng=random.Random(),  # noqa: S311 (jitter, not a secret)
        is_stale=lambda: source.problem is not None,
    )
    config = LoopConfig.from_settings(
        settings,
        role="executor",
        pattern=topics.dispatch_pattern,
        max_in_flight_per_topic=settings.max_in_flight,
        leader_of=topics.leading_lane,
        topics_changed=directory.names,
    )
    journal = CallJournal.open(
        settings.state_folder, name=config.transactional_id, cluster=settings.kafka_bootstrap
    )
    stack.callback(journal.close)
    return TransactionLoop(
        config,
        CallWork(
            executor.handle,
            max_in_flight=_LLMS_AT_FULL_LOAD * settings.max_in_flight,
            paused=lambda: gates.paused,
            journal=journal,
        ),
        observer=telemetry.RoleMetrics("executor", on_shares=gates.own),
        journal=journal,
    )


def _allow_connections(per_llm: int) -> None:
    """Raise this process's own limit of open files, as far as it may, to what full load takes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _LLMS_AT_FULL_LOAD * per_llm + _OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft not in {resource.RLIM_INFINITY, wanted} and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def build_learner(settings: Settings, stack: ExitStack) -> TransactionLoop:
    """Give the learner's loop, and start what refits beside it."""
    engine = _engine(settings, "learner", stack)
    refitter = Refitter(
        engine=engine,
        interval_s=settings.refit_interval_s,
        on_problem=lambda problem: telemetry.STATE_PROBLEM.labels("learner").set(problem is not None),
    )
    stop = threading.Event()
    thread = threading.Thread(target=refitter.run, args=(stop,), name="uniroute-refit", daemon=True)
    thread.start()
    stack.callback(thread.join, _JOIN_SECONDS)
    stack.callback(stop.set)
    learner = Learner(engine=engine, signer=make_signer(settings), settings=settings)
    names = Topics(settings.topic_prefix)
    topics = (names.feedback, names.usage, names.decisions)
    config = LoopConfig.from_settings(settings, role="learner", topics=topics)
    returns = Returns(engine, TopicProgress(settings, group_id=config.group_id))
    returning = threading.Thread(target=returns.run, args=(stop,), name="uniroute-returns", daemon=True)
    returning.start()
    stack.callback(returning.join, _JOIN_SECONDS)
    stack.callback(stop.set)
    return TransactionLoop(
        config, BatchWork(learner.handle, max_batch=1_000), observer=telemetry.RoleMetrics("learner")
    )


def build_batcher(settings: Settings, stack: ExitStack) -> Batcher:
    """Give what runs offline batches; it decides by the same view as a router."""
    engine = _engine(settings, "batcher", stack)
    keeper = ViewKeeper(settings)
    stack.enter_context(SnapshotSource(engine, on_state=keeper.update, on_problem=_report("batcher")))
    return Batcher(
        Workplace(
            engine=engine,
            settings=settings,
            signer=make_signer(settings),
            store=Store(settings.batches_folder),
            view=lambda: keeper.view,
            embedding=threading.Lock(),
            stop=threading.Event(),
        )
    )


class RoleLoop(Protocol):
    """What a role runs in its thread."""

    def run(self, stop: threading.Event) -> None:
        """Block until ``stop`` is set and all has come to an orderly end."""


BUILDERS: Mapping[Role, Callable[[Settings, ExitStack], RoleLoop]] = {
    "router": build_router,
    "executor": build_executor,
    "learner": build_learner,
    "batcher": build_batcher,
}


def _budget_engine(settings: Settings, stack: ExitStack) -> Engine:
    """Give a way to the books that keeps no prompt waiting for long."""
    engine = make_engine(
        settings.database_url,
        application_name="uniroute-router-budgets",
        statement_timeout_ms=2_000,
        lock_timeout_ms=1_000,
        pool_size=1,
    )
    stack.callback(engine.dispose)
    return engine


def _lender(engine: Engine, slot: str, stack: ExitStack) -> Lender:
    """Give what lends to this router, with what an earlier process of its slot was lent claimed back."""
    lender = Lender(engine, slot=slot)

    def claim_back() -> None:
        try:
            lender.claim_back()
        except WaitableError as error:  # the leases end by themselves
            log.warning("leases_run_on", problem=str(error))

    claim_back()
    stack.callback(claim_back)
    return lender


def _engine(settings: Settings, role: Role, stack: ExitStack) -> Engine:
    engine = make_engine(settings.database_url, application_name=f"uniroute-{role}")
    stack.callback(engine.dispose)
    return engine


def _report(role: Role) -> Callable[[str | None], None]:
    telemetry.STATE_PROBLEM.labels(role).set(0)

    def report(problem: str | None) -> None:
        telemetry.STATE_PROBLEM.labels(role).set(problem is not None)
        if problem is None:
            log.info("state_is_fresh", role=role)
        else:
            log.warning("state_is_stale", role=role, problem=problem)

    return report
