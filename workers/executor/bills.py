"""What answering a dispatch took: each call with its outcome, its tokens and its cost."""

from dataclasses import dataclass, field
from datetime import datetime

from routing.costs import RatedCall, rate_call
from routing.llms import Price
from workers.calls.errors import CallError
from workers.calls.usage import Usage
from workers.messages import CallFact, LostCalls

#: Ends after which a provider may have billed the call, though nobody knows what.
_UNSETTLED = frozenset({"ok", "timeout", "bad_response", "cancelled"})


@dataclass(slots=True, kw_only=True)
class Bill:
    """Grows with each call."""

    started: datetime
    calls: list[CallFact] = field(default_factory=list)
    price_version: int = 0
    #: Calls of lives that ended before they could answer, at this LLM and at those that the dispatch was
    #: handed on by. They are told however it ends, with a call now or without.
    lost: tuple[LostCalls, ...] = ()
    #: ``ok``, or the class of the error reply.
    outcome: str = "ok"
    #: Where an answer came from that may be kept; empty where the prompt asked for none of it.
    cache: str = ""
    #: Chance that the answer is right; ``None`` where nobody asked or it is not known.
    chance: float | None = None
    #: Of the call that answered.
    answered: Usage | None = None

    @property
    def attempts(self) -> int:
        """Calls made, at this LLM and at those before it."""
        return len(self.calls)

    @property
    def repeated_calls(self) -> int:
        """Times that calling was begun before, at this LLM and at those before it."""
        return sum(one.count for one in self.lost)

    @property
    def cost_usd(self) -> float | None:
        """USD of the calls whose usage the endpoint told; ``None`` where none did, 0 where none was made."""
        known = [call.cost_usd for call in self.calls if call.cost_usd is not None]
        if not self.calls and self.cache:
            return 0.0
        return sum(known) if known else None

    @property
    def unsettled_usd(self) -> float:
        """USD of calls that may have been billed without anybody knowing, as estimated."""
        return sum(call.unsettled_usd for call in self.calls) + sum(one.usd for one in self.lost)

    @property
    def spent_usd(self) -> float:
        """USD that may have been spent: what is known, and the estimate of what is not."""
        return (self.cost_usd or 0.0) + self.unsettled_usd

    def leaves_room_for(self, usd: float, budget_usd: float | None) -> bool:
        """Whether a budget has room for so much more than may have been spent."""
        return budget_usd is None or self.spent_usd + usd <= budget_usd

    def add(
        self,
        name: str,
        price: Price,
        outcome: CallError | Usage | None,
        *,
        seconds: float,
        estimate_usd: float,
        price_version: int = 0,
    ) -> None:
        """Note a call: an error, or the usage of an answer if the endpoint told it."""
        usage = outcome.usage if isinstance(outcome, CallError) else outcome
        error_class = outcome.error_class if isinstance(outcome, CallError) else "ok"
        received = isinstance(outcome, CallError) and outcome.received
        unsettled = usage is None and (received or error_class in _UNSETTLED)
        rated = None if usage is None else _rate(price, usage, price_version)
        self.calls.append(
            CallFact(
                llm=name,
                outcome=error_class,
                seconds=round(seconds, 6),
                input_tokens=None if usage is None else usage.prompt_tokens,
                output_tokens=None if usage is None else usage.completion_tokens,
                cost_usd=None if rated is None else rated.cost_usd,
                cached_tokens=0 if usage is None else usage.cached_tokens,
                price_version=price_version,
                unsettled_usd=estimate_usd if unsettled else 0.0,
            )
        )


def _rate(price: Price, usage: Usage, version: int) -> RatedCall:
    return rate_call(
        price,
        version=str(version),
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cached_input_tokens=usage.cached_tokens,
    )
