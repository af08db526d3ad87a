"""Algorithms 1 to 4 of the paper's Appendix A.2, line by line in NumPy float64."""

import numpy as np


def clip(gradients, fraction):
    """Clip(g): the top `fraction` over all tensors jointly saturates at τ."""
    magnitudes = np.sort(np.abs(np.concatenate([g.ravel() for g in gradients])))[::-1]
    tau = magnitudes[min(int(np.floor(len(magnitudes) * fraction)), len(magnitudes) - 1)]
    return [np.sign(g) * np.minimum(np.abs(g), tau) for g in gradients]


def rms(x):
    return np.sqrt(np.mean(x**2))


def sgd(x, gradients, *, rate, fraction, beta=0.9):
    """Algorithm 1; yields the parameters after each step."""
    m = [np.zeros_like(p) for p in x]
    for g in gradients:
        g_hat = clip(g, fraction)
        m = [beta * mi + (1 - beta) * gi for mi, gi in zip(m, g_hat, strict=True)]
        x = [p - rate * mi for p, mi in zip(x, m, strict=True)]
        yield x


def normalized_sgd(x, gradients, *, rate, fraction, beta=0.9):
    """Algorithm 2."""
    m = [np.zeros_like(p) for p in x]
    for g in gradients:
        g_hat = clip(g, fraction)
        m = [beta * mi + (1 - beta) * gi for mi, gi in zip(m, g_hat, strict=True)]
        v = [mi / np.linalg.norm(mi) * np.sqrt(mi.size) for mi in m]
        x = [p - rate * vi for p, vi in zip(x, v, strict=True)]
        yield x


def adam(x, gradients, *, rate, fraction, b1=0.9, b2=0.999, eps=1e-8):
    """Adam with the clip in the numerator."""
    m = [np.zeros_like(p) for p in x]
    v = [np.zeros_like(p) for p in x]
    for t, g in enumerate(gradients, 1):
        g_hat = clip(g, fraction)
        m = [b1 * mi + (1 - b1) * gi for mi, gi in zip(m, g_hat, strict=True)]
        v = [b2 * vi + (1 - b2) * gi**2 for vi, gi in zip(v, g, strict=True)]
        x = [
            p - rate * (mi / (1 - b1**t)) / (np.sqrt(vi / (1 - b2**t)) + eps)
            for p, mi, vi in zip(x, m, v, strict=True)
        ]
        yield x


def adafactor(x, gradients, *, rate, fraction, d=1.0):
    """Algorithm 3 for matrices and 4 for vectors; `rate=None` is the relative step."""
    eps1, eps2 = 1e-30, 1e-3
    r = [np.zeros(p.shape[:1]) for p in x]
    c = [np.zeros(p.shape[-1:]) for p in x]
    v = [np.zeros_like(p) for p in x]
    for t, g in enumerate(gradients, 1):
        rho = min(1e-2, 1 / np.sqrt(t))
        beta2 = 1 - t**-0.8
        g_hat = clip(g, fraction)
        new = []
        for i, p in enumerate(x):
            alpha = max(eps2, rms(p)) * rho if rate is None else rate
            square = g[i] ** 2 + eps1
            if p.ndim == 2:
                r[i] = beta2 * r[i] + (1 - beta2) * square @ np.ones(p.shape[1])
                c[i] = beta2 * c[i] + (1 - beta2) * np.ones(p.shape[0]) @ square
                v_hat = np.outer(r[i], c[i]) / np.sum(r[i])
            else:
                v[i] = beta2 * v[i] + (1 - beta2) * square
                v_hat = v[i]
            u = g_hat[i] / np.sqrt(v_hat)
            u_hat = u / max(1.0, rms(u) / d)
            new.append(p - alpha * u_hat)
        x = new
        yield x
