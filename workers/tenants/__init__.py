"""What tenants may ask for, and what routers may spend for them; the books are ``workers.storage.ledger``."""

from workers.tenants.admission import admit, narrow, narrow_limits, permit_policy, require_tenant
from workers.tenants.purses import Held, Lender, Purses, Shortage, lend_nothing
from workers.tenants.returns import Returns, TopicProgress

__all__ = [
    "Held",
    "Lender",
    "Purses",
    "Returns",
    "Shortage",
    "TopicProgress",
    "admit",
    "lend_nothing",
    "narrow",
    "narrow_limits",
    "permit_policy",
    "require_tenant",
]
