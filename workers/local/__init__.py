"""Real Kafka and real Postgres on this machine by pip alone, simulated LLMs, and the demonstration."""
