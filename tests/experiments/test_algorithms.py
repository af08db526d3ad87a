"""Algorithms by name are the libraries' own; command line, records and report take any of them."""

import dataclasses
import json

import chex
import jax
import optax
import optax.contrib
import orbax.checkpoint as ocp
import pytest

import sharpjax
from experiments import algorithms, config, paper, records
from experiments import anatomy_rows as anatomy
from experiments.__main__ import main
from experiments.algorithms import AlgorithmError
from experiments.report import claims, page
from experiments.report.recorded import Run
from experiments.report.tables import claim_table
from experiments.rows import Sharpness
from experiments.run import convergence, sharpness, training
from experiments.run.training import gradient, mean_loss
from sharpjax.plot.style import COLOURS, Style, family, label
from tests.cases import network
from tests.experiments import tiny
from tests.experiments.report.test_claims import synthetic_rows
from tests.experiments.run import test_anatomy

LOSS, PARAMS, BATCH = network(jax.random.key(0))
CLIP = 0.2


def steps(transformation, count=4, **names):
    """Updates along the optimizer's own trajectory; `names` say what to call the loss."""
    transformation = optax.with_extra_args_support(transformation)
    objective = lambda p: LOSS(p, BATCH)  # noqa: E731

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(objective)(params)
        extra = {"value": value, "grad": grads} | dict.fromkeys(names, objective)
        updates, state = transformation.update(grads, state, params, **extra)
        return updates, optax.apply_updates(params, updates), state

    params, state, made = PARAMS, transformation.init(PARAMS), []
    for _ in range(count):
        updates, params, state = step(params, state)
        made.append(updates)
    return made


@pytest.mark.parametrize("name", paper.ALGORITHMS)
def test_the_seven_are_the_librarys(name):
    ours = steps(algorithms.build(name, CLIP))
    chex.assert_trees_all_equal(ours, steps(sharpjax.paper_algorithms(CLIP)[name]))


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("sign_sgd", lambda: optax.sign_sgd(0.01)),
        ("lion", lambda: optax.lion(0.01)),
        ("muon", lambda: optax.contrib.muon(0.01)),
        ("polyak_sgd", lambda: optax.polyak_sgd(0.01)),
        ("adam_clip", lambda: sharpjax.adam(0.01, clip=CLIP)),
        ("sgd_clip:0.4", lambda: sharpjax.sgd(0.01, clip=0.4)),
        ("lion_clip", lambda: optax.chain(sharpjax.coord_clip(CLIP), optax.lion(0.01))),
        ("sgd_clip_update", lambda: optax.chain(sharpjax.sgd(0.01), sharpjax.coord_clip(CLIP))),
        (
            "lion_clip_clip_update",
            lambda: optax.chain(
                sharpjax.coord_clip(CLIP), optax.lion(0.01), sharpjax.coord_clip(CLIP)
            ),
        ),
    ],
)
def test_a_name_is_its_optimizer(name, made):
    chex.assert_trees_all_equal(steps(algorithms.build(name, CLIP, "0.01")), steps(made()))


@pytest.mark.parametrize(
    ("name", "made", "asks"),
    [
        ("sophia", lambda: optax.contrib.sophia(1.0), "obj_fn"),
        ("lbfgs", lambda: optax.lbfgs(1.0), "value_fn"),
    ],
)
def test_what_a_training_step_has_reaches_the_optimizer(name, made, asks):
    ours = steps(algorithms.build(name, CLIP), value_fn=True)
    chex.assert_trees_all_close(ours, steps(made(), **{asks: True}), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "rate"),
    [("adafactor", "relative"), ("prodigy", "1.0"), ("schedule_free_adamw", "0.0025"),
     ("lion", None), ("adadelta", None)],
)  # fmt: skip
def test_own_rates(name, rate):
    assert algorithms.own_rate(name) == algorithms.own_rate(f"{name}_clip_update") == rate


