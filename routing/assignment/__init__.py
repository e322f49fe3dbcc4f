"""Choose LLMs for a whole batch at once, under a budget and capacities, or a pool to choose from."""

from routing.assignment.aggregates import Aggregates, deal_choices
from routing.assignment.greedy import assign_greedily
from routing.assignment.joint import assign_jointly
from routing.assignment.pool import Pool, choose_pool
from routing.assignment.problem import Assignment, Lines, Prices, Supplies

__all__ = [
    "Aggregates",
    "Assignment",
    "Lines",
    "Pool",
    "Prices",
    "Supplies",
    "assign_greedily",
    "assign_jointly",
    "choose_pool",
    "deal_choices",
]
