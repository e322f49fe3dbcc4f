"""Joint assignment at scale: a real batch at five budgets, and a million prompts from their aggregates."""

import json
import resource
import time

import numpy as np

from routing.assignment import Aggregates, Lines, Supplies, assign_jointly, deal_choices

#: Shares of the way from the cheapest assignment to the dearest LLM alone.
BUDGETS = (0.05, 0.1, 0.3, 0.5, 0.8)


def run(n_prompts: int = 12_002, n_llms: int = 28, n_aggregated: int = 1_000_000) -> dict[str, float]:
    """Give the worst gap and seconds of five budgets, without and with capacities; then of a million."""
    lines = _draw_lines(np.random.default_rng(0), n_prompts, n_llms)
    least, most = lines.costs.min(axis=1).sum(), lines.costs[:, -1].sum()
    results: dict[str, float] = {"prompts": n_prompts, "llms": n_llms}
    for name, requests in (("budget", None), ("capacities", np.full(n_llms, 2.0 * n_prompts / n_llms))):
        gaps, seconds = [], []
        for share in BUDGETS:
            begin = time.perf_counter()
            supplies = Supplies(budget_usd=least + share * (most - least), requests=requests)
            gaps.append(assign_jointly(lines, supplies).gap)
            seconds.append(time.perf_counter() - begin)
        results |= {f"{name}_worst_gap": max(gaps), f"{name}_worst_seconds": max(seconds)}
    return results | _assign_aggregates(n_aggregated)


def _assign_aggregates(n_prompts: int, *, n_llms: int = 20, n_groups: int = 2000) -> dict[str, float]:
    begin = time.perf_counter()
    rng = np.random.default_rng(1)
    groups = rng.integers(0, n_groups, n_prompts)
    total, block = None, 50_000
    for start in range(0, n_prompts, block):
        lines = _draw_lines(rng, min(block, n_prompts - start), n_llms)
        part = Aggregates.of(groups[start : start + block], lines.errors, lines.costs, n_groups=n_groups)
        total = part if total is None else total + part
    if total is None:
        return {}
    lines = total.lines()
    dearest = float((lines.sizes * lines.costs[:, -1]).sum())
    supplies = Supplies(budget_usd=0.3 * dearest, requests=np.full(n_llms, 0.2 * n_prompts))
    found = assign_jointly(lines, supplies)
    deal_choices(found.counts, groups)
    return {
        "aggregated_prompts": n_prompts,
        "aggregated_gap": found.gap,
        "aggregated_seconds": time.perf_counter() - begin,
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _draw_lines(rng: np.random.Generator, n_prompts: int, n_llms: int) -> Lines:
    errors = np.linspace(0.6, 0.2, n_llms) + rng.normal(0, 0.2, (n_prompts, 1))
    costs = 1e-4 * np.geomspace(1, 40, n_llms) * rng.lognormal(0, 0.6, (n_prompts, 1))
    return Lines(errors=np.clip(errors + rng.normal(0, 0.1, (n_prompts, n_llms)), 0, 1), costs=costs)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
