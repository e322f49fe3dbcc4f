"""``uniroute learn simulate``: the promises of the learning loop, measured on recorded outcomes.

Each scenario drives the code that serves (counts, ``PoolPrior``, ``routing.learning``, policies) with
feedback whose truth is on record. Nothing here is called by a worker.
"""
