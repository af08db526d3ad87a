"""Every public measurement on one small model, as functions that several tests call alike."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import sharpjax
from sharpjax.clip_curve import clip_curve
from sharpjax.point import measure_point
from sharpjax.precision import measure_precision

WIDTHS = (8, 16, 8)
STEPS = (0.0, 0.1, 0.5)


def model(params, batch, weight):
    """Outputs [micro_batch, 8] of a two-layer network; split weights are gathered where used."""
    hidden = jnp.tanh(batch["x"] @ whole(params["first"]["kernel"]) + params["first"]["bias"][None])
    return weight * (hidden @ whole(params["second"]))


def whole(x):
    """A leaf that is the same on every device, where its sharding is part of its type."""
    sharding = jax.typeof(x).sharding
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    return jax.sharding.reshard(x, jax.sharding.PartitionSpec()) if explicit else x


def loss_of_outputs(outputs, batch):
    return jnp.mean((outputs - batch["y"]) ** 2)


def loss(params, batch, weight):
    return loss_of_outputs(model(params, batch, weight), batch)


def loss_and_aux(params, batch, weight):
    outputs = model(params, batch, weight)
    return loss_of_outputs(outputs, batch), {"outputs": outputs}


def parts(params, batch, weight):
    return jnp.mean((model(params, batch, weight) - batch["y"]) ** 2, axis=0) / WIDTHS[-1]


def point(dtype=np.float64):
    """Parameters, an update and batches [3, 8, 8], the same numbers in any dtype."""
    draw = np.random.default_rng(0).normal

    def tree():
        return {
            "first": {"kernel": draw(size=WIDTHS[:2]) / 2, "bias": draw(size=WIDTHS[1])},
            "second": draw(size=WIDTHS[1:]) / 2,
        }

    params, update = tree(), tree()
    batches = {"x": draw(size=(3, 8, WIDTHS[0])), "y": draw(size=(3, 8, WIDTHS[2]))}
    # All start from numbers that float16 and bfloat16 hold: what is compared is the measurement.
    exact = lambda t: jax.tree.map(lambda x: _coarse(x).astype(dtype), t)  # noqa: E731
    return exact(params), exact(update), exact(batches)


def _coarse(x):
    """Rounded to seven bits."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 128) / 128, exponent)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One public measurement: `run(loss_fn, params, update, batches, **options)` -> arrays."""

    name: str
    run: Callable[..., Any]
    jit: bool = True  # Whether it may be jitted.
    update: bool = True  # Whether it is of an update.
    loss: bool = True  # Whether it takes a loss, and has_aux.
    zero: float | None = np.nan  # What the main number of a zero update is; None: an array.


def _coordinates(params):
    return jax.tree.map(lambda x: np.arange(2) % x.size, params)


KEY = jax.random.key(3)
_u = lambda update: {"u": update}  # noqa: E731


def _directions(method):
    return lambda f, p, u, b, **o: sharpjax.measure_directions(f, p, _u(u), b, method=method, **o)


def _pseudo(f, p, u, b, **o):
    pseudo = sharpjax.pseudo_updates({"u": sharpjax.sgd(1.0, 0.0)})
    return sharpjax.measure_updates(f, p, pseudo, u, pseudo.init(p), b, **o)


def _at_point(function):
    """A function of `loss_fn(params, *args)` on the first micro-batch."""

    def run(f, p, u, b, args=(), has_aux=False):
        del has_aux
        first = jax.tree.map(lambda x: x[0], b)
        return function(f, p, u, first, *args)

    return run


