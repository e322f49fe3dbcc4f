"""The executor: call the LLM a dispatch names, and answer on the caller's reply topic."""

from workers.cancels import Cancels
from workers.executor.cache import AnswerCache, DatabaseStore
from workers.executor.gates import Gates
from workers.executor.handling import Executor
from workers.executor.llms import CallableLLM

__all__ = ["AnswerCache", "CallableLLM", "Cancels", "DatabaseStore", "Executor", "Gates"]
