"""The loss by frequency: against the whole loss, and against NumPy one token at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpjax.models import (
    GPT2,
    T5,
    GPT2Config,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    frequency_bins,
    frequency_parts,
    init_params,
    make_logits,
    make_loss,
    next_token_labels,
)
from tests.models.reference import ROBERTA_SMALL, T5_SMALL, to

GPT2_SMALL = {"vocab_size": 61, "n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 50}
SMALL = {
    "t5": T5(T5Config(**T5_SMALL | {"num_layers": 1})),
    "roberta": RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL | {"num_hidden_layers": 1})),
    "gpt2": GPT2(GPT2Config(**GPT2_SMALL)),
}
COUNTS = np.random.default_rng(3).permutation((1000 / np.arange(1, 62) ** 1.2).astype(int))
COUNTS[COUNTS < 9] = 0


def make_batch(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 61, (4, 9))
    mask = np.ones_like(ids)
    mask[0, 6:] = 0
    labels = next_token_labels(ids, mask)
    labels[3] = -100  # An example without a counted token.
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def by_hand(logits, labels, counts, edges, reduction):
    """A dictionary of ranks, and one token after the other."""
    ranked = sorted(range(len(counts)), key=lambda token: (-counts[token], token))
    rank = {token: i for i, token in enumerate(ranked)}
    parts = np.zeros(len(edges) - 1)
    for example, own in zip(logits, labels, strict=True):
        counted = sum(own != -100) if reduction == "example" else np.sum(labels != -100)
        for z, label in zip(example, own, strict=True):
            if label != -100:
                p = sum(rank[label] >= edge for edge in edges[1:])
                loss = np.log(np.exp(z).sum()) - z[label]
                parts[p] += loss / counted / (len(labels) if reduction == "example" else 1)
    return parts


@pytest.mark.parametrize(
    ("name", "reduction"), [("t5", "example"), ("roberta", "token"), ("gpt2", "example")]
)
def test_parts_are_their_formula_and_sum_to_the_loss(name, reduction, x64):
    model, batch = SMALL[name], make_batch()
    params = to(jnp.float64, init_params(model, jax.random.key(0)))
    logits = np.asarray(jax.jit(make_logits(model))(params, batch))
    loss = jax.jit(make_loss(model, reduction))(params, batch)
    for bins in (4, (1, 5, 30)):
        edges = frequency_bins(COUNTS, bins).edges
        parts = jax.jit(frequency_parts(model, COUNTS, bins, reduction=reduction))(params, batch)
        assert parts.dtype == jnp.float64
        expected = by_hand(logits, batch["labels"], COUNTS, edges, reduction)
        np.testing.assert_allclose(parts, expected, rtol=1e-11, atol=1e-14)
        assert abs(parts.sum() - loss) < 1e-13 * loss


def test_one_token_at_a_time(x64):
    """A bin for each token, and batches of one target: its part is the loss, the others nothing."""
    model = SMALL["gpt2"]
    params = to(jnp.float64, init_params(model, jax.random.key(0)))
    counts = np.arange(1, 62)
    parts_fn = jax.jit(frequency_parts(model, counts, tuple(range(1, 61))))
    loss_fn = jax.jit(make_loss(model))
    batch = make_batch()
    for t, label in ((0, 60), (3, 0), (8, 17)):
        labels = np.full((4, 9), -100)
        labels[2, t] = label
        parts = np.asarray(parts_fn(params, {**batch, "labels": labels}))
        assert parts.nonzero()[0].tolist() == [60 - label]  # The last token is the most frequent.
        np.testing.assert_allclose(parts.sum(), loss_fn(params, {**batch, "labels": labels}))


def test_derivatives_of_parts_sum_to_the_losss_and_chunks_change_nothing(x64):
    model, batch = SMALL["gpt2"], make_batch()
    params = to(jnp.float64, init_params(model, jax.random.key(0)))
    v = jax.grad(make_loss(model))(params, batch)

    def taylor(fn):
        first = lambda p: jax.jvp(lambda p: fn(p, batch), (p,), (v,))  # noqa: E731
        (value, slope), (_, curvature) = jax.jit(lambda: jax.jvp(first, (params,), (v,)))()
        return jnp.stack([value, slope, curvature])

    whole = taylor(make_loss(model))
    plain = taylor(frequency_parts(model, COUNTS, 3))
    np.testing.assert_allclose(plain.sum(1), whole, rtol=1e-10)
    chunked = taylor(frequency_parts(model, COUNTS, 3, logit_chunk=4, remat=True))
    np.testing.assert_allclose(chunked, plain, rtol=1e-10, atol=1e-13)


def test_dropout_keys_are_the_losss():
    model, batch, key = SMALL["gpt2"], make_batch(), jax.random.key(5)
    params = init_params(model, jax.random.key(0))
    parts = frequency_parts(model, COUNTS, 3, logit_chunk=4)(params, batch, key)
    np.testing.assert_allclose(parts.sum(), make_loss(model)(params, batch, key), rtol=1e-6)


def test_bfloat16_is_summed_in_float32(x64):
    model, batch = SMALL["gpt2"].clone(dtype=jnp.bfloat16), make_batch()
    params = init_params(model, jax.random.key(0))
    logits = np.asarray(make_logits(model)(params, batch), np.float64)
    bins = frequency_bins(COUNTS, 4)
    parts = frequency_parts(model, COUNTS, 4)(params, batch)
    assert parts.dtype == jnp.float32
    expected = by_hand(logits, batch["labels"], COUNTS, bins.edges, "example")
    np.testing.assert_allclose(parts, expected, rtol=1e-6)


@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=40).filter(any),
    data=st.data(),
)
def test_bins_are_whole_ordered_and_nearly_equal(counts, data):
    counts = np.array(counts)
    occurring = np.count_nonzero(counts)
    number = data.draw(st.integers(1, occurring))
    bins = frequency_bins(counts, number)
    assert len(bins.labels) == bins.shares.size == number
    assert bins.edges[0] == 0
    assert bins.edges[-1] == counts.size
    sizes = np.bincount(bins.of_token, minlength=number)
    np.testing.assert_array_equal(sizes, np.diff(bins.edges))
    masses = np.bincount(bins.of_token, weights=counts, minlength=number)
    np.testing.assert_allclose(bins.shares, masses / counts.sum(), atol=1e-12)
    assert (masses > 0).all()
    for p in range(number - 1):  # Nothing in a later bin is more frequent.
        assert counts[bins.of_token == p].min() >= counts[bins.of_token > p].max()
        assert bins.lowest[p] == counts[bins.of_token == p].min()
    # A bin holds at most its equal part of what is left, and one token more.
    for p in range(number - 1):
        left = masses[p:].sum() / (number - p)
        assert masses[p] < left + counts[bins.of_token == p].min() + 1e-9


def test_bins_of_equal_counts_are_equal():
    bins = frequency_bins(np.full(12, 7), 3)
    np.testing.assert_array_equal(bins.of_token, np.repeat([0, 1, 2], 4))
    assert bins.labels == ("1–4", "5–8", "9–12")
    assert frequency_bins([3, 2, 1], (1,)).labels == ("1", "2–3")


@pytest.mark.parametrize(
    ("counts", "bins", "message"),
    [
        ([[1, 2]], 1, r"must be a vector of numbers, not int64 \(1, 2\)"),
        ([1, -2], 1, "finite and not negative"),
        ([1, np.nan], 1, "finite and not negative"),
        ([0, 0], 1, "one of them positive"),
        ([1, 2], 0, "bins must be positive, not 0"),
        ([1, 2, 0], 3, "3 bins, but only 2 tokens occur"),
        ([1, 2, 3], (2, 1), r"ranks must rise, from 1 to 2 at most, not \(2, 1\)"),
        ([1, 2, 3], (0, 1), "ranks must rise"),
        ([1, 2, 3], (3,), "ranks must rise"),
        ([1, 2, 3], (0.5,), "an integer or ranks"),
        ([1, 2, 3], "two", "an integer or ranks"),
    ],
)
def test_what_is_refused(counts, bins, message):
    with pytest.raises(ValueError, match=message):
        frequency_bins(counts, bins)


def test_another_vocabulary_is_refused():
    model = SMALL["gpt2"]
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    with pytest.raises(ValueError, match="60 counts, but the vocabulary has 61 tokens"):
        jax.eval_shape(frequency_parts(model, COUNTS[:60]), params, make_batch())
    with pytest.raises(ValueError, match="unknown reduction 'sum'"):
        frequency_parts(model, COUNTS, reduction="sum")
