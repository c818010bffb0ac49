"""The loss and its gradients in float64, entry by entry: no torch and no fast path."""

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
EPSILON = 1e-5


def loss_and_gradients(z_a: Matrix, z_b: Matrix, lambda_: float) -> tuple[float, Matrix, Matrix]:
    """Eq. 1 and 2 with ε added to each variance, and the chain rule; loops over i, j and b."""
    n, d = z_a.shape
    a, b = standardize(z_a)[0], standardize(z_b)[0]
    loss, of_a, of_b = 0.0, np.zeros((n, d)), np.zeros((n, d))
    for i in range(d):
        for j in range(d):
            c = sum(a[s, i] * b[s, j] for s in range(n)) / n
            loss += (1 - c) ** 2 if i == j else lambda_ * c**2
            slope = -2 * (1 - c) if i == j else 2 * lambda_ * c
            for s in range(n):
                of_a[s, i] += slope * b[s, j] / n
                of_b[s, j] += slope * a[s, i] / n
    return loss, before_standardizing(z_a, of_a), before_standardizing(z_b, of_b)


def standardize(z: Matrix) -> tuple[Matrix, Matrix]:
    """Each column with mean 0 and variance 1, and its deviation (D,)."""
    n, d = z.shape
    standardized, deviations = np.zeros((n, d)), np.zeros(d)
    for i in range(d):
        mean = sum(z[s, i] for s in range(n)) / n
        deviations[i] = math.sqrt(sum((z[s, i] - mean) ** 2 for s in range(n)) / n + EPSILON)
        for s in range(n):
            standardized[s, i] = (z[s, i] - mean) / deviations[i]
    return standardized, deviations


def before_standardizing(z: Matrix, gradient: Matrix) -> Matrix:
    n, d = z.shape
    y, deviations = standardize(z)
    result = np.zeros((n, d))
    for i in range(d):
        mean = sum(gradient[s, i] for s in range(n)) / n
        along = sum(gradient[s, i] * y[s, i] for s in range(n)) / n
        for s in range(n):
            result[s, i] = (gradient[s, i] - mean - y[s, i] * along) / deviations[i]
    return result
