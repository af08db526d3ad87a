"""Greedy decoding: the most probable next token, until the end token."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax.models.t5 import T5


def greedy_decode(
    model: T5,
    params: Any,
    input_ids: Any,
    attention_mask: Any = None,
    max_new_tokens: int = 20,
) -> jax.Array:
    """The continuation whose every token is the argmax of the logits so far.

        y₀ = start,  y_t = argmax logits(x, y_{<t})_{t−1},  padding behind an end token

    Equal to transformers' `generate(num_beams=1, do_sample=False)`, which stops early where all
    examples have ended: the rest is padding here. Ties go to the smallest token.

    Args:
        model: A `T5`.
        params: Its parameters.
        input_ids: int `[batch, source]`.
        attention_mask: int `[batch, source]`, 1: attend; None: everything.
        max_new_tokens: Length of the continuation, at least 1.

    Returns:
        int32 `[batch, 1 + max_new_tokens]`, the start token first.

    Raises:
        ValueError: If `max_new_tokens` is not positive.

    Cost: one encoder pass, and a decoder pass over all `max_new_tokens` positions for each token
    made (there is no key-value cache, so quadratic in the length: meant for evaluation of short
    outputs). Compiled once for each shape; the loop ends when every example has.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be positive, not {max_new_tokens}")
    input_ids = jnp.asarray(input_ids)
    if attention_mask is None:
        attention_mask = jnp.ones_like(input_ids)
    return _decode(model, params, input_ids, jnp.asarray(attention_mask), max_new_tokens)


@partial(jax.jit, static_argnames=("model", "max_new_tokens"))
def _decode(model, params, input_ids, attention_mask, max_new_tokens: int) -> jax.Array:
    config, variables = model.config, {"params": params}
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    memory = model.apply(variables, batch, method="encode")
    ends = jnp.asarray(np.atleast_1d(config.eos_token_id), jnp.int32)

    def running(state):
        _, done, t = state
        return (t < max_new_tokens) & ~jnp.all(done)

    def step(state):
        tokens, done, t = state
        # Behind position t all is still padding, and hidden from it by causality.
        decoding = {**batch, "decoder_input_ids": tokens[:, :-1]}
        h = model.apply(variables, decoding, memory, method="decode")
        h = jax.lax.dynamic_slice_in_dim(h, t, 1, axis=1)
        chosen = jnp.argmax(model.apply(variables, h, method="head")[:, 0], axis=-1)
        chosen = jnp.where(done, config.pad_token_id, chosen).astype(jnp.int32)
        done = done | jnp.any(chosen[:, None] == ends[None], axis=-1)
        return tokens.at[:, t + 1].set(chosen), done, t + 1

    examples = input_ids.shape[0]
    tokens = jnp.full((examples, 1 + max_new_tokens), config.pad_token_id, jnp.int32)
    tokens = tokens.at[:, 0].set(config.decoder_start_token_id)
    return jax.lax.while_loop(running, step, (tokens, jnp.zeros(examples, bool), 0))[0]
