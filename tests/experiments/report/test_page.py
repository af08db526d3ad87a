"""The report says what the records say, of a whole run and of half of one."""

import dataclasses
import html.parser
import json

import pytest
from rich.console import Console

from experiments import paper, records
from experiments.report import claims, facts, page
from experiments.report.recorded import Run
from experiments.rows import TABLES, Convergence, Sharpness
from tests.experiments.report.test_claims import synthetic_rows

COLUMN = ("mlm", "sgd")
CONFIG = {
    "preset": "small",
    "epochs": 20,
    "measured_epochs": [2],
    "measured_batches": 2,
    "clip_fraction": 0.05,
    "mlm": {"corpus": "/home/someone/data/reviews.parquet", "tokenizer": "stanfordnlp/imdb"},
}
PROVENANCE = {
    "sharpjax": "0.1.0",
    "commit": "abc1234",
    "versions": {"jax": "0.8.1"},
    "device": "cpu",
    "precision": "float32, matmul highest",
    "tasks": {
        "mlm": {
            "corpus": "../data/reviews.parquet",
            "checksum": "5e" * 32,
            "examples": 2560,
            "model": "RoBERTa <tiny>",
            "parameters": 1234567,
            "start": "warmed up for 300 steps",
            "start_loss": 4.6,
        }
    },
    "wall_seconds": {"warm-up": 95.0, "sharpness": 4000.0},
}


@pytest.fixture(scope="module")
def rows():
    return list(synthetic_rows(columns=(COLUMN,), epochs=(2,), batches=2))


def write(directory, rows, config=CONFIG, provenance=PROVENANCE):
    records.append(directory, rows)
    records.write_json(directory / "config.json", config)
    records.write_json(directory / "provenance.json", provenance)
    return page.write_report(Run(directory)).read_text(encoding="utf-8")


class Checker(html.parser.HTMLParser):
    """Fails on tags that do not nest; collects the addresses that the page would load."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.open, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_whole_run(rows, tmp_path):
    page = write(tmp_path, rows)
    assert "7 of 7 orderings of sharpness held" in page
    for said in (
        "Table 4: Masked language modelling, SGD trajectory",
        "reviews.parquet",
        "5e" * 32,
        "warmed up for 300 steps, at loss 4.60",
        "1,234,567 parameters",
        "RoBERTa &lt;tiny&gt;",
        "abc1234",
        "jax 0.8.1",
        "1 min 35 s",
        "1 h 6 min",
        "3.0×10⁻⁴",  # The float64 error.
        "largest 5 %",
        "Learning rates (Table 2)",
        "complete: 2 measured batches and 7 convergence runs",
    ):
        assert said in page, said
    assert "/home" not in page and "../" not in page and str(tmp_path) not in page
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert all(a.startswith("#") for a in checker.addresses)
    stored = json.loads((tmp_path / "claims.json").read_text())
    assert stored == claims.to_json(claims.evaluate(Run(tmp_path).rows))
    assert (tmp_path / "figures" / "sharpness_ratios.png").exists()


def test_every_machine_of_a_run_is_told(rows, tmp_path):
    made = {"versions": {"jax": "0.8.1"}, "precision": "float32, matmul highest"}
    gpu = made | {"device": "a GPU"}
    cpu = made | {"device": "two cores", "versions": {"jax": "0.9.0"}}
    write(tmp_path, rows, provenance=PROVENANCE | cpu | {"environments": [gpu, cpu]})
    told = dict(facts.facts(Run(tmp_path)))
    assert told["Device"] == "a GPU; two cores"
    assert told["Versions"] == "sharpjax 0.1.0, jax 0.8.1; sharpjax 0.1.0, jax 0.9.0"
    assert told["Precision"] == "float32, matmul highest"
    runs = [("all", Run(tmp_path))]
    assert "a GPU; two cores" in facts.cost_table("", runs).caption
    assert facts.machine_table(runs).rows == [
        ("all", "a GPU; two cores", "1 h 8 min", "not recorded")
    ]


def test_the_same_records_make_the_same_page(rows, tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, rows)
    made = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")}
    assert len({path for path in made if path.suffix in (".png", ".svg")}) == 2 * 4
    for path in made:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_what_did_not_hold_is_said(rows, tmp_path):
    broken = [
        dataclasses.replace(r, ratio=-0.5)
        if isinstance(r, Sharpness) and r.algorithm == "sgd" else r
        for r in rows
        if isinstance(r, Sharpness)
    ]  # fmt: skip
    page = write(tmp_path, broken)
    assert "4 of 7 orderings of sharpness held (57 %)" in page
    assert "✗ not held" in page and "✓ held" in page
    assert "SGD: negative at 2 of 2 batches" in page


@pytest.mark.parametrize("table", TABLES)
def test_any_one_table_is_enough(rows, tmp_path, table):
    only = [r for r in rows if type(r) is table]
    records.append(tmp_path, only)
    console = Console(width=80, quiet=True)
    text = page.write_report(Run(tmp_path), console).read_text(encoding="utf-8")
    assert text.endswith("</html>")


def test_run_in_progress(rows, tmp_path):
    part = [
        r for r in rows
        if (isinstance(r, Sharpness) and r.batch == 1)
        or (isinstance(r, Convergence) and r.algorithm in ("sgd", "adam"))
    ]  # fmt: skip
    page = write(tmp_path, part)
    assert "incomplete: Masked language modelling, SGD trajectory, 1 of 2 batches measured" in page
    assert "2 of 7 convergence runs" in page
    assert "no data" in page


def test_no_records_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"no records") as error:
        Run(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_terminal_tables(rows, tmp_path):
    records.append(tmp_path, [r for r in rows if isinstance(r, Sharpness)])
    console = Console(width=100)
    with console.capture() as captured:
        page.write_report(Run(tmp_path), console)
    text = captured.get()
    assert "Table 4" in text and "1 / 1" in text and "7 of 7 orderings" in text
    assert all(label.split(",")[0] in text for label in paper.ALGORITHMS.values())
