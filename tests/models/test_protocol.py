"""`make_loss` and `make_logits` on a user's own module, and on batches as users have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental import jet

from sharpjax.models import (
    GPT2,
    T5,
    GPT2Config,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    init_params,
    make_logits,
    make_loss,
)
from tests.models.reference import ROBERTA_SMALL, T5_SMALL, to, torch, transformers

VOCABULARY = 300  # More than int8 and uint8 hold.


class Own(nn.Module):
    """What the docstring asks for and no more: no `config`, no `__call__`, a dtype of its own."""

    dtype: object = None

    def setup(self):
        self.table = nn.Embed(VOCABULARY, 6, self.dtype)
        self.mix = nn.Dense(6, dtype=self.dtype)
        self.out = nn.Dense(VOCABULARY, dtype=self.dtype)
        self.dropout = nn.Dropout(0.3)

    def features(self, batch, *, deterministic):
        h = jnp.tanh(self.mix(self.table(batch["input_ids"]) * batch["gain"][..., None]))
        return self.dropout(h, deterministic=deterministic)

    def head(self, h):
        return self.out(h)


def own_batch(examples=3, length=7):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCABULARY, (examples, length))
    labels = np.where(rng.random(ids.shape) < 0.3, -100, rng.integers(0, VOCABULARY, ids.shape))
    labels[1] = -100
    gain = rng.normal(size=ids.shape).astype(np.float32)
    return {"input_ids": ids, "gain": gain, "labels": labels}


def own_params(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    return {
        "table": {"embedding": draw(VOCABULARY, 6)},
        "mix": {"kernel": draw(6, 6), "bias": draw(6)},
        "out": {"kernel": draw(6, VOCABULARY), "bias": draw(VOCABULARY)},
    }


def by_hand(params, batch, reduction):
    """The loss in NumPy, one token at a time."""
    p = jax.tree.map(np.asarray, params)
    losses, counts = [], []
    columns = (batch[k] for k in ("input_ids", "gain", "labels"))
    for ids, gains, labels in zip(*columns, strict=True):
        own = []
        for i, gain, label in zip(ids, gains, labels, strict=True):
            if label != -100:
                h = p["table"]["embedding"][i] * gain
                h = np.tanh(h @ p["mix"]["kernel"] + p["mix"]["bias"])
                logits = h @ p["out"]["kernel"] + p["out"]["bias"]
                own.append(np.log(np.exp(logits).sum()) - logits[label])
        losses.append(sum(own))
        counts.append(len(own))
    if reduction == "token":
        return sum(losses) / sum(counts)
    return np.mean([x / max(n, 1) for x, n in zip(losses, counts, strict=True)])


@pytest.mark.parametrize(
    ("reduction", "options"),
    [
        ("example", {}),
        ("token", {"logit_chunk": 3}),
        ("example", {"logit_chunk": 3, "remat": True}),
    ],
)
def test_a_users_own_module(reduction, options, x64):
    params, batch = own_params(jnp.float64), own_batch()
    loss = make_loss(Own(), reduction, **options)
    expected = by_hand(params, batch, reduction)
    assert abs(jax.jit(loss)(params, batch) - expected) < 1e-12 * expected
    # Two orders of derivatives by the routes that the options allow.
    v = jax.tree.map(jnp.ones_like, params)
    f = jax.jit(lambda t: loss(jax.tree.map(lambda p, d: p + t * d, params, v), batch))
    zero, one, step = jnp.zeros(()), jnp.ones(()), jnp.asarray(1e-4)
    slope_of = jax.jit(jax.grad(f))
    slope, curvature = jax.jvp(slope_of, (zero,), (one,))
    np.testing.assert_allclose(slope, (f(step) - f(-step)) / (2 * step), rtol=1e-5)
    slopes = [slope_of(s) for s in (step, -step)]
    np.testing.assert_allclose(curvature, (slopes[0] - slopes[1]) / (2 * step), rtol=1e-5)
    if not options.get("remat"):
        by_jet = jax.jit(lambda t: jet.jet(f, (t,), ((one, jnp.zeros(())),)))
        _, terms = by_jet(zero)
        np.testing.assert_allclose(terms, (slope, curvature), rtol=1e-9)


def test_a_users_own_module_with_dropout_and_its_logits():
    params, batch, model = own_params(), own_batch(), Own()
    logits = make_logits(model)(params, batch)
    assert logits.shape == (3, 7, VOCABULARY)
    loss = make_loss(model)
    keys = jax.random.split(jax.random.key(0), 2)
    values = [float(loss(params, batch, key)) for key in (None, keys[0], keys[1], keys[0])]
    assert len(set(values)) == 3
    assert values[1] == values[3]
    assert (make_logits(model)(params, batch, keys[0]) != logits).any()


def test_its_parameters_can_be_drawn():
    class Plain(Own):
        def features(self, batch, *, deterministic):
            return self.dropout(
                self.mix(self.table(batch["input_ids"])), deterministic=deterministic
            )

    params = init_params(Plain(), jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, own_params())


@pytest.mark.parametrize("narrow", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("of", ["computation", "parameters"])
def test_sixteen_bits_are_reduced_in_float32(narrow, of, x64):
    """Of logits in 16 bits, the loss is that which NumPy takes of them in float64."""
    model = Own(narrow if of == "computation" else None)
    batch = own_batch(examples=40, length=32)
    batch["gain"] = batch["gain"].astype(narrow)
    params = own_params(narrow if of == "parameters" else jnp.float32)
    features = model.apply({"params": params}, batch, deterministic=True, method="features")
    raw = model.apply({"params": params}, features, method="head")
    assert features.dtype == raw.dtype == narrow
    logits = make_logits(model)(params, batch)
    assert logits.dtype == jnp.float32
    np.testing.assert_array_equal(logits, raw.astype(jnp.float32))
    z, labels = np.asarray(raw, np.float64), batch["labels"]
    counted = labels != -100
    picked = np.take_along_axis(z, np.where(counted, labels, 0)[..., None], -1)[..., 0]
    losses = (np.log(np.exp(z).sum(-1)) - picked) * counted
    for options in ({}, {"logit_chunk": 5}, {"logit_chunk": 5, "remat": True}):
        value = make_loss(model, "token", **options)(params, batch)
        assert value.dtype == jnp.float32
        # Compiled as a whole, the model itself is rounded less often than it says.
        tolerance = 1e-4 if options.get("remat") else 1e-6
        assert abs(value - losses.sum() / counted.sum()) < tolerance * value


def test_models_in_sixteen_bits_have_losses_in_float32():
    ids = np.random.default_rng(0).integers(4, 61, (2, 6))
    batch = {"input_ids": ids, "labels": ids}
    gpt2 = {"vocab_size": 61, "n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 50}
    one = {"num_hidden_layers": 1}
    for model in (
        T5(T5Config(**T5_SMALL | {"num_layers": 1})),
        RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL | one, tie_word_embeddings=False)),
        GPT2(GPT2Config(**gpt2, tie_word_embeddings=False)),
    ):
        params = init_params(model, jax.random.key(0))
        expected = make_loss(model)(params, batch)
        for dtype in (jnp.bfloat16, jnp.float16):
            narrowed = to(dtype, params)
            values = [
                make_loss(model)(narrowed, batch),
                make_loss(model.clone(dtype=dtype))(params, batch),
            ]
            assert all(v.dtype == jnp.float32 for v in values)
            np.testing.assert_allclose(values, expected, rtol=2e-2)
            assert make_logits(model)(narrowed, batch).dtype == jnp.float32


def as_torch(batch):
    return {k: torch.tensor(v) for k, v in batch.items()}


@pytest.mark.parametrize(
    "made",
    [
        transformers.BatchEncoding,
        as_torch,
        lambda batch: transformers.BatchEncoding(as_torch(batch)),
        lambda batch: transformers.BatchEncoding({k: v.tolist() for k, v in batch.items()}),
        lambda batch: jax.tree.map(jnp.asarray, batch),
        lambda batch: jax.tree.map(lambda x: x.astype(np.int16), batch),
    ],
    ids=["encoding", "torch", "encoding of torch", "lists", "jax", "int16"],
)
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_batches_as_users_have_them(family, made):
    # A vocabulary that an int16 does not hold: as a label's type, it would count other columns.
    size = {"vocab_size": 40_000}
    gpt2 = {"n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8, **size}
    model = {
        "t5": T5(T5Config(d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=1, **size)),
        "gpt2": GPT2(GPT2Config(**gpt2)),
    }[family]
    params = SHAPED[family] = SHAPED.get(family) or init_params(model, jax.random.key(0))
    ids = np.arange(12).reshape(2, 6) + 4
    labels = np.where(ids % 3 == 0, -100, ids)
    batch = {"input_ids": ids, "attention_mask": np.ones_like(ids), "labels": labels}
    expected = EXPECTED.setdefault(family, make_loss(model)(params, batch))
    np.testing.assert_allclose(make_loss(model)(params, made(batch)), expected, rtol=1e-6)
    logits = jax.eval_shape(lambda params: make_logits(model)(params, made(batch)), params)
    assert logits.shape == (2, 6, 40_000)


SHAPED, EXPECTED = {}, {}


def test_segments_are_seen(x64):
    model = RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL | {"type_vocab_size": 2}))
    params = init_params(model, jax.random.key(0))
    ids = np.arange(4, 12).reshape(1, 8)
    plain, zeros, ones = (
        make_logits(model)(params, {"input_ids": ids, **also})
        for also in ({}, {"token_type_ids": 0 * ids}, {"token_type_ids": 0 * ids + 1})
    )
    np.testing.assert_array_equal(plain, zeros)
    assert (ones != zeros).any()


def test_a_label_outside_the_vocabulary_is_not_a_number():
    params, batch, loss = own_params(), own_batch(), jax.jit(make_loss(Own()))
    assert jnp.isfinite(loss(params, batch))
    for wrong in (-1, VOCABULARY):
        labels = batch["labels"].copy()
        labels[0, 0] = wrong
        assert jnp.isnan(loss(params, {**batch, "labels": labels}))


def test_what_is_wrong_with_a_batch_is_said():
    params, batch, loss = own_params(), own_batch(), make_loss(Own())
    with pytest.raises(
        ValueError, match=r"needs labels; the batch has only \['input_ids', 'gain'\]"
    ):
        loss(params, {k: v for k, v in batch.items() if k != "labels"})
    with pytest.raises(ValueError, match="labels must be integers, not float32"):
        loss(params, {**batch, "labels": batch["labels"].astype(np.float32)})
    with pytest.raises(ValueError, match=r"labels are \(3, 6\), but .* features are \(3, 7, 6\)"):
        loss(params, {**batch, "labels": batch["labels"][:, 1:]})
    model = T5(T5Config(**T5_SMALL))
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    with pytest.raises(ValueError, match="needs labels or decoder_input_ids"):
        jax.eval_shape(make_logits(model), params, {"input_ids": batch["input_ids"]})
