"""The simulated LLMs' server, as the real openai client sees it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import openai
import pytest

from workers.local.simulated.builtin import BuiltinSource
from workers.local.simulated.faults import (
    Fault,
    Hang,
    HugeBody,
    Latency,
    MissingUsage,
    RateLimit,
    Reset,
    Scenario,
    ServerError,
    Trickle,
    TruncatedJson,
    WrongContentType,
)
from workers.local.simulated.server import PROMPT_ID_HEADER, SimulatedServer

SOURCE = BuiltinSource()
PROMPT = SOURCE.prompts("traffic", 1)[0]
LLM = "sim-generalist"


@asynccontextmanager
async def serving(*faults: Fault, latency_scale: float = 0.0) -> AsyncIterator[str]:
    """Run a server with the faults; gives its URL."""
    scenario = Scenario(fault=faults)  # type: ignore[arg-type]
    server = SimulatedServer(SOURCE, scenario=scenario, latency_scale=latency_scale)
    url = await server.start()
    try:
        yield url
    finally:
        await server.stop()


def connect(url: str, *, timeout: float = 10.0) -> openai.AsyncOpenAI:
    """Give an openai client that retries nothing."""
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=timeout)


async def ask(client: openai.AsyncOpenAI, prompt_id: str | None = PROMPT.prompt_id, **options: Any) -> Any:
    """Send a prompt by its id, or by its text where the id is None."""
    headers = {} if prompt_id is None else {PROMPT_ID_HEADER: prompt_id}
    messages = options.pop("messages", [{"role": "user", "content": PROMPT.text}])
    model = options.pop("model", LLM)
    return await client.chat.completions.create(
        model=model, messages=messages, extra_headers=headers, **options
    )


async def read_json(url: str) -> Any:
    """GET a JSON document."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.json()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function to its end."""
    asyncio.run(test())  # type: ignore[arg-type]


def test_an_answer_is_the_sources_own() -> None:
    """Text, tokens and the marks of a simulation arrive through the openai client."""

    async def test() -> None:
        async with serving() as url, connect(url) as client:
            completion = await ask(client)
        expected = SOURCE.answer(LLM, PROMPT.prompt_id, PROMPT.text)

        assert completion.choices[0].message.content == expected.text
        assert completion.choices[0].finish_reason == "stop"
        assert completion.usage.prompt_tokens == expected.input_tokens
        assert completion.usage.completion_tokens == expected.output_tokens
        assert completion.usage.total_tokens == expected.input_tokens + expected.output_tokens
        assert completion.id.startswith("chatcmpl-")
        assert (completion.model, completion.system_fingerprint) == (LLM, "simulated")

    run(test)


@pytest.mark.parametrize(
    "how",
    [
        {"metadata": {"prompt_id": PROMPT.prompt_id}, "messages": [{"role": "user", "content": "x"}]},
        {"user": PROMPT.prompt_id, "messages": [{"role": "user", "content": "x"}]},
        {},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT.text}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": PROMPT.text}]}]},
    ],
    ids=["metadata", "user", "text", "system-first", "parts"],
)
def test_a_prompt_is_known_without_its_header(how: dict[str, Any]) -> None:
    """Metadata, user or the last user message's text name the prompt as well, and it is counted as such."""

    async def test() -> None:
        async with serving() as url, connect(url) as client:
            completion = await ask(client, None, **how)
            counts = await read_json(f"{url}/counts")

        assert SOURCE.answer(LLM, PROMPT.prompt_id, "").text == completion.choices[0].message.content
        assert counts["prompts"] == {PROMPT.prompt_id: {LLM: 1}}

    run(test)


