"""Taking an LLM out: nothing new for it, then, once nothing waits for it, retired."""

import time

from sqlalchemy import Engine

from routing.errors import UnknownLLMError
from workers.settings import Settings
from workers.storage.engine import transaction
from workers.storage.llms import LLMs, State
from workers.tenants.returns import TopicProgress
from workers.topics import LANES, Topics


def drain(engine: Engine, name: str, *, reason: str = "") -> State:
    """Give an LLM no new prompts, and its state; what was dispatched to it is still answered.

    Nothing happens to one that is draining or retired already. Raises ``UnknownLLMError``.
    """
    with transaction(engine) as session:
        found = LLMs(session).get(name)
        if found is None:
            raise UnknownLLMError(name, LLMs(session).names())
        if found.state in {"draining", "retired"}:
            return found.state
        LLMs(session).set_state(name, "draining", reason=reason)
        return "draining"


def await_quiet(settings: Settings, name: str, *, patience_s: float) -> bool:
    """Wait until executors have answered all that was dispatched to an LLM by now; tell whether they have.

    Raises ``WaitableError`` where Kafka is away.
    """
    topics, end = Topics(settings.topic_prefix), time.monotonic() + patience_s
    for lane in LANES:
        progress = TopicProgress(
            settings, group_id=f"{settings.topic_prefix}executor", topic=topics.dispatch(name, lane)
        )
        ends = progress.ends()
        while not progress.is_booked(ends):
            if time.monotonic() >= end:
                return False
    return True


def retire(engine: Engine, name: str, *, reason: str = "") -> None:
    """Take an LLM out for good; its prices, decisions and feedback are kept."""
    with transaction(engine) as session:
        LLMs(session).set_state(name, "retired", reason=reason)
