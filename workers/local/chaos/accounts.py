"""What came of every prompt and every call, counted on the topics and by the simulated LLMs themselves."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workers import messages
from workers.local.chaos.caller import APP
from workers.reading import read_all
from workers.settings import Settings
from workers.topics import describe_topics


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How prompts ended, as a reader of committed records sees it."""

    #: Replies, and dead letters, by prompt id.
    replies: Counter[str]
    dead_letters: Counter[str]
    #: Calls that replies and dead letters say were begun before, in lives that ended too soon.
    repeated_calls: int

    def count_lost(self, prompt_ids: Iterable[str]) -> int:
        """Prompts with neither a reply nor a dead letter."""
        return sum(not self.replies[one] and not self.dead_letters[one] for one in prompt_ids)

    def count_duplicates(self, prompt_ids: Iterable[str]) -> int:
        """Replies and dead letters beyond the first of each prompt."""
        return sum(max(0, self.replies[one] + self.dead_letters[one] - 1) for one in prompt_ids)


def read_ends(settings: Settings) -> Ends:
    """Read the run's reply topic and every dead-letter topic from their beginning."""
    prefix = f"{settings.topic_prefix}dlq."
    letters = list(
        read_all(settings, [name for name in describe_topics(settings) if name.startswith(prefix)])
    )
    replies = list(read_all(settings, [f"{settings.reply_prefix}{APP}"]))
    return Ends(
        replies=Counter(_key(record) for record in replies),
        dead_letters=Counter(_key(record) for record in letters),
        repeated_calls=sum(_read_repeated(record) for record in (*replies, *letters)),
    )


def count_repeated(calls: Iterable[Mapping[str, Any]]) -> int:
    """Count the calls that were begun anew, as the simulated LLMs saw them.

    A caller that remembers numbers its tries of a prompt from 1 up; a first try of a prompt that the same LLM
    had a first try of before is a call begun anew.
    """
    first = Counter((call["prompt_id"], call["llm"]) for call in calls if call["callers_attempt"] == 1)
    return sum(count - 1 for count in first.values())


def find_broken(figures: Mapping[str, Any]) -> list[str]:
    """Name the promises that an endurance run of live prompts, or of a batch, found broken."""
    broken = {
        "a prompt was lost": figures["lost"] > 0,
        "a prompt ended twice": figures.get("duplicate_replies", figures.get("duplicated", 0)) > 0,
        # A call that was begun may have died before it reached the LLM; one that did must be counted.
        "calls were made again and not counted": (
            figures["repeated_calls"] < figures["repeated_calls_seen_by_llms"]
        ),
        "more was spent than the budget": (
            figures.get("spent_usd", 0.0) + figures.get("unsettled_usd", 0.0)
            > figures.get("budget_usd", math.inf)
        ),
        "the batch did not complete": figures.get("status", "completed") != "completed",
        "the batch ended before all was broken": len(figures["events"]) < figures.get("acts", 0),
        "it did not recover": any(event.get("recovered_in_s", 0.0) is None for event in figures["events"]),
    }
    if "acts" not in figures:  # of a batch it is told alone
        broken["a worker died by itself"] = figures["crashes_not_caused"] > 0
    return [what for what, is_so in broken.items() if is_so]


def _key(record: Any) -> str:  # noqa: ANN401 (kafka-python has no types)
    return (record.key or b"").decode(errors="replace")


def _read_repeated(record: Any) -> int:  # noqa: ANN401 (as above)
    found = dict(record.headers).get(messages.REPEATED_CALLS)
    return int(found) if found else 0
