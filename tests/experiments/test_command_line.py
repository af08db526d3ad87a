"""Every option of every command, with values that it must refuse: one line, exit code 2."""

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
import types
import typing
from pathlib import Path

import jax
import pytest

from experiments import command_line, commands
from experiments.__main__ import main
from experiments.command_line import parse
from experiments.config import TASKS, Config, TaskConfig
from experiments.presets import PRESETS
from sharpjax import models
from tests.experiments import tiny

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
HUGE = str(10**30)
ENDLESS = "9" * 5000  # More digits than Python reads.
# What a command cannot do without.
NEEDED = {
    "reproduce": "--out x",
    "sharpness": "--out x",
    "convergence": "--out x --task mlm",
    "anatomy": "--out x --task mlm",
    "pretrain": "--out x --task mlm",
    "padding": "--out x",
    "scale": "--out x",
    "ablation": "--out x",
    "controls": "--out x",
    "atlas": "--out x",
    "plan": "",
    "report": "x",
    "results": "x",
}
BAD = {
    int: ("", "x", "1.5", "-1", "0", ENDLESS),
    float: ("", "x", "-1", "nan", "inf"),
    str: (),  # Text is looked at when it is used; see below.
    bool: ("", "x", "0", HUGE),  # --dropout and --no-dropout take none.
    Path: ("",),
    typing.Literal: ("", "x", "0", HUGE),
}
# Zero says something here: no warm-up, the first seed, nothing clipped.
ZERO = {"--warmup-steps", "--warmups", "--seed"}
# More than this machine holds, or than the study has. Elsewhere many are only slow.
TOO_LARGE = {
    *("--examples", "--batch-size", "--micro-batch-size", "--measured-epochs"),
    *("--measured-batches", "--test-examples", "--warmup-examples", "--warmup-batch-size"),
    *("--landscape-points", "--epoch", "--batch", "--clip-fraction"),
    *(f"--options.{n}" for n in ("probes", "coordinates", "lanczos-probes", "lanczos-steps")),
    *("--options.fractions", "--options.clipped-fractions"),
    *(
        f"--{task}.{field}"
        for task in ("translation", "mlm")
        for field in (
            *("length", "target-length", "vocab-size", "d-model", "d-ff", "layers", "heads"),
        )
    ),
}
MORE = {  # Values of single options beyond those of their types.
    "--mesh": ("data", "data=0", "data=1,data=2", "model=2", "4,2", f"data={HUGE}"),
    "--distributed": (
        *("here", "here,2,0", "here:80,2", "here:80,2,2", "here:0,2,0", "here:99999,2,0"),
    ),
    "--device-memory": ("0", "inf"),
    "--trajectory": ("", "adamm", "muon"),  # Of Muon there is no rate.
    "--warmup-algorithm": ("", "adamm", "adam_clip_clip"),
    "--trajectory-rates": ("muon", "muon=x", "muon=-1", "adamm=1", "=1"),
    "--algorithms": ("", "adamm", "sgd_clip_clip", "0"),
    "--options.clipped": ("",),
    "--trajectories": ("adamm", "muon"),
    "--own": ("adamm", ""),
    "--arms": ("", "basis", "base,padded"),
    "--options.probes": ("3",),
}  # fmt: skip
for _task in ("translation", "mlm", "causal"):
    MORE |= {f"--{_task}.corpus": ("", " "), f"--{_task}.tokenizer": ("",)}


def options(command):
    """Option -> type of its value, as the command's signature has them."""
    found = {}
    for name, parameter in inspect.signature(commands.COMMANDS[command]).parameters.items():
        kind = parameter.annotation
        if typing.get_origin(kind) is typing.Annotated:
            kind = typing.get_args(kind)[0]
        if name in ("directory", "documents"):
            continue
        prefix = {"config": "", "where": ""}.get(name, f"{name}.")
        found |= fields(kind, prefix) if dataclasses.is_dataclass(kind) else {_word(name): kind}
    return found


def fields(kind, prefix):
    found = {}
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            found |= fields(field.type, f"{prefix}{field.name}.")
        else:
            found[_word(prefix + field.name)] = field.type
    return found


def _word(name):
    return "--" + name.replace("_", "-")


def base(kind):
    """The type of one value: int of `int | None` and of `tuple[int, ...]`."""
    if typing.get_origin(kind) is typing.Annotated:
        return base(typing.get_args(kind)[0])
    if typing.get_origin(kind) is typing.Literal:
        return typing.Literal
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) in (typing.Union, tuple):
        return base(typing.get_args(kind)[0])
    return kind


