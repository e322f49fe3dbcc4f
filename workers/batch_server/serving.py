"""The server: who asks, what of, and the answer; it hands everything on to what the commands use."""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web
from sqlalchemy import Engine

from workers.batch_server.objects import (
    Json,
    batch_object,
    error_object,
    file_object,
    list_object,
    read_result_id,
    result_object,
)
from workers.batches.folders import Store
from workers.batches.requests import ENDPOINT, Options, read_duration
from workers.batches.submission import Intake, cancel, results, submit
from workers.errors import UsageError, WaitableError, WorkersError
from workers.settings import Settings
from workers.storage.batches import Batch, Batches, BatchFile
from workers.storage.engine import transaction

_TENANT_KEY = "uniroute-tenant"
#: Entries of a page where nothing is said, and at most: OpenAI's.
_PAGE, _LONGEST_PAGE = 20, 100
_FILES_PAGE = 10_000
#: What an id of ours, or of a client, may look like; any other is nobody's.
_ID = re.compile(r"[A-Za-z0-9._-]{1,256}")
_PIECE_BYTES = 256 * 1024
#: Keys of a batch's metadata that are wishes: ``uniroute_budget_usd`` and so on.
_WISH = "uniroute_"
_NUMBERS = ("budget_usd", "min_quality")
_WORDS = ("policy", "order")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _NewBatch(msgspec.Struct):
    """The body of ``POST /v1/batches``."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None


class BatchServer:
    """Serves ``/v1/files`` and ``/v1/batches`` as OpenAI does.

    A request names its tenant by a bearer token; a tenant sees its own files and batches alone. Without any
    token known everybody is the nameless tenant, and then only loopback is served.
    """

    def __init__(self, *, engine: Engine, settings: Settings, tokens: Mapping[str, str]) -> None:
        self._engine = engine
        self._settings = settings
        self._store = Store(settings.batches_folder)
        self._tokens = dict(tokens)
        self._runner: web.AppRunner | None = None

    async def start(self, *, bind: str = "127.0.0.1", port: int = 0) -> str:
        """Listen, and give the URL; ``UsageError`` for a public address without tokens."""
        if not self._tokens and not _is_loopback(bind):
            raise UsageError(f"{bind} is not loopback: give tokens in UNIROUTE_BATCH_TOKENS first")
        app = web.Application(middlewares=[self._guard], client_max_size=1024 * 1024)
        app.add_routes(
            [
                web.post("/v1/files", self._add_file),
                web.get("/v1/files", self._list_files),
                web.get("/v1/files/{id}", self._show_file),
                web.get("/v1/files/{id}/content", self._send_content),
                web.post("/v1/batches", self._add_batch),
                web.get("/v1/batches", self._list_batches),
                web.get("/v1/batches/{id}", self._show_batch),
                web.post("/v1/batches/{id}/cancel", self._cancel_batch),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, bind, port).start()
        return f"http://{bind}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Find the tenant, and turn errors into OpenAI's."""
        tenant = self._find_tenant(request.headers.get("authorization", ""))
        if tenant is None:
            body = error_object("the bearer token is not known", code="invalid_api_key")
            return web.json_response(body, status=401)
        request[_TENANT_KEY] = tenant
        try:
            return await handler(request)
        except web.HTTPException as error:  # aiohttp's own: no such path, or a body that is too large
            return web.json_response(error_object(error.reason), status=error.status)
        except _NotFoundError as error:
            return web.json_response(error_object(str(error)), status=404)
        except UsageError as error:
            return web.json_response(error_object(str(error)), status=400)
        except WaitableError as error:
            return web.json_response(error_object(str(error), kind="server_error"), status=503)

    def _find_tenant(self, header: str) -> str | None:
        if not self._tokens:
            return ""
        scheme, _, word = header.partition(" ")
        if scheme.lower() != "bearer" or not word.strip():
            return None
        given = word.strip().encode(errors="surrogateescape")
        found = None
        for tenant, token in self._tokens.items():  # each is compared, in constant time
            if hmac.compare_digest(given, token.encode()):
                found = tenant
        return found

    async def _add_file(self, request: web.Request) -> web.Response:
        if not request.content_type.startswith("multipart/"):
            raise UsageError("upload a file as multipart/form-data with purpose and file")
        purpose, filename = "", None
        with Intake(self._store) as intake:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    continue
                if part.name == "purpose":
                    purpose = await part.text()
                elif part.name == "file":
                    filename = part.filename or "file"
                    while piece := await part.read_chunk(_PIECE_BYTES):
                        intake.write(piece)
            if filename is None or purpose != "batch":
                raise UsageError("upload a file with purpose batch")
            kept = await asyncio.to_thread(
                intake.keep,
                filename=filename,
                purpose="batch",
                engine=self._engine,
                tenant=request[_TENANT_KEY],
            )
        return web.json_response(file_object(kept))

    async def _list_files(self, request: web.Request) -> web.Response:
        tenant, after, order = request[_TENANT_KEY], _read_cursor(request), request.query.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise UsageError(f"order is {order[:20]!r}: give asc or desc")
        if request.query.get("purpose", "batch") != "batch":
            return web.json_response(list_object([], more=False))
        limit = _read_limit(request, usual=_FILES_PAGE, most=_FILES_PAGE)
        found = await self._ask(
            lambda batches: batches.files(
                tenant=tenant, limit=limit + 1, after=after, oldest_first=order == "asc"
            )
        )
        page = [file_object(file) for file in found[:limit]]
        return web.json_response(list_object(page, more=len(found) > limit))

    async def _show_file(self, request: web.Request) -> web.Response:
        found, _ = await self._find_file(request)
        return web.json_response(found)

    async def _send_content(self, request: web.Request) -> web.StreamResponse:
        _, path = await self._find_file(request)
        return web.FileResponse(path, headers={"content-type": "application/jsonl"})

    async def _find_file(self, request: web.Request) -> tuple[Json, Path]:
        """Give a file's object and where it lies."""
        file_id = request.match_info["id"]
        result = read_result_id(file_id)
        if result is None:
            file = await self._find_upload(file_id, request[_TENANT_KEY])
            return file_object(file), self._store.file(file.id)
        batch_id, kind = result
        batch = await self._find_batch(batch_id, request[_TENANT_KEY])
        path = results(self._store, batch).get(kind)
        if path is None:
            raise _NotFoundError(f"no file is named {file_id}")
        return result_object(batch, kind, path.stat().st_size), path

    async def _add_batch(self, request: web.Request) -> web.Response:
        try:
            asked = msgspec.json.decode(await request.read(), type=_NewBatch)
        except msgspec.MsgspecError as error:
            raise UsageError(f"the body cannot be read: {error}") from error
        if asked.endpoint != ENDPOINT:
            raise UsageError(f"the endpoint is {ENDPOINT}, not {asked.endpoint}")
        tenant = request[_TENANT_KEY]
        file = await self._find_upload(asked.input_file_id, tenant)
        options = _read_options(asked)
        window = read_duration(asked.completion_window)
        submitted = await asyncio.to_thread(
            submit, file, options, engine=self._engine, window=window, tenant=tenant
        )
        return web.json_response(batch_object(submitted.batch))

    async def _list_batches(self, request: web.Request) -> web.Response:
        tenant, after = request[_TENANT_KEY], _read_cursor(request)
        limit = _read_limit(request, usual=_PAGE, most=_LONGEST_PAGE)
        found = await self._ask(lambda batches: batches.list(tenant=tenant, limit=limit + 1, after=after))
        page = [batch_object(batch) for batch in found[:limit]]
        return web.json_response(list_object(page, more=len(found) > limit))

    async def _show_batch(self, request: web.Request) -> web.Response:
        batch = await self._find_batch(request.match_info["id"], request[_TENANT_KEY])
        return web.json_response(batch_object(batch))

    async def _cancel_batch(self, request: web.Request) -> web.Response:
        batch = await self._find_batch(request.match_info["id"], request[_TENANT_KEY])
        return web.json_response(batch_object(await asyncio.to_thread(cancel, self._engine, batch.id)))

    async def _find_upload(self, file_id: str, tenant: str) -> BatchFile:
        file: BatchFile | None = None
        if _ID.fullmatch(file_id):
            file = await self._ask(lambda batches: batches.file(file_id))
        if file is None or file.tenant != tenant:
            raise _NotFoundError(f"no file is named {file_id[:80]!r}")
        return file

    async def _find_batch(self, batch_id: str, tenant: str) -> Batch:
        batch: Batch | None = None
        if _ID.fullmatch(batch_id):
            batch = await self._ask(lambda batches: batches.find(batch_id))
        if batch is None or batch.tenant != tenant:
            raise _NotFoundError(f"no batch is named {batch_id[:80]!r}")
        return batch

    async def _ask(self, question: Callable[[Batches], Any]) -> Any:  # noqa: ANN401  # what the question gives
        def answer() -> Any:  # noqa: ANN401
            with transaction(self._engine) as session:
                return question(Batches(session))

        return await asyncio.to_thread(answer)


