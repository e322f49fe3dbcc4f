"""What a router does with a batch: read the prompts, decide them by policy, and say what came of each."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from routing.decisions import Decisions, Prompts, decide
from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError, UnknownLLMError
from routing.policies import UniformSource
from routing.requests import Limits
from workers.cancels import Cancelled
from workers.decision_ids import DecisionFacts, DecisionSigner
from workers.errors import PoisonError, WaitableError
from workers.messages import Message, Record
from workers.policies import DEFAULT_POLICY
from workers.prompts import Prompt, read_prompt, read_reply_topic
from workers.router.banks import Books
from workers.router.budgets import SHORTAGES, degrade, refuse_spending
from workers.router.deciding import decide_batch, refuse_budget, refuse_choice
from workers.router.pacing import Pacers, Reserved
from workers.router.records import (
    Decided,
    decision_record,
    dispatch_record,
    error_reply,
    reservation_record,
)
from workers.router.serving import read_serving
from workers.router.views import NamedPolicy, RoutingView, require_policy
from workers.settings import Settings
from workers.storage.tenants import Tenant, find_tenant
from workers.tenants import Held, Purses, Shortage, admit, lend_nothing, narrow
from workers.topics import Topics
from workers.transactions.dead_letters import ANSWERED_HEADER, dead_letter

_CANCELLED = PoisonError("cancelled", str(Cancelled()))
_EXPIRED = PoisonError("expired", "the deadline passed before the prompt was routed")
#: Why a decision is degraded.
_FAILING = "llm_failing"


class Router:
    """Turns a batch of prompts into dispatches, decision records, error replies and dead letters.

    ``view`` gives what to decide from, as of now; ``None`` while there is none yet, and then the batch waits.
    One view serves a whole batch. What a prompt may cost is reserved from ``purses`` where its tenant has a
    budget; without any, no tenant's budget is known. LLMs that are ``failing`` are not chosen while there is
    another; decisions that this changes are marked as degraded. A prompt that ``is_cancelled`` is answered
    so. ``pacers`` keep the pace of policies that spend a budget; without any, this router shares a budget
    with nobody.
    """

    def __init__(
        self,
        *,
        view: Callable[[], RoutingView | None],
        signer: DecisionSigner,
        settings: Settings,
        rng: UniformSource,
        purses: Purses | None = None,
        failing: Callable[[], frozenset[str]] = frozenset,
        is_cancelled: Callable[[str], bool] = lambda _prompt_id: False,
        pacers: Pacers | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._purses = purses or Purses(lend_nothing)
        self._failing = failing
        self._is_cancelled = is_cancelled
        self._pacers = pacers or Pacers(Books())
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
        rows_by_policy: dict[tuple[str, float | None], list[tuple[int, Prompt]]] = {}
        for row, message in enumerate(batch):
            try:
                prompt, tenant = admit(read_prompt(message, self._settings), view.tenants)
                policy = _check_names(prompt, view)
                prompt = narrow(prompt, tenant)
                read_serving(message, view.policies[policy].declaration)
            except PoisonError as error:
                records[row] = self._refuse(message, error)
                continue
            if self._is_cancelled(prompt.prompt_id):
                records[row] = [self._error_reply(prompt, _CANCELLED)]
            elif prompt.deadline is not None and prompt.deadline <= self._now():
                records[row] = [self._error_reply(prompt, _EXPIRED)]
            else:
                rows_by_policy.setdefault((policy, tenant.exploration_share), []).append((row, prompt))
        texts = [prompt.request.prompt_text for rows in rows_by_policy.values() for _, prompt in rows]
        embeddings = view.embedder.encode(texts)
        start = 0
        for (name, share), rows in rows_by_policy.items():
            named = view.policies[name].exploring(share)
            end = start + len(rows)
            routed = self._route([prompt for _, prompt in rows], embeddings[start:end], view, named)
            for (row, _), outputs in zip(rows, routed, strict=True):
                records[row] = outputs
            start = end
        return records

    def _route(
        self,
        prompts: Sequence[Prompt],
        embeddings: FloatMatrix,
        view: RoutingView,
        named: NamedPolicy,
        *,
        around: bool = True,
    ) -> list[list[Record]]:
        """Decide prompts that ask for one policy, and give the records of each.

        LLMs that are failing are gone ``around``; a prompt for which that leaves none gets one all the same.
        """
        policy, now = named.name, self._now()
        failing = self._failing() if around else frozenset()
        limits = [limits_at(prompt, now).tightened(Limits(excluded=failing)) for prompt in prompts]
        asked = Prompts(
            embeddings=embeddings,
            input_tokens=np.array([prompt.input_tokens for prompt in prompts], dtype=np.float64),
            limits=limits,
        )
        try:
            found = decide_batch(
                policy,
                named.declaration,
                lambda chooser: decide(asked, view.snapshot, chooser, rng=self._rng),
                pacers=self._pacers,
                now=now,
            )
        except (UnknownLLMError, InvalidInputError) as error:  # it names one that has left, say
            problem = PoisonError("unusable_policy", f"policy {policy} cannot choose: {error}")
            return [self._refuse(prompt.message, problem) for prompt in prompts]
        decisions = found.decisions
        stuck = [row for row in range(len(prompts)) if decisions.llms[row] < 0] if failing else []
        again = iter(
            self._route([prompts[row] for row in stuck], embeddings[stuck], view, named, around=False)
            if stuck
            else ()
        )
        return [
            (next(again) if failing else [self._error_reply(prompt, refuse_choice(named, found, row))])
            if decisions.llms[row] < 0
            else self._charge(
                Decided(
                    prompt=prompt,
                    limits=limits[row],
                    decisions=decisions,
                    row=row,
                    named=named,
                    snapshot=view.snapshot,
                    token=self._sign(prompt, decisions, row, now),
                    now=now,
                    pace=found.pace(row),
                    reserved=found.reserved(row),
                    degraded=_FAILING if not around or _wanted(prompt, failing) else "",
                ),
                view,
            )
            for row, prompt in enumerate(prompts)
        ]

    def _charge(self, decided: Decided, view: RoutingView) -> list[Record]:
        """Reserve what the call may cost of its tenant's budget, and publish the decision.

        Where the budget has not so much left, that is an error reply or, if the tenant is one to be degraded,
        a call of its cheapest LLM, for which nothing is reserved.
        """
        tenant = find_tenant(decided.prompt.tenant, view.tenants) or Tenant(name=decided.prompt.tenant)
        try:
            decided = replace(decided, priority=tenant.priority, reserved=self._cover_cascade(decided))
        except PoisonError as error:
            return [self._error_reply(decided.prompt, error)]
        if not tenant.has_budget:
            return self._dispatch(decided)
        held = self._purses.reserve(tenant.name, decided.ceiling_usd, day=decided.now.date())
        if isinstance(held, Held):
            return self._dispatch(replace(decided, held=held))
        SHORTAGES.labels(held.reason, tenant.at_limit).inc()
        if tenant.at_limit == "error":
            if decided.reserved is not None:
                self._pacers.undo(decided.reserved)
            return [self._error_reply(decided.prompt, refuse_spending(tenant, decided.ceiling_usd, held))]
        cheapest = degrade(decided)
        return self._dispatch(
            replace(
                cheapest, token=self._sign(cheapest.prompt, cheapest.decisions, cheapest.row, cheapest.now)
            )
        )

    def _cover_cascade(self, decided: Decided) -> Reserved | None:
        """Give what the policy's budget holds: more than for one call, where a cascade may make several.

        Raises ``PoisonError`` where so much is not left.
        """
        reserved = decided.reserved
        may_call_more = decided.asked_next or decided.scoring_usd
        if reserved is None or not may_call_more or decided.ceiling_usd <= reserved.held.usd:
            return reserved
        self._pacers.undo(reserved)
        found = self._pacers.reserve(reserved.policy, decided.ceiling_usd, reserved.expected_usd)
        if isinstance(found, Shortage):
            raise refuse_budget(decided.named, found.reason)
        return found

    def _dispatch(self, decided: Decided) -> list[Record]:
        reservation = reservation_record(decided, self._topics)
        return [
            dispatch_record(decided, self._topics),
            decision_record(decided, self._topics),
            *(() if reservation is None else (reservation,)),
        ]

    def _sign(self, prompt: Prompt, decisions: Decisions, row: int, now: datetime) -> str:
        return self._signer.sign(
            DecisionFacts(
                prompt_id=prompt.prompt_id,
                llm=decisions.names[decisions.llms[row]],
                map_version=decisions.map_version,
                cells=tuple(decisions.cells[row].tolist()),
                shares=decisions.shares(row),
                propensity=float(decisions.propensities[row]),
                decided_at=int(now.timestamp()),
            )
        )

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
        letter = replace(letter, headers=(*letter.headers, (ANSWERED_HEADER, b"true")))
        return [letter, error_reply(message, reply_to, error.error_class, error.sentence, now=self._now())]

    def _error_reply(self, prompt: Prompt, error: PoisonError) -> Record:
        return error_reply(
            prompt.message, prompt.reply_to, error.error_class, error.sentence, now=self._now()
        )


def limits_at(prompt: Prompt, now: datetime) -> Limits:
    """Give a prompt's limits at this moment: a deadline becomes the seconds that are left."""
    if prompt.deadline is None:
        return prompt.limits
    left = (prompt.deadline - now).total_seconds()
    return prompt.limits.tightened(Limits(max_seconds=left))


def _wanted(prompt: Prompt, failing: frozenset[str]) -> bool:
    """Whether a caller would take one of the LLMs that are failing."""
    candidates = prompt.limits.candidates
    return bool((failing if candidates is None else failing & candidates) - prompt.limits.excluded)


def _check_names(prompt: Prompt, view: RoutingView) -> str:
    """Give the name of the policy to use; ``PoisonError`` for a policy or LLMs that nobody registered."""
    known = view.snapshot.names
    candidates = prompt.limits.candidates
    if candidates is not None and not candidates & set(known):
        name = min(candidates)
        raise PoisonError("unknown_llm", str(UnknownLLMError(name, known)))
    return require_policy(DEFAULT_POLICY if prompt.policy is None else prompt.policy, view).name
