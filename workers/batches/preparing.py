"""The first stage of a batch: check its lines, embed them, plan them."""

import math
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from routing.embedders import Embedder
from workers.batches.capacities import Capacities
from workers.batches.handle import Handle
from workers.batches.ingest import Lines, ingest
from workers.batches.lines import StoppedError
from workers.batches.paces import NONE_SLOW, Slow
from workers.batches.planning import Goal, Plan, make_plan, read_plan
from workers.batches.purse import Purse
from workers.batches.requests import Options, Wishes, make_prompt
from workers.batches.summing import SAMPLED_LINES
from workers.batches.vectors import Vectors
from workers.errors import UsageError
from workers.policies import DEFAULT_POLICY
from workers.router import RoutingView
from workers.settings import Settings
from workers.tenants import require_tenant

#: Lines, and tokens of them, that are embedded between two looks at whether to stop: seconds of a slow core.
_EMBED_LINES, _EMBED_TOKENS = 256, 32_768
#: A longer text is cut by whatever embeds it.
_MOST_TOKENS = 512
#: How often who waits for the embedder looks at whether to stop.
_TURN_S = 0.5


def prepare(handle: Handle) -> None:
    """Take a batch from validating to in progress, or to ``failed`` where no line of it is good.

    Begun again after a crash, checked lines are not checked anew, and embedded ones not embedded. Raises
    ``StoppedError`` soon after the batch is cancelled, paused or late, or the process told to stop.
    """
    if not handle.folder.index.exists():
        found = ingest(
            handle.place.store.file(handle.look().input_file),
            handle.folder,
            handle.wishes(),
            handle.place.settings,
            stopped=handle.is_stopped,
        )
        handle.note("validated", good=found.good, bad=found.bad)
    good, bad = _count(handle)
    handle.set(total=good + bad, failed=bad)
    if not good:
        handle.set(problem=f"none of the {bad} lines is good" if bad else "the file is empty")
        handle.finalize()
        return
    lines = Lines(handle.folder)
    try:
        view = handle.view()
        vectors = embed(handle, lines, view)
        handle.note("embedded", embedder=view.embedder.fingerprint.name)
        try:
            handle.keep_plan(plan(handle, lines, vectors, view, handle.purse(), at=0, reason="first"))
        finally:
            vectors.close()
    finally:
        lines.close()
    handle.begin()


def _count(handle: Handle) -> tuple[int, int]:
    """Count the good lines and the bad ones in the files: whoever checked them may have died right after."""
    with closing(Lines(handle.folder)) as lines, handle.folder.invalid.open("rb") as invalid:
        return len(lines), sum(1 for _ in invalid)


def embed(handle: Handle, lines: Lines, view: RoutingView) -> Vectors:
    """Embed the lines that are not yet; ``StoppedError`` as above."""
    vectors = Vectors(handle.folder, view.embedder.fingerprint)
    texts = Texts(lines, handle.wishes(), handle.place.settings)
    try:
        while vectors.count < len(lines):
            _check(handle)
            if handle.place.embedding.acquire(timeout=_TURN_S):
                try:
                    texts.embed_next(vectors, view.embedder)
                finally:
                    handle.place.embedding.release()
    except BaseException:
        vectors.close()
        raise
    return vectors


@dataclass(frozen=True, slots=True)
class Texts:
    """What is embedded of a batch's lines."""

    lines: Lines
    wishes: Wishes
    settings: Settings

    def embed_next(self, vectors: Vectors, embedder: Embedder) -> None:
        """Embed some more lines."""
        begin = vectors.count
        tokens = np.minimum(self.lines.tokens(slice(begin, begin + _EMBED_LINES)), _MOST_TOKENS)
        rows = range(begin, begin + max(1, int((tokens.cumsum() <= _EMBED_TOKENS).sum())))
        prompts = [
            make_prompt(self.lines.body(row), self.lines.number(row), self.wishes, self.settings)
            for row in rows
        ]
        vectors.append(embedder, [prompt.request.prompt_text for prompt in prompts])


def _check(handle: Handle) -> None:
    if handle.is_stopped():
        raise StoppedError


def plan(
    handle: Handle,
    lines: Lines,
    vectors: Vectors,
    view: RoutingView,
    purse: Purse,
    *,
    at: int,
    reason: str,
    correction: float = 1.0,
    slow: Slow = NONE_SLOW,
) -> Plan:
    """Plan the lines from row ``at`` on, with the money that is left."""
    before = read_plan(handle.look().plan)
    return make_plan(
        lines,
        vectors,
        range(at, len(lines)),
        view.snapshot,
        make_goal(
            handle.options(),
            view,
            purse,
            tenant=handle.look().tenant,
            correction=correction,
            seconds_left=handle.seconds_left(),
            slow=slow,
            window=handle.place.settings.batch_window,
        ),
        number=1 if before is None else before.number + 1,
        reason=reason,
        most=None if before is None else SAMPLED_LINES,
        stopped=handle.is_stopped,
    )


def make_goal(
    options: Options,
    view: RoutingView,
    purse: Purse,
    *,
    tenant: str = "",
    correction: float = 1.0,
    seconds_left: float = math.inf,
    slow: Slow = NONE_SLOW,
    window: int = 1,
) -> Goal:
    """Give what a plan is to meet with the money that is left.

    Raises ``PoisonError`` for a tenant that nobody declared, ``UsageError`` for a policy that is unknown,
    that the tenant may not use, or that spends a budget of its own.
    """
    payer = require_tenant(tenant, view.tenants)
    # Lines under way are taken to cost what is expected of them, not what they reserve.
    committed = float(purse.spent_usd) + correction * purse.expected_under_way_usd
    budget = None
    if purse.budget_usd is not None:
        budget = max(0.0, float(purse.budget_usd - purse.held_usd) - committed)
    name = options.policy
    if name is None and options.budget_usd is None and options.min_quality is None:
        name = payer.default_policy or DEFAULT_POLICY
    if name is not None and payer.policies is not None and name not in payer.policies:
        allowed = ", ".join(sorted(payer.policies)) or "none"
        raise UsageError(f"tenant {payer.name} may not use policy {name!r}; allowed: {allowed}")
    if name is not None and name not in view.policies:
        raise UsageError(f"no policy is named {name!r}; in force: {', '.join(sorted(view.policies))}")
    if name is not None and view.policies[name].declaration.budget is not None:
        raise UsageError(
            f"policy {name} spends a budget of its own, which a batch does not draw on: give the batch "
            "--budget-usd, or another policy"
        )
    return Goal(
        budget_usd=budget,
        min_quality=options.min_quality,
        policy_name=name,
        policy=None if name is None else view.policies[name].declaration.policy,
        candidates=payer.llms,
        capacities=Capacities(limits=view.limits, seconds_left=seconds_left, window=window).slowed(slow),
        spent_usd=committed,
        correction=correction,
    )
