"""Error rates per LLM and cluster, and every other estimate of P(an LLM answers a prompt wrongly).

::

    counts, forgetting        what is known of each LLM: weighted sums per cell, ageing with new labels
    shrinkage, pool_prior     counts to error rates: own evidence alone, and in the light of the known LLMs
    estimators, registry      the one interface (fit, add_llm, predict_error), and who is behind which name
    zero, neighbours          blind to the prompt; the labelled prompts nearest to it
    cells, maps               weights of a cluster map times rates per cell; maps fitted once and shared
      uniroute, shrunk, pooled, random_embedding
    latent, logistic, projection      one encoding per prompt, one vector per LLM
      routoo, item_response, contrastive
    preference, hybrid        two LLMs: win probability and quality gap, with calibrated thresholds
    bandit                    rewards only

Routers need ``pool_prior`` and a cluster map; the rest is there to be compared with.
"""
