"""The router: embed a batch of prompts, decide, and publish a dispatch and a decision record for each."""

from workers.router.handling import Router
from workers.router.views import NamedPolicy, RoutingView, build_view, require_policy

__all__ = ["NamedPolicy", "Router", "RoutingView", "build_view", "require_policy"]
