"""Sets the stage: stack, simulated LLMs, cluster map, registered LLMs, and the workers' processes."""

import json
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pydantic import SecretStr
from sqlalchemy import Engine

from routing.embedders import Embedder, FloatMatrix
from routing.llms import LLM
from workers.decision_ids import make_signer
from workers.embedding.artifacts import find_artifact, list_artifacts
from workers.embedding.cache import cached_embeddings
from workers.embedding.errors import BackendUnavailableError
from workers.embedding.loading import load_embedder
from workers.errors import UsageError
from workers.installation import install, set_policy
from workers.lifecycle import Probe, Probed, ProbeLane, begin, probe
from workers.local.demo.options import Options
from workers.local.demo.tuning import tune_error_per_usd
from workers.local.ports import choose_ports
from workers.local.processes import Command, Service, ServiceError
from workers.local.simulated.answers import AnswerSource, Prompt
from workers.local.simulated.faults import Scenario
from workers.local.stack import LocalStack
from workers.onboarding import KnownErrors, fit_map, onboard
from workers.policies import DEFAULT_POLICY
from workers.prompts import count_tokens
from workers.settings import LIVE_ROLES, Role, Settings
from workers.storage.cluster_maps import ClusterMaps
from workers.storage.engine import make_engine, transaction
from workers.storage.llms import Registration
from workers.storage.policies import Policies
from workers.storage.snapshots import load_snapshot
from workers.storage.tenants import DEFAULT_TENANT
from workers.topics import create_topics, llm_topics

_READY_SECONDS = 60.0
_MODEL = "all-MiniLM-L6-v2"
_FIRST_SLOT = "0"

#: Told what is being done, for people.
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Worker:
    """A role's process of one slot."""

    role: Role
    slot: str
    port: int
    service: Service


