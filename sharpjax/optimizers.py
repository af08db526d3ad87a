"""The paper's four algorithms, with and without coordinate-wise clipping (Appendix A.2).

Each is an `optax.chain` of transformations that can be recombined: those of `optax` where it has
them (`optax.ema`, `optax.clip_by_block_rms`, `optax.scale_by_param_block_rms`), and here the three
that it lacks. Adaptive algorithms clip the *numerator* only: their second moments see the raw
gradient, since statistics of a clipped gradient would scale the clipped coordinates up again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharpjax._checks import check_in_range, check_rate
from sharpjax.clipping import coord_clip


def sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, *, clip: float = 0.0
) -> optax.GradientTransformation:
    """SGD with momentum (Algorithm 1): ĝ = Clip(g), m ← βm + (1−β)ĝ, x ← x − ηm, with m₀ = 0.

    The momentum is an average, not `optax.sgd`'s sum: the same rate moves (1−β) times as far.

    Args:
        learning_rate: η ≥ 0, a number or a schedule over steps.
        momentum: β in [0, 1).
        clip: Fraction of the coordinates that saturate, in [0, 1]; 0 clips none.

    Returns:
        The transformation. State: one tree like the parameters.

    Raises:
        ValueError, TypeError: an argument out of its range, with its value.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> params, grads = jnp.array([1.0, -2.0]), jnp.array([3.0, -4.0])
        >>> tx = sharpjax.sgd(1.0, clip=0.5)
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> [round(float(x), 3) for x in updates]
        [-0.3, 0.3]
    """
    check_rate(learning_rate, momentum)
    return optax.chain(
        _coord_clip(clip),
        optax.ema(momentum, debias=False),
        optax.scale_by_learning_rate(learning_rate),
    )


def normalized_sgd(
    learning_rate: optax.ScalarOrSchedule, momentum: float = 0.9, *, clip: float = 0.0
) -> optax.GradientTransformation:
    """SGD whose momentum is normalised tensor by tensor (Algorithm 2): x ← x − η·m/RMS(m).

    `m/‖m‖·√n` for a tensor of n coordinates, so that η is the root mean square by which each
    tensor's coordinates move. Arguments, state and errors are those of `sgd`.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> params, grads = jnp.array([1.0, -2.0]), jnp.array([3.0, -4.0])
        >>> tx = sharpjax.normalized_sgd(0.1)
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> [round(float(x), 3) for x in updates]
        [-0.085, 0.113]
    """
    check_rate(learning_rate, momentum)
    return optax.chain(
        _coord_clip(clip),
        optax.ema(momentum, debias=False),
        normalize_by_tensor_rms(),
        optax.scale_by_learning_rate(learning_rate),
    )


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    clip: float = 0.0,
) -> optax.GradientTransformation:
    """Adam whose numerator is clipped: m averages Clip(g), v averages g².

    x ← x − η·m̂/(√v̂ + ε) with m̂ = m/(1−β₁ᵗ), v̂ = v/(1−β₂ᵗ). With `clip=0` it is `optax.adam`.
    `optax.chain(coord_clip(c), optax.adam(η))` is something else: there v sees the clipped
    gradient too. The paper leaves Adam unclipped.

    Args:
        learning_rate: η ≥ 0, a number or a schedule over steps.
        b1: β₁ in [0, 1).
        b2: β₂ in [0, 1).
        eps: ε ≥ 0, added outside the root.
        clip: Fraction of the coordinates that saturate, in [0, 1]; 0 clips none.

    Returns:
        The transformation. State: two trees like the parameters and a count.

    Raises:
        ValueError, TypeError: an argument out of its range, with its value.

    Source: Kingma and Ba, https://arxiv.org/abs/1412.6980, Algorithm 1.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> params, grads = jnp.array([1.0, -2.0]), jnp.array([3.0, -4.0])
        >>> tx = sharpjax.adam(0.1, clip=0.5)
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> [round(float(x), 3) for x in updates]
        [-0.1, 0.075]
    """
    check_rate(learning_rate)
    return optax.chain(
        scale_by_clipped_adam(b1, b2, eps, clip=clip),
        optax.scale_by_learning_rate(learning_rate),
    )


def adafactor(
    learning_rate: optax.ScalarOrSchedule | None = None, *, clip: float = 0.0
) -> optax.GradientTransformation:
    """Adafactor without first moment (Algorithms 3 and 4), its numerator clipped.

    U = Clip(g)/√V̂ with V̂ of `scale_by_clipped_factored_rms`; Û = U/max(1, RMS(U)), tensor by
    tensor; x ← x − α·Û. With `learning_rate=None`, α = max(10⁻³, RMS(x))·min(10⁻², 1/√t), tensor by
    tensor; `update` then needs `params`. `optax.adafactor` factors only dimensions from 128 on;
    here every matrix is factored.

    Args:
        learning_rate: α ≥ 0, a number or a schedule over steps; None for the relative step.
        clip: Fraction of the coordinates that saturate, in [0, 1]; 0 clips none.

    Returns:
        The transformation. State: m + n numbers for an m×n matrix, n for a vector of n.

    Raises:
        ValueError, TypeError: an argument out of its range, with its value.

    Source: Shazeer and Stern, https://arxiv.org/abs/1804.04235, Algorithms 4 and 5.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> params, grads = jnp.array([1.0, -2.0]), jnp.array([3.0, -4.0])
        >>> tx = sharpjax.adafactor(0.1)
        >>> updates, _ = tx.update(grads, tx.init(params), params)
        >>> [round(float(x), 3) for x in updates]
        [-0.1, 0.1]
    """
    if learning_rate is None:
        step = optax.chain(
            optax.scale_by_param_block_rms(min_scale=1e-3),
            optax.scale_by_learning_rate(
                lambda count: jnp.minimum(1e-2, 1 / jnp.sqrt(jnp.asarray(count, jnp.float32) + 1))
            ),
        )
    else:
        check_rate(learning_rate)
        step = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(scale_by_clipped_factored_rms(clip=clip), optax.clip_by_block_rms(1.0), step)


def paper_algorithms(clip: float = 0.05) -> dict[str, optax.GradientTransformation]:
    """The seven algorithms that the paper compares, by name, at learning rate 1.

    A direction's sharpness does not depend on a global rate, so the rates are 1; Adafactor has its
    relative step, whose scale differs from tensor to tensor and therefore shapes the direction.

    Args:
        clip: Fraction that the clipped ones clip; the paper's k = 5 %.

    Returns:
        "sgd", "sgd_clip", "adam", "adafactor", "adafactor_clip", "normalized_sgd" and
        "normalized_sgd_clip", each a fresh transformation.

    Example:
        >>> import sharpjax
        >>> len(sharpjax.paper_algorithms(clip=0.1))
        7
    """
    return {
        "sgd": sgd(1.0),
        "sgd_clip": sgd(1.0, clip=clip),
        "adam": adam(1.0),
        "adafactor": adafactor(),
        "adafactor_clip": adafactor(clip=clip),
        "normalized_sgd": normalized_sgd(1.0),
        "normalized_sgd_clip": normalized_sgd(1.0, clip=clip),
    }


def normalize_by_tensor_rms() -> optax.GradientTransformation:
    """Divides each tensor by its root mean square: u/‖u‖·√n (Algorithm 2); a zero tensor stays 0.

    Invariant to a positive scale of each tensor, at any scale that its dtype holds: the tensor is
    divided by its largest magnitude first, so that squares neither overflow nor vanish.
    """

    def normalize(u):
        if u.size == 0:
            return u
        wide = u.astype(jnp.promote_types(u.dtype, jnp.float32))
        largest = jnp.max(jnp.abs(wide))
        scaled = wide / jnp.where(largest > 0, largest, 1)
        rms = jnp.sqrt(jnp.mean(jnp.square(scaled)))
        return (scaled / jnp.where(rms > 0, rms, 1)).astype(u.dtype)

    return optax.stateless(lambda updates, params: jax.tree.map(normalize, updates))


def scale_by_clipped_adam(
    b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, *, clip: float = 0.0
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` whose first moment averages the clipped gradient; see `adam`."""
    check_in_range("b1", b1, 0.0, 1.0, open_high=True)
    check_in_range("b2", b2, 0.0, 1.0, open_high=True)
    check_in_range("eps", eps, 0.0, float("inf"), open_high=True)
    clip_numerator = _coord_clip(clip).update

    def init(params):
        return optax.ScaleByAdamState(
            count=jnp.zeros([], jnp.int32),
            mu=optax.tree.zeros_like(params),
            nu=optax.tree.zeros_like(params),
        )

    def update(updates, state, params=None):
        del params
        clipped, _ = clip_numerator(updates, optax.EmptyState())
        mu = optax.tree.update_moment(clipped, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        mu_hat = optax.tree.bias_correction(mu, b1, count)
        nu_hat = optax.tree.bias_correction(nu, b2, count)
        scaled = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu_hat, nu_hat)
        return scaled, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


