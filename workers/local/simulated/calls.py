"""The server's own account of calls: how often each prompt was sent to each LLM, and what became of it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, kw_only=True)
class ReceivedCall:
    """One request that named a model of ours."""

    prompt_id: str
    llm: str
    #: 0 for the first call of this prompt to this LLM.
    attempt: int
    #: Calls that the LLM had had before.
    earlier_calls: int
    #: Which try it is by the caller's own count, from 1; ``None`` where it did not say.
    callers_attempt: int | None = None
    #: Seconds since the server started.
    at_s: float
    #: The fault that struck, as scenario files name it.
    fault: str | None = None
    #: Whether a complete answer was written to the connection.
    answered: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Give the call as ``GET /calls`` shows it."""
        return {
            "prompt_id": self.prompt_id,
            "llm": self.llm,
            "attempt": self.attempt,
            "callers_attempt": self.callers_attempt,
            "at_s": round(self.at_s, 6),
            "fault": self.fault,
            "answered": self.answered,
        }


class CallLog:
    """Every call of a server's life, in order of arrival."""

    def __init__(self) -> None:
        self._calls: list[ReceivedCall] = []
        self._attempts: Counter[tuple[str, str]] = Counter()
        self._by_llm: Counter[str] = Counter()

    def receive(
        self, prompt_id: str, llm: str, *, at_s: float, callers_attempt: int | None = None
    ) -> ReceivedCall:
        """Count a call as it arrives; what becomes of it is written into the returned record."""
        call = ReceivedCall(
            prompt_id=prompt_id,
            llm=llm,
            attempt=self._attempts[prompt_id, llm],
            earlier_calls=self._by_llm[llm],
            callers_attempt=callers_attempt,
            at_s=at_s,
        )
        self._attempts[prompt_id, llm] += 1
        self._by_llm[llm] += 1
        self._calls.append(call)
        return call

    def calls(self, llm: str | None = None) -> list[dict[str, Any]]:
        """Give the calls in order of arrival, of one LLM or all."""
        return [call.as_dict() for call in self._calls if llm is None or call.llm == llm]

    def summary(self) -> dict[str, Any]:
        """Give ``GET /counts``: totals, by LLM, and by prompt and LLM.

        ``repeated_calls`` are the calls beyond the first of each (prompt, LLM).
        """
        llms: dict[str, dict[str, Any]] = {
            name: {"calls": count, "answered": 0, "faults": Counter()} for name, count in self._by_llm.items()
        }
        for call in self._calls:
            llms[call.llm]["answered"] += call.answered
            if call.fault is not None:
                llms[call.llm]["faults"][call.fault] += 1
        prompts: dict[str, dict[str, int]] = {}
        for (prompt_id, llm), count in self._attempts.items():
            prompts.setdefault(prompt_id, {})[llm] = count
        return {
            "calls": len(self._calls),
            "repeated_calls": len(self._calls) - len(self._attempts),
            "llms": llms,
            "prompts": prompts,
        }
