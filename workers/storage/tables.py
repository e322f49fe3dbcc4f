"""The tables. Domain values live in ``routing``; these classes only say how Postgres keeps them."""

from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    Uuid,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

#: Where an LLM stands between registration and retirement.
LLM_STATES = ("probe", "shadow", "canary", "active", "draining", "retired")
#: What became of a piece of feedback.
DISPOSITIONS = ("counted", "refused", "excluded", "replaced")
#: A reference to a key, never a key: the name of an environment variable, the path of a file, or nothing.
API_KEY_REF_PATTERN = "^(env:[A-Za-z_][A-Za-z0-9_]*|file:/[A-Za-z0-9_./-]+)?$"
#: What happens to the prompts of a tenant that has spent its budget.
AT_LIMIT = ("error", "degrade")
#: Names and ids, in bytes of UTF-8; longer ones would not fit an index or a decision id.
MAX_NAME_BYTES = 200

_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(table_name)s_%(column_0_name)s",
}


class Base(DeclarativeBase):
    """Every table of uniroute; its metadata is what migrations are checked against."""

    metadata = MetaData(naming_convention=_CONVENTION)
    type_annotation_map = {  # noqa: RUF012 - declared so by SQLAlchemy
        str: Text(),
        float: Double(),
        bytes: LargeBinary(),
        Decimal: Numeric(),
        date: Date(),
        UUID: Uuid(),
        datetime: DateTime(timezone=True),
        list[str]: ARRAY(Text()),
        list[int]: ARRAY(Integer()),
        list[float]: ARRAY(Double()),
        dict[str, Any]: JSONB(),
    }


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def _name(column: str) -> CheckConstraint:
    return CheckConstraint(f"octet_length({column}) BETWEEN 1 AND {MAX_NAME_BYTES}", name=column)


def _amount(column: str) -> CheckConstraint:
    # NaN is above infinity in Postgres, so this refuses it too.
    return CheckConstraint(f"{column} >= 0 AND {column} < 'Infinity'", name=column)


class LLMRow(Base):
    """A registered LLM and the endpoint that serves it."""

    __tablename__ = "llms"
    __table_args__ = (
        _name("name"),
        _one_of("state", LLM_STATES),
        _amount("expected_output_tokens"),
        _amount("requests_per_minute"),
        _amount("tokens_per_minute"),
        CheckConstraint("context_length > 0", name="context_length"),
        CheckConstraint(f"api_key_ref ~ '{API_KEY_REF_PATTERN}'", name="api_key_ref"),
        CheckConstraint("(state = 'retired') = (retired_at IS NOT NULL)", name="retired_at"),
        {"comment": "LLMs that prompts may be routed to, and where each is served"},
    )

    name: Mapped[str] = mapped_column(primary_key=True, comment="what callers and decisions call it")
    base_url: Mapped[str] = mapped_column(comment="OpenAI-compatible endpoint, without credentials")
    provider_model: Mapped[str] = mapped_column(comment="the model's name at that endpoint")
    api_key_ref: Mapped[str] = mapped_column(
        server_default="",
        comment="where the key is, e.g. env:OPENAI_API_KEY, never a key; empty: none is needed",
    )
    context_length: Mapped[int | None] = mapped_column(Integer, comment="tokens; null where unknown")
    capabilities: Mapped[list[str]] = mapped_column(
        server_default=text("'{}'"), comment="what it can do, e.g. tools, vision, json"
    )
    simulated: Mapped[bool] = mapped_column(
        server_default=false(), comment="true where its answers are played, not generated"
    )
    requests_per_minute: Mapped[float | None] = mapped_column(
        comment="calls that its provider allows in any minute, over all executors; null: no limit"
    )
    tokens_per_minute: Mapped[float | None] = mapped_column(
        comment="tokens, of prompts and answers, that its provider allows in any minute; null: no limit"
    )
    state: Mapped[str] = mapped_column(server_default="active", comment="where it stands in its life cycle")
    expected_output_tokens: Mapped[float] = mapped_column(comment="mean length of a reply, in tokens")
    registered_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retired_at: Mapped[datetime | None]
    renewed_at: Mapped[datetime | None] = mapped_column(
        comment="when this registration took over the name of a retired one; null: it is the first"
    )