@pytest.mark.parametrize("key", [None, jax.random.key(1)])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_loss_of_a_step_is_the_one_that_its_gradient_derives(key, micro_batches):
    batch = jax.tree.map(lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), BATCH)
    expected = gradient(LOSS, PARAMS, batch, key)
    ours = jax.value_and_grad(lambda p: mean_loss(LOSS, p, batch, key))(PARAMS)
    chex.assert_trees_all_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lionn", "'lionn' is not an optimizer of sharpjax or optax; did you mean lion.$"),
        ("sofia_clip_update", "'sofia_clip_update' .* did you mean sophia_clip_update.$"),
        ("xyzzy", "'xyzzy' .* known: sgd, normalized_sgd, adam, "),
        ("SGD", "did you mean sgd.$"),
        ("sgd_clip:2", "the fraction of 'sgd_clip:2' must be"),
        (
            "dpsgd",
            "optax.contrib.dpsgd is not .* it takes learning_rate, l2_norm_clip",
        ),
        ("scale_by_rprop", "optax.scale_by_rprop is not an optimizer"),
        ("", "'' is not an optimizer"),
    ],
)
def test_other_names_are_answered_with_the_near_ones(name, message):
    with pytest.raises(AlgorithmError, match=message):
        algorithms.check(name)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_state_with_arrays_of_size_zero_is_kept(tmp_path):
    state = {"empty": jax.numpy.zeros((0, 3)), "count": jax.numpy.int32(4)}
    with training._manager(training.Checkpoints(tmp_path)) as manager:
        manager.save(1, args=ocp.args.StandardSave(training._storable(state)))
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, training._storable(state))
        restored = manager.restore(1, args=ocp.args.StandardRestore(like))
    assert restored["empty"].shape == (1,) and restored["count"] == 4


def test_an_optimizer_that_cannot_work_is_named():
    with pytest.raises(AlgorithmError, match=r"'sophia_clip' cannot be used here: obj_fn must be"):
        steps(algorithms.build("sophia_clip", CLIP))


def test_labels_are_readable_and_in_order():
    names = ["lion_clip", "sgd_clip_update", "adam", "muon_clip_clip_update", "sgd", "sign_sgd"]
    ordered = algorithms.in_order([*names, "adam"])
    assert ordered == ["sgd", "adam", *(n for n in names if n not in ("sgd", "adam"))]
    assert [label(n) for n in ordered] == [
        "SGD",
        "Adam",
        "Lion, clipped",
        "SGD, update clipped",
        "Muon, gradient and update clipped",
        "Sign SGD",
    ]
    assert {n: label(n) for n in paper.ALGORITHMS} == paper.ALGORITHMS
    assert label("sgd_clip:0.1") == "SGD, clipped 10 %"


def test_a_configurations_algorithms():
    assert tiny.config().algorithms == tuple(paper.ALGORITHMS)
    made = tiny.config(algorithms=("lion,muon", "lion", "sgd"))
    assert made.algorithms == ("lion", "muon", "sgd")
    assert made.measured("sgd") == made.algorithms
    assert made.measured("adam") == ("adam", "lion", "muon", "sgd")
    assert tiny.config(algorithms=("lion",)).measured("sgd") == ("sgd", "lion")
    recorded = {k: v for k, v in config.as_json(tiny.config()).items() if k != "algorithms"}
    asked = json.loads(json.dumps(config.as_json(tiny.config())))
    assert config.differences(config.completed(recorded), asked) == []


