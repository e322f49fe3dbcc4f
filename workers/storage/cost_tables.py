"""The tables of what calls cost and bill; see ``tables`` for their kin."""

from datetime import date
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from workers.storage.tables import Base


class InputCountRow(Base):
    """Sums over replies of one LLM whose prompts' tokens were estimated before the call."""

    __tablename__ = "input_counts"
    __table_args__ = ({"comment": "input tokens per LLM, as estimated and as billed; every write adds"},)

    llm: Mapped[str] = mapped_column(ForeignKey("llms.name"), primary_key=True)
    replies: Mapped[float]
    estimated: Mapped[float] = mapped_column(comment="sum of input tokens as estimated before the call")
    billed: Mapped[float] = mapped_column(comment="sum of input tokens as the endpoint told them")


class CallCostRow(Base):
    """What calls of one LLM for a tenant used and cost on one day, at one version of its price.

    Costs are linear in these sums, so that calls can be charged again by any other version.
    """

    __tablename__ = "call_costs"
    __table_args__ = (
        {"comment": "what calls used and cost by tenant, UTC day of the decision, LLM and price version"},
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True, comment="UTC day on which the prompts were decided")
    llm: Mapped[str] = mapped_column(primary_key=True, comment="that was called, fallbacks included")
    price_version: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, comment="of the price that they were charged by"
    )
    calls: Mapped[int] = mapped_column(BigInteger, comment="of which the endpoint told the usage")
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger, comment="those of input_tokens found in a cache")
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    cost_usd: Mapped[Decimal]
    predicted_usd: Mapped[Decimal] = mapped_column(
        comment="what decisions had predicted of the calls that answered them at once"
    )
    predicted_cost_usd: Mapped[Decimal] = mapped_column(comment="what these calls cost, of cost_usd")
