"""Oracles: the dense Hessian in float64, `jvp` of `grad` on the language models."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest

from sharpjax.curvature import directional_sharpness
from sharpjax.models import T5, RobertaConfig, RobertaForMaskedLM, T5Config, init_params, make_loss
from sharpjax.second_order import second_order
from tests.cases import network, random_like

KEY = jax.random.key(0)


def scan(p):
    step = lambda h, w: (jnp.tanh(w * h) + h, h**2)  # noqa: E731
    last, path = jax.lax.scan(step, p["a"][0], p["a"])
    return last**2 + jnp.sum(path)


def counted_loop(p):
    return jnp.sum(jax.lax.fori_loop(0, 3, lambda _, h: jnp.sin(p["w"] @ h), p["a"]))


def remat(p):
    block = jax.checkpoint(lambda h: jnp.tanh(p["w"] @ h))
    return jnp.sum(block(block(p["a"])) ** 3)


def branch(p):
    return jax.lax.cond(p["a"][0] > 5, jnp.sum, lambda a: jnp.prod(a), p["a"])


def calls(p):
    inner = jax.jit(lambda x: jax.nn.logsumexp(p["w"] @ x))
    return jax.jit(lambda x: inner(x) * inner(2 * x))(p["a"])


@jax.custom_jvp
def cubed(x):
    return x**3


cubed.defjvp(lambda primals, tangents: (cubed(*primals), 3 * primals[0] ** 2 * tangents[0]))


def used_inside_and_outside(p):
    h = jnp.tanh(p["w"][:2] @ p["w"])
    return jnp.sum(h @ p["w"]) + jnp.sum(h**2)


def activity_regulariser(p):
    h = jax.nn.softplus(p["w"] @ p["a"])
    penalty = jnp.mean(h**2)
    h = jnp.tanh(p["w"] @ h)
    return jnp.sum(p["w"] @ h) + 0.1 * (penalty + jnp.mean(h**2))


def lstm(p):
    h, c = jnp.tanh(p["a"]), p["a"]
    for _ in range(3):
        i, f, o, g = jnp.split(jnp.concatenate([p["w"], p["w"].T, -p["w"], p["w"] ** 2]) @ h, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return jnp.sum(h * c)


LOSSES = {
    "used inside and outside": used_inside_and_outside,
    "activity regulariser": activity_regulariser,
    "lstm": lstm,
    "scan": scan,
    "loop": counted_loop,
    "remat": remat,
    "branch": branch,
    "calls": calls,
    "custom_jvp": lambda p: jnp.sum(cubed(p["w"] @ p["a"])),
    "relu": lambda p: jnp.sum(jax.nn.relu(p["w"] @ p["a"]) ** 2),
    "where": lambda p: jnp.sum(jnp.where(p["w"] > 0, p["w"] ** 3, p["w"] * p["a"][None])),
    "softmax": lambda p: jnp.vdot(jax.nn.softmax(p["w"] @ p["a"]), jax.nn.softplus(p["a"])),
    "erf": lambda p: jnp.sum(jax.nn.gelu(p["w"] @ p["a"], approximate=False)),
    "sort": lambda p: jnp.vdot(jnp.sort(p["a"]), jnp.arange(1.0, 5.0) * jnp.sort(p["a"])[::-1]),
    "gather": lambda p: jnp.sum(jnp.tanh(p["w"][jnp.array([2, 0, 2])] @ p["a"])),
    "top_k": lambda p: jnp.prod(jax.lax.top_k(p["a"], 2)[0]),
    "integer output": lambda p: p["a"][jnp.argmax(p["a"])] ** 2 * jnp.round(p["a"][0] * 9),
    "stop_gradient": lambda p: jnp.vdot(p["w"] @ p["a"], jax.lax.stop_gradient(p["w"] @ p["a"])),
    "complex": lambda p: jnp.sum(jnp.log1p(jnp.abs(jnp.fft.fft(p["a"] * p["w"][0])) ** 2)),
    "linear algebra": lambda p: jnp.linalg.slogdet(p["w"])[1] + jnp.linalg.norm(p["a"]),
    "convolution": lambda p: jnp.sum(jnp.convolve(p["a"], jnp.tanh(p["w"][0])) ** 2),
    "repeated input": lambda p: jnp.sum((p["w"] @ p["w"]) @ p["w"].T),
    "dropout": lambda p: jnp.vdot(p["a"], jax.random.bernoulli(KEY, 0.5, (4,)) * (p["w"] @ p["a"])),
    "linear": lambda p: jnp.sum(p["a"]) - 2 * p["w"][0, 0],
    "one parameter": lambda p: p["a"][1],
    "constant": lambda p: jnp.float64(3),
}


def dense(loss, params, direction):
    """(loss, gᵀv, vᵀHv) from the dense gradient and Hessian."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    v, f = jax.flatten_util.ravel_pytree(direction)[0], lambda x: loss(unravel(x))
    return f(flat), jax.grad(f)(flat) @ v, v @ jax.hessian(f)(flat) @ v


