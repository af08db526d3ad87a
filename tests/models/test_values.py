"""Logits, losses and gradients against transformers' PyTorch models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers.models.t5 import modeling_t5

from sharpjax.models import T5, RobertaForMaskedLM, init_params, make_logits, make_loss
from sharpjax.models.t5 import relative_position_buckets
from tests.models.reference import (
    CASES,
    batch_for,
    gradient_errors,
    pair,
    reference,
    to,
    torch,
    torch_gradients,
)


def assert_agrees(torch_model, model, params, batch, *, reduction="example", tolerances):
    logits, loss, gradient = torch_gradients(torch_model, model, batch, reduction)
    of_logits, of_loss, of_gradients = tolerances
    ours = jax.jit(make_logits(model))(params, batch)
    error = np.abs(np.asarray(ours) - logits).max() / np.abs(logits).max()
    assert error < of_logits, error
    value, grads = jax.jit(jax.value_and_grad(make_loss(model, reduction)))(params, batch)
    assert abs(value - loss) < of_loss * max(1, abs(loss)), (value, loss)
    errors = gradient_errors(grads, gradient)
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] < of_gradients, (worst, errors[worst])
    print(
        f"logits {error:.1e}, loss {abs(value - loss):.1e}, gradients {errors[worst]:.1e} {worst}"
    )


SINGLE = (1e-5, 1e-6, 1e-5)


@pytest.mark.parametrize("reduction", ["example", "token"])
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_agrees_with_the_reference(kind, case, reduction, tmp_path):
    torch_model, model, params = pair(tmp_path, reference(kind, case))
    batch = batch_for(torch_model)
    assert_agrees(torch_model, model, params, batch, reduction=reduction, tolerances=SINGLE)


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_agrees_on_one_long_example(kind, case, tmp_path):
    # 160 tokens: beyond the 128 (or 20) of T5's relative positions.
    longer = {} if kind == "t5" else {"max_position_embeddings": 170}
    torch_model, model, params = pair(tmp_path, reference(kind, case, seed=1, **longer))
    batch = batch_for(torch_model, examples=1, length=160)
    assert_agrees(torch_model, model, params, batch, tolerances=SINGLE)


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_agrees_in_double_precision(kind, case, tmp_path, x64, monkeypatch):
    if kind == "t5":  # The reference squares in float32 whatever it is given.

        def forward(self, h):
            h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            return self.weight * h

        monkeypatch.setattr(modeling_t5.T5LayerNorm, "forward", forward)
    torch_model, model, params = pair(tmp_path, reference(kind, case))
    batch = batch_for(torch_model)
    tolerances = (1e-10, 1e-10, 1e-9)
    assert_agrees(
        torch_model.double(), model, to(jnp.float64, params), batch, tolerances=tolerances
    )


def test_t5_agrees_in_double_precision_with_the_norm_as_it_is(tmp_path, x64):
    torch_model, model, params = pair(tmp_path, reference("t5", "relu"))
    batch = batch_for(torch_model)
    tolerances = (1e-5, 1e-5, 1e-5)
    assert_agrees(
        torch_model.double(), model, to(jnp.float64, params), batch, tolerances=tolerances
    )


def test_a_pad_token_that_is_attended_has_a_constant_embedding(tmp_path):
    torch_model, model, params = pair(tmp_path, reference("roberta", "gelu"))
    batch = {**batch_for(torch_model), "attention_mask": np.ones((3, 17), int)}
    assert (batch["input_ids"] == torch_model.config.pad_token_id).any()
    assert_agrees(torch_model, model, params, batch, tolerances=SINGLE)
    grads = jax.grad(make_loss(model))(params, batch)["embeddings"]
    pad = torch_model.config.pad_token_id
    assert not grads["position"]["embedding"][pad].any()
    assert grads["word"]["embedding"][pad].any()  # From the tied head.


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("buckets", [4, 12, 32, 64])
@pytest.mark.parametrize("max_distance", [20, 128, 1000])
def test_buckets_are_the_references(bidirectional, buckets, max_distance):
    if max_distance <= buckets:
        pytest.skip("no bucket is left to grow")
    offsets = np.arange(-3000, 3000)
    theirs = modeling_t5.T5Attention._relative_position_bucket(
        torch.tensor(offsets), bidirectional, buckets, max_distance
    )
    ours = relative_position_buckets(offsets, bidirectional, buckets, max_distance)
    np.testing.assert_array_equal(ours, theirs.numpy())


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_dropout_stands_where_the_reference_has_it(kind, case, tmp_path, monkeypatch):
    """With dropout replaced by a fixed nonlinear function on both sides, training mode agrees."""
    torch_model, model, params = pair(tmp_path, reference(kind, case))
    torch_model.set_attn_implementation("eager")
    torch_model.train()
    used = []

    def theirs(x, p=0.5, training=True, inplace=False):
        return x * (1 + p * x) if training else x

    def ours(self, x, deterministic=None, rng=None):
        deterministic = self.deterministic if deterministic is None else deterministic
        used.append(self.rate)
        return x if deterministic else x * (1 + self.rate * x)

    monkeypatch.setattr(torch.nn.functional, "dropout", theirs)
    monkeypatch.setattr("flax.linen.Dropout.__call__", ours)
    batch = batch_for(torch_model)
    labels = {k: torch.tensor(v) for k, v in batch.items()}
    logits = torch_model(**labels).logits.detach().numpy()
    trained = make_logits(model)(params, batch, jax.random.key(0))
    np.testing.assert_allclose(trained, logits, atol=1e-5 * np.abs(logits).max())
    assert used
    assert np.abs(make_logits(model)(params, batch) - logits).max() > 1e-2


@pytest.mark.parametrize(
    ("model", "kind", "count"),
    [(T5(), "t5", 60_506_624), (RobertaForMaskedLM(), "roberta", 82_170_201)],
)
def test_default_sizes(model, kind, count):
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("t5", {"d_model": 96, "d_kv": 24, "num_heads": 5, "d_ff": 256, "vocab_size": 400}),
        ("t5", {"d_model": 96, "d_ff": 256, "vocab_size": 400, "feed_forward_proj": "gated-gelu"}),
        ("roberta", {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 256}),
    ],
)
def test_initial_values_spread_like_the_references(kind, config, tmp_path):
    torch_model = reference(kind, perturbed=False, num_hidden_layers=1, **config)
    _, model, theirs = pair(tmp_path, torch_model)
    ours = init_params(model, jax.random.key(0))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        # Of n normals, a sample deviation is off by 1/√(2n) and a mean by 1/√n: five of those,
        # for the difference of two.
        spread = np.std(b)
        assert abs(np.std(a) - spread) <= 5 * spread / a.size**0.5
        assert abs(np.mean(a) - np.mean(b)) <= 5 * spread * (2 / a.size) ** 0.5


FULL = {
    "t5": {},
    "roberta": {
        "vocab_size": 50265,
        "num_hidden_layers": 6,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("t5", 60_506_624), ("roberta", 82_170_201)])
def test_full_sizes_agree(kind, count, tmp_path):
    torch_model, model, params = pair(tmp_path, reference(kind, **FULL[kind]))
    assert sum(p.numel() for p in torch_model.parameters()) == count
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count
    batch = batch_for(torch_model, length=40)
    assert_agrees(torch_model, model, params, batch, tolerances=SINGLE)