class FactoredRmsState(NamedTuple):
    """Row sums R and column sums C of matrices, V̂ itself of vectors; in place of others, one 0."""

    step: jax.Array  # Updates so far, int32.
    rows: optax.Params
    columns: optax.Params
    full: optax.Params


def scale_by_clipped_factored_rms(
    *, clip: float = 0.0, decay_exponent: float = 0.8, eps: float = 1e-30
) -> optax.GradientTransformation:
    """Clip(g)/√V̂, V̂ from the raw gradient, factored for every matrix (Algorithms 3 and 4).

    With β = 1 − t^(−decay_exponent), t from 1: R ← βR + (1−β)(g² + ε)·1, C ← βC + (1−β)1ᵀ(g² + ε),
    V̂ = R·C/1ᵀR; a vector has V̂ ← βV̂ + (1−β)(g² + ε). A tensor of more axes is a stack of matrices
    in its last two. Statistics are kept in float32 or wider.

    `optax.scale_by_factored_rms` is not that with other numbers: it factors the two largest axes
    and by default from 128 on, its β has another count, and a clip ratio around it would have to
    divide by the gradient, which is 0/0 where an embedding's row is untouched.

    Args:
        clip: Fraction of the coordinates that saturate in the numerator, in [0, 1].
        decay_exponent: In (0, 1]; the paper's 0.8.
        eps: ε₁ > 0, keeps an untouched row away from 0/0.
    """
    check_in_range("decay_exponent", decay_exponent, 0.0, 1.0)
    check_in_range("eps", eps, 0.0, float("inf"), open_high=True)

    clip_numerator = _coord_clip(clip).update

    def sums(p, axis):
        """Zeros like the sums along an axis, with their sharding; in place of others, one 0."""
        dtype = jnp.promote_types(p.dtype, jnp.float32)
        return jnp.zeros_like(p.sum(axis), dtype) if p.ndim > 1 else jnp.zeros(1, dtype)

    def whole(p):
        dtype = jnp.promote_types(p.dtype, jnp.float32)
        return jnp.zeros(1, dtype) if p.ndim > 1 else jnp.zeros_like(p, dtype)

    def init(params):
        return FactoredRmsState(
            step=jnp.zeros([], jnp.int32),
            rows=jax.tree.map(lambda p: sums(p, -1), params),
            columns=jax.tree.map(lambda p: sums(p, -2), params),
            full=jax.tree.map(whole, params),
        )

    def update(updates, state, params=None):
        del params
        step = jnp.asarray(optax.safe_increment(state.step))
        beta = 1 - step.astype(jnp.float32) ** -decay_exponent

        def moments(g, r, c, v):
            square = jnp.square(g.astype(jnp.promote_types(g.dtype, jnp.float32))) + eps
            mix = lambda old, new: (beta * old + (1 - beta) * new).astype(old.dtype)  # noqa: E731
            if g.ndim > 1:
                return mix(r, square.sum(-1)), mix(c, square.sum(-2)), v
            return r, c, mix(v, square)

        def scale(g, r, c, v):
            if g.size == 0:
                return g
            if g.ndim > 1:
                # Roots of the factors apart: R·C would leave float32's range for tiny gradients.
                row = jax.lax.rsqrt(r / r.sum(-1, keepdims=True))
                return (g * row[..., :, None] * jax.lax.rsqrt(c)[..., None, :]).astype(g.dtype)
            return (g * jax.lax.rsqrt(v)).astype(g.dtype)

        new = jax.tree.map(moments, updates, state.rows, state.columns, state.full)
        rows, columns, full = jax.tree.transpose(
            jax.tree.structure(updates), jax.tree.structure((0, 0, 0)), new
        )
        clipped, _ = clip_numerator(updates, optax.EmptyState())
        scaled = jax.tree.map(scale, clipped, rows, columns, full)
        return scaled, FactoredRmsState(step, rows, columns, full)

    return optax.GradientTransformation(init, update)


def _coord_clip(clip) -> optax.GradientTransformation:
    """`coord_clip`, named `clip` in errors; a Python zero costs nothing, and has the same state."""
    check_in_range("clip", clip, 0.0, 1.0)
    if isinstance(clip, int | float) and clip == 0:
        return optax.identity()
    return coord_clip(clip)
