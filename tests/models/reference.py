"""The reference: transformers' PyTorch models, random and small, nothing at a default."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

with warnings.catch_warnings():  # What importing them warns about is not ours.
    warnings.simplefilter("ignore")
    import torch
    import transformers

from sharpjax.models import load_pretrained
from sharpjax.models.checkpoint import FAMILIES, _reference_name

torch.set_num_threads(2)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

T5_SMALL = {"vocab_size": 61, "d_model": 24, "d_kv": 5, "d_ff": 40, "num_layers": 2, "num_heads": 3}
T5_CASES = {
    "relu": {},
    "gated": {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_decoder_layers": 1,
        "relative_attention_num_buckets": 12,
        "relative_attention_max_distance": 20,
        "layer_norm_epsilon": 1e-3,
        "pad_token_id": 2,
        "decoder_start_token_id": 2,
    },
}
ROBERTA_SMALL = {
    "vocab_size": 61,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 50,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
ROBERTA_CASES = {
    "gelu": {},
    "tanh": {
        "hidden_act": "gelu_new",
        "type_vocab_size": 2,
        "pad_token_id": 3,
        "layer_norm_eps": 1e-3,
        "vocab_size": 64,
    },
}
CASES = [("t5", c) for c in T5_CASES] + [("roberta", c) for c in ROBERTA_CASES]


def reference(kind, case=None, *, seed=0, perturbed=True, **config):
    """A random PyTorch model in evaluation mode, norms and biases random too if `perturbed`."""
    torch.manual_seed(seed)
    if kind == "t5":
        config = {"decoder_start_token_id": 0, **config}
        if case is not None:
            config = {**T5_SMALL, **config, **T5_CASES[case]}
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**config))
    else:
        if case is not None:
            config = {**ROBERTA_SMALL, **config, **ROBERTA_CASES[case]}
        model = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**config))
    if not perturbed:
        return model.eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.add_(0.2 * torch.randn_like(p))
            elif kind == "roberta" and case is not None:
                p.mul_(5)  # 0.02 in 24 dimensions would leave attention uniform.
            if kind == "t5" and case == "gated" and name == "shared.weight":
                model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn_like(p))
    return model.eval()


def pair(path, torch_model):
    """The reference, and what is loaded of what it saves."""
    torch_model.save_pretrained(path)
    return torch_model, *load_pretrained(path)


def batch_for(torch_model, examples=3, length=17, seed=0):
    """Padding left, right and none; some labels −100."""
    rng = np.random.default_rng(seed)
    config = torch_model.config
    ids = rng.integers(4, config.vocab_size, (examples, length))
    mask = np.ones_like(ids)
    if examples > 1:
        mask[0, : length // 3] = 0
        mask[1, length // 2 :] = 0
    ids = np.where(mask == 1, ids, config.pad_token_id)
    outputs = length - 4 if config.is_encoder_decoder else length
    labels = rng.integers(4, config.vocab_size, (examples, outputs))
    labels[rng.random(labels.shape) < 0.4] = -100
    labels[:, -1] = 5
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def torch_loss(logits, labels, reduction="example"):
    logits = logits if logits.dtype == torch.float64 else logits.float()
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    counted = labels != -100
    if reduction == "token":
        return losses.sum() / counted.sum()
    return (losses.sum(1) / counted.sum(1).clamp(min=1)).mean()


def torch_forward(torch_model, batch):
    return torch_model(**{k: torch.tensor(v) for k, v in batch.items()}).logits


def torch_gradients(torch_model, model, batch, reduction="example"):
    """Loss and gradients, under our paths and in our layout."""
    torch_model.zero_grad()
    logits = torch_forward(torch_model, batch)
    loss = torch_loss(logits, torch.tensor(batch["labels"]), reduction)
    loss.backward()
    family = next(f for f in FAMILIES if isinstance(model, f.model))
    named = dict(torch_model.named_parameters())

    def gradient(path):
        grad = named[_reference_name(family, path)].grad.numpy()
        return grad.T if path[-1] == "kernel" else grad

    return logits.detach().numpy(), loss.item(), gradient


def gradient_errors(ours, theirs):
    """Path -> ‖ours − theirs‖ / ‖theirs‖.

    A key's bias shifts all scores of a query alike, so that its gradient is rounding about zero:
    it is compared with that of the query's bias.
    """
    errors = {}
    for path, value in traverse_util.flatten_dict(ours).items():
        scale = (*path[:-2], "q", "bias") if path[-2:] == ("k", "bias") else path
        norm = np.linalg.norm(theirs(scale))
        errors["/".join(path)] = np.linalg.norm(np.asarray(value) - theirs(path)) / norm
    return errors


def to(dtype, params):
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