class PriceRow(Base):
    """What an LLM costs from a moment on. The one whose moment came last is in force."""

    __tablename__ = "prices"
    __table_args__ = (
        _amount("input_usd_per_mtok"),
        _amount("output_usd_per_mtok"),
        _amount("fixed_usd"),
        _amount("cached_input_usd_per_mtok"),
        {"comment": "prices of LLMs; rows are added, never changed"},
    )

    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    version: Mapped[int] = mapped_column(
        BigInteger,
        Identity(always=True),
        primary_key=True,
        comment="counts over all LLMs, so that one number names the prices of a moment",
    )
    input_usd_per_mtok: Mapped[float] = mapped_column(comment="USD per million input tokens")
    output_usd_per_mtok: Mapped[float] = mapped_column(comment="USD per million output tokens")
    fixed_usd: Mapped[float] = mapped_column(server_default="0", comment="USD per call")
    cached_input_usd_per_mtok: Mapped[float | None] = mapped_column(
        comment="USD per million input tokens found in the LLM's cache; null: as any other"
    )
    valid_from: Mapped[datetime] = mapped_column(server_default=func.now())


class LLMVersionRow(Base):
    """What was known of an LLM from a moment on. The highest version of an LLM is in ``llms`` too."""

    __tablename__ = "llm_versions"
    __table_args__ = (
        {"comment": "what was known of LLMs, and where each was served; rows are added, never changed"},
    )

    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    version: Mapped[int] = mapped_column(
        BigInteger,
        Identity(always=True),
        primary_key=True,
        comment="counts over all LLMs, so that one number names what was known of each at a moment",
    )
    facts: Mapped[dict[str, Any]] = mapped_column(comment="columns of llms, as set")
    valid_from: Mapped[datetime] = mapped_column(server_default=func.now())


