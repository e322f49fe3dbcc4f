"""The LLM that joins half-way: how few labels it took, how soon it had its share, what trying it cost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.snapshot import Snapshot
from workers.errors import UsageError
from workers.lifecycle import Conditions, Probed, ProbesFailedError, promote
from workers.local.demo.stage import Stage
from workers.local.simulated.answers import AnswerSource
from workers.messages import DecisionRecord
from workers.policies import read_policy
from workers.reading import read_all
from workers.replay.rebuilding import decide_logged, rebuild_snapshot, state_of
from workers.storage.engine import transaction
from workers.storage.llm_journal import LLMJournal
from workers.topics import Topics

#: Share of the prompts that a worse LLM is offered to, whatever its probes said of it.
_TRIED_ON = 0.1
#: An LLM has its share once it stays so near the share that it has in the end.
_NEAR = 0.2
#: Prompts that a share is averaged over.
_WINDOW = 100
_ROUNDING = 1e-12
#: Less is not adopted.
_LEAST_SHARE = 0.01
#: A better one is offered to each prompt at once.
_OFFERED_ON = 1.0


class Joining:
    """Brings the late LLM in by its life cycle, and describes afterwards what came of it.

    A better one is probed, and a canary for all prompts if its probes say that it may be one; active once
    its live feedback says so. A ``worse`` one is probed, and tried as a canary whatever its probes say, so
    that what that costs is seen.
    """

    def __init__(self, stage: Stage, source: AnswerSource, *, worse: bool) -> None:
        self._stage = stage
        self._source = source
        self._worse = worse
        self._probed: Probed | None = None
        self._state = ""
        #: Why it may not go a step on, or did not join at all; empty where nothing holds it back.
        self.held_back = ""

    def join(self) -> None:
        """Probe it on labelled prompts, as few as settle the routes, then let routers choose it."""
        try:
            self._probed = found = self._stage.probe_late_llm()
        except ProbesFailedError as error:  # the faults of a scenario
            self.held_back = str(error)
            return
        self._state = "shadow"
        self._step(found.llm, "offered in the demonstration", force=self._worse)

    def conclude(self) -> None:
        """Ask, when all feedback is counted, whether it may be active."""
        if self._probed is not None and self._state == "canary":
            self._step(self._probed.llm, "at the end of the demonstration")

    def _step(self, llm: str, reason: str, *, force: bool = False) -> None:
        """Take it a step on, or note why it may not go."""
        conditions = Conditions(canary_share=_TRIED_ON if self._worse else _OFFERED_ON)
        try:
            self._state = promote(self._stage.engine, llm, conditions=conditions, reason=reason, force=force)
            self.held_back = ""
        except UsageError as error:
            self.held_back = str(error)

    def describe(self) -> dict[str, Any]:
        """Give the figures, from the decisions that were logged since it could be chosen.

        Its share at a prompt is that of all these prompts which it would have by what was known then, with
        nobody on trial: no luck of who came when is in it. What is said of it is ``find_adoption``'s.
        """
        if self._probed is None:
            return {}
        llm = self._probed.llm
        decided = self._read()
        records = [one for one in decided if any(candidate.llm == llm for candidate in one.candidates)]
        taken = [record for record in records if record.llm == llm]
        final, after = find_adoption(self._shares(records, llm))
        after = after if final >= _LEAST_SHARE else None
        return {
            "llm": llm,
            "worse": self._worse,
            "state": self._state,
            "held_back": self.held_back,
            "labels_used": self._probed.labels,
            "labels_settled": self._probed.settled,
            "labels_usd": self._probed.cost_usd,
            "prompts_since": len(records),
            "prompts_taken": len(taken),
            "final_share": final,
            "adopted": final >= _LEAST_SHARE,
            "adopted_after_prompts": after,
            "adopted_after_added": None
            if after is None
            else after + self._count_before(llm, decided, records[0]),
            "quality_lost": self._lost(taken, llm) / len(records) if records else 0.0,
        }

    def _read(self) -> list[DecisionRecord]:
        """Give all decisions, in their order."""
        topic = Topics(self._stage.settings.topic_prefix).decisions
        decided = (
            msgspec.json.decode(record.value, type=DecisionRecord)
            for record in read_all(self._stage.settings, [topic])
        )
        return sorted(decided, key=lambda record: record.decided_at)

    def _count_before(self, llm: str, decided: Sequence[DecisionRecord], first: DecisionRecord) -> int:
        """Count the prompts that were routed from its registration to the first it could get."""
        with transaction(self._stage.engine) as session:
            added = LLMJournal(session).steps(llm)[0].at or first.decided_at
        return sum(added <= one.decided_at < first.decided_at for one in decided)

    def _shares(self, records: Sequence[DecisionRecord], llm: str) -> NDArray[np.float64]:
        """Give, for each prompt, the LLM's share of all of them by the state that decided it."""
        places: dict[tuple[object, ...], list[int]] = {}
        for place, record in enumerate(records):
            places.setdefault(state_of(record), []).append(place)
        shares = np.zeros(len(records))
        for decided in places.values():
            chosen = _decide(records, self._rebuild(records[decided[0]]))
            shares[decided] = np.mean([name == llm for name in chosen])
        return shares

    def _lost(self, taken: Sequence[DecisionRecord], llm: str) -> float:
        """Sum, over the prompts it had, the score of who would have had them otherwise less its own."""
        groups: dict[tuple[object, ...], list[DecisionRecord]] = {}
        for record in taken:
            without = {**record.limits, "excluded": [*record.limits.get("excluded", ()), llm]}
            groups.setdefault(state_of(record), []).append(msgspec.structs.replace(record, limits=without))
        columns = {one.name: column for column, one in enumerate(self._source.llms)}
        lost = 0.0
        for group in groups.values():
            others = _decide(group, self._rebuild(group[0]))
            scores = self._source.truth([record.prompt_id for record in group]).scores
            for row, other in enumerate(others):
                if other is not None:
                    lost += float(scores[row, columns[other]] - scores[row, columns[llm]])
        return lost

    def _rebuild(self, record: DecisionRecord) -> Snapshot:
        """Give the snapshot of a decision, with nobody on trial."""
        with transaction(self._stage.engine) as session:
            return replace(rebuild_snapshot(session, record), canaries={})


def find_adoption(shares: NDArray[np.float64]) -> tuple[float, int | None]:
    """Give an LLM's final share, and after how many prompts it was within a fifth of it for good.

    ``shares`` (n,) holds, for each prompt since it could be chosen, its share by what was known then. The
    final one is their mean over the second half. Each is averaged with up to 99 before it, because rates move
    a little with every refit. ``None`` where it was farther off at the last prompt, or where there is none.
    """
    if not len(shares):
        return 0.0, None
    final = float(shares[len(shares) // 2 :].mean())
    sums = np.concatenate([[0.0], np.cumsum(shares)])
    ends = np.arange(1, len(shares) + 1)
    begins = np.maximum(ends - _WINDOW, 0)
    lately = (sums[ends] - sums[begins]) / (ends - begins)
    far = np.flatnonzero(np.abs(lately - final) > _NEAR * final + _ROUNDING)
    after = int(far[-1]) + 1 if len(far) else 0
    return final, after if after < len(shares) else None


def _decide(records: Sequence[DecisionRecord], snapshot: Snapshot) -> list[str | None]:
    """Give whom the records' policy would choose from a snapshot."""
    policy = read_policy(records[0].policy, records[0].policy_body).policy
    decisions = decide_logged(records, snapshot, policy, fill_draws=True)
    return [decisions.llm(row) for row in range(len(records))]
