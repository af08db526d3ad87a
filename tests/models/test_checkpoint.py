"""Checkpoints: through PyTorch and back, every format, every way to be wrong."""

import dataclasses
import json

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from sharpjax.models import (
    T5,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    greedy_decode,
    init_params,
    load_pretrained,
    make_logits,
    save_pretrained,
)
from tests.models.reference import (
    CASES,
    ROBERTA_SMALL,
    T5_SMALL,
    batch_for,
    pair,
    reference,
    torch,
    torch_forward,
    transformers,
)

TORCH = {"t5": transformers.T5ForConditionalGeneration, "roberta": transformers.RobertaForMaskedLM}


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_round_trip_through_the_reference(kind, case, tmp_path):
    torch_model, model, params = pair(tmp_path / "theirs", reference(kind, case))
    save_pretrained(tmp_path / "ours", model, params)
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    back = TORCH[kind].from_pretrained(tmp_path / "ours").eval()
    for name, value in torch_model.state_dict().items():
        assert torch.equal(value, back.state_dict()[name]), name
    batch = batch_for(torch_model)
    logits = torch_forward(torch_model, batch)
    assert torch.equal(torch_forward(back, batch), logits)
    again, same = load_pretrained(tmp_path / "ours")
    assert again == model
    assert_same(same, params)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("scaled", [True, False, None])
def test_every_head_of_t5_survives(tied, scaled, tmp_path):
    config = T5Config(**T5_SMALL, tie_word_embeddings=tied, scale_decoder_outputs=scaled)
    model = T5(config)
    params = init_params(model, jax.random.key(1))
    save_pretrained(tmp_path, model, params)
    torch_model = TORCH["t5"].from_pretrained(tmp_path).eval()
    batch = batch_for(torch_model)
    theirs = torch_forward(torch_model, batch).detach().numpy()
    again, same = load_pretrained(tmp_path)
    assert_same(same, params)
    for m in (model, again):
        ours = make_logits(m)(params, batch)
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["t5", "roberta"])
def test_formats(kind, tmp_path):
    """Shards, and `pytorch_model.bin` whole, with tied duplicates, or in shards."""
    torch_model, model, params = pair(tmp_path / "whole", reference(kind, CASES_OF[kind]))
    torch_model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for name in ("bin", "binshards"):
        (tmp_path / name).mkdir()
        torch_model.config.save_pretrained(tmp_path / name)
    tensors = torch_model.state_dict()
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    halves = list(tensors.items())[::2], list(tensors.items())[1::2]
    for i, half in enumerate(halves):
        torch.save(dict(half), tmp_path / "binshards" / f"{i}.bin")
    index = {"weight_map": {k: f"{i}.bin" for i, half in enumerate(halves) for k, _ in half}}
    (tmp_path / "binshards" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    for name in ("shards", "bin", "binshards"):
        again, same = load_pretrained(tmp_path / name)
        assert again == model
        assert_same(same, params)


CASES_OF = {"t5": "relu", "roberta": "gelu"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("binary", [True, False])
def test_other_precisions_become_float32(dtype, binary, tmp_path):
    _, _, params = pair(tmp_path, reference("t5", "relu"))
    file = tmp_path / "model.safetensors"
    tensors = {name: value.to(dtype) for name, value in load_file(file).items()}
    if binary:
        file.unlink()
        torch.save(tensors, tmp_path / "pytorch_model.bin")
    else:
        save_file(tensors, file)
    model, loaded = load_pretrained(tmp_path, dtype=jnp.bfloat16)
    assert model.dtype == jnp.bfloat16
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(params), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, torch.tensor(np.array(b)).to(dtype).float().numpy())


def test_bfloat16_parameters_are_saved_as_such(tmp_path):
    model = T5(T5Config(**T5_SMALL))
    params = jax.tree.map(jnp.bfloat16, init_params(model, jax.random.key(0)))
    save_pretrained(tmp_path, model, params)
    assert TORCH["t5"].from_pretrained(tmp_path).shared.weight.dtype == torch.bfloat16
    _, loaded = load_pretrained(tmp_path)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.float32)), loaded, params
    )


@pytest.mark.parametrize(
    ("kind", "extras"),
    [
        (
            "t5",
            {
                "encoder.embed_tokens.weight": "shared.weight",
                "decoder.embed_tokens.weight": "shared.weight",
                "lm_head.weight": "shared.weight",
                "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": None,
            },
        ),
        (
            "roberta",
            {
                "lm_head.decoder.bias": "lm_head.bias",
                "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
                "roberta.pooler.dense.weight": None,
                "roberta.embeddings.position_ids": None,
            },
        ),
    ],
)
def test_what_hub_files_hold_besides(kind, extras, tmp_path):
    _, model, params = pair(tmp_path, reference(kind, CASES_OF[kind]))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    for extra, name in extras.items():
        tensors[extra] = torch.ones(3) if name is None else tensors[name].clone()
    save_file(tensors, file)
    again, same = load_pretrained(tmp_path)
    assert again == model
    assert_same(same, params)
    # The duplicate may also be the only one.
    duplicate, name = next((e, n) for e, n in extras.items() if n is not None)
    save_file({e: t for e, t in tensors.items() if e != name}, file)
    assert_same(load_pretrained(tmp_path)[1], params)
    # But it may not differ: that is another model.
    tensors[duplicate] += 1
    save_file(tensors, file)
    with pytest.raises(ValueError, match=f"not tied: {duplicate} differs from {name}"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["xlm-roberta", "camembert"])
