"""Offline batches: a file of requests under one budget and one deadline, routed line by line.

Read ``running`` first: it says what happens to a batch from its file to its results, and after a crash.
"""
