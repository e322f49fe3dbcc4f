"""One interface for every estimate of P(an LLM answers a prompt wrongly), in scikit-learn's manner."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from routing.clusters.placement import check_embeddings
from routing.embedders import FloatMatrix
from routing.errors import InvalidInputError, UnknownLLMError
from routing.quality.counts import Matrix, Vector, as_errors
from routing.quality.shrinkage import fit_level_prior

Learned = TypeVar("Learned")


class Estimator(Protocol):
    """Learns from known LLMs once, then takes in new LLMs from a few labels each.

    Embeddings are unit rows, float32 or float64, of one length d. Errors lie in [0, 1]; NaN is refused with
    ``InvalidInputError``. ``__init__`` only stores hyper-parameters; equal parameters and inputs give
    equal bits.
    """

    @property
    def llms_(self) -> tuple[str, ...]:
        """The LLMs that were added, in the order of their names: the columns of ``predict_error``."""
        ...

    def fit(self, X: ArrayLike, errors: ArrayLike, llms: Sequence[str]) -> Self:
        """Learn from the known LLMs' ``errors`` (n, S) on prompts ``X`` (n, d); forgets added LLMs."""
        ...

    def add_llm(self, name: str, X: ArrayLike, errors: ArrayLike) -> Self:
        """Learn a new LLM from its own ``errors`` (N,) on prompts ``X`` (N, d) alone; N may be 0."""
        ...

    def remove_llm(self, name: str) -> Self:
        """Forget an added LLM; ``UnknownLLMError`` if it is none."""
        ...

    def predict_error(self, X: ArrayLike) -> Matrix:
        """Estimate the error of every added LLM on prompts ``X`` (n, d): shape (n, len(llms_)), in [0, 1]."""
        ...

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: FBT001, FBT002 - scikit-learn's signature
        """Give the hyper-parameters."""
        ...


class OnboardingEstimator(BaseEstimator, ABC, Generic[Learned]):  # type: ignore[misc]  # sklearn is untyped
    """The part of an estimator that all share: checks, names, and one ``Learned`` value per added LLM.

    That no LLM's numbers depend on another added LLM holds by construction: ``_learn`` sees one LLM's
    labels and what ``fit`` left, and ``_predict`` one ``Learned`` value (or several, where it keeps them
    apart).
    """

    @property
    def llms_(self) -> tuple[str, ...]:
        """The LLMs that were added, in the order of their names."""
        check_is_fitted(self, "learned_")
        return tuple(sorted(self.learned_))

    def fit(self, X: ArrayLike, errors: ArrayLike, llms: Sequence[str]) -> Self:
        """See ``Estimator.fit``; the order of the known LLMs makes no difference."""
        rows = _check_rows(X)
        if len(rows) == 0:
            raise InvalidInputError("X", "at least one training prompt is needed")
        names = tuple(llms)
        if len(set(names)) != len(names):
            raise InvalidInputError("llms", "names must differ")
        known = as_errors("errors", errors, shape=(len(rows), len(names)))
        order = sorted(range(len(names)), key=names.__getitem__)
        known = np.ascontiguousarray(known[:, order])
        self.n_features_in_ = rows.shape[1]
        self.known_llms_ = tuple(names[column] for column in order)
        self.level_ = fit_level_prior(known)
        self.learned_: dict[str, Learned] = {}
        self._fit_known(rows, known)
        return self

    def add_llm(self, name: str, X: ArrayLike, errors: ArrayLike) -> Self:
        """See ``Estimator.add_llm``; a name that is there already is refused: remove it first."""
        check_is_fitted(self, "learned_")
        if name in self.learned_:
            raise InvalidInputError("name", f"{name!r} was added already; remove it first")
        rows = check_embeddings(np.asarray(X, dtype=np.float32), self.n_features_in_)
        self.learned_[name] = self._learn(rows, as_errors("errors", errors, shape=(len(rows),)))
        return self

    def remove_llm(self, name: str) -> Self:
        """See ``Estimator.remove_llm``."""
        if name not in self.llms_:
            raise UnknownLLMError(name, self.llms_)
        del self.learned_[name]
        return self

    def predict_error(self, X: ArrayLike) -> Matrix:
        """See ``Estimator.predict_error``."""
        names = self.llms_
        rows = check_embeddings(np.asarray(X, dtype=np.float32), self.n_features_in_)
        if not names or len(rows) == 0:
            return np.empty((len(rows), len(names)))
        return np.clip(self._predict(rows, [self.learned_[name] for name in names]), 0.0, 1.0)

    @abstractmethod
    def _fit_known(self, X: FloatMatrix, errors: Matrix) -> None:
        """Learn from the known LLMs, columns in name order; there may be none."""

    @abstractmethod
    def _learn(self, X: FloatMatrix, errors: Vector) -> Learned:
        """Learn one new LLM; its labels may be none."""

    @abstractmethod
    def _predict(self, X: FloatMatrix, learned: list[Learned]) -> Matrix:
        """Predict, one column per entry of ``learned``, each as if it stood alone."""


def _check_rows(X: ArrayLike) -> FloatMatrix:
    rows = np.asarray(X, dtype=np.float32)
    return check_embeddings(rows, rows.shape[-1] if rows.ndim else 0)