def test_rates_are_the_papers_or_their_own_or_searched():
    names = ("sgd", "prodigy", "lion", "adam_clip", "adafactor_clip_update")
    found = convergence.rates(tiny.config(algorithms=names, tune=True), "translation")
    assert list(found.values()) == ["0.001", "1.0", convergence.BASE, "0.002", "relative"]
    with pytest.raises(AlgorithmError, match="no learning rate for lion, adam_clip: --tune"):
        convergence.rates(tiny.config(algorithms=names), "translation")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sharpness --task mlm --trajectory sgd --algorithms sgd,lionn", "did you mean lion"),
        ("anatomy --task mlm --algorithms sgd lionn", "did you mean lion"),
        ("convergence --task mlm --algorithms lion", "--tune searches one"),
        ("reproduce --algorithms sgd,muon", "--tune searches one"),
        ("reproduce --algorithms ,", "algorithms must name at least one"),
    ],
)
def test_a_bad_name_is_one_line_and_exit_code_2(words, message, tmp_path, capsys):
    assert main([*words.split(), "--out", str(tmp_path / "run")]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ") and message in said
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_study_of_other_algorithms_from_the_command_line_to_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(sharpness, "_precision_rows", lambda *_: [])  # A third of the time.
    arguments = tiny.arguments(warmup_steps=0, epochs=1, measured_epochs=(1,), measured_batches=1)
    arguments += ["--algorithms", "sgd,lion,muon,sgd_clip_update", "--out", str(tmp_path)]
    arguments += ["--task", "mlm", "--trajectory", "sgd"]
    try:
        assert main(["sharpness", *arguments]) == 0
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    rows = {r.algorithm: r for r in records.read(tmp_path, Sharpness)}
    assert rows.keys() == {"sgd", "lion", "muon", "sgd_clip_update"}
    assert abs(rows["sgd"].ratio) == 1 and rows["sgd_clip_update"].ratio != rows["sgd"].ratio
    assert rows["sgd_clip_update"].top_share < rows["sgd"].top_share
    recorded = json.loads((tmp_path / "config.json").read_text())["algorithms"]
    assert recorded == ["sgd", "lion", "muon", "sgd_clip_update"]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for said in ("Muon", "SGD, update clipped", "not measured", "None of the paper’s orderings"):
        assert said in page
    for said in ("✗", "no data", "Adafactor, clipped</th>", "seven optimizers"):
        assert said not in page


RENAMED = {"adafactor": "lion", "adafactor_clip": "lion_clip", "normalized_sgd": "sgd_clip_update"}


def renamed(rows):
    """The same rows with three of the algorithms called otherwise."""
    return [
        dataclasses.replace(r, algorithm=RENAMED.get(r.algorithm, r.algorithm))
        if hasattr(r, "algorithm")
        else r
        for r in rows
    ]


def test_claims_of_absent_algorithms_are_not_measured_and_the_others_stay(tmp_path):
    rows = list(synthetic_rows(columns=(("mlm", "sgd"),), epochs=(2,), batches=2))
    names = [RENAMED.get(n, n) for n in paper.ALGORITHMS]
    records.append(tmp_path, renamed(rows))
    records.write_json(tmp_path / "config.json", {"algorithms": names})
    text = page.write_report(Run(tmp_path)).read_text(encoding="utf-8")
    before, found = claims.evaluate(rows), claims.evaluate(renamed(rows))
    for old, new, row in zip(before, found, claim_table(Run(tmp_path)).rows, strict=True):
        if claims.compared(new) & RENAMED.keys():
            assert (new.total, row[1]) == (0, "not measured")
        else:
            assert new == old and row[1] == "held"
    assert "3 of 3 orderings of sharpness held, with 3 of seven tested in each of 1" in text
    assert "7 convergence runs" in text and "Lion, clipped" in text


def test_other_algorithms_have_colours_of_their_own_and_what_is_clipped_shows():
    names = [*paper.ALGORITHMS, "lion", "lion_clip", "muon", "sophia_clip_update", "span"]
    look = Style(names)
    assert look.colour("lion") == look.colour("lion_clip") != look.colour("muon")
    families = {family(n) for n in names}
    assert len({look.colour(n) for n in families}) == len(families)
    assert {n: look.colour(n) for n in COLOURS} == COLOURS
    lines = [look.line(n)["linestyle"] for n in ("lion", "lion_clip", "sophia_clip_update")]
    assert len(set(lines)) == 3 and lines[0] == "-"


def test_the_anatomy_of_other_algorithms_is_drawn(tmp_path):
    rows = renamed(r for r in test_anatomy.synthetic() if hasattr(r, "algorithm"))
    records.append(tmp_path, [r for r in rows if type(r) in (anatomy.Decrease, anatomy.Parts)])
    text = page.write_report(Run(tmp_path)).read_text(encoding="utf-8")
    assert "Lion, clipped" in text and "best step in the span" in text
    assert "span of all directions" in text
