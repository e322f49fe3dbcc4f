"""A real Kafka and a real Postgres on this machine, by pip alone, for the command line and tests."""

from workers.local.stack import Endpoints, LocalStack, ServerStatus

__all__ = ["Endpoints", "LocalStack", "ServerStatus"]
