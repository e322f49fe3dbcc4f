"""An executor whose endpoints answer by a script: no HTTP, and time that jumps."""

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from warped_time import run_warped

from routing.llms import Price
from workers.calls.endpoints import Answer, Endpoint
from workers.calls.errors import CallError
from workers.calls.gates import Limits
from workers.calls.retries import RetryPolicy
from workers.calls.usage import Usage
from workers.executor import AnswerCache, CallableLLM, Cancels, Executor, Gates
from workers.messages import Message, Record
from workers.settings import Settings
from workers.topics import Topics

NOW = datetime(2027, 1, 31, 12, 0, 0, tzinfo=UTC)
#: One USD per thousand tokens, in and out.
PRICE = Price(input_usd_per_mtok=1_000.0, output_usd_per_mtok=1_000.0)
USAGE = Usage(prompt_tokens=10, completion_tokens=20)  # 0.03 USD
#: What an LLM does with a call: seconds, then an error or an answer.
Script = Callable[[int], tuple[float, CallError | Answer]]


def answer(text: str = "yes", usage: Usage | None = USAGE) -> Answer:
    """An answer."""
    value = json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()
    return Answer(value=value, usage=usage)


def always(outcome: CallError | Answer, *, seconds: float = 0.0) -> Script:
    """The same each time."""
    return lambda _call: (seconds, outcome)


@dataclass(slots=True)
class ScriptedCaller:
    """Stands in for ``EndpointCaller``."""

    scripts: Mapping[str, Script]
    #: LLM, prompt and attempt of each call, and when it began.
    calls: list[tuple[str, str, int, float]] = field(default_factory=list)
    cancelled: int = 0

    async def call(  # those of the real one
        self,
        endpoint: Endpoint,
        body: dict[str, Any],
        *,
        prompt_id: str,
        timeout_s: float,
        attempt: int = 1,
        on_send: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Do as the script says."""
        del body
        on_send()
        number = sum(one[0] == endpoint.llm for one in self.calls)
        self.calls.append((endpoint.llm, prompt_id, attempt, asyncio.get_running_loop().time()))
        seconds, outcome = self.scripts[endpoint.llm](number)
        try:
            await asyncio.sleep(min(seconds, timeout_s))
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if seconds > timeout_s:
            raise CallError("timeout", "the endpoint did not answer in time")
        if isinstance(outcome, CallError):
            raise outcome
        return outcome


def dispatch(llm: str = "a", *, prompt_id: str = "p-1", **headers: str) -> Message:
    """A dispatch; headers by their names less the prefix, with underscores."""
    named = {"llm": llm, "reply_to": "uniroute.replies.app", "decision_id": "token", **headers}
    return Message(
        topic=f"uniroute.dispatch.{llm}",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=prompt_id.encode(),
        value=json.dumps({"model": "auto", "messages": [{"role": "user", "content": "x" * 20}]}).encode(),
        headers=tuple((f"uniroute-{name.replace('_', '-')}", text.encode()) for name, text in named.items()),
    )


@dataclass(slots=True)
class StartsAtOnce:
    """Stands in for what the log knows of calls: it knows at once."""

    #: How often calls were begun before.
    earlier: int = 0
    withdrawn: int = 0
    asked: int = 0

    async def __call__(self, *_topics: str) -> None:
        """Let begin."""
        self.asked += 1

    def sending(self) -> None:
        """Nobody asks after it."""

    def withdraw(self) -> None:
        """Count it."""
        self.withdrawn += 1

    def resting(self) -> AbstractContextManager[None]:
        """Nobody stops."""
        return nullcontext()


@dataclass(slots=True)
class Bench:
    """An executor and all around it, in warped time."""

    scripts: Mapping[str, Script]
    attempts: int = 3
    limits: Limits = field(default_factory=Limits)
    cache: AnswerCache | None = None
    #: Dispatch topics that do not exist, and how often calls were begun before.
    earlier: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    caller: ScriptedCaller = field(init=False)
    cancels: Cancels = field(default_factory=Cancels)
    states: list[tuple[str, str]] = field(default_factory=list)
    executor: Executor = field(init=False)

    def __post_init__(self) -> None:
        self.caller = ScriptedCaller(self.scripts)

    def build(self) -> Executor:
        """Make the executor, on the running loop."""
        loop = asyncio.get_running_loop()
        self.executor = Executor(
            caller=self.caller,  # type: ignore[arg-type]
            llms=lambda: {
                name: CallableLLM(
                    endpoint=Endpoint(llm=name, base_url="http://llm", provider_model=name),
                    price=PRICE,
                    limits=self.limits,
                    output_tokens=20.0,
                )
                for name in self.scripts
            },
            retries=RetryPolicy(attempts=self.attempts, first_s=1.0),
            settings=Settings(call_timeout_s=60.0),
            rng=self.rng,
            gates=Gates(
                topics=Topics(),
                most=100,
                clock=loop.time,
                on_state=lambda llm, state, _why: self.states.append((llm, state)),
            ),
            cancels=self.cancels,
            cache=self.cache,
            now=lambda: NOW + timedelta(seconds=loop.time()),
        )
        return self.executor

    @property
    def start(self) -> StartsAtOnce:
        """The log knows at once."""
        return StartsAtOnce(self.earlier)

    def handle(self, *messages: Message, start: StartsAtOnce | None = None) -> list[Sequence[Record]]:
        """Handle dispatches, all at once; with a cache in real time, because its store works in threads."""

        async def run() -> list[Sequence[Record]]:
            executor = self.build()
            return list(
                await asyncio.gather(*(executor.handle(one, start or self.start) for one in messages))
            )

        return asyncio.run(run()) if self.cache else run_warped(run())


def headers_of(record: Record) -> dict[str, str]:
    """As text, less the prefix."""
    return {name.removeprefix("uniroute-"): value.decode() for name, value in record.headers}


def body_of(record: Record) -> Any:
    """Its JSON."""
    return json.loads(record.value or b"null")


def as_message(record: Record) -> Message:
    """What an executor of its topic consumes."""
    return Message(
        topic=record.topic,
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )


def calls_of(record: Record) -> list[Any]:
    """LLM, outcome and cost of each call on a record's header."""
    return [(call[0], call[1], call[5]) for call in json.loads(headers_of(record)["calls"])]
