"""Everything of uniroute that touches the world: Kafka, Postgres, LLM endpoints, the shell."""