class ClusterMapRow(Base):
    """An immutable cluster map with the prior that was learned on it."""

    __tablename__ = "cluster_maps"
    __table_args__ = (
        CheckConstraint("version ~ '^[0-9a-f]{16}$'", name="version"),
        Index("uq_cluster_maps_active", "active", unique=True, postgresql_where=text("active")),
        {"comment": "cluster maps; immutable but for which one is active"},
    )

    version: Mapped[str] = mapped_column(primary_key=True, comment="hash of the map's content, 16 hex digits")
    map: Mapped[bytes] = mapped_column(comment="ClusterMap.to_bytes: npz with a JSON header")
    prior: Mapped[bytes] = mapped_column(comment="PoolPrior.to_bytes, frozen with the map")
    fingerprint: Mapped[dict[str, Any]] = mapped_column(comment="the embedder whose vectors the map reads")
    active: Mapped[bool] = mapped_column(server_default=false(), comment="true for the one that routers use")
    mix: Mapped[dict[str, Any] | None] = mapped_column(
        comment="sums over the prompts it was fitted on: per cell, and of distances; null: not known"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ErrorCountRow(Base):
    """Sums of weighted errors and of weights of one LLM in one cell."""

    __tablename__ = "error_counts"
    __table_args__ = (
        CheckConstraint("cell >= 0", name="cell"),
        _amount("label_weight"),
        CheckConstraint("label_errors >= 0 AND label_errors <= label_weight", name="label_errors"),
        {"comment": "evidence per map, LLM and cell; every write adds"},
    )

    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"), primary_key=True)
    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    cell: Mapped[int] = mapped_column(Integer, primary_key=True, comment="column of the map's centroids")
    label_errors: Mapped[float] = mapped_column(server_default="0", comment="from labelled prompts")
    label_weight: Mapped[float] = mapped_column(server_default="0", comment="number of labels, weighted")


class ErrorRateVersionRow(Base):
    """A published matrix of error rates; kept as long as decisions made from it can be made again."""

    __tablename__ = "error_rate_versions"
    __table_args__ = (
        Index("ix_error_rate_versions_map_version", "map_version", "version"),
        {"comment": "error rates as routers used them; the highest version of the active map is in force"},
    )

    version: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"))
    rates: Mapped[bytes] = mapped_column(comment="npy, float64, one row per cell, one column per LLM")
    deviations: Mapped[bytes | None] = mapped_column(
        comment="npy like rates: their standard deviations; null where they were not estimated"
    )
    llms: Mapped[list[str]] = mapped_column(comment="names of the columns")
    held: Mapped[int | None] = mapped_column(
        BigInteger, comment="the version put in force again: learned rates wait until it is released"
    )
    reason: Mapped[str] = mapped_column(comment="what made this version, for people")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class FeedbackRow(Base):
    """One piece of feedback, kept so that counts can be folded anew.

    A decision counts once per source: a sender that makes up fresh feedback ids adds nothing.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        _name("feedback_id"),
        _one_of("disposition", DISPOSITIONS),
        CheckConstraint("score BETWEEN 0 AND 1", name="score"),
        _amount("weight"),
        UniqueConstraint("decision_id", "source"),
        Index("ix_feedback_source", "source", "received_at"),
        # No foreign keys: feedback that was refused may name anything, and is kept too.
        {"comment": "feedback as received, once per feedback id and once per decision and source"},
    )

    feedback_id: Mapped[str] = mapped_column(
        primary_key=True, comment="the sender's; sent twice, it is kept once"
    )
    decision_id: Mapped[str | None] = mapped_column(comment="the signed token it quoted")
    prompt_id: Mapped[str]
    llm: Mapped[str]
    map_version: Mapped[str]
    cells: Mapped[list[int]] = mapped_column(comment="the prompt's cells of that map that it counts in")
    shares: Mapped[list[int]] = mapped_column(
        server_default="{}", comment="128ths that each of the cells counts of it; empty: each all of it"
    )
    score: Mapped[float] = mapped_column(comment="quality, 0 wrong to 1 right")
    weight: Mapped[float] = mapped_column(comment="trust in the source")
    source: Mapped[str]
    tenant: Mapped[str | None]
    event_time: Mapped[datetime] = mapped_column(comment="when it was given, by the sender's clock")
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    disposition: Mapped[str] = mapped_column(server_default="counted", comment="what became of it")
    correction: Mapped[bool] = mapped_column(
        server_default=false(), comment="whether its score replaced an earlier one"
    )
    epoch: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="how often the LLM had been noticed to change"
    )
    day: Mapped[int] = mapped_column(
        Integer, server_default="0", comment="of the decision, or of its arrival, in days since 1970"
    )


class PolicyRow(Base):
    """A version of a named policy. The highest version of a name is in force."""

    __tablename__ = "policies"
    __table_args__ = (
        _name("name"),
        CheckConstraint("version > 0", name="version"),
        CheckConstraint("jsonb_typeof(body) = 'object'", name="body"),
        {"comment": "declarative policies; rows are added, never changed"},
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(
        Integer, primary_key=True, autoincrement=False, comment="1, 2, 3 per name"
    )
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class TenantRow(Base):
    """Somebody who pays for prompts, and what they may use and spend."""

    __tablename__ = "tenants"
    __table_args__ = (
        _name("name"),
        _amount("usd_per_day"),
        _amount("usd_per_month"),
        CheckConstraint("priority > 0 AND priority < 'Infinity'", name="priority"),
        _one_of("at_limit", AT_LIMIT),
        CheckConstraint("exploration_share BETWEEN 0 AND 1", name="exploration_share"),
        {"comment": "who pays for prompts; what is spent is kept apart, and outlives this row"},
    )

    name: Mapped[str] = mapped_column(primary_key=True)
    usd_per_day: Mapped[float | None] = mapped_column(comment="budget of a UTC day; null: none")
    usd_per_month: Mapped[float | None] = mapped_column(comment="budget of a UTC month; null: none")
    policies: Mapped[list[str] | None] = mapped_column(comment="policies it may ask for; null: any")
    llms: Mapped[list[str] | None] = mapped_column(comment="LLMs it may use; null: any")
    default_policy: Mapped[str | None] = mapped_column(comment="of its prompts that name none")
    priority: Mapped[float] = mapped_column(server_default="1", comment="weight of its prompts in a lane")
    at_limit: Mapped[str] = mapped_column(
        server_default="error", comment="what happens to prompts beyond the budget"
    )
    exploration_share: Mapped[float | None] = mapped_column(
        comment="least share of its prompts that is explored with; 0: none ever; null: as policies say"
    )
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class SpendRow(Base):
    """What a tenant has spent with one LLM on one day, and what is reserved for prompts in flight."""

    __tablename__ = "tenant_spend"
    __table_args__ = ({"comment": "spend by tenant, UTC day of the decision and LLM; every write adds"},)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, comment="UTC day on which the prompts were decided")
    llm: Mapped[str] = mapped_column(primary_key=True)
    replies: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="error replies included")
    failures: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="error replies")
    untold: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="answers of which the endpoint did not tell the usage"
    )
    input_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    output_tokens: Mapped[int] = mapped_column(BigInteger, server_default="0")
    settled_usd: Mapped[Decimal] = mapped_column(server_default="0", comment="sum of the replies' costs")
    reserved_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="of decisions whose usage is not known yet"
    )
    untold_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="was reserved for answers whose cost is not known"
    )
    degraded: Mapped[int] = mapped_column(
        BigInteger, server_default="0", comment="replies to prompts that the budget did not cover"
    )
    degraded_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="what these cost, beyond the budget; part of settled_usd"
    )


class GrantRow(Base):
    """A part of a tenant's or a policy's budget that one router may reserve from, for a while."""

    __tablename__ = "budget_grants"
    __table_args__ = (
        CheckConstraint("num_nonnulls(tenant, policy) = 1", name="account"),
        CheckConstraint("num_nonnulls(policy, period_start) <> 1", name="period"),
        Index("ix_budget_grants_open", "tenant", postgresql_where=text("released_at IS NULL")),
        {"comment": "parts of budgets lent to routers; what they did not reserve comes back"},
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    tenant: Mapped[str | None]
    policy: Mapped[str | None] = mapped_column(comment="in place of a tenant")
    period_start: Mapped[datetime | None] = mapped_column(comment="of a policy: whose budget it is part of")
    day: Mapped[date] = mapped_column(comment="UTC day whose budget it is part of")
    slot: Mapped[str] = mapped_column(comment="the router it was lent to")
    usd: Mapped[Decimal]
    drawn_usd: Mapped[Decimal] = mapped_column(server_default="0", comment="reserved by committed decisions")
    granted_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(comment="nothing is reserved from it afterwards")
    released_at: Mapped[datetime | None] = mapped_column(comment="when the rest went back to the budget")


class ReservationRow(Base):
    """What a committed decision reserved of a tenant's or a policy's budget, until its usage is known."""

    __tablename__ = "budget_reservations"
    __table_args__ = (
        CheckConstraint("num_nonnulls(tenant, policy) = 1", name="account"),
        CheckConstraint("num_nonnulls(policy, period_start) <> 1", name="period"),
        {"comment": "reservations of decisions in flight; settled ones are gone"},
    )

    decision: Mapped[UUID] = mapped_column(
        primary_key=True, comment="time of the decision, 4 bytes, and a hash of its id, 12"
    )
    tenant: Mapped[str | None]
    policy: Mapped[str | None] = mapped_column(comment="in place of a tenant")
    period_start: Mapped[datetime | None] = mapped_column(comment="of a policy")
    day: Mapped[date]
    llm: Mapped[str]
    usd: Mapped[Decimal]


class UsageEntryRow(Base):
    """An entry of the usage topic that has been booked, so that it is booked once."""

    __tablename__ = "usage_entries"
    __table_args__ = ({"comment": "what was booked of the usage topic, as long as that topic keeps it"},)

    entry: Mapped[UUID] = mapped_column(
        primary_key=True, comment="time of the decision, 4 bytes, and a hash of what tells entries apart, 12"
    )


class LengthCountRow(Base):
    """Sums over replies of one LLM in one cell; y = log(1 + output tokens), z = log(1 + input tokens)."""

    __tablename__ = "length_counts"
    __table_args__ = (
        CheckConstraint("cell >= 0", name="cell"),
        {"comment": "lengths of answers per map, LLM and cell; every write adds"},
    )

    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"), primary_key=True)
    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    cell: Mapped[int] = mapped_column(Integer, primary_key=True, comment="column of the map's centroids")
    replies: Mapped[float]
    y: Mapped[float]
    yy: Mapped[float]
    z: Mapped[float]
    zz: Mapped[float]
    yz: Mapped[float]
    tokens: Mapped[float] = mapped_column(comment="sum of output tokens")


class LatencyCountRow(Base):
    """Sums over replies of one LLM; y = log seconds, z = log(1 + output tokens)."""

    __tablename__ = "latency_counts"
    __table_args__ = ({"comment": "seconds of answers per LLM; every write adds"},)

    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    replies: Mapped[float]
    y: Mapped[float]
    yy: Mapped[float]
    z: Mapped[float]
    zz: Mapped[float]
    yz: Mapped[float]


class LengthVersionRow(Base):
    """Published models of lengths and seconds; kept as long as decisions made from them can be made again."""

    __tablename__ = "length_versions"
    __table_args__ = (
        Index("ix_length_versions_map_version", "map_version", "version"),
        {"comment": "how long answers and calls are; the highest version of the active map is in force"},
    )

    version: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    map_version: Mapped[str] = mapped_column(ForeignKey("cluster_maps.version"))
    llms: Mapped[list[str]] = mapped_column(comment="names of the models' columns")
    replies: Mapped[list[float]] = mapped_column(comment="replies of each LLM that they were learned from")
    models: Mapped[bytes] = mapped_column(comment="npz of the arrays of both models")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PolicyBookRow(Base):
    """What the prompts of a policy that spends a budget cost in one period."""

    __tablename__ = "policy_books"
    __table_args__ = ({"comment": "spend of budget policies by period; every write adds"},)

    policy: Mapped[str] = mapped_column(primary_key=True)
    period_start: Mapped[datetime] = mapped_column(primary_key=True, comment="begin of a UTC hour or day")
    replies: Mapped[int] = mapped_column(BigInteger, server_default="0", comment="error replies included")
    settled_usd: Mapped[Decimal] = mapped_column(server_default="0", comment="sum of the replies' costs")
    expected_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="what the decisions on these replies expected"
    )
    reserved_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="of decisions whose usage is not known yet"
    )
    untold_usd: Mapped[Decimal] = mapped_column(
        server_default="0", comment="was reserved for answers whose cost is not known"
    )


class PolicyPaceRow(Base):
    """What one router has decided by a policy that spends a budget in one period, and at which lambda."""

    __tablename__ = "policy_paces"
    __table_args__ = ({"comment": "how routers pace the budgets of policies, as far as they have told"},)

    policy: Mapped[str] = mapped_column(primary_key=True)
    period_start: Mapped[datetime] = mapped_column(primary_key=True)
    slot: Mapped[str] = mapped_column(primary_key=True, comment="the router")
    prompts: Mapped[int] = mapped_column(BigInteger, comment="decided")
    expected_usd: Mapped[float] = mapped_column(comment="what the decisions on them expected")
    error_per_usd: Mapped[float] = mapped_column(comment="lambda of the last of them")
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())
    told_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RoutingStateRow(Base):
    """The one row whose version moves whenever routers must look again."""

    __tablename__ = "routing_state"
    __table_args__ = (
        CheckConstraint("id = 1", name="single_row"),
        {"comment": "a single row; its version moves with every change that routers must see"},
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default="1")
    version: Mapped[int] = mapped_column(BigInteger, server_default="0")


class CachedAnswerRow(Base):
    """An answer that may be given again to an equal prompt of the same tenant, or the claim to make it."""

    __tablename__ = "cached_answers"
    __table_args__ = (
        CheckConstraint("octet_length(key) = 32", name="key"),
        Index("ix_cached_answers_expires_at", "expires_at"),
        {"comment": "answers that callers let be kept; rows that expired are deleted now and then"},
    )

    key: Mapped[bytes] = mapped_column(
        primary_key=True, comment="SHA-256 over tenant, LLM, its endpoint and the body in normal form"
    )
    answer: Mapped[bytes | None] = mapped_column(comment="null while somebody is calling for it")
    claimed_until: Mapped[datetime] = mapped_column(comment="a claim that was not kept by then is void")
    expires_at: Mapped[datetime]
