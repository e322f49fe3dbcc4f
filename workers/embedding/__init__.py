"""Embedders: sentence-transformers exports a model once, routers run what it exported without torch."""
