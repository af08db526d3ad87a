"""Heads of their own, mt5, activations and configurations, against transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from transformers.activations import ACT2FN

from sharpjax.models import (
    GPT2,
    T5,
    GPT2Config,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    init_params,
    load_config,
    load_pretrained,
    make_logits,
    make_loss,
    save_pretrained,
)
from sharpjax.models.checkpoint import _read_config
from sharpjax.models.layers import ACTIVATIONS
from tests.models.reference import (
    ROBERTA_SMALL,
    T5_SMALL,
    batch_for,
    torch,
    torch_forward,
    torch_loss,
    transformers,
)

GPT2_SMALL = {"vocab_size": 61, "n_embd": 24, "n_layer": 1, "n_head": 3, "n_positions": 50}
GPT2_SMALL |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
ROBERTA_SMALL = ROBERTA_SMALL | {"num_hidden_layers": 1}
T5_SMALL = T5_SMALL | {"num_layers": 1}
EMBEDDING = {
    "roberta": "roberta.embeddings.word_embeddings.weight",
    "gpt2": "transformer.wte.weight",
    "mt5": "shared.weight",
}
HEAD = {"roberta": "lm_head.decoder.weight", "gpt2": "lm_head.weight", "mt5": "lm_head.weight"}
TORCH = {
    "roberta": transformers.RobertaForMaskedLM,
    "gpt2": transformers.GPT2LMHeadModel,
    "mt5": transformers.MT5ForConditionalGeneration,
}


def untied(kind):
    """A reference model whose head is a matrix of its own."""
    torch.manual_seed(0)
    config = {
        "roberta": lambda: transformers.RobertaConfig(**ROBERTA_SMALL, tie_word_embeddings=False),
        "gpt2": lambda: transformers.GPT2Config(**GPT2_SMALL, tie_word_embeddings=False),
        "mt5": lambda: transformers.MT5Config(**T5_SMALL),
    }[kind]()
    model = TORCH[kind](config).eval()
    with torch.no_grad():
        head = model.get_parameter(HEAD[kind])
        if kind == "mt5":
            model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(head))
        else:
            head.copy_(0.3 * torch.randn_like(head))
        if kind == "roberta":  # Of the two, the reference reads the decoder's.
            model.lm_head.decoder.bias.copy_(torch.randn(61))
            model.lm_head.bias.copy_(torch.randn(61))
    return model


def right_padded(torch_model):
    """No padding on the left, where GPT-2's positions see no token at all."""
    batch = batch_for(torch_model, examples=2, length=9)
    return {**batch, "attention_mask": np.ones_like(batch["attention_mask"])}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", TORCH)
def test_a_head_of_its_own(kind, tmp_path):
    """Logits, loss, the head's gradient, and the way out and back in on both sides."""
    theirs = untied(kind)
    theirs.save_pretrained(tmp_path / "theirs")
    model, params = load_pretrained(tmp_path / "theirs")
    assert not model.config.tie_word_embeddings
    assert model.config.model_type == kind
    batch = right_padded(theirs)
    inputs = batch if kind == "mt5" else {k: v for k, v in batch.items() if k != "labels"}
    logits = torch_forward(theirs, inputs)
    loss = torch_loss(logits, torch.tensor(batch["labels"]))
    loss.backward()
    expected = logits.detach().numpy()
    ours = jax.jit(make_logits(model))(params, batch)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    value, grads = jax.jit(jax.value_and_grad(make_loss(model)))(params, batch)
    assert abs(value - loss.item()) < 1e-6 * loss.item()
    own = grads["lm_head"]
    own = own["decoder"]["kernel"] if kind == "roberta" else own["kernel"]
    grad = theirs.get_parameter(HEAD[kind]).grad.numpy().T
    np.testing.assert_allclose(own, grad, atol=1e-5 * np.abs(grad).max())

    save_pretrained(tmp_path / "ours", model, params)
    back = TORCH[kind].from_pretrained(tmp_path / "ours").eval()
    assert type(transformers.AutoConfig.from_pretrained(tmp_path / "ours")) is type(theirs.config)
    assert torch.equal(torch_forward(back, inputs), logits)
    again, same = load_pretrained(tmp_path / "ours")
    assert again == model
    assert_same(same, params)


