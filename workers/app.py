"""The Faust app that supervises the roles of a process.

``faust -A workers.app worker`` serves the roles that ``UNIROUTE_ROLES`` names; so does ``uniroute serve``.
Faust supervises, serves the web views and ends the process; no message passes through its agents, whose
acknowledgement is not tied to what was produced.
"""

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import faust
import prometheus_client
import structlog
from faust.app.base import BootStrategy
from mode import Service

from routing.errors import RoutingError
from workers import telemetry
from workers.errors import WorkersError
from workers.roles import BUILDERS
from workers.settings import Role, Settings

log = structlog.get_logger(__name__)


class RoleService(Service):  # type: ignore[misc]  # mode publishes no types
    """Runs one role's loop in a thread of its own, under Faust's supervision.

    A loop that raises crashes the process with exit code 1, to be started again by whatever keeps processes.
    """

    def __init__(self, role: Role, settings: Settings, **options: object) -> None:
        super().__init__(**options)
        self.role = role
        self._settings = settings
        self._stop_loop = threading.Event()
        self._running = False

    @property
    def label(self) -> str:
        """What Faust's own logs call it."""
        return self.role

    @property
    def running(self) -> bool:
        """Whether the loop has been built and has not ended."""
        return self._running

    @Service.task  # type: ignore[untyped-decorator]
    async def _supervise(self) -> None:
        try:
            await asyncio.to_thread(self._run)
        except (WorkersError, RoutingError) as error:
            log.error("role_refused", role=self.role, problem=str(error))  # noqa: TRY400 (a sentence, no trace)
            await self.crash(error)

    def _run(self) -> None:
        with ExitStack() as stack:
            loop = BUILDERS[self.role](self._settings, stack)
            self._running = True
            try:
                loop.run(self._stop_loop)
            finally:
                self._running = False

    async def on_stop(self) -> None:
        """Tell the loop to finish what is in flight; Faust then waits for it."""
        self._stop_loop.set()


class _SentenceOnly(logging.Filter):
    """Leaves the traceback out of Faust's report of a crash by an error of ours: its text says it all."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if record.exc_info and isinstance(record.exc_info[1], WorkersError | RoutingError):
            record.exc_info = None
        return True


class _OwnClients(BootStrategy):  # type: ignore[misc]
    """Faust starts no Kafka client: each role's loop owns its own."""

    enable_kafka_consumer = False
    enable_kafka_producer = False


class UnirouteApp(faust.App):  # type: ignore[misc]
    """A Faust app whose services are the roles."""

    BootStrategy = _OwnClients


def create_app(settings: Settings) -> UnirouteApp:
    """Make the app that serves ``settings.roles``, with its health and metrics pages."""
    app = UnirouteApp(
        f"uniroute-{'-'.join(settings.roles)}-{settings.worker_slot}",
        broker=[f"kafka://{server}" for server in settings.kafka_bootstrap.split(",")],
        store="memory://",
        datadir=tempfile.gettempdir(),
        web_bind=settings.web_bind,
        web_port=settings.web_port or None,  # Faust takes no 0, even where there is no web server
        web_enabled=settings.web_port > 0,
        worker_redirect_stdouts=False,
    )
    services = [RoleService(role, settings) for role in settings.roles]
    logging.getLogger(RoleService.logger.name).addFilter(_SentenceOnly())
    for service in services:
        app.service(service)
    app.page("/healthz")(_health_page(services))
    app.page("/metrics")(_metrics_page())
    return app


def _health_page(services: Sequence[RoleService]) -> Callable[..., object]:
    async def healthz(web: faust.web.Web, _request: faust.web.Request) -> faust.web.Response:
        """Answer 200 once every role's loop runs, 503 before and after."""
        roles = {service.role: service.running for service in services}
        return web.json({"roles": roles}, status=200 if all(roles.values()) else 503)

    return healthz


def _metrics_page() -> Callable[..., object]:
    async def metrics(web: faust.web.Web, _request: faust.web.Request) -> faust.web.Response:
        """Give every metric in Prometheus's text format."""
        return web.bytes(
            prometheus_client.generate_latest(),
            # As a header: the argument for the type takes no parameters such as the version.
            headers={"content-type": prometheus_client.CONTENT_TYPE_LATEST},
        )

    return metrics


def __getattr__(name: str) -> UnirouteApp:
    """Make ``app`` when Faust's command line asks for it, so that importing this module reads no settings."""
    if name == "app":
        telemetry.configure_logs()
        return create_app(Settings())
    raise AttributeError(name)
