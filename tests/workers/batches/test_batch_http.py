import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest
from batch_benches import Bench

from workers.batch_server import BatchServer
from workers.errors import UsageError
from workers.storage.engine import transaction
from workers.storage.tenants import Tenant, Tenants


@pytest.fixture(autouse=True)
def tenants(bench: Bench) -> None:
    """The tenants whose tokens are used."""
    with transaction(bench.installation.engine) as session:
        for name in ("blue", "red", "green"):
            Tenants(session).set(Tenant(name=name))


@contextmanager
def serving(bench: Bench, tokens: dict[str, str]) -> Iterator[str]:
    """Serve on a thread of its own, and give the base URL."""
    server = BatchServer(
        engine=bench.installation.engine,
        settings=bench.installation.settings.model_copy(update={"batches_folder": bench.store.root}),
        tokens=tokens,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"{asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.stack
def test_the_official_client_runs_a_batch_unchanged(bench: Bench) -> None:
    """Files and batches of the openai client work by ``base_url`` and key alone."""
    with (
        serving(bench, {"blue": "token-of-blue"}) as url,
        openai.OpenAI(base_url=url, api_key="token-of-blue") as client,
    ):
        with bench.write(20).open("rb") as file:
            uploaded = client.files.create(file=file, purpose="batch")
        batch = client.batches.create(
            input_file_id=uploaded.id,
            endpoint="/v1/chat/completions",
            completion_window="24h",
            metadata={"uniroute_budget_usd": "1.5", "project": "test"},
        )
        bench.wait(batch.id, lambda found: found.ended)
        done = client.batches.retrieve(batch.id)
        lines = client.files.content(done.output_file_id or "").text.splitlines()

        assert client.files.retrieve(uploaded.id).bytes == uploaded.bytes
        assert (batch.status, done.status) == ("validating", "completed")
        assert done.request_counts is not None
        assert (done.request_counts.total, done.request_counts.completed) == (20, 20)
        assert done.error_file_id is None
        assert done.metadata == {"uniroute_budget_usd": "1.5", "project": "test"}
        assert {json.loads(line)["custom_id"] for line in lines} == {f"id {number}" for number in range(20)}
        assert [one.id for one in client.batches.list(limit=5)] == [batch.id]
        assert client.batches.cancel(batch.id).status == "completed"


@pytest.mark.stack
def test_a_tenant_sees_its_own_alone(bench: Bench) -> None:
    """Another tenant's file is not there, and a token that nobody has is refused."""
    with serving(bench, {"blue": "token-of-blue", "red": "token-of-red"}) as url:
        with (
            openai.OpenAI(base_url=url, api_key="token-of-blue") as client,
            bench.write(1).open("rb") as file,
        ):
            uploaded = client.files.create(file=file, purpose="batch")
            batch = client.batches.create(
                input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
            )
            with pytest.raises(openai.BadRequestError, match="endpoint"):
                client.batches.create(
                    input_file_id=uploaded.id, endpoint="/v1/embeddings", completion_window="24h"
                )
        with openai.OpenAI(base_url=url, api_key="token-of-red") as client:
            with pytest.raises(openai.NotFoundError):
                client.batches.retrieve(batch.id)
            with pytest.raises(openai.NotFoundError):
                client.files.content(uploaded.id)
            assert list(client.batches.list()) == []
        with (
            openai.OpenAI(base_url=url, api_key="nobody's") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.files.list()


@pytest.mark.stack
def test_a_file_for_another_purpose_is_not_kept(bench: Bench) -> None:
    """Nor is it listed; a page of no batches is one of one."""
    with (
        serving(bench, {"green": "token-of-green"}) as url,
        openai.OpenAI(base_url=url, api_key="token-of-green") as client,
        bench.write(1).open("rb") as file,
    ):
        with pytest.raises(openai.BadRequestError, match="purpose batch"):
            client.files.create(file=file, purpose="fine-tune")

        assert list(client.files.list()) == []
        assert list(client.batches.list(limit=0)) == []


@pytest.mark.stack
@pytest.mark.parametrize("lacks", ["tenant", "policy"])
def test_what_nobody_declared_is_refused_with_the_batch(bench: Bench, lacks: str) -> None:
    """A tenant without limits would spend without any; a policy that is none would decide nothing."""
    tenant = "brown" if lacks == "tenant" else "blue"
    with (
        serving(bench, {tenant: "token"}) as url,
        openai.OpenAI(base_url=url, api_key="token") as client,
        bench.write(1).open("rb") as file,
    ):
        uploaded = client.files.create(file=file, purpose="batch")
        with pytest.raises(openai.BadRequestError, match=f"no {lacks} is named '(brown|thrift)'"):
            client.batches.create(
                input_file_id=uploaded.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"uniroute_policy": "thrift"},
            )


@pytest.mark.stack
def test_without_tokens_nothing_but_loopback_is_served(bench: Bench) -> None:
    """An open server on a public address is refused before it listens."""
    server = BatchServer(engine=bench.installation.engine, settings=bench.installation.settings, tokens={})

    with pytest.raises(UsageError, match="UNIROUTE_BATCH_TOKENS"):
        asyncio.run(server.start(bind="0.0.0.0"))  # noqa: S104  # that it is refused is the point
