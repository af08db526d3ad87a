"""The page of a comparison: it has everything, and needs nothing else."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from sharpjax.report import write_comparison
from tests.report.conftest import NAMES, compared

FIGURES = {
    *("sharpness", "ratio", "step_ratio", "landscape", "atlas", "convergence", "histogram"),
    *("cosine", "overlap"),
}
TABLES = {"directions", "landscape", "convergence", "histogram", "cosines"}


class Tags(HTMLParser):
    """What a page loads and links to, and what it has."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def values(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def state(text):
    found = re.search(r'<script type="application/json" id="state">(.*?)</script>', text, re.S)
    return json.loads(found[1])


def test_page_is_one_small_file_that_loads_nothing(page):
    text = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 3e6
    tags = Tags(text)
    assert not tags.values("src") and "link" not in {tag for tag, _ in tags.tags}
    links = [*tags.values("href"), *tags.values("xlink:href")]
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "default-src 'none'" in text  # Nor may the programs inside.
    assert not re.search(r"@import|url\((?!#)", text.split("</style>")[0])
    assert text.count("window.vegaEmbed=") == 1
    assert [*page.parent.iterdir()] == [page]


def test_page_has_all_tables_figures_and_entries(page, comparison):
    text = page.read_text(encoding="utf-8")
    tags = Tags(text)
    assert set(tags.values("data-figure")) == FIGURES == set(state(text)["figures"])
    assert set(tags.values("data-table")) == TABLES
    sections = [attributes["id"] for tag, attributes in tags.tags if tag == "section"]
    entries = re.findall(r'<li><a href="#([\w-]+)">', text)
    assert entries == sections
    # Without JavaScript: a static figure each, and the last rows.
    assert len(re.findall(r"<noscript><svg", text)) == len(FIGURES)
    last = comparison.to_pandas().iloc[-1]
    assert f"<td>{last['sharpness']:.4g}</td>" in text


def test_data_are_those_of_the_tables(page, comparison):
    data = state(page.read_text(encoding="utf-8"))["data"]
    for name in TABLES:
        frame = comparison.to_pandas(name)
        for column in frame.columns:
            found = data[name][column]
            if isinstance(found, dict):
                assert [found["levels"][code] for code in found["codes"]] == [*frame[column]]
            else:
                got = np.array([np.nan if v is None else float(v) for v in found])
                np.testing.assert_allclose(got, frame[column].to_numpy(float), rtol=1e-6)


def test_an_optimizer_has_the_colour_of_the_static_figures(page):
    from sharpjax.plot import Style

    style = Style(NAMES)
    for one in state(page.read_text(encoding="utf-8"))["optimizers"]:
        assert one["colour"] == style.colour(one["name"])


def test_method_of_a_comparison_writes_the_page(comparison, monkeypatch):
    written = lambda *given: given  # noqa: E731
    monkeypatch.setattr("sharpjax.report.write_comparison", written)
    assert comparison.report("page.html") == (comparison, "page.html")


def test_paths_that_cannot_be_written(comparison, tmp_path):
    with pytest.raises(IsADirectoryError, match=f"{tmp_path} is a directory"):
        write_comparison(comparison, tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no directory {tmp_path / 'none'}"):
        write_comparison(comparison, tmp_path / "none" / "page.html")


def test_nothing_measured(comparison, tmp_path):
    with pytest.raises(ValueError, match="nothing was measured"):
        write_comparison(dataclasses.replace(comparison, points=[]), tmp_path / "page.html")


def test_a_long_comparison_stays_small(comparison, tmp_path):
    point = comparison.points[0]
    points = [dataclasses.replace(point, step=step) for step in range(1, 1501)]
    losses = {"adam": np.linspace(2, 1, 20_000)}
    long = dataclasses.replace(comparison, points=points, losses=losses)
    path = write_comparison(long, tmp_path / "page.html")
    assert path.stat().st_size < 3e6
    text = path.read_text(encoding="utf-8")
    data = state(text)["data"]
    assert 600 < len(set(data["directions"]["step"])) <= 625
    assert 1 in data["cosines"]["step"] and 1500 in data["cosines"]["step"]
    assert set(data["cosines"]["step"]) <= set(data["directions"]["step"])
    assert "measured points." in text and len(data["convergence"]["step"]) == 5000
    # Each choice has something to show in each chart.
    assert {step for (step,) in state(text)["points"]} == set(data["cosines"]["step"])


def test_optimizers_on_their_own_trajectories_and_what_was_not_measured(tmp_path):
    found = compared(("sgd", "adam"), follow="own", landscape=False, span=False, precision=True)
    text = write_comparison(found, tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags(text)
    figures = {"sharpness", "step_ratio", "atlas", "convergence", "histogram"}
    assert set(tags.values("data-figure")) == figures
    assert set(tags.values("data-table")) <= TABLES | {"precision", "at_loss"}
    assert "precision" in tags.values("data-table")
    assert state(text)["choices"] == ["step"]
    assert "each on its own trajectory" in text
