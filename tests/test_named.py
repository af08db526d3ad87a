"""Optimizers by name: each is its factory's, everything offered runs, other names are answered."""

import chex
import jax
import jax.numpy as jnp
import optax
import optax.contrib
import pytest

import sharpjax
from sharpjax.named import known, own_rate, parse

PARAMS = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.array([0.5, -2.0, 0.1])}


def loss(params):
    return jnp.sum(jnp.cosh(params["w"])) + jnp.sum(params["b"] ** 4) / 4


def steps(transformation, count=2, **names):
    """Updates along the optimizer's own trajectory, with what a training step has."""
    transformation = optax.with_extra_args_support(transformation)

    @jax.jit
    def run(params):
        state, made = transformation.init(params), []
        for _ in range(count):
            value, grads = jax.value_and_grad(loss)(params)
            extra = {"value": value, "grad": grads, "value_fn": loss} | names
            updates, state = transformation.update(grads, state, params, **extra)
            params = optax.apply_updates(params, updates)
            made.append(updates)
        return made

    return run(PARAMS)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("adam_clip", lambda: sharpjax.adam(0.01, clip=0.2)),
        ("adam_clip:0.5", lambda: sharpjax.adam(0.01, clip=0.5)),
        ("nadamw", lambda: optax.nadamw(0.01)),
        ("muon", lambda: optax.contrib.muon(0.01)),
        ("lion", lambda: optax.lion(0.01)),
        ("lion_saturate:0.3", lambda: sharpjax.lion(0.01, saturate=0.3)),
        ("adagrad_clip", lambda: optax.chain(sharpjax.coord_clip(0.2), optax.adagrad(0.01))),
        ("sgd_clip_update", lambda: optax.chain(sharpjax.sgd(0.01), sharpjax.coord_clip(0.2))),
        (
            "rmsprop_clip_clip_update:0.4",
            lambda: optax.chain(
                sharpjax.coord_clip(0.4), optax.rmsprop(0.01), sharpjax.coord_clip(0.4)
            ),
        ),
    ],
)
def test_a_name_is_its_optimizer(name, made):
    ours = steps(sharpjax.named(name, 0.01, clip_fraction=0.2))
    chex.assert_trees_all_close(ours, steps(made()), rtol=1e-6)


def test_without_a_rate_it_is_the_optimizers_own_or_one():
    for name, made in (
        ("sgd", sharpjax.sgd(1.0)),
        ("adafactor", sharpjax.adafactor()),
        ("prodigy", optax.contrib.prodigy()),
    ):
        chex.assert_trees_all_close(steps(sharpjax.named(name)), steps(made), rtol=1e-6)
    rates = {"adafactor_clip": "relative", "prodigy": 1.0, "schedule_free_adamw": 0.0025}
    assert {n: own_rate(n) for n in [*rates, "nadam"]} == {**rates, "nadam": None}


def test_all_that_optax_offers_by_a_rate_runs():
    assert {"nadam", "galore", "sophia", "lbfgs", "muon", "sign_momentum", "sgd"} < set(known())
    assert not {"scale_by_rprop", "dpsgd", "chain", "paper_algorithms", "coord_clip"} & set(known())
    with pytest.raises(ValueError, match=r"'optimistic_adam' cannot be used here: .* deprecated"):
        sharpjax.named("optimistic_adam")
    for name in set(known()) - {"optimistic_adam"}:
        for updates in steps(sharpjax.named(name, 0.01)):
            chex.assert_trees_all_equal_shapes(updates, PARAMS)
            chex.assert_tree_all_finite(updates)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SGD", "'SGD' is not an optimizer of sharpjax or optax; did you mean sgd.$"),
        ("optax.adam", "did you mean adam.$"),
        ("contrib.muon_clip", "did you mean muon_clip.$"),
        ("lionn", "did you mean lion.$"),
        ("sofia_clip_update:0.1", "did you mean sophia_clip_update:0.1.$"),
        ("xyzzy", "'xyzzy' .* known: sgd, normalized_sgd, adam, adafactor, lion, "),
        (
            "dpsgd",
            "optax.contrib.dpsgd is not .* it takes learning_rate, l2_norm_clip",
        ),
        ("scale_by_rprop", "optax.scale_by_rprop is not an optimizer"),
        ("coord_clip", "'coord_clip' is not an optimizer"),
        ("", "'' is not an optimizer"),
        ("sgd:0.1", "'sgd:0.1' has a fraction but clips nothing; did you mean sgd_clip:0.1"),
        ("sgd_clip:ten", "the fraction must be a number, got 'ten'"),
        ("sgd_clip:1.5", r"the fraction of 'sgd_clip:1.5' must be in \[0.0, 1.0\], got 1.5"),
        ("adam_saturate", "only lion and sign_momentum saturate, not adam"),
    ],
)
def test_other_names_are_answered(name, message):
    with pytest.raises(ValueError, match=message):
        sharpjax.named(name)


def test_parts_of_a_name():
    assert parse("lion_saturate_clip_clip_update:0.1") == ("lion", True, True, True, 0.1)
    assert parse("sgd") == ("sgd", False, False, False, None)


def test_what_cannot_work_is_named():
    with pytest.raises(ValueError, match=r"'sgd' cannot be used here: learning_rate must be"):
        sharpjax.named("sgd", -1.0)
    with pytest.raises(ValueError, match=r"clip_fraction must be .* got 2"):
        sharpjax.named("sgd_clip", clip_fraction=2)
    tx = sharpjax.named("sophia_clip")
    with pytest.raises(ValueError, match=r"'sophia_clip' cannot be used here: obj_fn must be"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
