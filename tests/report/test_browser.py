"""The page in a real browser, without a network: charts are drawn and follow one choice."""

import pytest

from tests.report.test_comparison import FIGURES


@pytest.fixture
def probe(probe_page, page):
    return lambda script, **options: probe_page(page, script, **options)


def test_every_chart_is_drawn_and_nothing_complains(probe):
    found, complaints = probe(
        """
        for (const figure of document.querySelectorAll("figure[data-figure]")) {
          found[figure.dataset.figure] = figure.querySelectorAll(
            ".chart svg .role-mark path").length;
        }
        found.requests = performance.getEntriesByType("resource").length;
        """
    )
    assert not complaints
    assert found.pop("requests") == 0
    assert set(found) == FIGURES
    assert all(count >= 1 for count in found.values()), found


def test_a_click_on_a_legend_hides_a_curve_everywhere(probe):
    found, complaints = probe(
        """
        const names = () => cells("directions", "algorithm");
        found.before = [marks("landscape", "line"), marks("sharpness", "line"), names()];
        await clickLegend("landscape", "Adam");
        found.after = [marks("landscape", "line"), marks("sharpness", "line"), names()];
        found.pressed = document.querySelector('[data-label="Adam"]').getAttribute("aria-pressed");
        document.querySelector('[data-label="Adam"]').click();
        await pause(300);
        found.again = [marks("landscape", "line"), marks("sharpness", "line"), names()];
        """
    )
    assert not complaints
    assert found["before"] == [4, 4, ["sgd", "adam", "sgd_clip", "lion"]]
    assert found["after"] == [3, 3, ["sgd", "sgd_clip", "lion"]]
    assert found["pressed"] == "false"
    assert found["again"] == found["before"]


def test_another_step_and_axis(probe, comparison):
    found, complaints = probe(
        """
        const select = document.querySelector('select[name="step"]');
        found.steps = [...select.options].map((option) => option.textContent);
        const line = () => document.querySelector(
          '[data-figure="landscape"] .mark-line path').getAttribute("d");
        const first = line();
        select.value = "0";
        select.dispatchEvent(new Event("change"));
        await pause(300);
        found.sharpness = cells("directions", "sharpness");
        found.moved = line() !== first;
        const linear = line();
        const axis = document.querySelector('[data-figure="landscape"] [data-axis="x"]');
        axis.click();
        await pause(500);
        found.axis = axis.textContent;
        found.stretched = line() !== linear;
        """
    )
    assert not complaints
    table = comparison.to_pandas()
    assert found["steps"] == ["10", "20"]
    expected = table[table["step"] == 10]["sharpness"]
    assert [float(text) for text in found["sharpness"]] == pytest.approx(list(expected), rel=1e-3)
    assert found["moved"] and found["axis"] == "x: linear" and found["stretched"]


def test_downloads(probe, comparison):
    found, complaints = probe(
        """
        Object.assign(
          found, await downloads('[data-table="directions"]', '[data-figure="atlas"]'));
        """
    )
    assert not complaints
    assert found["names"] == ["directions.csv", "atlas.svg"]
    rows = found["texts"][0].split("\r\n")
    frame = comparison.to_pandas()
    assert rows[0].split(",") == [*frame.columns] and len(rows) == len(frame) + 2
    assert found["texts"][1].startswith("<svg") and "Adam" in found["texts"][1]
    assert 'fill="#ffffff"' in found["texts"][1]  # Text has a background that it can be read on.


def test_phone_width_has_no_sideways_scrolling(probe):
    found, complaints = probe(
        "found.over = document.documentElement.scrollWidth - window.innerWidth;", width=500
    )
    assert not complaints
    assert found["over"] <= 0
