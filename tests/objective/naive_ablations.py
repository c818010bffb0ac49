"""The losses of the ablations and their gradients in float64, entry by entry, as in `naive`."""

import math

import numpy as np

from bt_ray.config import Variant
from tests.objective.naive import EPSILON, Matrix, before_standardizing, standardize

Slopes = tuple[float, Matrix, Matrix]
"""A loss and its derivatives by each entry of the cross matrix and of the first view's auto one."""


def loss_and_gradients(
    variant: Variant, z_a: Matrix, z_b: Matrix, lambda_: float, temperature: float
) -> tuple[float, Matrix, Matrix]:
    """The loss of `variant` and its gradients by both views: the equations and the chain rule."""
    prepare, back = {
        "cross_covariance": (_center, _before_centering),
        "feature_normalization": (_to_sphere, _before_sphere),
    }.get(variant, (lambda z: standardize(z)[0], before_standardizing))
    a, b = prepare(z_a), prepare(z_b)
    cross, auto = _products(a, b), _products(a, a)
    loss, of_cross, of_auto = _slopes(variant, cross, auto, lambda_, temperature)
    of_a, of_b = np.zeros_like(a), np.zeros_like(b)
    n, d = a.shape
    for i in range(d):
        for j in range(d):
            for s in range(n):
                of_a[s, i] += of_cross[i, j] * b[s, j] / n + of_auto[i, j] * a[s, j] / n
                of_a[s, j] += of_auto[i, j] * a[s, i] / n
                of_b[s, j] += of_cross[i, j] * a[s, i] / n
    return loss, back(z_a, of_a), back(z_b, of_b)


def _products(a: Matrix, b: Matrix) -> Matrix:
    n, d = a.shape
    entries = [[sum(a[s, i] * b[s, j] for s in range(n)) / n for j in range(d)] for i in range(d)]
    return np.array(entries, dtype=np.float64)


def _slopes(
    variant: Variant, cross: Matrix, auto: Matrix, lambda_: float, temperature: float
) -> Slopes:
    if variant == "cross_entropy":
        return _cross_entropy(cross, lambda_, temperature)
    d = len(cross)
    loss, of_cross, of_auto = 0.0, np.zeros((d, d)), np.zeros((d, d))
    redundant, slopes = (auto, of_auto) if variant == "auto_correlation" else (cross, of_cross)
    for i in range(d):
        if variant != "redundancy_only":
            loss += (1 - cross[i, i]) ** 2
            of_cross[i, i] += -2 * (1 - cross[i, i])
        if variant == "invariance_only":
            continue
        for j in range(d):
            if i != j:
                loss += lambda_ * redundant[i, j] ** 2
                slopes[i, j] += 2 * lambda_ * redundant[i, j]
    return loss, of_cross, of_auto


def _cross_entropy(cross: Matrix, lambda_: float, temperature: float) -> Slopes:
    d = len(cross)
    pairs = [(i, j) for i in range(d) for j in range(d) if i != j]
    on = sum(math.exp(cross[i, i] / temperature) for i in range(d))
    off = sum(math.exp(max(cross[i, j], 0) / temperature) for i, j in pairs)
    slopes = np.zeros((d, d))
    for i in range(d):
        slopes[i, i] = -math.exp(cross[i, i] / temperature) / on / temperature
    for i, j in pairs:
        if cross[i, j] > 0:
            slopes[i, j] = lambda_ * math.exp(cross[i, j] / temperature) / off / temperature
    return -math.log(on) + lambda_ * math.log(off), slopes, np.zeros((d, d))


def _center(z: Matrix) -> Matrix:
    n, d = z.shape
    means = [sum(z[s, i] for s in range(n)) / n for i in range(d)]
    return np.array([[z[s, i] - means[i] for i in range(d)] for s in range(n)])


def _before_centering(_: Matrix, gradient: Matrix) -> Matrix:
    return _center(gradient)


def _to_sphere(z: Matrix) -> Matrix:
    y, lengths = standardize(z)[0], _lengths(z)
    return np.array([row / length for row, length in zip(y, lengths, strict=True)])


def _lengths(z: Matrix) -> list[float]:
    """Of each standardised row, over √D."""
    y = standardize(z)[0]
    return [math.sqrt(sum(v * v for v in row) / len(row) + EPSILON) for row in y]


def _before_sphere(z: Matrix, gradient: Matrix) -> Matrix:
    y, d = standardize(z)[0], z.shape[1]
    result = np.zeros_like(gradient)
    for s, length in enumerate(_lengths(z)):
        along = sum(gradient[s, i] * y[s, i] for i in range(d)) / d / length**2
        for i in range(d):
            result[s, i] = (gradient[s, i] - y[s, i] * along) / length
    return before_standardizing(z, result)