MEASUREMENTS = (
    Measurement("hvp", _at_point(sharpjax.hvp), zero=0.0),
    Measurement("directional_taylor", _at_point(sharpjax.directional_taylor)),
    Measurement("directional_sharpness", _at_point(sharpjax.directional_sharpness)),
    Measurement("coordinate_sharpness", _at_point(sharpjax.coordinate_sharpness)),
    *(
        Measurement(f"measure_directions, {method}", _directions(method))
        for method in ("auto", "adjoint", "reverse", "forward")
    ),
    Measurement("measure_updates", _pseudo),
    Measurement(
        "hessian_operator",
        lambda f, p, u, b, **o: sharpjax.hessian_operator(f, p, b, **o)(u),
        zero=0.0,
    ),
    Measurement(
        "loss_along",
        lambda f, p, u, b, **o: sharpjax.loss_along(f, p, u, STEPS, b, **o),
        zero=None,
    ),
    Measurement(
        "search_along",
        lambda f, p, u, b, **o: _searched(sharpjax.search_along(f, p, u, b, **o)),
        jit=False,
        zero=None,
    ),
    Measurement(
        "gauss_newton_sharpness",
        lambda f, p, u, b, args: sharpjax.gauss_newton_sharpness(
            model, loss_of_outputs, p, _u(u), b, args=args
        ),
        loss=False,
    ),
    Measurement(
        "measure_parts",
        lambda f, p, u, b, args: sharpjax.measure_parts(parts, p, _u(u), b, args=args),
        loss=False,
    ),
    Measurement(
        "block_sharpness",
        lambda f, p, u, b, **o: sharpjax.block_sharpness(f, p, _u(u), b, **o)["u"].matrix,
    ),
    Measurement(
        "sharpness_by_rank",
        lambda f, p, u, b, **o: sharpjax.sharpness_by_rank(f, p, _u(u), p, (0.1, 1.0), b, **o),
    ),
    Measurement("measure_span", lambda f, p, u, b, **o: _span(f, p, u, b, o), zero=None),
    Measurement(
        "hessian_diagonal",
        lambda f, p, u, b, **o: sharpjax.hessian_diagonal(f, p, b, KEY, probes=2, **o).diagonal,
        update=False,
    ),
    Measurement(
        "exact_diagonal",
        lambda f, p, u, b, **o: sharpjax.exact_diagonal(f, p, b, _coordinates(p), **o),
        update=False,
    ),
    Measurement(
        "lanczos_spectrum",
        lambda f, p, u, b, **o: _spectrum(f, p, b, o).eigenvalues,
        update=False,
    ),
    Measurement(
        "lanczos_spectrum, preconditioned",
        lambda f, p, u, b, **o: (
            _spectrum(f, p, b, o, preconditioner=_preconditioner(p)).eigenvalues
        ),
        update=False,
    ),
    Measurement(
        "dominant_share",
        lambda f, p, u, b, **o: sharpjax.dominant_share(_u(u), _spectrum(f, p, b, o)),
    ),
    Measurement(
        "without_dominant",
        lambda f, p, u, b, **o: sharpjax.without_dominant(u, _spectrum(f, p, b, o)),
        zero=0.0,
    ),
    Measurement(
        "block_spectra",
        lambda f, p, u, b, **o: (
            sharpjax.block_spectra(f, p, b, KEY, probes=1, steps=4, **o).eigenvalues
        ),
        update=False,
    ),
    Measurement(
        "gradient_noise",
        lambda f, p, u, b, **o: sharpjax.gradient_noise(f, p, _u(u), b, **o).signal_to_noise,
    ),
    Measurement(
        "clip_curve",
        lambda f, p, u, b, **o: [c.stats for c in clip_curve(f, p, u, (0.0, 0.5), b, **o)],
        jit=False,
    ),
    Measurement(
        "loss_plane",
        lambda f, p, u, b, **o: (
            sharpjax.loss_plane(f, p, u, p, b, points=3, extent=1.0, **o).losses
        ),
        jit=False,
        zero=None,
    ),
    Measurement(
        "top_overlap",
        lambda f, p, u, b, args: sharpjax.top_overlap({"u": u, "p": p}, 0.25),
        loss=False,
    ),
    Measurement(
        "measure_point",
        lambda f, p, u, b, **o: measure_point(f, p, _u(u), b, landscape=False, **o).directions,
        jit=False,
    ),
    Measurement(
        "measure_precision",
        lambda f, p, u, b, **o: (
            measure_precision(f, p, _u(u), b, micro_batches=None, **o)["u"].sharpness_float64
        ),
        jit=False,
    ),
)


def _searched(found):
    return found.best_step, found.best_decrease, found.critical_step


def _span(f, p, u, b, options):
    found = sharpjax.measure_span(f, p, {"u": u, "p": p}, b, **options)
    return found.loss, found.slopes, found.gram, found.curvature, found.curvature_se


def _spectrum(f, p, b, options, **more):
    return sharpjax.lanczos_spectrum(f, p, b, KEY, probes=1, steps=6, vectors=1, **options, **more)


def _preconditioner(params):
    """Adam's after one step from the parameters themselves."""
    adam = sharpjax.adam(1.0)
    return sharpjax.preconditioner(adam.update(params, adam.init(params))[1], eps=0.5)


def numbers(found):
    """All floats of a result in one float64 vector."""
    leaves = [np.asarray(jax.device_get(x)) for x in jax.tree.leaves(found)]
    return np.concatenate([np.ravel(x).astype(np.float64) for x in leaves])


def close(found, exact, tolerance):
    """Whether results agree, each leaf relative to its largest number."""
    found, exact = jax.tree.leaves(found), jax.tree.leaves(exact)
    assert len(found) == len(exact)
    for x, y in zip(found, exact, strict=True):
        x, y = (np.asarray(jax.device_get(z)).astype(np.float64) for z in (x, y))
        finite = np.isfinite(y)
        np.testing.assert_array_equal(np.isfinite(x), finite)
        scale = np.max(np.abs(y[finite]), initial=1e-30)
        np.testing.assert_allclose(x[finite], y[finite], rtol=0, atol=tolerance * scale)
