"""Random small losses, and the dense derivatives to hold their directional ones to.

A program is a list of steps, each of which makes one more vector of three from earlier ones, any of
them: that is how intermediates come to be used twice, inside what they are computed with and
outside it. A step may have a program inside: a call, a loop, a branch, a derivative.
"""

from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
from hypothesis import strategies as st


class Step(NamedTuple):
    name: str
    operands: tuple[int, int, int]  # Which values it takes, counted from the last one.
    inside: tuple = ()  # The program of a step that has one.


@jax.custom_jvp
def cubed(x):
    return x**3


cubed.defjvp(lambda primals, tangents: (cubed(*primals), 3 * primals[0] ** 2 * tangents[0]))

SIMPLE = {
    "tanh": lambda w, x, y, z: jnp.tanh(x),
    "sin": lambda w, x, y, z: jnp.sin(x),
    "bell": lambda w, x, y, z: jnp.exp(-(x**2)),
    "softplus": lambda w, x, y, z: jax.nn.softplus(x),
    "relu": lambda w, x, y, z: jax.nn.relu(x) * y,
    "quotient": lambda w, x, y, z: x / (1.5 + y**2),
    "norm": lambda w, x, y, z: x * jax.lax.rsqrt(0.1 + jnp.mean(x**2)),
    "softmax": lambda w, x, y, z: jax.nn.softmax(x),
    "product": lambda w, x, y, z: x * y,
    "gate": lambda w, x, y, z: jax.nn.sigmoid(x) * y + (1 - jax.nn.sigmoid(x)) * z,
    "residual": lambda w, x, y, z: x + y,
    "matrix": lambda w, x, y, z: w @ x,
    "transposed": lambda w, x, y, z: x @ w,
    "attention": lambda w, x, y, z: jnp.outer(x, y) @ z,
    "sum": lambda w, x, y, z: jnp.full(3, jnp.sum(x)) * y,
    "scan of sums": lambda w, x, y, z: jnp.cumsum(x * y),
    "sort": lambda w, x, y, z: jnp.sort(x) * y,
    "reverse": lambda w, x, y, z: x[::-1],
    "parts": lambda w, x, y, z: jnp.concatenate([x[:1] * y[2:], z[1:]]),
    "largest": lambda w, x, y, z: y * x[jnp.argmax(x)],
    "where": lambda w, x, y, z: jnp.where(x > y, x**2, z),
    "cubed": lambda w, x, y, z: cubed(x),
    "stopped": lambda w, x, y, z: jax.lax.stop_gradient(x) * y,
    "complex": lambda w, x, y, z: jnp.abs(jnp.fft.fft(x) + 1j * y + 0.5) ** 2,
    "constant": lambda w, x, y, z: jnp.arange(3.0),
}


def _jit(run, w, x, y, z):
    function = jax.jit(run)
    return function(w, (x, y, z)) * function(w, (y, x, z))


def _scan(run, w, x, y, z):
    def step(carry, own):
        count, h = carry
        h, last = run(w * own, (h, y, z)), h
        return (count + 1, h), (last * h, count)

    (count, last), (path, _) = jax.lax.scan(step, (0, x), y, reverse=True)
    return last + count * jnp.sum(path, 0)


def _vmap(run, w, x, y, z):
    each = jax.vmap(lambda a, b: run(w, (a * x, b * y, z)))
    return jnp.sum(each(x, y), 1)


NESTED = {
    "jit": _jit,
    "checkpoint": lambda run, w, x, y, z: jax.checkpoint(run)(w, (x, y, z)),
    "scan": _scan,
    "loop": lambda run, w, x, y, z: jax.lax.fori_loop(0, 2, lambda _, h: run(w, (h, y, z)), x),
    "branch": lambda run, w, x, y, z: jax.lax.cond(
        x[0] > 0, lambda a: run(w, (a, y, z)), lambda a: run(w, (z, a, x)) ** 2, y
    ),
    "grad": lambda run, w, x, y, z: jax.grad(lambda a: jnp.sum(run(w, (a, y, z)) * x))(y),
    "jvp": lambda run, w, x, y, z: jax.jvp(lambda a: run(w, (a, y, z)), (x,), (z,))[1],
    "vmap": _vmap,
}


def evaluate(program, w, values):
    """The last value, after the steps that make it from a matrix and some vectors."""
    values = list(values)
    for step in program:
        operands = (values[-1 - i % len(values)] for i in step.operands)
        if step.name in SIMPLE:
            made = SIMPLE[step.name](w, *operands)
        else:
            inside = lambda w, values, step=step: evaluate(step.inside, w, values)  # noqa: E731
            made = NESTED[step.name](inside, w, *operands)
        # Of order one, linearly: nothing hides behind a large number.
        values.append(made / jax.lax.stop_gradient(jnp.maximum(1, jnp.max(jnp.abs(made)))))
    return values[-1]


def loss_of(program, weights):
    """The loss p -> Σ w·values of a program whose every value may count."""

    def loss(p):
        values, w = [p["a"], p["w"] @ p["a"]], p["w"]
        for i in range(len(program)):
            values.append(evaluate(program[i : i + 1], w, values))
        pairs = zip(weights, reversed(values), strict=False)
        return sum(jnp.vdot(jnp.array([k, 1.0, -k]), value) for k, value in pairs if k)

    return loss


def programs(simple=tuple(SIMPLE), nested=tuple(NESTED), size=7):
    """Strategy of losses, as (program, weights of its last values)."""
    operands = st.tuples(*[st.integers(0, 4)] * 3)
    flat = st.builds(Step, st.sampled_from(simple), operands)
    inside = st.lists(flat, min_size=1, max_size=4).map(tuple)
    deep = st.builds(Step, st.sampled_from(nested), operands, inside)
    inside = st.lists(flat | deep, min_size=1, max_size=3).map(tuple)
    deepest = st.builds(Step, st.sampled_from(nested), operands, inside)
    steps = st.lists(st.one_of(flat, flat, flat, deep, deepest), min_size=2, max_size=size)
    weights = st.lists(st.sampled_from([0, 0.5, -1.5, 2]), min_size=2, max_size=3)
    return st.tuples(steps.map(tuple), weights.map(lambda ks: (1.0, *ks)))


def dense(loss, params, direction) -> tuple[Any, Any, Any]:
    """(loss, gᵀv, vᵀHv) from the dense gradient and Hessian."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    v, f = jax.flatten_util.ravel_pytree(direction)[0], lambda x: loss(unravel(x))
    return f(flat), jax.grad(f)(flat) @ v, v @ jax.hessian(f)(flat) @ v
