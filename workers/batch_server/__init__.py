"""OpenAI's Files and Batches over HTTP: the official client runs batches here by its ``base_url`` alone."""

from workers.batch_server.serving import BatchServer, read_tokens

__all__ = ["BatchServer", "read_tokens"]
