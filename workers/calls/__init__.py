"""Calling LLMs: the request, its classified errors, and when to try again."""