def refused(words):
    """Whether the words are refused when they are read, before anything is done."""
    try:
        parse(words)
    except ValueError:
        return True
    return False


OPTIONS = {command: options(command) for command in commands.COMMANDS}
FIELDS = fields(Config, "")
EVERY = sorted({option for own in OPTIONS.values() for option in own})


def test_the_table_knows_every_option():
    """A field that is added is in the table, with its type."""
    known = {
        _word(f.name) for f in dataclasses.fields(Config) if not dataclasses.is_dataclass(f.type)
    }
    known |= {_word(f"mlm.{f.name}") for f in dataclasses.fields(TaskConfig)}
    assert known | {"--out", "--mesh", "--epoch", "--options.probes", "--main"} <= set(EVERY)
    assert {base(k) for own in OPTIONS.values() for k in own.values()} <= set(BAD)
    assert TOO_LARGE | ZERO | MORE.keys() <= set(EVERY)
    for command, words in NEEDED.items():
        assert not refused([command, *words.split()]), command


@pytest.mark.parametrize("option", EVERY)
def test_bad_values_are_refused_when_they_are_read(option):
    first = True
    for command, own in OPTIONS.items():
        start = [command, *NEEDED[command].split()]
        if option not in own:  # Misplaced.
            assert refused([*start, option, "1"]), (command, option)
            continue
        if not first and option in FIELDS:
            continue  # The field is the same.
        kind = base(own[option])
        values = [*BAD[kind], *MORE.get(option, ())]
        values = [value for value in values if not (value == "0" and option in ZERO)]
        values += [HUGE] * (option in TOO_LARGE)
        for value in values:
            assert refused([*start, option, value]), (command, option, value)
        if kind is not bool and typing.get_origin(own[option]) is not tuple:
            assert refused([*start, option]), (command, option)  # Its value is missing.
        first = False


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_misplaced_words_are_refused(command):
    needed = NEEDED[command].split()
    assert refused([command, *needed, "--frob", "1"]) and refused(["--seed", "1", command])
    assert refused(["x", command, *needed])
    if command != "results":  # Which takes many documents.
        assert refused([command, *needed, "stray"])
    for missing in range(0, len(needed), 2):
        assert refused([command, *needed[:missing], *needed[missing + 2 :]])


@pytest.mark.parametrize(
    "command", [c for c in commands.COMMANDS if c not in ("report", "results")]
)
def test_the_preset_may_stand_anywhere(command, monkeypatch):
    seen = []
    monkeypatch.setattr(
        command_line,
        "_cli",
        lambda made, name, words: seen.append((made.keywords["config"], words)),
    )
    needed = NEEDED[command].split()
    for words in (
        ["--preset", "small", command, *needed],
        [command, "--preset=small", *needed],
        [command, *needed, "--preset", "small"],
    ):
        parse(words)
    assert len({str(s) for s in seen}) == 1 and seen[0][0].preset == "small"
    assert seen[0][0].examples == PRESETS["small"].examples and seen[0][1] == needed
    for words in (["--preset"], ["--preset", command], ["--preset=x"], ["--preset", "demo"] * 2):
        with pytest.raises(ValueError, match="--preset"):
            parse([command, *needed, *words])


@pytest.mark.parametrize("command", ("report", "results"))
def test_a_command_that_reads_records_takes_no_preset(command):
    with pytest.raises(ValueError, match="takes no --preset"):
        parse(["--preset", "small", command, "x"])


@pytest.fixture
def studies(monkeypatch):
    """What the commands would run: the directory's name, its configuration and its tasks."""
    seen = []

    def study(config, where, names, stages, converging=()):
        return lambda watch: seen.append((where.out.as_posix(), config, names, converging))

    monkeypatch.setattr(commands, "study_command", study)
    return seen


def test_the_ablation_is_a_run_for_each_warm_up(studies):
    parse(["ablation", "--out", "x", "--warmups", "0", "100", "--epochs", "5"])(None)
    assert [(out, c.warmup_steps, c.epochs, names) for out, c, names, _ in studies] == [
        ("x/warmup-0", 0, 5, TASKS),
        ("x/warmup-100", 100, 5, TASKS),
    ]
    with pytest.raises(ValueError, match=r"warmups must be different numbers.*\(7, 7\)"):
        parse(["ablation", "--out", "x", "--warmups", "7", "7"])


