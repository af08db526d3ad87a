"""Pages of other tables: a study's choices, names that are no HTML, mistakes."""

import dataclasses
import io
import itertools
import re
import stat
from xml.etree import ElementTree

import matplotlib
import matplotlib.figure
import numpy as np
import pandas
import pytest

from sharpjax.report import Figure, Looks, Section, Table, charts, frames, write_page
from tests.report.test_comparison import Tags, state

CHOICES = ["task", "trajectory", "seed", "epoch"]


@pytest.fixture(scope="module")
def study():
    """Two tasks, of which the second has one seed, at two epochs."""
    rows = [
        {"task": task, "trajectory": "sgd", "seed": seed, "epoch": epoch, "algorithm": name}
        | {"sharpness": 1.0 + epoch + seed, "sharpness_se": 0.1, "ratio": 1.0, "slope": -1.0}
        | {"slope_se": 0.1}
        for task, seed in (("mlm", 0), ("mlm", 1), ("translation", 0))
        for epoch, name in itertools.product((1, 2), ("sgd", "adam"))
    ]
    return pandas.DataFrame(rows)


@pytest.fixture(scope="module")
def section(study):
    frame = frames.with_errors(study)
    options = {"x": "epoch", "at": ("task", "trajectory", "seed"), "reference": "published"}
    chart = charts.over_steps("sharpness", Looks(["sgd", "adam"]), "sharpness", "vᵀHv", **options)
    data = {"sharpness": frame, "published": study[study["epoch"] == 1].assign(sharpness=2.5)}
    switches = {"reference": "published values"}
    figure = Figure("ratios", chart, "Ratios", data, scales={"y": "log"}, switches=switches)
    table = Table("claims", study, "Claims", at=("task",), open=True)
    return Section("claims", "Claims", ("A <b>claim</b>.",), (figure,), (table,), "<hr>")


def write(sections, path, study, **options):
    return write_page(
        sections, path, "A study", looks=Looks(["sgd", "adam"]), points=study[CHOICES], **options
    )


def test_choices_are_the_combinations_that_exist(study, section, tmp_path):
    found = state(write([section], tmp_path / "a.html", study).read_text(encoding="utf-8"))
    assert found["choices"] == CHOICES
    assert found["points"] == study[CHOICES].drop_duplicates().to_numpy().tolist()
    assert found["tables"]["claims"]["at"] == ["task"]


def test_charts_of_a_study_are_drawn_for_each_choice(browse, study, section, tmp_path):
    script = """
    (async () => {
      const pause = (ms) => new Promise((done) => setTimeout(done, ms));
      while (!document.documentElement.dataset.ready) await pause(50);
      const dots = () => document.querySelectorAll(".chart .mark-symbol.role-mark path").length;
      const form = document.getElementById("choices");
      const said = [form.elements.seed ? form.elements.seed.options.length : 0, dots()];
      form.elements.task.value = "0";
      form.elements.task.dispatchEvent(new Event("change"));
      await pause(300);
      said.push(form.elements.seed.options.length, dots());
      document.querySelector('[data-switch="reference"]').click();
      await pause(300);
      said.push(dots());
      document.body.dataset.said = said.join(" ");
    })();
    """
    document, complaints = browse(write([section], tmp_path / "a.html", study), script)
    assert not complaints
    assert 'data-said="1 6 2 6 4"' in document


def test_text_is_escaped_and_html_is_not(study, section, tmp_path):
    name = "</script><script>alert(1)</script>"
    frame = pandas.DataFrame({"algorithm": [name], "value": [np.inf]})
    table = Table("odd", frame, f"A {name}", name)
    path = write_page(
        [section, Section("odd", name, (), (), (table,))],
        tmp_path / "a.html",
        name,
        looks=Looks(["sgd", "adam", name]),
        facts=[name],
    )
    text = path.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "A &lt;b&gt;claim&lt;/b&gt;." in text and "<hr>" in text
    found = state(text)
    assert found["labels"][name] == name and found["data"]["odd"]["value"] == ["Infinity"]
    assert sum(tag == "script" for tag, _ in Tags(text).tags) == 3


def test_mistakes(study, section, tmp_path):
    path = tmp_path / "a.html"
    with pytest.raises(ValueError, match="sections must have a name each, got 'claims' twice"):
        write([section, section], path, study)
    other = Section("other", "Other", (), (), (Table("sharpness", study, "Other"),))
    with pytest.raises(ValueError, match="two tables are called 'sharpness'"):
        write([section, other], path, study)
    figure = dataclasses.replace(section.figures[0], scales={"y": "square"})
    with pytest.raises(ValueError, match="scales must be x, y -> log, linear"):
        write([dataclasses.replace(section, figures=(figure,))], path, study)
    assert not path.exists()


def test_a_page_is_replaced_whole_or_not_at_all(study, section, tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    path.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            write([section], path, study)
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]
    write([section], path, study)
    assert [*tmp_path.iterdir()] == [path]
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_labels_that_would_be_alike():
    looks = Looks(["adam", "Adam"])
    assert looks.labels == {"adam": "Adam (adam)", "Adam": "Adam (Adam)"}


def test_a_static_figure_alone_is_compact_and_always_shown(section, tmp_path):
    figure = matplotlib.figure.Figure()
    axes = figure.add_subplot(title="a < b")
    axes.plot([0, 1, 2], [1.23456789, 2, 3], "o-", label="line")
    axes.legend()
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg")
    alone = Section(
        "static", "Static", figures=(Figure("own", None, "Own", static=text.getvalue()),)
    )
    path = write_page([alone], tmp_path / "page.html", "Title", looks=Looks(["sgd"]))
    page = path.read_text(encoding="utf-8")
    drawn = re.search(r'<div class="static">(<svg.*?</svg>)', page, re.S)[1]
    assert len(drawn) < 0.7 * len(text.getvalue())
    words = [one.text for one in ElementTree.fromstring(drawn).iter() if one.tag.endswith("text")]
    assert {"a < b", "line", "0.00"} <= {*words}
    assert "own" not in state(page)["figures"]


def test_a_figure_of_nothing_and_a_start_that_is_no_point(study, section, tmp_path):
    nothing = Section("none", "None", figures=(Figure("none", None, "None"),))
    with pytest.raises(ValueError, match="'none' has neither a chart nor a static figure"):
        write_page([nothing], tmp_path / "page.html", "Title", looks=Looks(["sgd"]))
    with pytest.raises(ValueError, match="start must be a row of points"):
        options = {"points": study[CHOICES], "start": ("mlm", "sgd", 7, 1)}
        write_page([section], tmp_path / "page.html", "Title", looks=Looks(["sgd"]), **options)
