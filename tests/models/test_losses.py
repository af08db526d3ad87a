"""Losses: reductions, chunks, derivatives of two orders by three routes, precisions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import jet

from sharpjax.models import (
    T5,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    init_params,
    make_logits,
    make_loss,
)
from sharpjax.models.layers import activation
from tests.models.reference import ROBERTA_SMALL as ROBERTA
from tests.models.reference import T5_SMALL, to

# One block each: derivatives of two orders by three routes are many programs to compile.
T5_SMALL = T5_SMALL | {"num_layers": 1}
ROBERTA_SMALL = ROBERTA | {"num_hidden_layers": 1}

SMALL = {
    "t5": T5(T5Config(**T5_SMALL)),
    "t5-gated": T5(T5Config(**T5_SMALL, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "roberta": RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL)),
    "roberta-tanh": RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL, hidden_act="gelu_new")),
}


@pytest.fixture(params=["t5", "roberta"])
def model(request):
    return SMALL[request.param]


@functools.cache
def drawn(model):
    return init_params(model, jax.random.key(0))


def make_batch(examples=3, length=11, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 61, (examples, length))
    labels = np.where(rng.random((examples, length)) < 0.4, -100, ids)
    mask = np.ones_like(ids)
    mask[0, 6:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def direction(params, seed=1):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree, [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )


def along(loss, params, v, *args):
    return lambda t: loss(jax.tree.map(lambda p, d: p + t * d, params, v), *args)


def by_jet(f, t):
    value, (slope, curvature) = jet.jet(f, (t,), ((jnp.ones_like(t), jnp.zeros_like(t)),))
    return value, slope, curvature


def by_jvp_of_jvp(f, t):
    one = jnp.ones_like(t)
    (value, slope), (_, curvature) = jax.jvp(lambda t: jax.jvp(f, (t,), (one,)), (t,), (one,))
    return value, slope, curvature


def by_jvp_of_grad(f, t):
    slope, curvature = jax.jvp(jax.grad(f), (t,), (jnp.ones_like(t),))
    return f(t), slope, curvature


ROUTES = [by_jet, by_jvp_of_jvp, by_jvp_of_grad]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("t5-gated", None),
        ("roberta-tanh", None),
        pytest.param("t5", 7, marks=pytest.mark.slow),
        pytest.param("roberta", 7, marks=pytest.mark.slow),
    ],
)
def test_every_route_agrees_with_finite_differences(name, key, x64):
    model, batch = SMALL[name], make_batch()
    params = to(jnp.float64, drawn(model))
    key = None if key is None else jax.random.key(key)
    v = direction(params)
    v = jax.tree.map(lambda x: 0.1 * x, v)
    f = jax.jit(along(make_loss(model), params, v, batch, key))
    zero = jnp.zeros(())
    routes = ROUTES if key is None else [by_jet, by_jvp_of_grad]
    results = [jax.jit(route, static_argnums=0)(f, zero) for route in routes]
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-9)
    # The loss to first order, its slope (just compared with the others') to second. The step is
    # so short that no relu changes sign on its way; rounding leaves 1e-16/1e-6 of the slope's.
    h, slope = 1e-6, jax.jit(jax.grad(f))
    slopes = (f(zero + h) - f(zero - h)) / (2 * h)
    curvature = (slope(zero + h) - slope(zero - h)) / (2 * h)
    np.testing.assert_allclose(results[0], (f(zero), slopes, curvature), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "reduction"),
    [("t5", "example"), pytest.param("roberta", "token", marks=pytest.mark.slow)],
)
def test_chunks_change_nothing(name, reduction, x64):
    model, chunk = SMALL[name], 4  # Of 11.
    params, batch = to(jnp.float64, drawn(model)), make_batch()
    v = direction(params)
    plain = along(make_loss(model, reduction), params, v, batch)
    expected = by_jvp_of_grad(plain, jnp.zeros(()))
    for remat in (False, True):
        loss = make_loss(model, reduction, logit_chunk=chunk, remat=remat)
        f = along(loss, params, v, batch)
        for route in [by_jvp_of_jvp, by_jvp_of_grad] if remat else [by_jvp_of_grad, by_jet]:
            np.testing.assert_allclose(
                jax.jit(route, static_argnums=0)(f, jnp.zeros(())), expected, rtol=1e-9
            )


def test_one_chunk_of_logits_is_held():
    """Compiled memory, at a vocabulary that dwarfs the rest."""
    model = RobertaForMaskedLM(
        RobertaConfig(**{**ROBERTA_SMALL, "vocab_size": 20_000, "max_position_embeddings": 70})
    )
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    ids = jax.ShapeDtypeStruct((8, 64), jnp.int32)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": ids}

    def temporary(transform, **options):
        loss = make_loss(model, **options)
        compiled = jax.jit(transform(loss)).lower(params, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def hvp(loss):
        def product(params, batch):
            grad = jax.grad(lambda p: loss(p, batch))
            return jax.jvp(grad, (params,), (params,))[1]

        return product

    def twice(loss):
        def taylor(params, batch):
            f = along(loss, params, params, batch)
            return by_jet(f, jnp.zeros(()))

        return taylor

    whole = 8 * 64 * 20_000 * 4
    assert temporary(jax.grad) > whole
    for transform, remat in ((jax.grad, True), (hvp, True), (twice, False)):
        # Sixteen chunks, each with its derivatives and temporaries.
        assert temporary(transform, logit_chunk=4, remat=remat) < 1.2 * whole


@pytest.mark.parametrize("key", [None, 7])
def test_blocks_made_again_change_nothing(model, key, x64):
    key = key and jax.random.key(key)  # One key: the same dropout on the way back.
    params, batch = to(jnp.float64, drawn(model)), make_batch()
    again = model.clone(remat=True)
    assert jax.tree.structure(drawn(again)) == jax.tree.structure(drawn(model))
    plain, remade = (
        jax.jit(jax.value_and_grad(make_loss(m)))(params, batch, key) for m in (model, again)
    )
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12), remade, plain)


def test_blocks_made_again_are_not_kept():
    """What the way back is handed: of a remade block, its input (and, once, its parameters)."""
    wide = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 8}
    config = RobertaConfig(**ROBERTA | wide | {"max_position_embeddings": 130})
    ids = jax.ShapeDtypeStruct((8, 128), jnp.int32)
    batch = {"input_ids": ids, "attention_mask": ids, "labels": ids}

    def kept(model):
        params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
        way_back = lambda p, batch: jax.vjp(lambda p: make_loss(model)(p, batch), p)[1]  # noqa: E731
        return sum(x.size for x in jax.tree.leaves(jax.eval_shape(way_back, params, batch)))

    plain, remade = (kept(RobertaForMaskedLM(config, remat=r)) for r in (False, True))
    assert remade < plain / 10


def test_large_vocabularies_are_chunked_without_being_asked(monkeypatch, model):
    params, batch = drawn(model), make_batch()
    expected = make_loss(model)(params, batch)
    seen = []
    head = type(model).head
    monkeypatch.setattr(type(model), "head", lambda self, h: seen.append(h.shape) or head(self, h))
    monkeypatch.setattr("sharpjax.models.losses.CHUNK_LOGITS", 3 * 61 * 5)
    value = make_loss(model)(params, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # First one position, from which the vocabulary's size is read; it is not computed.
    assert [shape[1] for shape in seen] == [1, 5, 5, 1]


@settings(max_examples=15, deadline=None)
@given(data=st.data(), reduction=st.sampled_from(["example", "token"]))
def test_reductions_are_their_formulas(data, reduction):
    params, batch = CACHED, make_batch()
    counted = np.array(data.draw(st.lists(st.booleans(), min_size=33, max_size=33))).reshape(3, 11)
    labels = np.where(counted, batch["input_ids"], -100)
    batch = {**batch, "labels": labels}
    logits = np.asarray(LOGITS(params, batch), np.float64)
    log_normalizer = np.log(np.exp(logits).sum(-1))
    picked = np.take_along_axis(logits, batch["input_ids"][..., None], -1)[..., 0]
    losses = (log_normalizer - picked) * counted
    if reduction == "example":
        expected = np.mean(losses.sum(1) / np.maximum(counted.sum(1), 1))
    else:
        expected = losses.sum() / max(counted.sum(), 1)
    value, grads = LOSSES[reduction](params, batch)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


CACHED = drawn(SMALL["roberta"])
LOGITS = jax.jit(make_logits(SMALL["roberta"]))
LOSSES = {
    r: jax.jit(jax.value_and_grad(make_loss(SMALL["roberta"], r))) for r in ("example", "token")
}


def test_the_example_loss_decomposes_over_micro_batches(model):
    params, batch = drawn(model), make_batch(examples=4)
    loss = jax.jit(make_loss(model))
    halves = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2)]
    parts = [loss(params, half) for half in halves]
    np.testing.assert_allclose(loss(params, batch), np.mean(parts), rtol=1e-6)


def test_one_key_is_one_function(model):
    params, batch = drawn(model), make_batch()
    loss = jax.jit(make_loss(model))
    a, b = jax.random.key(1), jax.random.key(2)
    assert loss(params, batch, a) == loss(params, batch, a) != loss(params, batch, b)
    assert loss(params, batch) not in (loss(params, batch, a), loss(params, batch, b))
    logits = jax.jit(make_logits(model))
    assert (logits(params, batch, a) == logits(params, batch, a)).all()
    assert (logits(params, batch) != logits(params, batch, a)).any()


def test_padding_changes_no_other_token(model):
    """Left, right, or more of it: real positions see the same model."""
    params = drawn(model)
    rng = np.random.default_rng(0)
    ids = rng.integers(4, 61, (1, 8))
    pad = model.config.pad_token_id
    logits = jax.jit(make_logits(model))
    labels = rng.integers(4, 61, (1, 5))

    def at(left, right):
        padded = np.pad(ids, ((0, 0), (left, right)), constant_values=pad)
        mask = np.pad(np.ones_like(ids), ((0, 0), (left, right)))
        out = logits(params, {"input_ids": padded, "attention_mask": mask, "labels": labels})
        return out if isinstance(model, T5) else out[:, left : left + 8]

    plain = logits(params, {"input_ids": ids, "labels": labels})
    for left, right in ((0, 3), (3, 0), (2, 4)):
        np.testing.assert_allclose(at(left, right), plain, atol=2e-6 * float(abs(plain).max()))


def test_an_explicit_decoder_input_and_mask(x64):
    model = SMALL["t5"]
    params, batch = drawn(model), make_batch()
    labels = batch["labels"]
    shifted = np.concatenate([np.zeros((3, 1), int), labels[:, :-1]], 1)
    shifted = np.where(shifted == -100, 0, shifted)
    logits = jax.jit(make_logits(model))
    explicit = {**batch, "decoder_input_ids": shifted}
    assert (logits(params, explicit) == logits(params, batch)).all()
    masked = {**explicit, "decoder_attention_mask": np.arange(11)[None] != np.full((3, 1), 4)}
    changed = (logits(params, masked) != logits(params, batch)).any(-1)
    assert not changed[:, :4].any()
    assert changed[:, 4:].all()


def test_bfloat16_computes_narrow_and_reduces_wide(model):
    params, batch = drawn(model), make_batch()
    narrow = type(model)(model.config, jnp.bfloat16)
    assert jax.tree.all(jax.tree.map(lambda p: p.dtype == jnp.float32, params))
    logits = jax.jit(make_logits(narrow))(params, batch)
    assert logits.dtype == jnp.float32
    features = jax.eval_shape(lambda: narrow.apply({"params": params}, batch, method="features"))
    assert features.dtype == jnp.bfloat16
    value, grads = jax.jit(jax.value_and_grad(make_loss(narrow)))(params, batch)
    assert value.dtype == jnp.float32
    assert jax.tree.all(jax.tree.map(lambda g: g.dtype == jnp.float32, grads))
    wide = jax.jit(make_loss(model))(params, batch)
    np.testing.assert_allclose(value, wide, rtol=2e-2)
    assert value != wide


def test_parameters_are_float32_even_where_float64_is(model, x64):
    params = init_params(model, jax.random.key(0))
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))


def test_float64_stays_float64(model, x64):
    params = to(jnp.float64, drawn(model))
    value, grads = jax.jit(jax.value_and_grad(make_loss(model)))(params, make_batch())
    assert value.dtype == jnp.float64
    assert jax.tree.all(jax.tree.map(lambda g: g.dtype == jnp.float64, grads))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("relu", jax.nn.relu),
        ("silu", jax.nn.silu),
        ("gelu", lambda x: jax.nn.gelu(x, approximate=False)),
        ("gelu_new", jax.nn.gelu),
    ],
)
def test_activations(name, theirs, x64):
    x = jnp.linspace(-6, 6, 101)
    np.testing.assert_allclose(activation(name)(x), theirs(x), atol=1e-12)
    with pytest.raises(ValueError, match="unknown activation 'gelo'"):
        activation("gelo")


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        make_loss(model, "sum")
    with pytest.raises(ValueError, match="logit_chunk must be positive"):
        make_loss(model, logit_chunk=0)
    with pytest.raises(ValueError, match="not a multiple"):
        RobertaConfig(hidden_size=10, num_attention_heads=3)
    with pytest.raises(ValueError, match="60 tokens, but the model has positions for 48"):
        make_logits(SMALL["roberta"])(CACHED, make_batch(length=60))


def test_paths_are_regular():
    shapes = drawn(SMALL["t5"])
    assert shapes["encoder"]["block_0"]["attention"]["q"]["kernel"].shape == (24, 15)
    assert set(shapes) == {"shared", "encoder", "decoder"}
    assert set(CACHED) == {"embeddings", "encoder", "lm_head"}