@pytest.mark.parametrize("kind", TORCH)
def test_a_head_that_differs_is_untied_as_the_reference_does(kind, tmp_path):
    """A config.json that says "tied" beside a file with two different tensors."""
    untied(kind).save_pretrained(tmp_path)
    entries = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**entries, "tie_word_embeddings": True}))
    if kind == "roberta":  # One bias, under the name that a tied model's has.
        tensors = load_file(tmp_path / "model.safetensors")
        tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"].clone()
        save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    theirs = TORCH[kind].from_pretrained(tmp_path).eval()
    model, params = load_pretrained(tmp_path)
    batch = right_padded(theirs)
    inputs = batch if kind == "mt5" else {k: v for k, v in batch.items() if k != "labels"}
    expected = torch_forward(theirs, inputs).detach().numpy()
    ours = make_logits(model)(params, batch)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    assert not model.config.tie_word_embeddings


def test_a_tied_mt5_is_not_scaled(tmp_path):
    theirs = TORCH["mt5"](transformers.MT5Config(**T5_SMALL)).eval()
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    assert "lm_head" not in params
    batch = batch_for(theirs)
    expected = torch_forward(theirs, batch).detach().numpy()
    ours = make_logits(model)(params, batch)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(ValueError, match="an mt5 never scales"):
        dataclasses.replace(model.config, scale_decoder_outputs=True)


def test_untied_heads_start_as_the_references():
    torch.manual_seed(0)
    roberta, gpt2 = (
        (RobertaConfig(**ROBERTA_SMALL, tie_word_embeddings=False), transformers.RobertaConfig),
        (GPT2Config(**GPT2_SMALL, tie_word_embeddings=False), transformers.GPT2Config),
    )
    for model, kind, (config, theirs) in (
        (RobertaForMaskedLM(roberta[0]), "roberta", roberta),
        (GPT2(gpt2[0]), "gpt2", gpt2),
    ):
        own = init_params(model, jax.random.key(0))["lm_head"]
        own = own["decoder"]["kernel"] if kind == "roberta" else own["kernel"]
        same = TORCH[kind](theirs(**dataclasses.asdict(config)))
        spread = float(same.get_parameter(HEAD[kind]).detach().std())
        # Of n normals, a sample deviation is off by 1/√(2n): five of those, for two of them.
        assert abs(np.std(own) - spread) < 5 * spread / own.size**0.5


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_a_models_type_survives(kind, tmp_path):
    """Its tokenizer hangs on it."""
    model = RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL, model_type=kind))
    save_pretrained(tmp_path, model, init_params(model, jax.random.key(0)))
    entries = json.loads((tmp_path / "config.json").read_text())
    cls = transformers.AutoModelForMaskedLM
    assert entries["model_type"] == kind
    assert entries["architectures"] == [type(cls.from_pretrained(tmp_path)).__name__]
    assert load_config(tmp_path) == model.config


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_the_references(name, x64):
    x = np.linspace(-6, 6, 101)
    expected = ACT2FN[name](torch.tensor(x)).numpy()
    # gelu_fast writes √(2/π) with ten digits.
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.asarray(x)), expected, atol=2e-10)


def test_aliases_are_all_that_the_reference_treats_as_equal():
    x = torch.linspace(-12, 12, 101, dtype=torch.float64)
    unlike = ("prelu", "xielu")  # With parameters of their own.
    values = {name: ACT2FN[name](x) for name in ACT2FN if name not in unlike}
    for name in ACTIVATIONS:
        equal = {n for n, v in values.items() if torch.allclose(v, values[name], atol=1e-9, rtol=0)}
        assert equal <= set(ACTIVATIONS), name