@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_dense_quadratic_form_whatever_the_loss_is_made_of(name, x64):
    params = {"a": jnp.array([0.3, -1.2, 0.8, 2.1]), "w": jax.random.normal(KEY, (4, 4))}
    direction = random_like(jax.random.key(1), params)

    def expand(params, direction):
        loss, along = second_order(LOSSES[name], params)
        return loss, *along(direction)

    expected = dense(LOSSES[name], params, direction)
    for run in (expand, jax.jit(expand)):
        chex.assert_trees_all_close(run(params, direction), expected, rtol=1e-11, atol=1e-12)


def test_directions_are_mapped_and_of_any_scale(x64):
    loss, params, batch = network(KEY, jnp.float64)
    f = lambda p: loss(p, batch)  # noqa: E731
    many = [random_like(jax.random.key(i), params) for i in range(3)]
    _, along = second_order(f, params)
    mapped = jax.vmap(along)(jax.tree.map(lambda *vs: jnp.stack(vs), *many))
    for i, v in enumerate(many):
        _, slope, sharpness = dense(f, params, v)
        chex.assert_trees_all_close((mapped[0][i], mapped[1][i]), (slope, sharpness), rtol=1e-12)
    scaled = along(jax.tree.map(lambda x: 3 * x, many[-1]))
    chex.assert_trees_all_close(scaled, (3 * slope, 9 * sharpness), rtol=1e-12)


def test_a_function_without_forward_mode_is_refused():
    @jax.custom_vjp
    def f(x):
        return x**2

    f.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    with pytest.raises(TypeError, match="forward-mode"):
        second_order(lambda x: jax.lax.fori_loop(0, 2, lambda _, y: f(y), x), jnp.ones(()))
    with pytest.raises(TypeError, match="forward-mode"):
        second_order(f, jnp.ones(()))
    assert directional_sharpness(f, jnp.ones(()), jnp.ones(()), method="reverse") == 2


T5_FIELDS = {"vocab_size": 19, "d_model": 6, "d_kv": 3, "d_ff": 8, "num_layers": 1, "num_heads": 2}
MODELS = {
    "t5": T5(T5Config(**T5_FIELDS)),
    "t5 gated": T5(
        T5Config(**T5_FIELDS, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "roberta": RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=19,
            hidden_size=6,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=8,
            max_position_embeddings=12,
        )
    ),
}


@pytest.mark.parametrize(
    ("name", "remat", "dropout"),
    [
        ("t5", False, False),
        pytest.param("t5", True, True, marks=pytest.mark.slow),
        pytest.param("t5 gated", False, False, marks=pytest.mark.slow),
        pytest.param("roberta", False, False, marks=pytest.mark.slow),
        ("roberta", True, True),
    ],
)
def test_language_models_agree_with_the_dense_hessian(name, remat, dropout, x64):
    model = MODELS[name]
    # Of order one, so that no second-order term hides behind others.
    params = random_like(jax.random.key(2), init_params(model, KEY))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64) / 2 + 0.1, params)
    direction = random_like(jax.random.key(4), params)
    ids = jax.random.randint(KEY, (2, 5), 2, 19)
    batch = {
        "input_ids": ids,
        "attention_mask": jnp.ones_like(ids).at[0, 3:].set(0),
        "labels": ids[:, ::-1].at[1, 2].set(-100),
    }
    loss_fn = make_loss(model, remat=remat, logit_chunk=2)
    loss = lambda p: loss_fn(p, batch, jax.random.key(5) if dropout else None)  # noqa: E731

    @jax.jit
    def ours(params, direction):
        value, along = second_order(loss, params)
        return value, *along(direction)

    @jax.jit
    def oracle(params, direction):
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        gradient = jax.value_and_grad(lambda x: loss(unravel(x)))
        # A map over the columns compiles in a fraction of the time of `jax.hessian`.
        column = lambda e: jax.jvp(lambda x: gradient(x)[1], (flat,), (e,))[1]  # noqa: E731
        hessian = jax.lax.map(column, jnp.eye(flat.size))
        v, (value, g) = jax.flatten_util.ravel_pytree(direction)[0], gradient(flat)
        return value, g @ v, v @ hessian @ v

    expected = oracle(params, direction)
    chex.assert_trees_all_close(ours(params, direction), expected, rtol=1e-10)


def products(compiled) -> float:
    return compiled.cost_analysis()["flops"]


def test_a_direction_costs_a_gradient_and_the_shared_pass_less():
    keys = jax.random.split(KEY, 3)
    params = [jax.random.normal(k, (128, 128)) / 11 for k in keys]
    x = jnp.ones((128, 128))

    def loss(params):
        h = x
        for w in params:
            h = jnp.tanh(h @ w)
        return jnp.sum(h**2)

    def shared(params):
        value, along = second_order(loss, params)
        return value, along(params)

    one = products(jax.jit(loss).lower(params).compile())
    gradient = products(jax.jit(jax.value_and_grad(loss)).lower(params).compile())
    both = products(jax.jit(shared).lower(params).compile())
    # x is no parameter: of three products in each direction, the first layer needs fewer.
    assert both < one + 1.7 * gradient