def test_models_of_the_same_form(kind, tmp_path):
    cls, config = transformers.AutoModelForMaskedLM, transformers.AutoConfig
    config = config.for_model(kind, **ROBERTA_SMALL)
    torch_model, model, params = pair(tmp_path, cls.from_config(config).eval())
    batch = batch_for(torch_model)
    theirs = torch_forward(torch_model, batch).detach().numpy()
    ours = make_logits(model)(params, batch)
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_one_error_lists_everything_wrong(tmp_path):
    pair(tmp_path, reference("t5", "relu"))
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["encoder.final_layer_norm.weight"], tensors["decoder.final_layer_norm.weight"]
    tensors["shared.weight"] = torch.ones(2, 3)
    tensors["decoder.surprise"] = torch.ones(4)
    save_file(tensors, file)
    with pytest.raises(ValueError, match="does not hold a T5") as error:
        load_pretrained(tmp_path)
    for line in (
        r"missing: encoder.final_layer_norm.weight (24,)",
        r"missing: decoder.final_layer_norm.weight (24,)",
        r"wrong shape: shared.weight is (2, 3), not (61, 24)",
        r"unexpected: decoder.surprise (4,)",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "overwritten"])
def test_a_damaged_file_is_named(name, damage, tmp_path):
    torch_model, _, _ = pair(tmp_path, reference("t5", "relu"))
    if name == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
        torch.save(torch_model.state_dict(), tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(
        {"truncated": whole[: len(whole) // 2], "empty": b"", "overwritten": b"\xff" * len(whole)}[
            damage
        ]
    )
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        load_pretrained(tmp_path)


def test_a_pickle_of_code_is_refused(tmp_path):
    torch_model, _, _ = pair(tmp_path, reference("t5", "relu"))
    (tmp_path / "model.safetensors").unlink()
    torch.save(torch_model, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin is damaged, or holds more than"):
        load_pretrained(tmp_path)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither a directory nor .* hub id"):
        load_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_pretrained(tmp_path)
    torch_model = reference("t5", "relu")
    torch_model.save_pretrained(tmp_path, max_shard_size="20KB")
    next(tmp_path.glob("model-00002*")).unlink()
    with pytest.raises(FileNotFoundError, match="lacks model-00002"):
        load_pretrained(tmp_path)
    next(tmp_path.glob("*.index.json")).unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert'; known are"),
        ({"model_type": "roberta", "is_decoder": True}, "is_decoder True; only False"),
        (
            {"model_type": "roberta", "position_embedding_type": "relative_key"},
            "position_embedding_type 'relative_key'",
        ),
    ],
)
def test_other_configurations_are_refused(entries, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path)


def test_entries_left_out_mean_the_references_defaults(tmp_path):
    from sharpjax.models.checkpoint import _read_config

    for ours, theirs in ((T5Config, "t5"), (RobertaConfig, "roberta")):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"model_type": theirs}))
        config = _read_config(file)[1]
        assert type(config) is ours
        reference = transformers.AutoConfig.for_model(theirs)
        for field in dataclasses.fields(config):
            if getattr(config, field.name) is not None and hasattr(reference, field.name):
                value = getattr(reference, field.name)
                assert getattr(config, field.name) == value, field.name


def test_offline_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"hf download sharpjax/no-such-model --local-dir"):
        load_pretrained("sharpjax/no-such-model")


def test_a_directory_never_asks_the_hub(tmp_path, monkeypatch):
    pair(tmp_path, reference("roberta", "gelu"))

    def refuse(*args, **kwargs):
        raise AssertionError("asked the hub")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    load_pretrained(str(tmp_path))


def test_a_hub_id_reads_what_the_hub_has(tmp_path, monkeypatch):
    """The hub's answers, played by a directory: no safetensors there, then the .bin."""
    from huggingface_hub import errors

    torch_model, _, params = pair(tmp_path, reference("roberta", "gelu"))
    (tmp_path / "model.safetensors").unlink()
    torch.save(torch_model.state_dict(), tmp_path / "pytorch_model.bin")

    def download(repo, name):
        assert repo == "someone/model"
        if not (tmp_path / name).exists():
            raise errors.LocalEntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert_same(load_pretrained("someone/model")[1], params)


def test_only_the_models_own_parameters_are_saved(tmp_path):
    model = RobertaForMaskedLM(RobertaConfig(**ROBERTA_SMALL))
    params = init_params(model, jax.random.key(0))
    params["surprise"] = jnp.ones(2)
    params["lm_head"]["bias"] = jnp.ones(2)
    with pytest.raises(ValueError, match="lm_head/bias, surprise"):
        save_pretrained(tmp_path / "out", model, params)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["relu", "gated"])
def test_greedy_decoding_is_the_references(case, tmp_path):
    lengths = set()
    for seed in range(4):
        torch_model, model, params = pair(tmp_path, reference("t5", case, seed=seed))
        batch = batch_for(torch_model, examples=4, seed=seed)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        theirs = torch_model.generate(
            torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            num_beams=1,
            do_sample=False,
            max_new_tokens=12,
        ).numpy()
        ours = np.asarray(greedy_decode(model, params, ids, mask, max_new_tokens=12))
        assert ours.shape == (4, 13)
        lengths.add(theirs.shape[1])
        np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)
        assert (ours[:, theirs.shape[1] :] == model.config.pad_token_id).all()


def test_greedy_decoding_stops_behind_any_end_token():
    model = T5(T5Config(**T5_SMALL, eos_token_id=tuple(range(1, 61))))
    params = init_params(model, jax.random.key(0))
    tokens = np.asarray(greedy_decode(model, params, np.ones((2, 3), int), max_new_tokens=5))
    assert (tokens[:, 2:] == 0).all()
    with pytest.raises(ValueError, match="max_new_tokens"):
        greedy_decode(model, params, np.ones((2, 3), int), max_new_tokens=0)