@pytest.mark.parametrize(
    ("kind", "entry", "name"),
    [("roberta", "hidden_act", "swish"), ("gpt2", "activation_function", "gelu_pytorch_tanh")],
)
def test_activations_in_a_model(kind, entry, name, tmp_path):
    small, config = {
        "roberta": (ROBERTA_SMALL, transformers.RobertaConfig),
        "gpt2": (GPT2_SMALL, transformers.GPT2Config),
    }[kind]
    theirs = TORCH[kind](config(**{**small, entry: name})).eval()
    theirs.save_pretrained(tmp_path)
    model, params = load_pretrained(tmp_path)
    assert getattr(model.config, entry) == name
    batch = right_padded(theirs)
    del batch["labels"]
    expected = torch_forward(theirs, batch).detach().numpy()
    ours = make_logits(model)(params, batch)
    np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("form", ["gated-gelu", "gated-silu", "gelu", "gated-gelu_new", "swish"])
def test_forms_of_feed_forward_layers(form):
    ours, theirs = T5Config(feed_forward_proj=form), transformers.T5Config(feed_forward_proj=form)
    assert ours.is_gated_act == theirs.is_gated_act
    assert ours.dense_act_fn == theirs.dense_act_fn


def test_entries_left_out_mean_the_references_defaults(tmp_path):
    file = tmp_path / "config.json"
    for kind in ("mt5", "xlm-roberta", "camembert"):
        file.write_text(json.dumps({"model_type": kind}))
        config, theirs = _read_config(file)[1], transformers.AutoConfig.for_model(kind)
        assert config.model_type == kind
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if value is not None and hasattr(theirs, field.name):
                assert value == getattr(theirs, field.name), (kind, field.name)


@pytest.mark.parametrize(
    ("kind", "entries", "message"),
    [
        (
            "t5",
            {"feed_forward_proj": "gated-gelo"},
            "feed_forward_proj is 'gated-gelo', an unknown",
        ),
        ("t5", {"feed_forward_proj": "half-gelu"}, "feed_forward_proj is 'half-gelu'"),
        ("t5", {"dense_act_fn": "silu"}, "dense_act_fn 'silu'; only 'relu' is implemented"),
        ("t5", {"d_model": "512"}, "d_model is '512', not int"),
        ("t5", {"num_layers": 0}, "num_layers is 0, which is not positive"),
        ("t5", {"num_heads": 8.0}, "num_heads is 8.0, not int"),
        ("t5", {"tie_word_embeddings": 1}, "tie_word_embeddings is 1, not bool"),
        ("t5", {"eos_token_id": ["a"]}, r"eos_token_id is \('a',\), not int or tuple"),
        ("roberta", {"hidden_act": "mish"}, "hidden_act is 'mish', an unknown activation; known"),
        ("roberta", {"vocab_size": True}, "vocab_size is True, not int"),
        ("roberta", {"num_attention_heads": 7}, "768 is not a multiple of num_attention_heads 7"),
        ("roberta", {"quantization_config": {"bits": 4}}, "quantization_config .* is implemented"),
        ("gpt2", {"activation_function": 3}, "activation_function is 3, not str"),
        ("gpt2", {"n_head": 0}, "n_head is 0, which is not positive"),
        ("gpt2", {"n_inner": -1}, "n_inner is -1, which is not positive"),
    ],
)
def test_what_is_wrong_in_a_config_is_named_with_its_file(kind, entries, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **entries}))
    with pytest.raises(ValueError, match=rf"config\.json.*{message}") as error:
        load_config(tmp_path)
    assert "\n" not in str(error.value)


def test_another_family_is_refused_before_a_tensor_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    for load in (load_config, load_pretrained):
        with pytest.raises(ValueError, match=r"config\.json has model_type 'roberta'") as error:
            load(tmp_path, expected=T5)
        assert "a RobertaForMaskedLM; a T5 is needed, so one of ['t5', 'mt5']" in str(error.value)
    with pytest.raises(ValueError, match="a T5 or GPT2 is needed"):
        load_config(tmp_path, expected=(T5, GPT2))
    assert load_config(tmp_path, expected=RobertaForMaskedLM) == load_config(tmp_path)
    with pytest.raises(ValueError, match="model_type is 'bert', not 'roberta' or 'xlm-roberta'"):
        RobertaConfig(model_type="bert")
