"""In worlds whose parameters are known the intervals are true: what the filter says is what happens."""

import numpy as np
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import chi2, norm

from ldmfilter.filter.kalman import LinearGaussian, filter
from ldmfilter.filter.linalg import one_thread
from tests.worlds import linear_gaussian_world

SEEDS, STEPS = 100, 1000


def test_intervals_cover_and_innovations_are_consistent_in_a_hundred_worlds():
    inside, within = [], 0
    for seed in range(SEEDS):
        world = linear_gaussian_world(seed, STEPS)
        P0 = solve_discrete_lyapunov(world.A, world.Q)
        parts = (world.A, world.Q, world.C, world.R, world.b, P0)
        model = LinearGaussian._make(torch.from_numpy(np.asarray(v)) for v in parts)
        z = torch.from_numpy(world.z)
        with one_thread():
            result = filter(model, z, torch.ones(STEPS, dtype=torch.bool), torch.arange(STEPS) == 0)
        deviation = np.sqrt(np.diagonal(result.filtered_cov.numpy(), axis1=1, axis2=2))
        inside.append(np.abs(world.h - result.filtered_mean.numpy()) < norm.ppf(0.975) * deviation)
        e, S = result.innovation.numpy(), result.innovation_cov.numpy()
        total = np.einsum("ti,ti->", e, np.linalg.solve(S, e[..., None])[..., 0])
        low, high = chi2.ppf([0.025, 0.975], e.size)
        within += low < total < high
    assert abs(np.mean(inside) - 0.95) < 0.005
    assert within >= 93
