"""Spectra, shares, noise and parts of sharded parameters, on Auto and Explicit meshes."""

from tests.devices import on_eight_devices

# Eight devices, and a compiler that does not take its time.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"

SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import sharpjax

jax.config.update("jax_numpy_rank_promotion", "raise")
rng = np.random.default_rng(0)
draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
params = {"a": draw(8, 6), "b": draw(6), "c": draw(6, 4)}
updates = {"u": {k: draw(*x.shape) for k, x in params.items()}}
batches = {"x": draw(3, 16, 8), "y": draw(3, 16, 4)}
scales = {k: np.exp(draw(*x.shape)) for k, x in params.items()}
key = jax.random.key(0)


def parts(p, batch):
    hidden = jnp.tanh(batch["x"] @ p["a"] + p["b"][None]) @ p["c"]
    return jnp.mean((hidden - batch["y"]) ** 2, axis=0)


def loss(p, batch):
    return jnp.sum(parts(p, batch))


def measure(params, updates, batches, scales):
    options = {"probes": 1, "steps": 5}
    found = sharpjax.lanczos_spectrum(
        loss, params, batches, key, preconditioner=scales, vectors=2, **options
    )
    return {
        "spectrum": found,
        "share": sharpjax.dominant_share(updates, found),
        "without": sharpjax.without_dominant(updates["u"], found),
        "blocks": sharpjax.block_spectra(loss, params, batches, key, **options),
        "noise": sharpjax.gradient_noise(loss, params, updates, batches),
        "parts": sharpjax.measure_parts(parts, params, updates, batches),
    }


expected = measure(params, updates, batches, scales)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(kind, kind))
    spec = {"a": P("fsdp", None), "b": P(None), "c": P(None, "fsdp")}
    put = lambda tree: {k: jax.device_put(x, NamedSharding(mesh, spec[k])) for k, x in tree.items()}
    data = {k: jax.device_put(x, NamedSharding(mesh, P(None, "data"))) for k, x in batches.items()}
    with jax.set_mesh(mesh):
        # On Explicit meshes a product over a sharded axis must be told its sharding: the model's
        # business. This one is given none.
        if kind == AxisType.Explicit:
            spec = {"a": P(None, None), "b": P(None), "c": P(None, "fsdp")}
        sharded = put(params), {"u": put(updates["u"])}, data, put(scales)
        found = measure(*sharded)
    kept = found["spectrum"].vectors["c"].sharding
    assert kept.is_equivalent_to(NamedSharding(mesh, P(None, None, "fsdp")), 3), kept
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        x, y = np.asarray(x), np.asarray(y)
        if "vectors" in str(path):  # Their sign is chance.
            x, y = np.abs(x), np.abs(y)
        np.testing.assert_allclose(x, y, rtol=2e-2, atol=2e-3, err_msg=f"{kind} {path}")
print("passed")
"""


def test_sharded_parameters_give_the_same_numbers():
    assert on_eight_devices(SHARDED, XLA_FLAGS=FLAGS) == "passed"
