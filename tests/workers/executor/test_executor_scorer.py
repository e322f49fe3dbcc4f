"""A scorer as the source of confidence, against the server of simulated LLMs."""

import asyncio
import json
import random

import pytest
from scripted_calls import StartsAtOnce, as_message, body_of, calls_of, headers_of

from routing.llms import Price
from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.retries import RetryPolicy
from workers.executor import CallableLLM, Executor
from workers.executor.scoring import read_score
from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.faults import (
    Fault,
    Hang,
    RateLimit,
    Reset,
    Scenario,
    ServerError,
    TruncatedJson,
)
from workers.local.simulated.scorer import SCORER, score_answer
from workers.local.simulated.server import SimulatedServer
from workers.messages import SCORER as STANDS_AS
from workers.messages import Message, Record
from workers.settings import Settings

SOURCE = BuiltinSource()
WEAK, STRONG = "sim-novice", "sim-maestro"
PRICE = Price(input_usd_per_mtok=1.0, output_usd_per_mtok=1.0)
#: 100 USD per million tokens, so that it shows on the bill.
SCORER_USD = 100.0


def judged(*, right: bool) -> str:
    """The id of a prompt that the weak LLM gets right, or wrong, and of which the scorer says so clearly."""
    for prompt in SOURCE.prompts("traffic", 200):
        found = SOURCE.answer(WEAK, prompt.prompt_id, prompt.text)
        said = score_answer(
            SOURCE,
            prompt.prompt_id,
            json.dumps({"question": [], "answer": {"content": found.text}}),
        )
        if found.right == right and (float(said.text) > 0.65) == right:
            return prompt.prompt_id
    raise AssertionError("no such prompt among the first 200")


def run(prompt_id: str, *faults: Fault, budget: str = "", timeout_s: float = 5.0) -> Record:
    """Run a cascade of two LLMs to its reply."""

    async def work() -> Record:
        server = SimulatedServer(SOURCE, scenario=Scenario(fault=faults), latency_scale=0.0)  # type: ignore[arg-type]
        base_url = f"{await server.start()}/v1"
        caller = EndpointCaller(timeout_s=5.0, max_connections=4)
        executor = Executor(
            caller=caller,
            llms=lambda: {
                name: CallableLLM(
                    endpoint=Endpoint(llm=name, base_url=base_url, provider_model=name), price=PRICE
                )
                for name in (WEAK, STRONG)
            },
            retries=RetryPolicy(attempts=1, first_s=0.0),
            settings=Settings(call_timeout_s=5.0),
            rng=random.Random(0),
        )
        message = dispatch(prompt_id, base_url, budget, timeout_s)
        try:
            while True:
                first, *rest = await executor.handle(message, StartsAtOnce())
                if rest:
                    return first
                message = as_message(first)
        finally:
            await caller.close()
            await server.stop()

    return asyncio.run(work())


def dispatch(prompt_id: str, base_url: str, budget: str, timeout_s: float) -> Message:
    """A dispatch that asks for a scorer."""
    rule = {
        "accept_at": 0.65,
        "measure": "scorer",
        "confidences": [0.0, 1.0],
        "chances": [0.0, 1.0],
        "candidates": [[STRONG, 0.1, 0.0]],
        "scorer": {
            "base_url": base_url,
            "model": SCORER,
            "input_usd_per_mtok": SCORER_USD,
            "output_usd_per_mtok": SCORER_USD,
            "timeout_s": timeout_s,
        },
    }
    headers: dict[str, str] = {
        "uniroute-llm": WEAK,
        "uniroute-reply-to": "uniroute.replies.app",
        "uniroute-fallbacks": STRONG,
        "uniroute-cascade": json.dumps(rule),
        **({"uniroute-max-cost-usd": budget} if budget else {}),
    }
    body = {"model": "auto", "messages": [{"role": "user", "content": "as its id says"}]}
    return Message(
        topic=f"uniroute.dispatch.{WEAK}",
        partition=0,
        offset=0,
        timestamp_ms=0,
        key=prompt_id.encode(),
        value=json.dumps(body).encode(),
        headers=tuple((name, text.encode()) for name, text in headers.items()),
    )


def outcomes(reply: Record) -> list[tuple[str, str]]:
    """Who was called, and what came of it."""
    return [call[:2] for call in map(tuple, calls_of(reply))]  # type: ignore[misc]


def test_an_answer_that_the_scorer_vouches_for_is_taken() -> None:
    """Its word is the chance on the reply, and its tokens are paid for: 100 USD a million, the LLM's 1."""
    reply = run(judged(right=True))
    weak, scorer = (call[2] for call in calls_of(reply))

    assert outcomes(reply) == [(WEAK, "ok"), (STANDS_AS, "ok")]
    assert float(headers_of(reply)["chance"]) > 0.65
    assert scorer > weak
    assert float(headers_of(reply)["cost-usd"]) == pytest.approx(weak + scorer)


def test_an_answer_that_it_does_not_vouch_for_is_passed_on() -> None:
    """The strong LLM answers, and nobody is paid to judge what is taken anyway."""
    reply = run(judged(right=False))

    assert [name for name, _ in outcomes(reply)] == [WEAK, STANDS_AS, STRONG]
    assert headers_of(reply)["llm"] == STRONG


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (ServerError(status=503, llms=(SCORER,)), "server"),
        (RateLimit(llms=(SCORER,)), "rate_limit"),
        (Reset(llms=(SCORER,)), "connection"),
        (TruncatedJson(llms=(SCORER,)), "bad_response"),
        (Hang(hang_s=30.0, llms=(SCORER,)), "timeout"),
    ],
    ids=["server", "rate_limit", "connection", "bad_response", "timeout"],
)
def test_a_scorer_that_fails_vouches_for_nothing(fault: Fault, outcome: str) -> None:
    """The next LLM is asked, and what came of the scorer stands among the calls; it is asked once."""
    reply = run(judged(right=True), fault, timeout_s=0.3)

    assert outcomes(reply) == [(WEAK, "ok"), (STANDS_AS, outcome), (STRONG, "ok")]
    assert "choices" in body_of(reply)
    assert "chance" not in headers_of(reply)


def test_a_scorer_is_not_asked_beyond_the_budget() -> None:
    """At 100 USD a million a question of some 80 tokens costs .008 USD, of the .001 that there is."""
    reply = run(judged(right=True), budget="0.001")

    assert outcomes(reply) == [(WEAK, "ok"), (STRONG, "ok")]


@pytest.mark.parametrize("said", ["I would say 0.8", "1.5", "-1", "NaN", "[1]", '{"score": "high"}', ""])
def test_what_is_no_chance_says_nothing(said: str) -> None:
    """A number in 0..1 alone, or as the score of an object, is the only form that is read."""
    assert read_score(said) is None


@pytest.mark.parametrize("said", ["0.8", " 0.8\n", '{"score": 0.8, "why": "it adds up"}'])
def test_a_chance_is_read(said: str) -> None:
    """Both forms."""
    assert read_score(said) == 0.8
