"""GPT-2 against transformers' PyTorch model: values, derivatives, checkpoints in and out."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax.experimental import jet
from safetensors.torch import load_file, save_file

from sharpjax.models import (
    GPT2,
    GPT2Config,
    init_params,
    load_pretrained,
    make_logits,
    make_loss,
    next_token_labels,
    save_pretrained,
)
from sharpjax.models.checkpoint import FAMILIES, _fused, _read_config, _reference_name
from tests.models.reference import gradient_errors, pair, to, torch, torch_loss, transformers

SMALL = {"vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 50}
CASES = {
    "plain": {},
    "scaled": {
        "n_inner": 40,
        "activation_function": "gelu",
        "layer_norm_epsilon": 1e-3,
        "scale_attn_by_inverse_layer_idx": True,
        "pad_token_id": 3,
    },
    "unscaled": {"activation_function": "relu", "scale_attn_weights": False},
}
FAMILY = next(family for family in FAMILIES if family.model is GPT2)
SINGLE, DOUBLE = (1e-5, 1e-6, 1e-5), (1e-10, 1e-10, 1e-10)


def reference(case=None, *, seed=0, perturbed=True, **config):
    """A random PyTorch model in evaluation mode, norms and biases random too if `perturbed`."""
    torch.manual_seed(seed)
    special = {"bos_token_id": 0, "eos_token_id": 0}
    config = {**SMALL, **special, **config, **CASES[case or "plain"]}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config))
    with torch.no_grad():
        for p in model.parameters():
            if perturbed and p.ndim == 1:
                p.add_(0.2 * torch.randn_like(p))
            elif perturbed:
                p.mul_(5)  # 0.02 in 24 dimensions would leave attention uniform.
    return model.eval()


def make_batch(examples=3, length=17, seed=0):
    """Padding left, right and none; some labels −100. In our alignment."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(4, 61, (examples, length))
    mask = np.ones_like(ids)
    if examples > 1:
        mask[0, : length // 3] = 0
        mask[1, length // 2 :] = 0
    labels = next_token_labels(ids, mask)
    labels[rng.random(labels.shape) < 0.3] = -100
    return {"input_ids": np.where(mask == 1, ids, 0), "attention_mask": mask, "labels": labels}


def theirs_of(labels):
    """Our labels in the reference's alignment."""
    return torch.tensor(np.concatenate([np.full_like(labels[:, :1], -100), labels[:, :-1]], 1))


def inputs(batch):
    return {k: torch.tensor(v) for k, v in batch.items() if k != "labels"}


def torch_gradients(torch_model, batch, reduction):
    """Logits, loss, and the gradient at one of our paths, in our layout."""
    torch_model.zero_grad()
    logits = torch_model(**inputs(batch)).logits
    loss = torch_loss(logits, torch.tensor(batch["labels"]), reduction)
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in torch_model.named_parameters()}

    def gradient(path):
        name = _reference_name(FAMILY, path)
        if ".c_attn." not in name:
            return grads[name]
        start, own, end = name.rsplit(".", 2)
        return np.split(grads[f"{start}.{end}"], 3, axis=-1)["qkv".index(own)]

    return logits.detach().numpy(), loss.item(), gradient


def assert_agrees(torch_model, model, params, batch, tolerances, reduction="example"):
    logits, loss, gradient = torch_gradients(torch_model, batch, reduction)
    # What a padding position says is undefined: it may see no token at all.
    real = batch["attention_mask"].astype(bool)
    ours = np.asarray(jax.jit(make_logits(model))(params, batch))
    error = np.abs(ours - logits)[real].max() / np.abs(logits[real]).max()
    value, grads = jax.jit(jax.value_and_grad(make_loss(model, reduction)))(params, batch)
    errors = gradient_errors(grads, gradient)
    worst = max(errors, key=errors.__getitem__)
    distance = abs(value - loss) / max(1, abs(loss))
    print(f"logits {error:.1e}, loss {distance:.1e}, gradients {errors[worst]:.1e} {worst}")
    assert error < tolerances[0], error
    assert distance < tolerances[1], (value, loss)
    assert errors[worst] < tolerances[2], (worst, errors[worst])


@pytest.mark.parametrize(
    ("case", "reduction"),
    [("plain", "example"), ("scaled", "token"), ("unscaled", "example")],
)
def test_agrees_with_the_reference(case, reduction, tmp_path):
    torch_model, model, params = pair(tmp_path, reference(case))
    assert_agrees(torch_model, model, params, make_batch(), SINGLE, reduction)


@pytest.mark.parametrize("case", CASES)
def test_agrees_in_double_precision(case, tmp_path, x64):
    torch_model, model, params = pair(tmp_path, reference(case))
    assert_agrees(torch_model.double(), model, to(jnp.float64, params), make_batch(), DOUBLE)


def test_agrees_on_one_long_example(tmp_path):
    torch_model, model, params = pair(tmp_path, reference(seed=1, n_positions=170))
    assert_agrees(torch_model, model, params, make_batch(1, 160), SINGLE)


def test_the_loss_is_the_references_whose_labels_are_the_tokens(tmp_path):
    torch_model, model, params = pair(tmp_path, reference())
    batch = make_batch()
    theirs = torch_model(**inputs(batch), labels=theirs_of(batch["labels"])).loss.item()
    assert abs(jax.jit(make_loss(model, "token"))(params, batch) - theirs) < 1e-6 * theirs
    # Without padding, nothing but the tokens is needed.
    ids = np.random.default_rng(1).integers(0, 61, (4, 9))
    theirs = torch_model(input_ids=torch.tensor(ids), labels=torch.tensor(ids)).loss.item()
    batch = {"input_ids": ids, "labels": next_token_labels(ids)}
    for reduction in ("token", "example"):
        loss = jax.jit(make_loss(model, reduction))
        assert abs(loss(params, batch) - theirs) < 1e-6 * theirs


def test_next_token_labels():
    ids = np.array([[5, 6, 7, 8], [5, 6, 7, 8], [5, 6, -100, 8]], np.int32)
    mask = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    labels = next_token_labels(ids, mask)
    expected = [[6, 7, -100, -100], [-100, 7, 8, -100], [6, -100, 8, -100]]
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(next_token_labels(ids[:1]), [[6, 7, 8, -100]])


def test_positions_may_be_given(tmp_path):
    """With positions that padding does not move, left padding changes no real token."""
    torch_model, model, params = pair(tmp_path, reference())
    batch = make_batch()
    mask = batch["attention_mask"]
    batch["position_ids"] = np.maximum(np.cumsum(mask, 1) - 1, 0)
    assert_agrees(torch_model, model, params, batch, SINGLE)
    logits_fn = jax.jit(make_logits(model))
    logits = logits_fn(params, batch)[0, 5:]
    alone = logits_fn(params, {"input_ids": batch["input_ids"][:1, 5:]})[0]
    np.testing.assert_allclose(logits, alone, atol=1e-5 * float(abs(alone).max()))


def test_no_position_sees_the_future_or_padding():
    model = GPT2(GPT2Config(**SMALL))
    params, batch = init_params(model, jax.random.key(0)), make_batch()
    logits = jax.jit(make_logits(model))
    changed = batch["input_ids"].copy()
    changed[:, 9] = 60
    differs = (logits(params, {**batch, "input_ids": changed}) != logits(params, batch)).any(-1)
    assert not (differs & (batch["attention_mask"] == 1))[:, :9].any()
    assert differs[[0, 2], 9:].all()
    assert not differs[1, 10:].any()  # There it is padding, which only sees itself change.


def test_dropout_stands_where_the_reference_has_it(tmp_path, monkeypatch):
    """With dropout replaced by a fixed nonlinear function on both sides, training mode agrees."""
    rates = {"resid_pdrop": 0.11, "embd_pdrop": 0.13, "attn_pdrop": 0.17}
    torch_model, model, params = pair(tmp_path, reference(**rates))
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
    batch = make_batch()
    real = batch["attention_mask"].astype(bool)
    logits = torch_model(**inputs(batch)).logits.detach().numpy()[real]
    trained = np.asarray(make_logits(model)(params, batch, jax.random.key(0)))[real]
    np.testing.assert_allclose(trained, logits, atol=1e-5 * np.abs(logits).max())
    assert set(used) == set(rates.values())
    assert np.abs(np.asarray(make_logits(model)(params, batch))[real] - logits).max() > 1e-2


def by_jet(f, t):
    zero, one = jnp.zeros_like(t), jnp.ones_like(t)
    value, (slope, curvature) = jet.jet(f, (t,), ((one, zero),))
    return value, slope, curvature


def by_jvp_of_jvp(f, t):
    one = jnp.ones_like(t)
    (value, slope), (_, curvature) = jax.jvp(lambda t: jax.jvp(f, (t,), (one,)), (t,), (one,))
    return value, slope, curvature


def by_jvp_of_grad(f, t):
    return f(t), *jax.jvp(jax.grad(f), (t,), (jnp.ones_like(t),))


@pytest.mark.parametrize("key", [None, 7])
def test_every_route_agrees_with_finite_differences(key, x64):
    model = GPT2(GPT2Config(**SMALL | {"n_layer": 1}))
    params, batch = to(jnp.float64, init_params(model, jax.random.key(0))), make_batch()
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    v = tree.unflatten(
        [0.1 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )
    key = None if key is None else jax.random.key(key)
    loss = make_loss(model)
    f = jax.jit(lambda t: loss(jax.tree.map(lambda p, d: p + t * d, params, v), batch, key))
    zero, h, slope = jnp.zeros(()), 1e-5, jax.jit(jax.grad(f))
    results = [
        jax.jit(route, static_argnums=0)(f, zero)
        for route in (by_jet, by_jvp_of_jvp, by_jvp_of_grad)
    ]
    for result in results:
        np.testing.assert_allclose(result, results[0], rtol=1e-9)
    slopes = (f(zero + h) - f(zero - h)) / (2 * h)
    curvature = (slope(zero + h) - slope(zero - h)) / (2 * h)
    np.testing.assert_allclose(results[0], (f(zero), slopes, curvature), rtol=1e-7, atol=1e-9)


def test_default_size_and_paths():
    shapes = jax.eval_shape(lambda: init_params(GPT2(), jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 124_439_808
    assert set(shapes) == {"embeddings", "decoder"}
    assert shapes["decoder"]["block_11"]["attention"]["q"]["kernel"].shape == (768, 768)
    kernels = [v for k, v in traverse_util.flatten_dict(shapes).items() if k[-1] == "kernel"]
    assert {v.ndim for v in kernels} == {2}
    assert len(kernels) == 12 * 6


def test_initial_values_spread_like_the_references(tmp_path):
    sizes = {"n_embd": 96, "n_head": 4, "n_layer": 3, "vocab_size": 400}
    _, model, theirs = pair(tmp_path, reference(perturbed=False, **sizes))
    ours = init_params(model, jax.random.key(0))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        # Of n normals, a sample deviation is off by 1/√(2n) and a mean by 1/√n: five of those,
        # for the difference of two.
        spread = np.std(b)
        assert abs(np.std(a) - spread) <= 5 * spread / a.size**0.5
        assert abs(np.mean(a) - np.mean(b)) <= 5 * spread * (2 / a.size) ** 0.5


def test_bfloat16_computes_narrow_and_reduces_wide():
    config = GPT2Config(**SMALL)
    params, batch = init_params(GPT2(config), jax.random.key(0)), make_batch()
    narrow = GPT2(config, jnp.bfloat16)
    features = narrow.apply({"params": params}, batch, method="features")
    assert features.dtype == jnp.bfloat16
    assert make_logits(narrow)(params, batch).dtype == jnp.float32
    wide, value = make_loss(GPT2(config))(params, batch), make_loss(narrow)(params, batch)
    assert value.dtype == jnp.float32
    assert value != wide
    np.testing.assert_allclose(value, wide, rtol=2e-2)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("case", CASES)
def test_round_trip_through_the_reference(case, tmp_path):
    torch_model, model, params = pair(tmp_path / "theirs", reference(case))
    save_pretrained(tmp_path / "ours", model, params)
    back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
    for name, value in torch_model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name
    batch = inputs(make_batch())
    assert torch.equal(back(**batch).logits, torch_model(**batch).logits)
    again, same = load_pretrained(tmp_path / "ours")
    assert again == model
    assert_same(same, params)
    # The files hold the same tensors, fused and not transposed.
    ours, theirs = (load_file(tmp_path / d / "model.safetensors") for d in ("ours", "theirs"))
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    assert ours["transformer.h.0.attn.c_attn.weight"].shape == (24, 72)


def test_what_hub_files_hold_besides(tmp_path):
    """gpt2 on the hub: no prefix, and the buffers of old versions."""
    _, model, params = pair(tmp_path, reference())
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for i in range(2):
        tensors[f"transformer.h.{i}.attn.bias"] = torch.ones(1, 1, 50, 50)
        tensors[f"transformer.h.{i}.attn.masked_bias"] = torch.tensor(-1e4)
    bare = {name.removeprefix("transformer."): value for name, value in tensors.items()}
    head = {"lm_head.weight": tensors["transformer.wte.weight"].clone()}
    no_table = {k: v for k, v in tensors.items() if k != "transformer.wte.weight"}
    for held in (bare, bare | head, tensors | head, no_table | head):
        save_file(held, file)
        again, same = load_pretrained(tmp_path)
        assert again == model
        assert_same(same, params)
    torch.save(bare, tmp_path / "pytorch_model.bin")
    file.unlink()
    assert_same(load_pretrained(tmp_path)[1], params)
    # A head that differs is one of its own.
    save_file(tensors | {"lm_head.weight": head["lm_head.weight"] + 1}, file)
    untied, own = load_pretrained(tmp_path)
    assert untied.config == dataclasses.replace(model.config, tie_word_embeddings=False)
    np.testing.assert_array_equal(
        own["lm_head"]["kernel"], params["embeddings"]["word"]["embedding"].T + 1
    )


def test_one_error_lists_everything_wrong(tmp_path):
    pair(tmp_path, reference())
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors["transformer.h.0.attn.c_attn.weight"] = torch.ones(24, 70)
    tensors["transformer.h.1.attn.c_attn.weight"] = torch.ones(72, 24)
    tensors["transformer.surprise"] = torch.ones(4)
    save_file(tensors, file)
    with pytest.raises(ValueError, match="does not hold a GPT2") as error:
        load_pretrained(tmp_path)
    for line in (
        "missing: transformer.h.0.attn.c_attn.q.weight (24, 24)",
        "unexpected: transformer.h.0.attn.c_attn.weight (24, 70)",
        "wrong shape: transformer.h.1.attn.c_attn.k.weight is (72, 8), not (24, 24)",
        "unexpected: transformer.surprise (4,)",
    ):
        assert line in str(error.value)


def test_parts_that_do_not_stand_side_by_side_are_not_fused():
    tensors = {"h.0.attn.c_proj.weight": np.ones((2, 2))}
    assert _fused(FAMILY, tensors) == tensors


def test_configurations(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "gpt2"}))
    config = _read_config(file)[1]
    assert config == GPT2Config()
    theirs = transformers.GPT2Config()
    for field in dataclasses.fields(config):
        assert getattr(config, field.name) == getattr(theirs, field.name), field.name
    file.write_text(json.dumps({"model_type": "gpt2", "add_cross_attention": True}))
    with pytest.raises(ValueError, match="is implemented"):
        _read_config(file)


def test_what_is_refused():
    with pytest.raises(ValueError, match="n_embd 10 is not a multiple of n_head 3"):
        GPT2Config(n_embd=10, n_head=3)
    model = GPT2(GPT2Config(**SMALL))
    params = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    with pytest.raises(ValueError, match="60 tokens, but the model has positions for 50"):
        jax.eval_shape(make_logits(model), params, make_batch(length=60))


@pytest.mark.slow
def test_agrees_at_full_size(tmp_path):
    torch_model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    torch_model, model, params = pair(tmp_path, torch_model)
    assert sum(x.size for x in jax.tree.leaves(params)) == 124_439_808
    assert_agrees(torch_model, model, params, make_batch(2, 40), SINGLE)
