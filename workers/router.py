"""The router: embed a batch of prompts, decide, and publish a dispatch and a decision record for each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import numpy as np
import structlog

from routing.decisions import Decisions, Prompts, decide
from routing.embedders import Embedder, Fingerprint, FloatMatrix
from routing.errors import InvalidInputError, NoCandidateError, UnknownLLMError
from routing.policies import Policy, UniformSource
from routing.requests import Limits
from routing.snapshot import Snapshot
from workers import messages
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError, WaitableError
from workers.messages import CandidateRecord, DecisionRecord, Message, Record
from workers.policies import DEFAULT_POLICY, build_policy
from workers.prompts import Prompt, read_prompt, read_reply_topic
from workers.settings import Settings
from workers.storage.snapshots import PublishedState
from workers.topics import Topics
from workers.transactions.dead_letters import dead_letter

_SOURCE = "/router"
_EXPIRED = PoisonError("expired", "the deadline passed before the prompt was routed")
#: What travels on from a prompt to its dispatch.
_CARRIED = (messages.REPLY_TO, messages.DEADLINE, messages.TENANT, messages.TRACEPARENT)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPolicy:
    """A policy in force, with the declaration that it was built from."""

    policy: Policy
    #: ``NAME@VERSION``.
    version: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingView:
    """All that decisions are made from, as of one version of the state in Postgres."""

    snapshot: Snapshot
    #: The embedder that the snapshot's map was fitted on.
    embedder: Embedder
    policies: Mapping[str, NamedPolicy]
    #: Policies that this version of uniroute cannot build, each with the reason.
    unusable: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.snapshot.cluster_map.fingerprint.require(self.embedder.fingerprint)


def build_view(
    state: PublishedState,
    *,
    open_embedder: Callable[[Fingerprint], Embedder],
    previous: RoutingView | None = None,
) -> RoutingView | None:
    """Make a view of a published state; ``None`` where it holds no snapshot.

    The embedder of ``previous`` serves on while the map's fingerprint stays. A policy that cannot be built,
    declared for a newer version, say, is left out, and prompts that ask for it are told. Raises what
    ``open_embedder`` raises, ``FingerprintMismatchError`` among it.
    """
    if state.snapshot is None:
        return None
    fingerprint = state.snapshot.cluster_map.fingerprint
    if previous is not None and previous.embedder.fingerprint == fingerprint:
        embedder = previous.embedder
    else:
        embedder = open_embedder(fingerprint)
    policies, unusable = {}, {}
    for name, (version, body) in state.policies.items():
        try:
            policy = build_policy(name, body)
        except InvalidInputError as error:
            unusable[name] = str(error)
            log.warning("policy_unusable", policy=name, problem=str(error))
        else:
            policies[name] = NamedPolicy(policy=policy, version=f"{name}@{version}", body=body)
    return RoutingView(snapshot=state.snapshot, embedder=embedder, policies=policies, unusable=unusable)


class Router:
    """Turns a batch of prompts into dispatches, decision records, error replies and dead letters.

    ``view`` gives what to decide from, as of now; ``None`` while there is none yet, and then the batch waits.
    One view serves a whole batch.
    """

    def __init__(
        self,
        *,
        view: Callable[[], RoutingView | None],
        signer: DecisionSigner,
        settings: Settings,
        rng: UniformSource,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._view = view
        self._signer = signer
        self._settings = settings
        self._topics = Topics(settings.topic_prefix)
        self._rng = rng
        self._now = now

    def handle(self, batch: Sequence[Message]) -> list[list[Record]]:
        """Give the records of each message, in the order of the batch.

        Raises ``WaitableError`` while no cluster map or error rates are published.
        """
        view = self._view()
        if view is None:
            raise WaitableError(
                "Postgres", "no cluster map with error rates is in force: run uniroute map fit"
            )
        records: list[list[Record]] = [[] for _ in batch]
        rows_by_policy: dict[str, list[tuple[int, Prompt]]] = {}
        for row, message in enumerate(batch):
            try:
                prompt = read_prompt(message, self._settings)
                policy = _check_names(prompt, view)
            except PoisonError as error:
                records[row] = self._refuse(message, error)
                continue
            if prompt.deadline is not None and prompt.deadline <= self._now():
                records[row] = [self._error_reply(message, prompt.reply_to, _EXPIRED)]
            else:
                rows_by_policy.setdefault(policy, []).append((row, prompt))
        texts = [prompt.request.prompt_text for rows in rows_by_policy.values() for _, prompt in rows]
        embeddings = view.embedder.encode(texts)
        start = 0
        for name, rows in rows_by_policy.items():
            prompts = [prompt for _, prompt in rows]
            end = start + len(rows)
            try:
                routed = self._route(prompts, embeddings[start:end], view, view.policies[name])
            except UnknownLLMError as error:  # the policy names one that has left
                problem = PoisonError("unusable_policy", f"policy {name} cannot choose: {error}")
                routed = [self._refuse(prompt.message, problem) for prompt in prompts]
            for (row, _), outputs in zip(rows, routed, strict=True):
                records[row] = outputs
            start = end
        return records

    def _route(
        self, prompts: Sequence[Prompt], embeddings: FloatMatrix, view: RoutingView, named: NamedPolicy
    ) -> list[list[Record]]:
        asked = Prompts(
            embeddings=embeddings,
            input_tokens=np.array([prompt.input_tokens for prompt in prompts], dtype=np.float64),
            limits=[prompt.limits for prompt in prompts],
        )
        decisions = decide(asked, view.snapshot, named.policy, rng=self._rng)
        return [
            self._dispatch(prompt, row, decisions, named, view.snapshot)
            if decisions.llms[row] >= 0
            else [self._error_reply(prompt.message, prompt.reply_to, _no_candidate(decisions, row))]
            for row, prompt in enumerate(prompts)
        ]

    def _dispatch(
        self, prompt: Prompt, row: int, decisions: Decisions, named: NamedPolicy, snapshot: Snapshot
    ) -> list[Record]:
        now = self._now()
        llm = decisions.names[decisions.llms[row]]
        token = self._signer.sign(
            DecisionFacts(
                prompt_id=prompt.prompt_id,
                llm=llm,
                map_version=decisions.map_version,
                cells=tuple(decisions.cells[row].tolist()),
                propensity=float(decisions.propensities[row]),
                decided_at=int(now.timestamp()),
            )
        )
        decision = _describe(prompt, row, decisions, named, snapshot, token=token, now=now)
        return [
            Record(
                topic=self._topics.dispatch(llm),
                key=prompt.prompt_id.encode(),
                value=prompt.message.value,
                headers=(
                    *messages.event_headers(
                        event_id=prompt.prompt_id, event_type="uniroute.dispatch", source=_SOURCE, now=now
                    ),
                    *messages.carried(prompt.message, _CARRIED),
                    (messages.DECISION_ID, token.encode()),
                    (messages.LLM, llm.encode()),
                    (messages.POLICY, named.version.encode()),
                    (messages.PREDICTED_ERROR, repr(float(decisions.predicted_errors[row])).encode()),
                    (messages.PREDICTED_COST_USD, repr(float(decisions.predicted_costs[row])).encode()),
                    (messages.VERSIONS, messages.encode(decision.versions)),
                ),
            ),
            Record(
                topic=self._topics.decisions,
                key=prompt.prompt_id.encode(),
                value=messages.encode(decision),
                headers=(
                    *messages.event_headers(
                        event_id=prompt.prompt_id, event_type="uniroute.decision", source=_SOURCE, now=now
                    ),
                    *messages.carried(prompt.message, (messages.TRACEPARENT,)),
                ),
            ),
        ]

    def _refuse(self, message: Message, error: PoisonError) -> list[Record]:
        """Dead-letter a message, and tell its caller where there is a legal topic to tell it on."""
        letter = dead_letter(
            message,
            error_class=error.error_class,
            sentence=error.sentence,
            attempts=1,
            topic_prefix=self._settings.topic_prefix,
        )
        try:
            reply_to = read_reply_topic(message, self._settings)
        except PoisonError:
            return [letter]  # the dead letter is the only answer that can be given
        return [letter, self._error_reply(message, reply_to, error)]

    def _error_reply(self, message: Message, reply_to: str, error: PoisonError) -> Record:
        return Record(
            topic=reply_to,
            key=message.id_bytes or None,
            value=messages.error_value(error.error_class, error.sentence),
            headers=(
                *messages.event_headers(
                    event_id=message.id_bytes.decode(errors="replace"),
                    event_type="uniroute.reply",
                    source=_SOURCE,
                    now=self._now(),
                ),
                *messages.carried(message, (messages.TRACEPARENT,)),
            ),
        )


def _check_names(prompt: Prompt, view: RoutingView) -> str:
    """Give the name of the policy to use; ``PoisonError`` for a policy or LLMs that nobody registered."""
    known = view.snapshot.names
    candidates = prompt.limits.candidates
    if candidates is not None and not candidates & set(known):
        name = min(candidates)
        raise PoisonError("unknown_llm", str(UnknownLLMError(name, known)))
    policy = DEFAULT_POLICY if prompt.policy is None else prompt.policy
    if policy in view.unusable:
        raise PoisonError("unusable_policy", f"policy {policy} cannot be used: {view.unusable[policy]}")
    if policy not in view.policies:
        listed = ", ".join(sorted(view.policies)) or "none"
        raise PoisonError("unknown_policy", f"no policy is named {policy[:80]!r}; in force: {listed}")
    return policy


def _plain(limits: Limits) -> dict[str, Any]:
    """Give the limits that were set, as JSON can hold them."""
    values = {one.name: getattr(limits, one.name) for one in fields(Limits)}
    return {
        name: sorted(value) if isinstance(value, frozenset) else value
        for name, value in values.items()
        if value not in (None, frozenset())
    }


def _no_candidate(decisions: Decisions, row: int) -> PoisonError:
    return PoisonError("no_candidate", str(NoCandidateError(decisions.removed(row))))


def _describe(
    prompt: Prompt,
    row: int,
    decisions: Decisions,
    named: NamedPolicy,
    snapshot: Snapshot,
    *,
    token: str,
    now: datetime,
) -> DecisionRecord:
    removed = decisions.removed(row)
    return DecisionRecord(
        prompt_id=prompt.prompt_id,
        decision_id=token,
        decided_at=now,
        llm=decisions.names[decisions.llms[row]],
        policy=named.version,
        policy_body=dict(named.body),
        propensity=float(decisions.propensities[row]),
        draw=None if np.isnan(decisions.draws[row]) else float(decisions.draws[row]),
        cells=tuple(decisions.cells[row].tolist()),
        weights=decisions.weights[row].astype("<f4").tobytes(),
        input_tokens=prompt.input_tokens,
        limits=_plain(prompt.limits),
        candidates=tuple(
            CandidateRecord(
                llm=name, error=error, cost_usd=cost, output_tokens=tokens, removed_by=removed.get(name)
            )
            for name, error, cost, tokens in zip(
                decisions.names,
                decisions.errors[row].tolist(),
                decisions.costs[row].tolist(),
                snapshot.output_tokens.tolist(),
                strict=True,
            )
        ),
        versions=messages.Versions(
            map=decisions.map_version,
            rates=decisions.versions.error_rates,
            prices=decisions.versions.prices,
            policy=named.version,
        ),
    )
