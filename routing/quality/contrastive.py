"""Contrastive router: prompts and LLMs in one space, near where the LLM is right and others are wrong."""

import numpy as np
from scipy.special import log_softmax

from routing.quality.counts import Matrix, Vector
from routing.quality.latent import Encoding, LatentEstimator
from routing.quality.logistic import VectorPrior, minimise


class Contrastive(LatentEstimator):
    """Learns prompt and LLM embeddings by contrast, then calibrates the cosine into P(wrong).

    For each prompt the cosines with all known LLMs, divided by ``temperature``, should through a softmax
    point at the LLMs that were right. A contrast says nothing of how hard a prompt is, so a logistic model
    of the known LLMs' mean error supplies that; an LLM's vector is its direction and its level, fitted on
    both. Source: in the manner of RouterDC (arXiv 2409.19886), GraphRouter and RadialRouter, with a small
    encoder.
    """

    def __init__(
        self,
        *,
        n_dimensions: int = 16,
        n_axes: int = 64,
        temperature: float = 0.2,
        penalty: float = 1e-3,
        iterations: int = 80,
        seed: int = 0,
    ) -> None:
        self.n_dimensions = n_dimensions
        self.n_axes = n_axes
        self.temperature = temperature
        self.penalty = penalty
        self.iterations = iterations
        self.seed = seed

    def _train(self, coordinates: Matrix, right: Matrix) -> Matrix:
        inputs = np.column_stack([coordinates, np.ones(len(coordinates))])
        n_llms = right.shape[1]
        self.encoder_ = self._contrast(inputs, right)
        ridge = VectorPrior(mean=np.zeros(inputs.shape[1]), precision=np.eye(inputs.shape[1]))
        hardness = right.mean(axis=1) if n_llms else np.empty(0)
        self.difficulty_ = ridge.fit_vector(inputs[: len(hardness)], np.zeros(len(hardness)), hardness)
        features, offsets = self._encode(coordinates)
        ridge = VectorPrior(mean=np.zeros(features.shape[1]), precision=np.eye(features.shape[1]))
        vectors = [ridge.fit_vector(features, offsets, right[:, llm]) for llm in range(n_llms)]
        return np.array(vectors).reshape(n_llms, features.shape[1])

    def _encode(self, coordinates: Matrix) -> Encoding:
        inputs = np.column_stack([coordinates, np.ones(len(coordinates))])
        directions, _ = _normalise(inputs @ self.encoder_)
        features = np.column_stack([directions / self.temperature, np.ones(len(inputs))])
        return Encoding(features, inputs @ self.difficulty_)

    def _contrast(self, inputs: Matrix, right: Matrix) -> Matrix:
        """Learn the encoder, shape (p + 1, r), by contrasting the LLMs that were right with all."""
        rng, width = np.random.default_rng(self.seed), inputs.shape[1]
        start = rng.normal(scale=0.1, size=(width + right.shape[1], self.n_dimensions))
        told = (right.max(axis=1, initial=0.0) > right.min(axis=1, initial=1.0)) if right.size else ()
        told_rows = np.flatnonzero(told)
        if told_rows.size == 0:
            return start[:width]
        x, targets = inputs[told_rows], right[told_rows] / right[told_rows].sum(axis=1, keepdims=True)

        def loss(flat: Vector) -> tuple[float, Vector]:
            both = flat.reshape(start.shape)
            prompts, prompt_lengths = _normalise(x @ both[:width])
            llms, llm_lengths = _normalise(both[width:])
            log_shares = log_softmax(prompts @ llms.T / self.temperature, axis=1)
            value = -float((targets * log_shares).sum()) / len(x)
            by_cosine = (np.exp(log_shares) - targets) / (len(x) * self.temperature)
            by_prompt = _unnormalise(by_cosine @ llms, prompts, prompt_lengths)
            by_llm = _unnormalise(by_cosine.T @ prompts, llms, llm_lengths)
            gradient = np.concatenate([x.T @ by_prompt, by_llm]).ravel() + self.penalty * flat
            return value + 0.5 * self.penalty * float(flat @ flat), gradient

        found = minimise(loss, start.ravel(), iterations=self.iterations)
        return found.reshape(start.shape)[:width]


def _normalise(rows: Matrix) -> tuple[Matrix, Matrix]:
    """Give unit rows, and the lengths (n, 1) they had; a row of zeros stays one."""
    lengths = np.sqrt(np.maximum((rows**2).sum(axis=1, keepdims=True), 1e-24))
    return rows / lengths, lengths


def _unnormalise(gradient: Matrix, units: Matrix, lengths: Matrix) -> Matrix:
    """Carry a gradient by unit rows back to the rows before ``_normalise``."""
    return np.asarray((gradient - units * (gradient * units).sum(axis=1, keepdims=True)) / lengths)
