"""What tenants may ask for, and what routers may spend for them; the books are ``workers.storage.ledger``."""

from workers.tenants.admission import admit, narrow
from workers.tenants.purses import Held, Lender, Purses, Shortage, lend_nothing

__all__ = ["Held", "Lender", "Purses", "Shortage", "admit", "lend_nothing", "narrow"]
