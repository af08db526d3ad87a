"""The study's page in a real browser without a network, of the committed records."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import paper, records
from experiments.explanation_rows import FrequencyPart
from experiments.report import anatomy_figures, figures, interactive, page
from experiments.report.figure_files import Drawn
from experiments.report.recorded import Run
from experiments.report.tables import ratio_table
from experiments.rows import Search, Sharpness
from tests.experiments.report.test_claims import synthetic_rows

STUDY = Path(__file__).parents[3] / "results" / "small"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M 0 0"/></svg>'
FIGURES = {"ratio", "sharpness", "landscape", "histogram", "convergence"}


@pytest.fixture
def undrawn(monkeypatch):
    """Static figures that are drawn in no time: the real ones of a study take half a minute."""

    def write(directory, name, title, caption, draw):
        svg = Path(directory) / f"{name}.svg"
        svg.write_text(SVG)
        return Drawn(name, title, caption, svg, Path(directory) / "figures" / f"{name}.png")

    monkeypatch.setattr(figures, "write", write)
    monkeypatch.setattr(anatomy_figures, "write", write)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    for path in (*STUDY.glob("*.csv"), STUDY / "config.json", STUDY / "provenance.json"):
        shutil.copy(path, folder)
    with pytest.MonkeyPatch.context() as patch:
        undrawn.__wrapped__(patch)
        return page.write_report(Run(folder))


def means(run, column, epoch, seeds):
    """Algorithm -> mean ratio over the batches of some seeds."""
    found = {}
    for r in run.of(column):
        if r.epoch == epoch and r.seed in seeds:
            found.setdefault(r.algorithm, []).append(r.ratio)
    return {name: np.mean(values) for name, values in found.items()}


def test_choices_legend_and_numbers(study, probe_page):
    found, complaints = probe_page(
        study,
        """
        const figures = () => [...document.querySelectorAll("figure[data-figure]")];
        found.figures = Object.fromEntries(figures().map((figure) => [figure.dataset.figure,
          figure.querySelectorAll(".chart svg .role-mark path").length]));
        found.requests = performance.getEntriesByType("resource").length;
        found.choices = [...document.querySelectorAll("#choices select")].map((one) => one.name);
        found.lines = [marks("landscape", "line"), marks("ratio", "line")];
        await clickLegend("ratio", "Adam");
        found.without = [marks("landscape", "line"), marks("ratio", "line")];
        found.algorithms = [...new Set(cells("directions", "algorithm"))];
        document.querySelector('[data-label="Adam"]').click();
        await choose("task", "Masked language modelling");
        await choose("trajectory", "Adam");
        await choose("epoch", "5");
        await choose("seed", "1");
        found.sharpness = cells("directions", "sharpness");
        const path = () => [...document.querySelectorAll(
          '[data-figure="ratio"] .mark-line path')].map((one) => one.getAttribute("d")).join();
        const pooled = path();
        const hollow = marks("ratio", "symbol");
        document.querySelector('[data-switch="reference"]').click();
        document.querySelector('[data-switch="pooled"]').click();
        await pause(300);
        found.published = hollow - marks("ratio", "symbol");
        found.moved = path() !== pooled;
        document.querySelector("details.claim").open = true;
        found.claim = document.querySelector("details.claim td").textContent;
        found.over = document.documentElement.scrollWidth - window.innerWidth;
        """,
    )
    assert not complaints
    assert found["requests"] == 0 and found["over"] <= 0
    assert {*found["figures"]} >= FIGURES
    assert all(count > 0 for count in found["figures"].values()), found["figures"]
    assert found["choices"] == ["task", "trajectory", "epoch", "seed"]
    assert found["lines"] == [7, 7] and found["without"] == [6, 6]
    assert "adam" not in found["algorithms"] and len(found["algorithms"]) == 6
    rows = [
        r
        for r in Run(STUDY)[Sharpness]
        if (r.task, r.trajectory, r.epoch, r.seed) == ("mlm", "adam", 5, 1)
    ]
    assert len(rows) == 35
    assert sorted(map(float, found["sharpness"])) == pytest.approx(
        sorted(r.sharpness for r in rows), rel=1e-3
    )
    # Of the seven algorithms at four epochs, the paper's beside ours.
    assert found["published"] == 28 and found["moved"] and found["claim"] == "✓ held"


def test_downloads_and_phone_width(study, probe_page):
    found, complaints = probe_page(
        study,
        """
        Object.assign(found, await downloads(
          '[data-csv="sharpness_1"]', '[data-table="landscape"]', "figure[data-static]",
          '[data-figure="ratio"]'));
        found.over = document.documentElement.scrollWidth - window.innerWidth;
        """,
        width=500,
    )
    assert not complaints and found["over"] <= 0
    words, losses, static, chart = found["texts"]
    table = ratio_table(Run(STUDY), ("translation", "sgd"))
    lines = words.strip().split("\r\n")
    assert lines[0].split(",") == [*table.header] and len(lines) == 1 + len(table.rows)
    assert lines[1].split(",") == [*table.rows[0]]
    assert (
        losses.startswith("task,trajectory,epoch,seed,algorithm,distance,loss")
        and losses.count("\r\n") > 3000
    )
    assert static.startswith("<svg") and chart.startswith("<svg") and "Adafactor" in chart
    assert found["names"][:2] == ["sharpness_1.csv", "landscape.csv"]


def test_without_javascript_there_are_all_tables_and_drawings(study):
    text = study.read_text(encoding="utf-8")
    assert text.count("<noscript><h4>") == 1 + 16 + 4 + 2
    assert text.count("data-static=") == 16
    assert text.count('<details class="claim">') == 15
    for column in paper.TABLE:
        for row in ratio_table(Run(STUDY), column).rows:
            assert all(f">{cell}<" in text for cell in row)


def test_means_over_epochs_are_those_of_the_claims(study):
    run = Run(STUDY)
    column, epoch = ("mlm", "adam"), 10
    table = interactive.of_run(run, interactive.looks_of(run))["sharpness"].figures[0]
    over = table.data["over_epochs"]
    over = over[(over["task"] == "mlm") & (over["trajectory"] == "adam") & (over["epoch"] == epoch)]
    for seed, seeds in ((math.nan, (0, 1)), (0, (0,)), (1, (1,))):
        mine = over[over["seed"].isna() if math.isnan(seed) else over["seed"] == seed]
        got = dict(zip(mine["algorithm"], mine["ratio"], strict=True))
        assert got == pytest.approx(means(run, column, epoch, seeds))
        assert (mine["ratio_low"] <= mine["ratio"]).all()


def test_ends_of_recorded_losses():
    distance = np.array([0.0, 4.0, 1.0, 2.0])
    ends = interactive._ends(distance, np.array([1.0, 3.0, 0.5, 0.0]))
    assert ends == pytest.approx((2.0, 1.0, 2 + 2 / 3))
    assert interactive._ends(distance, np.array([1.0, 4.0, 2.0, 3.0])) == (0.0, 0.0, 0.0)
    best, fall, critical = interactive._ends(distance, np.array([1.0, 0.0, 0.8, 0.5]))
    assert (best, fall) == (4.0, 1.0) and math.isnan(critical)


def test_what_the_search_found_is_taken_from_its_records(tmp_path):
    rows = list(synthetic_rows(columns=(("mlm", "sgd"),), epochs=(2,), batches=1))
    records.append(tmp_path, rows)
    run = Run(tmp_path)
    charts = interactive.of_run(run, interactive.looks_of(run))["landscape"]
    curves = charts.figures[0].data["landscape"]
    sought = {row.algorithm: row.critical_step for row in run[Search]}
    assert sought
    for name, mine in curves.groupby("algorithm"):
        if math.isfinite(sought[name]) and sought[name] > 0:
            assert mine["distance"].max() == pytest.approx(sought[name])


def test_parts_by_frequency_are_charts_of_their_point(tmp_path, undrawn, probe_page):
    place = ("mlm", "adam", 0, 2, 3)
    parts = [("1", 0.5, 3.0), ("2–10", 0.3, -1.0), ("11–", 0.2, 0.0)]
    records.append(
        tmp_path,
        [
            FrequencyPart(*place, name, i, ranks, tokens, -value, 0.1, value, 0.2)
            for name in ("sgd", "adam")
            for i, (ranks, tokens, value) in enumerate(parts)
        ],
    )
    run = Run(tmp_path)
    place = interactive.name_of(place)
    name = f"sharpness_by_frequency_{place}"
    script = f'found.drawn = [marks("{name}", "line"), marks("{name}", "symbol")];'
    found, complaints = probe_page(page.write_report(run), script)
    assert not complaints and found["drawn"] == [2, 6]
    (table,) = interactive.of_run(run, interactive.looks_of(run))[place].tables
    shares = table.frame[table.frame["algorithm"] == "adam"].sort_values("rank")["sharpness_share"]
    assert [*shares] == [0.75, -0.25, 0.0]
