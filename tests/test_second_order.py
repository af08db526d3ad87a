"""Oracles: the dense Hessian in float64, of named losses and of random programs."""

import os
import warnings

import chex
import hypothesis
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest

from sharpjax._programs import scanned
from sharpjax.models import T5, RobertaConfig, RobertaForMaskedLM, T5Config, init_params, make_loss
from sharpjax.second_order import ForwardModeError, second_order
from sharpjax.taylor import taylor
from tests.cases import network, random_like
from tests.devices import on_eight_devices
from tests.programs import cubed, dense, loss_of, programs

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


def two_scans(p):
    """Matrices of a stack, one a step: a carry that starts constant, and steps that are read."""

    def inner(h, row):
        return h * jnp.cos(row), h

    def step(carry, w):
        h, total, count = carry
        last, path = jax.lax.scan(inner, h, w + p["w"], reverse=True)
        h = jnp.tanh(p["w"] @ last + h)
        return (h, total + jnp.sum(h**2 * path[0]), count + 1), (h[:2] * last[2:], count)

    start = (p["a"], jnp.float64(0), 0)
    (h, total, count), (path, counts) = jax.lax.scan(step, start, jnp.stack([p["w"], p["w"].T]))
    return jnp.sum(h * count) + total + jnp.sum(path**3 * counts[:, None])


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
    "two scans": two_scans,
    "scan of linear steps": lambda p: jax.lax.scan(lambda h, w: (h + w, None), 0.0, p["a"])[0],
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


def test_a_scans_operands_are_told_apart_by_their_shapes():
    """The equation of JAX 0.12 has other parameters that count them than that of JAX 0.10."""

    def f(w, xs):
        step = lambda c, x: ((w @ c[0] + x, c[1] + 1), c[0] * c[1])  # noqa: E731
        return jax.lax.scan(step, (w[0], 0), xs)

    w, xs = jnp.eye(3), jnp.ones((3, 3))
    for closed in (jax.make_jaxpr(f)(w, xs), jax.make_jaxpr(jax.vmap(f))(w[None], xs[None])):
        (eqn,) = (eqn for eqn in closed.jaxpr.eqns if eqn.primitive.name == "scan")
        assert scanned(eqn.replace(params={"jaxpr": eqn.params["jaxpr"]})) == (1, 2)


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


# The same few in each run; more, and other ones, where the environment asks for a number of them.
ASKED = os.environ.get("SHARPJAX_PROGRAMS")


@hypothesis.settings(
    max_examples=int(ASKED or 12), deadline=None, derandomize=ASKED is None, database=None
)
@hypothesis.given(case=programs())
def test_random_programs_agree_with_the_dense_hessian(case):
    with jax.enable_x64(True):
        loss = loss_of(*case)
        a, w = jnp.array([0.7, -0.9, 1.1]), jnp.array([[4, -8, 3], [9, 2, -6], [-5, 7, 12.0]]) / 10
        params, direction = {"a": a, "w": w}, {"a": jnp.sin(3 * a), "w": jnp.cos(9 * w)}

        def both(params, direction):
            found = []
            for method in ("adjoint", "reverse", "forward"):
                value, along = taylor(loss, params, method)
                found.append((value, *along(direction)))
            return found, dense(loss, params, direction)

        # Most of the time is the compiler's: it need not optimise what runs once.
        quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Taylor mode has no rule for some, and hands over.
            each, expected = jax.jit(both, compiler_options=quick)(params, direction)
        for got in each:
            chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-10)


@jax.custom_vjp
def squared(x):
    return x**2


squared.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))


@jax.custom_jvp
def ruled(x):
    return x**2


ruled.defjvp(lambda x, v: (x[0] ** 2, 2 * squared(jnp.sqrt(x[0])) * v[0]))

WITHOUT_FORWARD_MODE = {
    "itself": squared,
    "call": jax.jit(squared),
    "scan": lambda x: jax.lax.scan(lambda h, _: (squared(h), h), x, None, length=2)[0],
    "loops": lambda x: jax.lax.fori_loop(
        0, 2, lambda _, h: jax.lax.fori_loop(0, 2, lambda _, h: squared(h), h), x
    ),
    "branch": lambda x: jax.lax.cond(x > 0, squared, jnp.sin, x),
    "remat": jax.checkpoint(lambda x: jnp.sin(squared(x))),
    "vmap": lambda x: jnp.sum(jax.vmap(squared)(x * jnp.arange(3.0))),
    "a rule": ruled,
}


@pytest.mark.parametrize("name", WITHOUT_FORWARD_MODE)
def test_a_function_without_forward_mode_is_refused_wherever_it_is(name):
    with pytest.raises(ForwardModeError, match="custom_vjp"):
        second_order(WITHOUT_FORWARD_MODE[name], jnp.float32(1.5))


