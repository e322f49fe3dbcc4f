"""An installation for tests of the roles: real topics and tables, a tiny embedder, LLMs of known quality.

Router, executor and learner run as the processes that ``python -m workers serve`` makes of them.
"""

import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from exactly_once import WorkerProcess
from pydantic import SecretStr
from sqlalchemy import Engine
from static_artifacts import WORDS, write_static_artifact

from routing.embedders import Embedder, FloatMatrix
from routing.llms import LLM, Price
from workers.embedding.loading import load_embedder
from workers.installation import install
from workers.onboarding import fit_map, onboard
from workers.settings import Settings
from workers.storage.engine import make_engine
from workers.storage.llms import Registration
from workers.topics import Topics

SIGNING_KEY = "0123456789abcdef-tests"
#: Where nobody listens; tests without an executor never call it.
NOWHERE = "http://127.0.0.1:1/v1"
TEXTS = tuple(f"what {colour} {fruit}" for colour in WORDS[1:4] for fruit in WORDS[4:7])


@dataclass(slots=True)
class Installation:
    """Settings, database and embedder of one installation; its processes end with the ``with`` block."""

    settings: Settings
    engine: Engine
    embedder: Embedder
    embedders: Path
    logs: Path
    _processes: ExitStack

    @classmethod
    def create(cls, *, kafka_bootstrap: str, database_url: str, folder: Path, partitions: int = 4) -> Self:
        """Prepare topics and tables under a prefix of the installation's own, and fit a map."""
        prefix = f"{uuid.uuid4().hex[:8]}."
        embedders = folder / "embedders"
        artifact = write_static_artifact(embedders)
        settings = Settings(
            kafka_bootstrap=kafka_bootstrap,
            database_url=database_url,
            topic_prefix=prefix,
            reply_prefix=f"{prefix}replies.",
            partitions=partitions,
            dispatch_partitions=2,
            signing_key=SecretStr(SIGNING_KEY),
            embedders_folder=embedders,
        )
        install(settings)
        embedder = load_embedder(artifact)
        engine = make_engine(database_url)
        fit_map(engine, embedder, embedder.encode(TEXTS), sizes=(2, 3))
        return cls(settings, engine, embedder, embedders, folder, ExitStack())

    @property
    def topics(self) -> Topics:
        """The names of its topics."""
        return Topics(self.settings.topic_prefix)

    def register(
        self, name: str, *, score: float = 0.5, usd_per_mtok: float = 1.0, base_url: str = NOWHERE
    ) -> None:
        """Register an LLM that got ``score`` on each of nine labelled prompts."""
        embeddings: FloatMatrix = self.embedder.encode(TEXTS)
        price = Price(input_usd_per_mtok=usd_per_mtok, output_usd_per_mtok=usd_per_mtok)
        onboard(
            self.engine,
            self.settings,
            Registration(llm=LLM(name=name, price=price), base_url=base_url, provider_model=name),
            embeddings=embeddings,
            scores=np.full(len(TEXTS), score),
        )

    def serve(
        self, role: str, *, slot: str = "0", web_port: int = 0, environment: Mapping[str, str] | None = None
    ) -> WorkerProcess:
        """Start a role as a process."""
        settings = self.settings
        variables = {
            "UNIROUTE_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            "UNIROUTE_DATABASE_URL": settings.database_url,
            "UNIROUTE_TOPIC_PREFIX": settings.topic_prefix,
            "UNIROUTE_REPLY_PREFIX": settings.reply_prefix,
            "UNIROUTE_SIGNING_KEY": SIGNING_KEY,
            "UNIROUTE_EMBEDDERS_FOLDER": str(self.embedders),
            "UNIROUTE_STATE_FOLDER": str(self.logs),
            "UNIROUTE_SESSION_TIMEOUT_MS": "3000",
            "UNIROUTE_TRANSACTION_TIMEOUT_MS": "5000",
            "UNIROUTE_WORKER_SLOT": slot,
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        }
        log = self.logs / f"{role}-{slot}-{uuid.uuid4().hex[:8]}.log"
        arguments = ["-m", "workers", "serve", role, "--web-port", str(web_port)]
        return self._processes.enter_context(WorkerProcess(arguments, log=log, environment=variables))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._processes.close()
        self.engine.dispose()