def test_an_unknown_prompt_is_answered() -> None:
    """A text that nobody knows gets a generic reply, counted under the header's decoded id or a hash."""

    async def test() -> None:
        async with serving() as url, connect(url) as client:
            hello = [{"role": "user", "content": "Good morning"}]
            completion = await ask(client, None, messages=hello)
            await ask(client, quote("my own/ïd"), messages=hello)
            counts = await read_json(f"{url}/counts")

        assert "simulated" in completion.choices[0].message.content
        assert completion.usage.prompt_tokens == 3
        first, second = sorted(counts["prompts"])
        assert (first, second[:5]) == ("my own/ïd", "text-")

    run(test)


def test_a_streamed_answer_is_the_same() -> None:
    """Chunks add up to the whole text; usage comes last where it is asked for."""

    async def test() -> None:
        async with serving() as url, connect(url) as client:
            stream = await ask(client, stream=True, stream_options={"include_usage": True})
            chunks = [chunk async for chunk in stream]
        expected = SOURCE.answer(LLM, PROMPT.prompt_id, PROMPT.text)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

        assert text == expected.text
        assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
        assert chunks[-1].usage.completion_tokens == expected.output_tokens
        assert len({chunk.id for chunk in chunks}) == 1

    run(test)


def test_a_token_limit_cuts_the_answer() -> None:
    """Five tokens are twenty characters, and the finish reason says length."""

    async def test() -> None:
        async with serving() as url, connect(url) as client:
            completion = await ask(client, max_tokens=5)

        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 5
        assert len(completion.choices[0].message.content) == 20

    run(test)


def test_models_are_listed() -> None:
    """The client's list of models is the source's, owned by a simulation."""

    async def test() -> None:
        async with serving() as url, connect(url) as client:
            models = [model async for model in client.models.list()]

        assert [model.id for model in models] == [llm.name for llm in SOURCE.llms]
        assert {model.owned_by for model in models} == {"simulated"}

    run(test)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"{", 400, None),
        (b"[]", 400, None),
        (b"\xff", 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"messages": []}', 400, "model"),
        (b'{"model": "sim-novice"}', 400, "messages"),
        (b'{"model": "sim-novice", "messages": ["hi"]}', 400, "messages"),
        (b'{"model": "sim-novice", "messages": [{}], "n": 2}', 400, "n"),
        (b'{"model": "sim-novice", "messages": [{}], "n": []}', 400, "n"),
        (b'{"model": "sim-novice", "messages": [{}], "max_tokens": 0}', 400, "max_tokens"),
        (b'{"model": "sim-nobody", "messages": [{}]}', 404, None),
    ],
)
def test_bad_requests_get_openais_errors(body: bytes, status: int, param: str | None) -> None:
    """Whatever the body, the answer is an error object with its type and the parameter to blame."""

    async def test() -> None:
        async with serving() as url, aiohttp.ClientSession() as session:
            async with session.post(f"{url}/v1/chat/completions", data=body) as response:
                error = (await response.json())["error"]
                got = response.status
            counts = await read_json(f"{url}/counts")

        assert (got, error["type"], error["param"]) == (status, "invalid_request_error", param)
        assert counts["calls"] == 0

    run(test)


def test_two_thousand_calls_at_once_are_counted_exactly() -> None:
    """2,000 calls of 1 s, all open together: each is answered and counted once."""

    async def test() -> None:
        async with serving(Latency(scale=0.0, extra_s=1.0)) as url:
            connector = aiohttp.TCPConnector(limit=0)
            async with aiohttp.ClientSession(connector=connector) as session:

                async def one(number: int) -> int:
                    body = {"model": LLM, "messages": [{"role": "user", "content": "hi"}]}
                    headers = {PROMPT_ID_HEADER: f"builtin-0-{number % 1500}"}
                    async with session.post(
                        f"{url}/v1/chat/completions", json=body, headers=headers
                    ) as response:
                        await response.read()
                        return response.status

                began = asyncio.get_running_loop().time()
                statuses = await asyncio.gather(*(one(number) for number in range(2_000)))
                took = asyncio.get_running_loop().time() - began
            counts = await read_json(f"{url}/counts")

        assert set(statuses) == {200}
        assert 1.0 <= took < 60.0
        assert counts["calls"] == 2_000
        assert counts["repeated_calls"] == 500
        assert counts["llms"][LLM] == {"calls": 2_000, "answered": 2_000, "faults": {}}
        assert counts["prompts"]["builtin-0-0"] == {LLM: 2}
        assert counts["prompts"]["builtin-0-1499"] == {LLM: 1}

    run(test)


