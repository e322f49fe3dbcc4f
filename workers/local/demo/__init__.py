"""The demonstration: the whole path on this machine, real Kafka and Postgres, simulated LLMs."""
