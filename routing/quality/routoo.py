"""Routoo's performance predictor: score an LLM on a prompt without running it."""

from typing import NamedTuple

import numpy as np

from routing.quality.counts import Matrix, Vector
from routing.quality.latent import Encoding, LatentEstimator
from routing.quality.logistic import logistic_loss, minimise


class _Weights(NamedTuple):
    """The predictor's parameters, for p axes, r dimensions and S known LLMs."""

    encoder: Matrix  # (p, r)
    shift: Vector  # (r,)
    readout: Vector  # w, (r,)
    bias: Vector  # b, (1,)
    vectors: Matrix  # e and its level, (S, r + 1)


class Routoo(LatentEstimator):
    """Predicts P(right) = sigma(w . E(x) - l_h + E(x) . e_h + b), E(x) linear in the embedding.

    The paper scores w . (E(x) - e_h) + b with a 7B decoder that sees prompt and LLM together. With one
    encoding per prompt that would rank the LLMs alike for every prompt, so w . e_h becomes a level l_h of
    its own, and the inner product lets the ranking turn with the prompt. Trained by logistic loss with all
    known LLMs at once. Source: Routoo (arXiv 2401.13979).
    """

    def __init__(
        self,
        n_dimensions: int = 16,
        n_axes: int = 64,
        penalty: float = 3e-3,
        iterations: int = 80,
        seed: int = 0,
    ) -> None:
        self.n_dimensions = n_dimensions
        self.n_axes = n_axes
        self.penalty = penalty
        self.iterations = iterations
        self.seed = seed

    def _train(self, coordinates: Matrix, right: Matrix) -> Matrix:
        rng, r = np.random.default_rng(self.seed), self.n_dimensions
        start = _Weights(
            encoder=rng.normal(scale=0.1, size=(coordinates.shape[1], r)),
            shift=np.zeros(r),
            readout=rng.normal(scale=0.1, size=r),
            bias=np.zeros(1),
            vectors=rng.normal(scale=0.1, size=(right.shape[1], r + 1)),
        )
        shapes = [part.shape for part in start]

        def loss(flat: Vector) -> tuple[float, Vector]:
            weights = _unpack(flat, shapes)
            value, gradient = _loss(weights, coordinates, right)
            decay = self.penalty * flat
            decay[-weights.vectors.size - 1 :] /= max(1, len(weights.vectors))
            return value + 0.5 * float(decay @ flat), _pack(gradient) + decay

        self.weights_ = start
        if right.size:
            self.weights_ = _unpack(minimise(loss, _pack(start), iterations=self.iterations), shapes)
        return self.weights_.vectors

    def _encode(self, coordinates: Matrix) -> Encoding:
        encodings = coordinates @ self.weights_.encoder + self.weights_.shift
        offsets = encodings @ self.weights_.readout + self.weights_.bias
        return Encoding(_features(encodings), offsets)


def _loss(weights: _Weights, coordinates: Matrix, right: Matrix) -> tuple[float, _Weights]:
    """Give the logistic loss of all outcomes and its gradient."""
    encodings = coordinates @ weights.encoder + weights.shift
    features = _features(encodings)
    logits = (encodings @ weights.readout + weights.bias)[:, None] + features @ weights.vectors.T
    value, by_logit = logistic_loss(logits, right)
    by_prompt = by_logit.sum(axis=1)
    by_encoding = by_prompt[:, None] * weights.readout + by_logit @ weights.vectors[:, :-1]
    return value, _Weights(
        encoder=coordinates.T @ by_encoding,
        shift=by_encoding.sum(axis=0),
        readout=encodings.T @ by_prompt,
        bias=by_prompt.sum(keepdims=True),
        vectors=by_logit.T @ features,
    )


def _features(encodings: Matrix) -> Matrix:
    """What multiplies an LLM's vector: the encoding, and -1 for its level."""
    return np.column_stack([encodings, np.full(len(encodings), -1.0)])


def _pack(weights: _Weights) -> Vector:
    return np.concatenate([part.ravel() for part in weights])


def _unpack(flat: Vector, shapes: list[tuple[int, ...]]) -> _Weights:
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    parts = np.split(flat, ends[:-1])
    return _Weights(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))