def test_latency_is_the_llms_own_times_the_scale() -> None:
    """An answer takes at least its drawn latency, scaled, and the extra that a scenario adds."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        slower = Latency(scale=0.5, extra_s=0.05)
        drawn = SOURCE.answer(LLM, PROMPT.prompt_id, "").latency_s
        async with (
            serving(slower, latency_scale=0.4) as url,
            connect(url) as client,
        ):
            began = loop.time()
            await ask(client)
            took = loop.time() - began

        assert took >= 0.2 * drawn + 0.05

    run(test)


async def fails(client: openai.AsyncOpenAI, kind: type[Exception]) -> Any:
    """Give the error of one call."""
    with pytest.raises(kind) as caught:
        await ask(client)
    return caught.value


def test_rate_limits_come_with_and_without_advice() -> None:
    """429 as the client's RateLimitError; Retry-After only where the scenario gives one."""

    async def test() -> None:
        first = RateLimit(retry_after_s=1.5, until_call=1)
        async with serving(first, RateLimit()) as url, connect(url) as client:
            advised = await fails(client, openai.RateLimitError)
            bare = await fails(client, openai.RateLimitError)

        assert advised.response.headers["retry-after"] == "1.5"
        assert "retry-after" not in bare.response.headers
        assert advised.code == "rate_limit_exceeded"

    run(test)


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_server_errors_come_with_their_status(status: int) -> None:
    """The client sees an InternalServerError of that status and OpenAI's body."""

    async def test() -> None:
        async with serving(ServerError(status=status)) as url, connect(url) as client:
            error = await fails(client, openai.InternalServerError)

        assert error.status_code == status
        assert error.type == "server_error"

    run(test)


@pytest.mark.parametrize("fault", [Hang(hang_s=60.0), Trickle(trickle_s=60.0)], ids=["hang", "trickle"])
def test_slow_faults_outlast_the_caller(fault: Fault) -> None:
    """The caller's time-out ends the call; the server drops it and counts it as unanswered."""

    async def test() -> None:
        async with serving(fault) as url, connect(url) as client:
            with pytest.raises((TimeoutError, openai.APITimeoutError)):
                await asyncio.wait_for(ask(client), 0.3)
            counts = await read_json(f"{url}/counts")

        assert counts["llms"][LLM]["answered"] == 0
        assert sum(counts["llms"][LLM]["faults"].values()) == 1

    run(test)


def test_a_hang_ends_in_the_usual_answer() -> None:
    """Who waits long enough is answered."""

    async def test() -> None:
        async with serving(Hang(hang_s=0.05)) as url, connect(url) as client:
            completion = await ask(client)

        assert completion.choices[0].message.content

    run(test)


def test_a_trickle_is_complete_in_the_end() -> None:
    """All pieces make the whole answer."""

    async def test() -> None:
        async with serving(Trickle(trickle_s=0.05)) as url, connect(url) as client:
            completion = await ask(client)
            counts = await read_json(f"{url}/counts")

        assert completion.choices[0].message.content == SOURCE.answer(LLM, PROMPT.prompt_id, "").text
        assert counts["llms"][LLM]["answered"] == 1

    run(test)


def test_a_reset_breaks_the_body() -> None:
    """Headers and half of the body arrive, then the connection is reset."""

    async def test() -> None:
        async with serving(Reset()) as url:
            async with connect(url) as client:
                error = await fails(client, openai.APIConnectionError)
            async with aiohttp.ClientSession() as session:
                body = {"model": LLM, "messages": [{"role": "user", "content": "hi"}]}
                async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                    assert response.status == 200
                    with pytest.raises(aiohttp.ClientError):
                        await response.read()
            counts = await read_json(f"{url}/counts")

        assert error.__cause__ is not None
        assert counts["llms"][LLM] == {"calls": 2, "answered": 0, "faults": {"reset": 2}}

    run(test)


