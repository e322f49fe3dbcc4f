"""Error rates per LLM and cluster: counting, shrinkage, PoolPrior, and the field's other estimators."""
