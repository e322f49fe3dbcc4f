"""Postgres, the truth of an installation: tables, one repository per noun, and the snapshot routers hold.

A repository takes a ``Session`` whose transaction is its caller's: nothing here commits by itself. Open one
with ``engine.transaction``. Locks are taken in one order, so that concurrent workers never wait in a circle:
refit lock, feedback, error counts, then what bumps ``routing_state`` (LLMs, prices, maps, rates, policies).
"""