def test_truncated_json_is_a_whole_response_that_no_parser_takes() -> None:
    """Status 200, content type JSON, length as announced, and half an object."""

    async def test() -> None:
        async with serving(TruncatedJson()) as url, connect(url) as client:
            raw = await client.chat.completions.with_raw_response.create(
                model=LLM, messages=[{"role": "user", "content": PROMPT.text}]
            )
            text = raw.http_response.text

        assert raw.http_response.headers["content-type"] == "application/json"
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)

    run(test)


def test_a_wrong_content_type_is_a_page_of_html() -> None:
    """Status 200 and no JSON, as a proxy between would give."""

    async def test() -> None:
        async with serving(WrongContentType()) as url, connect(url) as client:
            raw = await client.chat.completions.with_raw_response.create(
                model=LLM, messages=[{"role": "user", "content": PROMPT.text}]
            )

        assert raw.http_response.headers["content-type"].startswith("text/html")
        assert "<h1>" in raw.http_response.text

    run(test)


def test_usage_can_be_missing() -> None:
    """The answer is whole but for its token counts."""

    async def test() -> None:
        async with serving(MissingUsage()) as url, connect(url) as client:
            completion = await ask(client)

        assert completion.usage is None
        assert completion.choices[0].message.content

    run(test)


def test_a_huge_body_is_huge() -> None:
    """Two megabytes of text behind the answer."""

    async def test() -> None:
        async with serving(HugeBody(megabytes=2.0)) as url, connect(url) as client:
            completion = await ask(client)

        assert len(completion.choices[0].message.content) > 2_000_000

    run(test)


def test_faults_can_be_changed_while_it_runs() -> None:
    """PUT replaces the scenario and starts its clock; a wrong one is refused and changes nothing."""

    async def test() -> None:
        async with serving() as url, connect(url) as client, aiohttp.ClientSession() as session:
            scenario = {"fault": [{"kind": "server_error", "until_s": 3600}]}
            async with session.put(f"{url}/faults", json=scenario) as response:
                assert response.status == 200
            await fails(client, openai.InternalServerError)
            async with session.put(f"{url}/faults", json={"faults": []}) as response:
                refused = response.status, (await response.json())["error"]["message"]
            await fails(client, openai.InternalServerError)
            async with session.put(f"{url}/faults", json={}) as response:
                assert response.status == 200
            await ask(client)
            shown = await read_json(f"{url}/faults")

        assert refused[0] == 400
        assert "faults" in refused[1]
        assert shown == {"seed": 0, "fault": []}

    run(test)


def test_calls_are_listed_in_order() -> None:
    """GET /calls tells of each call its prompt, LLM, attempt, time, fault and whether it was answered."""

    async def test() -> None:
        async with serving(ServerError(llms=(LLM,), until_call=1)) as url, connect(url) as client:
            await fails(client, openai.InternalServerError)
            await ask(client)
            await ask(client, model="sim-novice")
            listed = (await read_json(f"{url}/calls?llm={LLM}"))["calls"]
            every = (await read_json(f"{url}/calls"))["calls"]

        facts = [(c["prompt_id"], c["attempt"], c["fault"], c["answered"]) for c in listed]
        assert facts == [(PROMPT.prompt_id, 0, "server_error", False), (PROMPT.prompt_id, 1, None, True)]
        assert [c["llm"] for c in every] == [LLM, LLM, "sim-novice"]
        assert [c["callers_attempt"] for c in every] == [None, None, None]
        assert 0 <= every[0]["at_s"] <= every[1]["at_s"] <= every[2]["at_s"]

    run(test)