def test_the_controls_are_the_papers_rate_and_another_seed(studies):
    parse(["controls", "--out", "x", "--preset", "small", "--seed", "3"])(None)
    assert [(out, c.seed, c.tune, names) for out, c, names, _ in studies] == [
        ("x/sgd_clip-table-2", 3, False, ("mlm",)),
        ("x/another-seed", 4, True, ("translation",)),
        ("x/another-seed", 4, True, ("mlm",)),
    ]
    assert studies[0][1].algorithms == ("sgd_clip",) and len(studies[1][1].algorithms) == 7


def test_the_atlas_is_shared_trajectories_and_ten_on_their_own(studies, monkeypatch):
    reports = []
    monkeypatch.setattr(commands, "report_on", lambda path, watch: reports.append(path.as_posix()))
    parse(["atlas", "--out", "x", "--preset", "small", "--tasks", "mlm", "causal"])(None)
    (out, shared, names, none), (own_out, own, _, converging) = studies
    assert (out, own_out, reports) == ("x", "x/own", ["x"])
    assert names == converging == ("mlm", "causal") and none == ()
    assert len(shared.algorithms) >= 25 and {*own.algorithms} < {*shared.algorithms}
    assert (own.tune, own.tune_horizon, len(own.algorithms)) == (True, "whole", 10)
    studies.clear()
    words = "--follow own --own lion muon --algorithms sgd,lion"
    parse(["atlas", "--out", "x", *words.split()])(None)
    assert [(c.algorithms, out) for out, c, _, _ in studies] == [(("lion", "muon"), "x/own")]
    with pytest.raises(ValueError, match="tasks must be different names, at least one"):
        parse(["atlas", "--out", "x", "--tasks", "mlm", "mlm"])


def test_an_anatomy_looks_through_the_instruments_asked_for():
    with pytest.raises(ValueError, match=r"options.instruments must name at least one, got \(\)"):
        parse(["anatomy", "--out", "x", "--task", "mlm", "--options.instruments"])


def test_any_optimizer_trains_at_its_rate(studies):
    words = "--out x --trajectory muon --trajectory-rates muon=0.02 lion=1e-4"
    parse(["sharpness", *words.split()])(None)
    ((_, config, _, _),) = studies
    assert (config.rate_along("muon"), config.rate_along("lion")) == (0.02, 1e-4)
    assert (config.rate_along("sgd"), config.rate_along("adam")) == (1e-3, 1e-4)
    assert config.measured("muon")[:2] == ("muon", "sgd")


def one_line(words, capsys) -> str:
    """What a refused command says: one line, exit code 2."""
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("error: "), said
    return said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the command must be one of reproduce, .* got nothing"),
        ("--seed 1 reproduce", "the command must be first, one of .* got '--seed'"),
        ("anatomy --out x --task mlm --epoch 0", r"epoch must lie in \[1, 5\], got 0"),
        ("anatomy --out x --task mlm --epoch 99", r"epoch must lie in \[1, 5\], got 99"),
        ("anatomy --out x --task mlm --epoch 1 9", r"epoch must lie in \[1, 5\], got 9"),
        ("anatomy --out x --task mlm --batch 0", r"batch must lie in \[1, 10\], got 0"),
        ("reproduce --out x --mesh data=1,data=2", "mesh names data twice"),
        ("reproduce --out= --seed 1", "a path must not be empty; this directory is ."),
        ("results", "results needs at least one document"),
        ("plan --mesh data=100000", "100000 devices must divide a batch of 128"),
        ("plan --model x", "model must be one of t5-small"),
    ],
)  # fmt: skip
def test_refusals_say_what_is_wrong(words, message, capsys):
    assert re.search(message, one_line(words.split(), capsys))


TEXT = [{"text": f"Review number {i} is short."} for i in range(96)]