def test_a_custom_vjp_that_is_not_differentiated_forward_is_none_of_our_business():
    @jax.custom_jvp
    def f(x):
        return squared(x)

    f.defjvp(lambda x, v: (f(*x), 2 * x[0] * v[0]))
    x = jnp.float32(1.5)
    for loss in (
        f,
        lambda x: squared(jnp.float32(1)) * x**2,
        lambda x: jax.grad(squared)(x) * x / 2,
    ):
        chex.assert_trees_all_close(second_order(loss, x)[1](2 * x), (4 * x**2, 8 * x**2))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_a_16_bit_loss_is_summed_in_32_bits(dtype):
    """Terms that 16 bits hold exactly, and their sum not."""
    count = 3001
    ones = jnp.ones(count, dtype)
    loss = lambda x: (x.astype(dtype) ** 2 * dtype(2**-9)) @ ones  # noqa: E731
    value, along = second_order(loss, jnp.ones(count) / 2)
    slope, sharpness = along(jnp.ones(count))
    assert {value.dtype, slope.dtype, sharpness.dtype} == {jnp.dtype(jnp.float32)}
    assert sharpness == count * 2**-8


def test_a_16_bit_model_is_contracted_in_32_bits():
    """Adjoints and terms that 16 bits hold, and their products hardly: the least is 6e-8."""
    keys = jax.random.split(KEY, 4)
    x, w, v, u = (jax.random.normal(k, (64, 64)) / 8 for k in keys)

    def loss(w, dtype):
        h = (8 * x.astype(dtype) @ w.astype(dtype)) ** 2
        return jnp.mean((h @ jnp.abs(u).astype(dtype)).astype(jnp.float32))

    exact = second_order(lambda w: loss(w, jnp.float32), w)[1](v / 200)
    half = second_order(lambda w: loss(w, jnp.float16), w)[1](v / 200)
    chex.assert_trees_all_close(half[1], exact[1], rtol=1e-3)


MESHES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from sharpjax.second_order import ForwardModeError, second_order
from sharpjax.taylor import taylor

def loss(p):
    h = jnp.tanh(p["x"] @ p["w"])
    def step(c, own):
        c = jnp.tanh(c * own + c @ p["s"])
        return c, jnp.sum(c**2)
    last, path = jax.lax.scan(step, h, p["k"])
    return jnp.sum(last * jax.nn.softmax(h @ p["s"])) + jnp.sum(path) + jnp.sum(h**3)

def expand(p, v):
    value, along = second_order(loss, p)
    return value, jax.lax.map(along, v)

rng = np.random.default_rng(0)
shapes = {"x": (8, 4), "w": (4, 4), "s": (4, 4), "k": (3, 8, 4)}
params = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
many = {k: rng.standard_normal((2, *s)).astype(np.float32) for k, s in shapes.items()}
expected = jax.jit(expand)(params, many)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    specs = {"x": ("x", None), "w": (None, "y"), "s": (), "k": (None, "x", "y")}
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    p = {k: put(x, specs[k]) for k, x in params.items()}
    v = {k: put(x, (None, *specs[k])) for k, x in many.items()}
    if kind == AxisType.Explicit:  # The model says itself how it is sharded inside.
        for tree, lead in ((p, ()), (v, (None,))):
            tree["w"] = put(tree["w"], (*lead, None, None))
            tree["k"] = put(tree["k"], (*lead, None, "x", None))
    got = jax.jit(expand)(p, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), got, expected)
    with jax.set_mesh(mesh):
        value, along = second_order(loss, p)
        got = value, jax.tree.map(lambda *xs: jnp.stack(xs), *[
            along(jax.tree.map(lambda x: x[i], v)) for i in range(2)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), got, expected)
print("passed")
"""


def test_meshes_with_automatic_and_explicit_axes():
    assert on_eight_devices(MESHES) == "passed"


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


def test_a_scan_of_blocks_costs_what_the_blocks_cost():
    """Three products a step where both factors move, and in the shared pass two."""

    def loss(ws):
        step = lambda h, w: (jnp.tanh(h @ w), None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, jnp.ones((4, 4)), ws)[0])

    ws = jnp.ones((3, 4, 4))
    _, along = second_order(loss, ws)
    assert str(jax.make_jaxpr(along)(ws)).count("dot_general") == 3
    both = str(jax.make_jaxpr(lambda ws: second_order(loss, ws)[1](ws))(ws))
    assert both.count("dot_general") - 3 <= 3  # One more that nothing reads.
    assert both.count("scan[") == 3
