"""Typed settings, read once from the environment: ``UNIROUTE_KAFKA_BOOTSTRAP`` sets ``kafka_bootstrap``."""

from pathlib import Path
from typing import Literal, get_args

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

Role = Literal["router", "executor", "learner", "batcher"]
ROLES: tuple[Role, ...] = get_args(Role)
#: Those that a prompt passes through.
LIVE_ROLES: tuple[Role, ...] = ("router", "executor", "learner")


class Settings(BaseSettings):
    """What a process of uniroute needs to know before it starts."""

    model_config = SettingsConfigDict(env_prefix="UNIROUTE_", frozen=True, extra="forbid")

    #: ``host:port``, several separated by commas.
    kafka_bootstrap: str = "127.0.0.1:9092"
    #: An SQLAlchemy URL of the form ``postgresql+psycopg://...``.
    database_url: str = "postgresql+psycopg://127.0.0.1:5432/uniroute"
    #: Every topic of this installation begins with it.
    topic_prefix: str = Field(default="uniroute.", pattern=r"^[a-zA-Z0-9._-]*$")
    #: Callers may ask for replies on topics that begin with it, and on no others.
    reply_prefix: str = Field(default="uniroute.replies.", pattern=r"^[a-zA-Z0-9._-]+$")
    #: Partitions of the ingest, decision and feedback topics.
    partitions: int = Field(default=8, ge=1)
    #: Partitions of each LLM's dispatch topic: the most executors that can share one LLM.
    dispatch_partitions: int = Field(default=4, ge=1)
    replication_factor: int = Field(default=1, ge=1)
    #: What a process serves.
    roles: tuple[Role, ...] = ROLES
    #: Tells worker processes of one role apart; stable, so that a restart fences its own past.
    worker_slot: str = Field(default="0", pattern=r"^[a-zA-Z0-9_-]+$")
    #: A member that is silent for this long loses its partitions.
    session_timeout_ms: int = Field(default=10_000, ge=500)
    #: A transaction that its producer left open is aborted by the broker after this long.
    transaction_timeout_ms: int = Field(default=12_000, ge=1_000)
    #: A prompt of more bytes is a dead letter.
    max_prompt_bytes: int = Field(default=1_000_000, ge=1_000, le=3_000_000)
    #: Signs decision ids; every router and learner of an installation shares it.
    signing_key: SecretStr = SecretStr("")
    #: Its number, 0 to 255. To rotate: a new key under another number, the old one in ``retired_keys``.
    signing_key_id: int = Field(default=0, ge=0, le=255)
    #: Keys that still verify, as JSON: ``{"0": "..."}``.
    retired_keys: dict[int, SecretStr] = {}
    #: Prompts that a router embeds at once, at most.
    max_batch: int = Field(default=64, ge=1)
    #: Calls that an executor has in flight to each LLM, at most: one that hangs leaves the others theirs.
    max_in_flight: int = Field(default=1_000, ge=1)
    #: A call to an LLM is given up after this long.
    call_timeout_s: float = Field(default=120.0, gt=0)
    #: The learner publishes new error rates at most this often.
    refit_interval_s: float = Field(default=5.0, gt=0)
    #: ``auto``, ``openvino``, ``onnxruntime``, ``sentence-transformers`` or ``static``.
    embedder_backend: Literal["auto", "openvino", "onnxruntime", "sentence-transformers", "static"] = "auto"
    #: Cores that the embedder uses; all of them where not set.
    embedder_threads: int | None = Field(default=None, ge=1)
    #: Where embedder artifacts are kept.
    embedders_folder: Path = Path("~/.cache/uniroute/embedders").expanduser()
    #: Where batches lie, their files and their results; every process that takes part in one sees the same.
    batches_folder: Path = Path("~/.local/share/uniroute/batches").expanduser()
    #: Where an executor notes which calls it has sent, for itself after a crash.
    state_folder: Path = Path("~/.local/state/uniroute").expanduser()
    #: Who may use the batches' HTTP server, as JSON: ``{"TENANT": "TOKEN"}``.
    batch_tokens: dict[str, SecretStr] = {}
    #: A batch's file is read no further than so many bytes, unpacked: what is packed can hold anything.
    max_batch_bytes: int = Field(default=16 * 1024**3, ge=1_000)
    #: Lines of a batch that are under way at a time, at most.
    batch_window: int = Field(default=2_000, ge=1)
    #: Loopback unless told otherwise: health and metrics carry no secret, but nothing is public by default.
    web_bind: str = "127.0.0.1"
    web_port: int = Field(default=6066, ge=0, le=65_535)