class _NotFoundError(WorkersError):
    """What was asked for is not there, or is another tenant's."""


def read_tokens(settings: Settings) -> dict[str, str]:
    """Give the token of each tenant; ``UsageError`` for one that is empty, or that two tenants have.

    An empty one would let in whoever sends none.
    """
    tokens = {tenant: token.get_secret_value() for tenant, token in settings.batch_tokens.items()}
    owners: dict[str, str] = {}
    for tenant, token in tokens.items():
        if not token.strip():
            raise UsageError(
                f"UNIROUTE_BATCH_TOKENS: the token of {tenant!r} is empty: give it one that nobody guesses, "
                "openssl rand -hex 32 prints one"
            )
        if (owner := owners.setdefault(token, tenant)) != tenant:
            raise UsageError(
                f"UNIROUTE_BATCH_TOKENS: {owner!r} and {tenant!r} have the same token: give each its own"
            )
    return tokens


def _read_cursor(request: web.Request) -> str | None:
    after = request.query.get("after")
    if after is not None and not _ID.fullmatch(after):
        raise UsageError(f"after is {after[:80]!r}: give the last id of the page before")
    return after


def _read_limit(request: web.Request, *, usual: int, most: int) -> int:
    """Give the entries of a page; what is out of range is the nearest that is not."""
    try:
        return min(max(1, int(request.query.get("limit", usual))), most)
    except ValueError as error:
        raise UsageError("limit is a number") from error


def _read_options(asked: _NewBatch) -> Options:
    """Read the wishes in a batch's metadata: the official client carries them without knowing them."""
    metadata = asked.metadata or {}
    wishes: dict[str, Any] = {}
    for key, text in metadata.items():
        name = key.removeprefix(_WISH)
        if not key.startswith(_WISH):
            continue
        if name not in {*_NUMBERS, *_WORDS}:
            raise UsageError(
                f"{key} is no wish: known are {', '.join(_WISH + one for one in (*_NUMBERS, *_WORDS))}"
            )
        try:
            wishes[name] = float(text) if name in _NUMBERS else text
        except ValueError as error:
            raise UsageError(f"{key} is {text[:40]!r}: give a number") from error
    return Options(**wishes, metadata=asked.metadata, window=asked.completion_window)


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return bind == "localhost"
