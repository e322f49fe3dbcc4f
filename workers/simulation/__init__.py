"""Policies and whole batches tried on recorded outcomes: what they would have cost, and how well answered."""
