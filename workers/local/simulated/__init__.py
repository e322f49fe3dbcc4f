"""Simulated LLMs: prompts whose answers can be checked, answers of known quality, and a server for them."""