class Stage:
    """A private installation in ``folder``; everything it starts ends with ``stack``.

    A worker's name is its role's, with its slot behind a dash where that is not the first. ``environment``
    is added to that of every worker.
    """

    def __init__(
        self,
        options: Options,
        source: AnswerSource,
        *,
        folder: Path,
        stack: ExitStack,
        say: Say,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._options = options
        self._source = source
        self._folder = folder
        self._stack = stack
        self._say = say
        self._environment = dict(environment or {})
        self._workers: dict[str, _Worker] = {}
        self._llm_urls: list[str] = []

    def start(self) -> None:
        """Start Kafka, Postgres and the server of the simulated LLMs, and prepare the installation."""
        self._say(f"Starting a private Kafka, a private Postgres and {len(self._source.llms)} simulated LLMs")
        servers = [self._launch_llms(number) for number in range(self._options.llm_servers)]
        #: Its Kafka and its Postgres.
        self.local = local = LocalStack(self._folder / "stack")
        self._stack.enter_context(local)
        self.settings = Settings(
            kafka_bootstrap=local.endpoints.kafka_bootstrap,
            database_url=local.endpoints.database_url,
            signing_key=SecretStr(secrets.token_urlsafe(32)),
            batches_folder=self._folder / "batches",
            **self._embedders(),
        )
        install(self.settings)
        self.engine: Engine = make_engine(self.settings.database_url, application_name="uniroute-demo")
        self._stack.callback(self.engine.dispose)
        for server, url in zip(servers, self._llm_urls, strict=True):
            server.wait_until(partial(_answers, f"{url}/models"), timeout=_READY_SECONDS)

    def open_embedder(self) -> None:
        """Open the embedder; the MiniLM's artifact is exported first where there is none yet."""
        artifact = self._options.embedder or self._export()
        self.embedder: Embedder = open_fastest(artifact, self.settings)

    def learn(self) -> None:
        """Fit the map on training prompts, register all LLMs but the late one, and set the policy."""
        train = self._source.prompts("train", self._options.train)
        labelled = self._source.prompts("label", self._options.labels)
        self._say(f"Embedding {len(train)} training prompts and {len(labelled)} labelled prompts")
        train_embeddings = self._embed(train)
        self._label_embeddings = self._embed(labelled)
        truth = self._source.truth([prompt.prompt_id for prompt in labelled])
        self._label_scores = truth.scores
        self._labelled = labelled
        self._label_tokens = np.array([count_tokens(prompt.text) for prompt in labelled])
        early = [llm for llm in self._source.llms if llm.name != self._source.late_llm]
        columns = [self._column(llm) for llm in early]
        self._say(f"Fitting the map; learning {len(early)} simulated LLMs from {len(labelled)} labels")
        fit_map(
            self.engine,
            self.embedder,
            train_embeddings,
            known=KnownErrors(embeddings=self._label_embeddings, errors=1.0 - self._label_scores[:, columns]),
            seed=self._options.seed,
        )
        create_topics(self.settings, [spec for llm in early for spec in llm_topics(llm.name, self.settings)])
        for llm in early:
            self._register(llm)
        self._set_policy()

    def probe_late_llm(self) -> Probed:
        """Register the LLM that was left out, and ask it as few labelled prompts as settle the routes.

        They take the way that `uniroute llm onboard` has them take: its probe lane, and executors.
        """
        llm = next(llm for llm in self._source.llms if llm.name == self._source.late_llm)
        with transaction(self.engine) as session:
            fitted = ClusterMaps(session).require_active()
        cells = fitted.cluster_map.cells(self._label_embeddings).tolist()
        probes = [
            Probe(
                llm=llm.name,
                body={
                    "messages": [{"role": "user", "content": prompt.text}],
                    # As those of all traffic here: so that the simulated LLMs know the task at once.
                    "metadata": {"prompt_id": prompt.prompt_id},
                },
                cells=tuple(cells[row]),
                grade=partial(self._source.grade, prompt.prompt_id),
            )
            for row, prompt in enumerate(self._labelled)
        ]
        with ProbeLane(
            self.settings,
            make_signer(self.settings),
            map_version=fitted.cluster_map.version,
            tenant=DEFAULT_TENANT,
        ) as lane:
            begin(
                self.engine,
                self.settings,
                Registration(llm=llm, base_url=self._address(llm), provider_model=llm.name),
            )
            return probe(
                self.engine,
                llm.name,
                texts=[prompt.text for prompt in self._labelled],
                embeddings=self._label_embeddings,
                input_tokens=self._label_tokens,
                ask=lambda rows: lane.ask([probes[row] for row in rows]),
                seed=self._options.seed,
            )

    def join_late_llm(self) -> None:
        """Register the LLM that was left out, from all of its labels."""
        self._register(next(llm for llm in self._source.llms if llm.name == self._source.late_llm))

    def launch_roles(self, roles: Sequence[Role] = LIVE_ROLES) -> None:
        """Start the roles, each in a process of its own, without waiting for them."""
        self._say(f"Starting {', '.join(roles)}, each in a process of its own")
        self._stack.callback(self.stop_roles)
        for role in roles:
            self.launch(role)

    def launch(self, role: Role, *, slot: str = _FIRST_SLOT) -> str:
        """Start one worker without waiting for it, and give its name; ``stop_roles`` ends it."""
        name = role if slot == _FIRST_SLOT else f"{role}-{slot}"
        self._workers[name] = _Worker(
            role=role,
            slot=slot,
            port=choose_ports(1)[0],
            service=Service(name, self._folder, outlive=False),
        )
        self.start_role(name)
        return name

    def await_roles(self) -> None:
        """Return when every worker that was launched serves; a ``ServiceError`` where one does not."""
        for name, worker in self._workers.items():
            worker.service.wait_until(partial(self.is_healthy, name), timeout=_READY_SECONDS)

    def is_healthy(self, name: str) -> bool:
        """Tell whether a worker says that it serves."""
        return _answers(f"http://127.0.0.1:{self._workers[name].port}/healthz")

    def service(self, name: str) -> Service:
        """Give a worker's process: to kill it, to freeze it, to see whether it lives."""
        return self._workers[name].service

    def start_role(self, name: str) -> None:
        """Start a worker that was launched before and has ended."""
        settings, worker = self.settings, self._workers[name]
        worker.service.start(
            Command(
                arguments=[
                    sys.executable,
                    "-m",
                    "workers",
                    "serve",
                    worker.role,
                    "--slot",
                    worker.slot,
                    "--web-port",
                    str(worker.port),
                ],
                folder=self._folder,
                environment={
                    "UNIROUTE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
                    "UNIROUTE_DATABASE_URL": settings.database_url,
                    "UNIROUTE_BATCHES_FOLDER": str(settings.batches_folder),
                    "UNIROUTE_STATE_FOLDER": str(self._folder / "state"),
                    "UNIROUTE_EMBEDDERS_FOLDER": str(settings.embedders_folder),
                    "UNIROUTE_SIGNING_KEY": settings.signing_key.get_secret_value(),
                    "UNIROUTE_REFIT_INTERVAL_S": "1",
                    # Many processes share the cores, and the matrices are small.
                    "OPENBLAS_NUM_THREADS": "1",
                    **self._environment,
                },
            )
        )

    def kill_role(self, name: str) -> None:
        """End one worker by SIGKILL."""
        self._workers[name].service.kill()

    def stop_roles(self) -> None:
        """Ask every worker to end, all at once, and wait; nothing to do for one that has ended."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(Service.stop, [worker.service for worker in self._workers.values()]))

    def read_calls(self) -> list[dict[str, Any]]:
        """Give every call that the simulated LLMs had, by their own account."""
        calls: list[dict[str, Any]] = []
        for url in self._llm_urls:
            address = f"{url.removesuffix('/v1')}/calls"
            with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310 (our own loopback)
                calls += json.load(response)["calls"]
        return calls

    def set_faults(self, scenario: Scenario) -> None:
        """Replace what goes wrong with calls to the simulated LLMs; the scenario's clock starts anew."""
        for url in self._llm_urls:
            request = urllib.request.Request(  # noqa: S310 (our own loopback address)
                f"{url.removesuffix('/v1')}/faults", data=msgspec.json.encode(scenario), method="PUT"
            )
            with urllib.request.urlopen(request, timeout=30):  # noqa: S310 (as above)
                pass

    def _launch_llms(self, number: int) -> Service:
        """Start a server of the simulated LLMs without waiting for it; each one has them all."""
        port = choose_ports(1)[0]
        options = self._options
        source = ["--outcomes", str(options.outcomes)] if options.outcomes else ["--seed", str(options.seed)]
        if options.join == "worse":
            source.append("--worse")
        faults = ["--faults", str(options.faults.resolve())] if options.faults else []
        name = "simulated-llms" if number == 0 else f"simulated-llms-{number}"
        server = Service(name, self._folder, outlive=False)
        self._stack.callback(server.stop)
        server.start(
            Command(
                arguments=[
                    sys.executable,
                    "-m",
                    "workers.local.simulated",
                    "--port",
                    str(port),
                    "--latency-scale",
                    str(options.latency_scale),
                    *source,
                    *faults,
                ],
                folder=self._folder,
                environment={},
            )
        )
        self._llm_urls.append(f"http://127.0.0.1:{port}/v1")
        return server

    def _export(self) -> Path:
        """Give the artifact's folder; an export runs in a process of its own, whose memory goes with it."""
        folder = self.settings.embedders_folder
        if not any(one.manifest.name == _MODEL for one in list_artifacts(folder)):
            self._say(f"Exporting the embedder {_MODEL}, this once")
            done = subprocess.run(  # noqa: S603 (this interpreter and our own command)
                [sys.executable, "-m", "workers", "embedder", "export", _MODEL],
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise UsageError(f"the embedder could not be exported: {done.stderr.strip()[-800:]}")
        return find_artifact(_MODEL, folder).folder

    def _embed(self, prompts: Sequence[Prompt]) -> FloatMatrix:
        return cached_embeddings(self.embedder, [prompt.text for prompt in prompts])

    def _address(self, llm: LLM) -> str:
        """Give the server of an LLM: they are dealt out by their place in the pool."""
        return self._llm_urls[self._column(llm) % len(self._llm_urls)]

    def _embedders(self) -> dict[str, Any]:
        """Say where artifacts lie, where one is given."""
        given = self._options.embedder
        return {} if given is None else {"embedders_folder": given.parent}

    def _column(self, llm: LLM) -> int:
        return [one.name for one in self._source.llms].index(llm.name)

    def _register(self, llm: LLM) -> None:
        onboard(
            self.engine,
            self.settings,
            Registration(llm=llm, base_url=self._address(llm), provider_model=llm.name),
            embeddings=self._label_embeddings,
            scores=self._label_scores[:, self._column(llm)],
        )

    def _set_policy(self) -> None:
        with transaction(self.engine) as session:
            snapshot = load_snapshot(session)
        if snapshot is None:
            raise ServiceError("Postgres", "holds no snapshot after the LLMs were learned", self._folder)
        error_per_usd = tune_error_per_usd(snapshot, self._label_embeddings, self._label_tokens)
        with transaction(self.engine) as session:
            set_policy(Policies(session), DEFAULT_POLICY, error_per_usd=error_per_usd)


def open_fastest(artifact: Path, settings: Settings) -> Embedder:
    """Open the artifact in bf16 where this CPU has it (four times the speed), else in f32."""
    try:
        return load_embedder(artifact, precision="bf16", threads=settings.embedder_threads)
    except BackendUnavailableError:
        return load_embedder(artifact, threads=settings.embedder_threads)


def _answers(address: str) -> bool:
    """Tell whether a page answers with success; not yet listening, or not yet well, are both no."""
    try:
        with urllib.request.urlopen(address, timeout=2) as response:  # noqa: S310 (our own loopback address)
            return bool(response.status == 200)  # noqa: PLR2004
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
