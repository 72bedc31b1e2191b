"""Two oracles for the filter that share no code with it, or with each other. float64, numpy."""

import numpy as np


def loop(A, Q, C, R, b, P0, z, observed, starts, evidence=None):
    """The plain filter and smoother, a loop over bins with explicit inverses, straight from the equations."""
    T, n = len(z), len(A)
    evidence = np.ones(T) if evidence is None else evidence
    m_pred, P_pred = np.zeros((T, n)), np.zeros((T, n, n))
    m, P = np.zeros((T, n)), np.zeros((T, n, n))
    for t in range(T):
        if t == 0 or starts[t]:
            m_pred[t], P_pred[t] = b, P0
        else:
            m_pred[t] = b + A @ (m[t - 1] - b)
            P_pred[t] = A @ P[t - 1] @ A.T + Q
        m[t], P[t] = m_pred[t], P_pred[t]
        if observed[t]:
            S = C @ P_pred[t] @ C.T + R / evidence[t]
            K = P_pred[t] @ C.T @ np.linalg.inv(S)
            m[t] = m_pred[t] + K @ (z[t] - C @ m_pred[t])
            P[t] = (np.eye(n) - K @ C) @ P_pred[t]
    ms, Ps = m.copy(), P.copy()
    for t in range(T - 2, -1, -1):
        if starts[t + 1]:
            continue
        G = P[t] @ A.T @ np.linalg.inv(P_pred[t + 1])
        ms[t] = m[t] + G @ (ms[t + 1] - m_pred[t + 1])
        Ps[t] = P[t] + G @ (Ps[t + 1] - P_pred[t + 1]) @ G.T
    return m_pred, P_pred, m, P, ms, Ps


def dense(A, Q, C, R, b, P0, z, observed):
    """One segment as one joint Gaussian of all states and observations, conditioned by solving a linear system.

    Returns predicted, filtered and smoothed means and covariances.
    """
    T, n, k = len(z), len(A), len(C)
    # h = powers @ noise + mean, with noise of covariance blockdiag(P0, Q, Q, ...).
    powers = np.zeros((T * n, T * n))
    for t in range(T):
        for s in range(t + 1):
            powers[t * n : (t + 1) * n, s * n : (s + 1) * n] = np.linalg.matrix_power(A, t - s)
    noise = np.zeros((T * n, T * n))
    for t in range(T):
        noise[t * n : (t + 1) * n, t * n : (t + 1) * n] = P0 if t == 0 else Q
    cov_h = powers @ noise @ powers.T
    mean_h = np.tile(b, T)
    big_C = np.kron(np.eye(T), C)
    cov_z = big_C @ cov_h @ big_C.T + np.kron(np.eye(T), R)
    cross = cov_h @ big_C.T
    error = z.reshape(-1) - big_C @ mean_h

    def condition(last):
        rows = [t * k + i for t in range(last) if observed[t] for i in range(k)]
        if not rows:
            return mean_h.reshape(T, n), cov_h
        gain = np.linalg.solve(cov_z[np.ix_(rows, rows)], cross[:, rows].T).T
        return (mean_h + gain @ error[rows]).reshape(T, n), cov_h - gain @ cross[:, rows].T

    def at(mean, cov, t):
        return mean[t], cov[t * n : (t + 1) * n, t * n : (t + 1) * n]

    predicted = [at(*condition(t), t) for t in range(T)]
    filtered = [at(*condition(t + 1), t) for t in range(T)]
    whole = condition(T)
    smoothed = [at(*whole, t) for t in range(T)]
    return [tuple(map(np.stack, zip(*part, strict=True))) for part in (predicted, filtered, smoothed)]
