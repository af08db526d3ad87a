"""The padding study's report, of rows made up."""

from experiments import records
from experiments.anatomy_rows import Lorenz
from experiments.config import as_json
from experiments.explanation_rows import PaddingGroup, PaddingPart
from experiments.report import padding as report
from experiments.report.table import cell as table_cell
from experiments.rows import Sharpness
from tests.experiments import tiny


def write_arm(folder, kind, length, sharpness):
    name = f"{kind}-{length}"
    at = ("translation", "sgd", 0, 2)
    for batch in (1, 2):
        for i, algorithm in enumerate(("sgd", "sgd_clip", "adam")):
            ratio = 10.0**-i
            numbers = (3.0, -0.5, sharpness * ratio, 0.1, ratio, 1.0, 0.1, 0.1, 0.1, 0.5)
            records.append(folder / name, [Sharpness(*at, batch, algorithm, *numbers)])
    key = (*at, 1, "sgd")
    cells = {("padding’s row", "norms"): 1.0, ("norms", "padding’s row"): 1.0}
    cells |= {("padding’s row", "padding’s row"): 7.0, ("norms", "norms"): 1.0}
    rows = [PaddingGroup(*key, *pair, value, 0.1, 0.5, 8, 0.25) for pair, value in cells.items()]
    rows += [PaddingPart(*key, part, 0.5, -0.2, 0.1, value, 0.1) for part, value in
             (("text", 3.0), ("padding", 9.0))]  # fmt: skip
    rows += [Lorenz(*key, 0.05, 8.0, 0.1, 0.8, 0.9)]
    records.append(folder / name, rows)
    about = {"padding": kind, "source_length": length, "start": "pretrained: /a/b/t5"}
    shares = {"source_padding": 0.25, "target_padding": 0.5 if kind == "counted" else 0.0}
    provenance = {"tasks": {"translation": about | shares}, "wall_seconds": {"all": 61.0}}
    records.write_json(folder / name / "provenance.json", provenance)
    records.write_json(folder / name / "config.json", as_json(tiny.config()))


def test_the_report_has_a_row_a_kind_beside_the_papers(tmp_path):
    assert report.arms(tmp_path) == []
    write_arm(tmp_path, "counted", 32, 60.0)
    write_arm(tmp_path, "masked", 16, 6.0)
    text = report.write_report(tmp_path, report.arms(tmp_path)).read_text().replace("\u00a0", " ")
    assert (tmp_path / "figures" / "padding.png").exists() and "/a/b" not in text
    found = report.arms(tmp_path)
    assert [arm.name for arm in found] == ["masked, 16 tokens", "counted, 32 tokens"]
    assert [arm.visible for arm in found] == [0.0, 0.5]
    table = report.ratio_table(found)
    cell = lambda row, *column: table_cell(table, row, *column)  # noqa: E731
    assert cell("counted, 32 tokens", "SGD’s sharpness") == "60.0 ± 0.0"
    assert cell("counted, 32 tokens", "of the targets that count") == "50.0 %"
    assert cell("the paper, epoch 2", "SGD, clipped") == "0.435"
    groups = report.groups(found[0], "sgd")
    assert groups["padding’s row"].sharpness == 8 and groups["padding’s row"].share == 0.8
    assert "9.00 | 75.0 %" in text and "| 80.0 % |" in text and "1 min 1 s" in text
