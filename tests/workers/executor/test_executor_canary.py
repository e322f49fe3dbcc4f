"""A key goes to its endpoint and nowhere else, whatever that endpoint does with it."""

import asyncio
import json
import random
from pathlib import Path

import pytest
from faulty_gateway import CANARY, FAULTS, Respond, answer, echo, escape, serving
from scripted_calls import NOW, PRICE, StartsAtOnce, dispatch

from workers.calls.endpoints import Endpoint, EndpointCaller
from workers.calls.retries import RetryPolicy
from workers.executor import CallableLLM, Executor
from workers.messages import Record
from workers.settings import Settings

#: A scenario's latency alone, and answers without their usage: they are answers all the same.
ANSWERED = 2


async def handle(respond: Respond, reference: str, on_failure: str) -> list[Record]:
    """Handle one dispatch against an endpoint."""
    caller = EndpointCaller(timeout_s=1.0, max_connections=4)
    async with serving(respond) as url:
        endpoint = Endpoint(llm="a", base_url=url, provider_model="a", api_key_ref=reference)
        executor = Executor(
            caller=caller,
            llms=lambda: {"a": CallableLLM(endpoint=endpoint, price=PRICE)},
            retries=RetryPolicy(attempts=2, first_s=0.001),
            settings=Settings(),
            rng=random.Random(0),
            now=lambda: NOW,
        )
        try:
            return list(await executor.handle(dispatch(on_failure=on_failure), StartsAtOnce()))
        finally:
            await caller.close()


@pytest.mark.parametrize("kind", ["env", "file"])
def test_a_key_is_in_no_record_and_no_log(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With every fault, the key is in no reply, usage, dead letter or line of a log."""
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    monkeypatch.setenv("CANARY_KEY", CANARY)
    reference = "env:CANARY_KEY" if kind == "env" else f"file:{file}"

    async def run() -> list[list[Record]]:
        return await asyncio.gather(*(handle(fault, reference, "both") for fault in FAULTS))

    records = [record for made in asyncio.run(run()) for record in made]
    captured = capfd.readouterr()

    assert len(records) == 3 * len(FAULTS) - ANSWERED  # an answer leaves no dead letter
    assert CANARY not in captured.out + captured.err
    assert not any(CANARY.encode() in (record.value or b"").lower() for record in records)
    assert not any(CANARY.encode() in value.lower() for record in records for _, value in record.headers)


@pytest.mark.parametrize(
    "respond",
    [
        answer,
        escape(lambda key: key.replace("/", r"\/")),
        escape(lambda key: "".join(rf"\u{ord(character):04X}" for character in key)),
        escape(lambda key: key.replace("a", r"\u0061")),
    ],
    ids=["as it is", "stroke", "all escaped", "some escaped"],
)
def test_a_key_that_an_answer_quotes_is_covered(respond: Respond, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer stays one; each place of the key holds asterisks, however JSON writes it."""
    monkeypatch.setenv("CANARY_KEY", CANARY)
    [reply, _] = asyncio.run(handle(respond, "env:CANARY_KEY", "reply"))

    assert json.loads(reply.value or b"")["choices"][0]["message"]["content"] == "0.9 Bearer ***"


@pytest.mark.parametrize("content", [b"", b"two\nlines", b"\xff\xfe", None])
def test_a_file_without_a_key_is_an_error_that_says_so(content: bytes | None, tmp_path: Path) -> None:
    """Missing, empty or no text: the reply names the file, and shows nothing of it."""
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    [reply, _] = asyncio.run(handle(echo(200), f"file:{file}", "reply"))
    error = json.loads(reply.value or b"")["error"]

    assert error["code"] == "auth"
    assert str(file) in error["message"]
    assert "lines" not in error["message"]
