import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest
from batch_benches import Bench
from pydantic import SecretStr

from workers.batch_server import BatchServer, read_tokens
from workers.errors import UsageError
from workers.settings import Settings
from workers.storage.engine import transaction
from workers.storage.tenants import Tenant, Tenants


@pytest.fixture(autouse=True)
def tenants(bench: Bench) -> None:
    """The tenants whose tokens are used."""
    with transaction(bench.installation.engine) as session:
        for name in ("blue", "red", "green", "pager"):
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
def test_lists_are_paged_by_cursors(bench: Bench) -> None:
    """Two to a page the client finds all five files and batches, newest first; nobody's cursor is refused."""
    with (
        serving(bench, {"pager": "token-of-pager"}) as url,
        openai.OpenAI(base_url=url, api_key="token-of-pager") as client,
    ):
        with bench.write(1).open("rb") as file:
            files = [client.files.create(file=file, purpose="batch").id for _ in range(5)]
        batches = [
            client.batches.create(
                input_file_id=one, endpoint="/v1/chat/completions", completion_window="24h"
            ).id
            for one in files
        ]

        first = client.files.list(limit=2)
        assert ([one.id for one in first.data], first.has_more) == ([files[4], files[3]], True)
        assert [one.id for one in client.files.list(limit=2)] == files[::-1]
        assert [one.id for one in client.files.list(limit=2, order="asc")] == files
        assert [one.id for one in client.batches.list(limit=2)] == batches[::-1]
        for cursor in ("batch_of_nobody", "file-\0", files[0][:-1]):
            with pytest.raises(openai.BadRequestError, match="last id of the page before"):
                client.batches.list(after=cursor)
            with pytest.raises(openai.BadRequestError, match="last id of the page before"):
                client.files.list(after=cursor)


@pytest.mark.stack
@pytest.mark.parametrize("window", ["99999999d", "999999999999h", "366d", "soon", ""])
def test_a_window_that_is_none_is_the_clients_mistake(bench: Bench, window: str) -> None:
    """However long it is: 400, with the sentence that says what would do."""
    with (
        serving(bench, {"blue": "token-of-blue"}) as url,
        openai.OpenAI(base_url=url, api_key="token-of-blue", max_retries=0) as client,
        bench.write(1).open("rb") as file,
    ):
        uploaded = client.files.create(file=file, purpose="batch")
        with pytest.raises(openai.BadRequestError, match=r"6h for example|365d at most"):
            client.batches.create(
                input_file_id=uploaded.id,
                endpoint="/v1/chat/completions",
                completion_window=window,  # type: ignore[arg-type]  # OpenAI has one
            )


@pytest.mark.stack
def test_paths_and_ids_that_are_nobodys_are_not_found(bench: Bench) -> None:
    """In OpenAI's shape, whatever bytes they hold."""
    with (
        serving(bench, {"blue": "token-of-blue"}) as url,
        openai.OpenAI(base_url=url, api_key="token-of-blue", max_retries=0) as client,
    ):
        for path in ("/batches/a%00b", "/files/a%00b", "/files/file-output-%00", "/models"):
            with pytest.raises(openai.NotFoundError) as found:
                client.get(path, cast_to=object)
            assert isinstance(found.value.body, dict)
            assert found.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("tokens", "fix"),
    [
        ({"blue": "t", "red": ""}, "token of 'red' is empty: give it one"),
        ({"red": "  "}, "token of 'red' is empty: give it one"),
        ({"blue": "t", "red": "t"}, "'blue' and 'red' have the same token: give each its own"),
    ],
)
def test_tokens_that_let_in_anybody_are_refused(tokens: dict[str, str], fix: str) -> None:
    """The sentence names the setting and what to do."""
    with pytest.raises(UsageError, match=f"UNIROUTE_BATCH_TOKENS: .*{fix}"):
        read_tokens(Settings(batch_tokens={name: SecretStr(token) for name, token in tokens.items()}))


@pytest.mark.stack
@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic dG9rZW4=", "token-of-blue"])
def test_a_request_without_a_bearer_token_is_refused(bench: Bench, header: str | None) -> None:
    """Whatever else it says."""
    with serving(bench, {"blue": "token-of-blue"}) as url:
        request = urllib.request.Request(f"{url}/files", headers={"authorization": header} if header else {})  # noqa: S310

        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request)  # noqa: S310  # ours, on loopback


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