@pytest.fixture
def folder(tmp_path):
    """Texts and models that do not fit."""
    (tmp_path / "roberta").mkdir()
    (tmp_path / "broken").mkdir()
    small = models.RobertaConfig(
        vocab_size=320, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8, max_position_embeddings=20,
    )  # fmt: skip
    model = models.RobertaForMaskedLM(small)
    models.save_pretrained(
        tmp_path / "roberta", model, models.init_params(model, jax.random.key(0))
    )
    entries = json.loads((tmp_path / "roberta" / "config.json").read_text())
    (tmp_path / "broken" / "config.json").write_text(json.dumps(entries | {"hidden_size": "x"}))
    tensors = (tmp_path / "roberta" / "model.safetensors").read_bytes()
    (tmp_path / "broken" / "model.safetensors").write_bytes(tensors)
    for name, row, text in (("surrogate", 7, "a \\ud83d b"), ("blank", 70, " ")):
        lines = [json.dumps(value) for value in TEXT]
        lines[row] = f'{{"text": "{text}"}}'
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "few.jsonl").write_text(json.dumps(TEXT[0]) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("task", "words", "message"),
    [
        ("mlm", "--mlm.vocab-size 1", "mlm.vocab_size: these texts need a vocabulary of 261 or"),
        ("translation", "--translation.vocab-size 1", "translation.vocab_size: these texts need"),
        ("mlm", "--mlm.length 1", "mlm.length must be at least 3 with this tokenizer, got 1"),
        ("causal", "--causal.length 1", "causal.length must be at least 3"),
        ("translation", "--translation.length 1", "translation.length must be at least .* got 1"),
        ("translation", "--translation.target-length 1", "target_length must be at least 2"),
        ("translation", "--translation.checkpoint DIR/roberta",
         "roberta holds a RobertaForMaskedLM, the task needs a T5"),
        ("mlm", "--mlm.checkpoint DIR/broken", "broken/config.json"),
        ("mlm", "--mlm.checkpoint DIR/nowhere", "nowhere"),
        ("mlm", "--mlm.tokenizer DIR/nowhere", "nowhere: no tokenizer could be loaded"),
        ("mlm", "--mlm.corpus DIR/surrogate.jsonl", r"surrogate.jsonl: .* in row 7"),
        ("mlm", "--mlm.corpus DIR/blank.jsonl", r"blank.jsonl: .*'text' has no text in row 70"),
        ("mlm", "--mlm.corpus DIR/few.jsonl", "96 rows were asked for, but it has 1"),
        ("mlm", "--examples 2000000 --mlm.d-model 16", "embedded: 2000032 rows were asked for"),
        ("mlm", "--mesh data=4096", "has 4096 devices, but there are"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_leaves_no_trace(task, words, message, folder, capsys):
    """Before any step; the corrected command may take the same directory."""
    out = folder / "run"
    words = words.replace("DIR", str(folder)).split()
    start = ["sharpness", "--task", task, "--out", str(out), *tiny.arguments()]
    said = one_line([*start, *words], capsys)
    assert re.search(message, said), said
    assert not (out / "config.json").exists() and not list(out.glob("*.csv"))


def _python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        check=False,
        timeout=120,
    )


# Ctrl-C arrives when a module is about to be imported, which is where it always came.
INTERRUPTED = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == where:
            os.kill(os.getpid(), signal.SIGINT)
where = sys.argv.pop(1)
sys.meta_path.insert(0, Finder())
runpy.run_module("experiments", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["jax", "tyro", "transformers", "orbax.checkpoint"])
def test_ctrl_c_before_the_first_output_is_one_line(module, tmp_path):
    done = _python(INTERRUPTED, module, "reproduce", "--out", str(tmp_path / "run"))
    assert done.returncode == 130 and done.stdout == b""
    assert done.stderr == b"stopped before anything began.\n"
    assert not (tmp_path / "run").exists()


HELP = """
import sys
from experiments.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code
print(sorted({"transformers", "datasets", "matplotlib", "orbax"} & set(sys.modules)))
"""


def test_help_imports_little():
    done = _python(HELP, "--help")
    assert done.stdout.endswith(b"[]\n") and done.stderr == b"" and b"reproduce" in done.stdout


def _by_path(words, **options):
    command = [sys.executable, str(ROOT / "experiments"), *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def test_it_runs_by_its_path_from_any_directory(tmp_path):
    process = _by_path(["report", "nothing"], cwd=tmp_path)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2 and said.startswith(b"error: nothing") and said.count(b"\n") == 1


def test_a_reader_that_leaves_ends_it_quietly():
    process = _by_path(["--help"])
    process.stdout.close()
    assert process.wait(timeout=120) == 1 and process.stderr.read() == b""


WITHOUT_TORCH = """
import importlib.util, sys
sys.modules["torch"] = None
found = importlib.util.find_spec
importlib.util.find_spec = lambda n, *a: None if n.split(".")[0] == "torch" else found(n, *a)
import experiments.data.tokenization
"""


def test_a_missing_pytorch_is_no_news():
    done = _python(WITHOUT_TORCH)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
