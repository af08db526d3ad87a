import gzip
import hashlib
import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from experiments.data.corpora import EMBEDDED_ROWS, Corpus, DataError, load_corpus

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
PAIRS = [{"en": f"The {i}th cat sleeps.", "fr": f"Le {i}e chat dort."} for i in range(12)]
TEXTS = [f"Review number {i}: fine.\nSecond line." for i in range(12)]


def write(path, column, values):
    if path.suffix == ".parquet":
        ids = [str(row) for row in range(len(values))]
        pyarrow.parquet.write_table(pyarrow.table({"id": ids, column: values}), path)
    else:
        lines = [json.dumps({"id": row, column: value}) for row, value in enumerate(values)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=[".parquet", ".jsonl"])
def suffix(request):
    return request.param


def one_line(error) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_translation_file(tmp_path, suffix):
    folder = tmp_path / "books"
    folder.mkdir()
    path = write(folder / f"train{suffix}", "translation", PAIRS)
    corpus = load_corpus(str(path), "translation")
    assert (corpus.name, corpus.kind, len(corpus)) == (f"books/train{suffix}", "translation", 12)
    english, french = corpus.columns
    assert english == tuple(pair["en"] for pair in PAIRS)
    assert french == tuple(pair["fr"] for pair in PAIRS)
    assert load_corpus(str(folder), "translation") == corpus


def test_text_file(tmp_path, suffix):
    corpus = load_corpus(str(write(tmp_path / f"train{suffix}", "text", TEXTS)), "text")
    assert corpus.columns == (tuple(TEXTS),)


def test_rows_are_in_file_order_and_the_rest_follows(tmp_path):
    corpus = load_corpus(str(write(tmp_path / "a.jsonl", "text", TEXTS)), "text")
    study, warm_up = corpus.rows(0, 5), corpus.rows(5, 7)
    assert study.columns[0] + warm_up.columns[0] == corpus.columns[0]
    assert (study.first_row, warm_up.first_row) == (0, 5)
    assert warm_up.rows(1, 2).first_row == 6
    assert load_corpus(str(tmp_path), "text", count=5).columns[0] == study.columns[0]


def test_checksum_is_of_the_rows_whatever_the_format(tmp_path):
    parquet = load_corpus(str(write(tmp_path / "a.parquet", "text", TEXTS)), "text")
    jsonl = load_corpus(str(write(tmp_path / "b.jsonl", "text", TEXTS)), "text")
    assert parquet.checksum == jsonl.checksum
    assert parquet.rows(0, 5).checksum == jsonl.rows(0, 5).checksum != parquet.checksum
    expected = hashlib.sha256(b'text["a"]["b\\n"]').hexdigest()
    assert Corpus("x", "text", (("a", "b\n"),)).checksum == expected


@pytest.mark.parametrize("kind", ["translation", "text"])
def test_embedded(kind):
    corpus = load_corpus("embedded", kind, count=300)
    assert (corpus.name, len(corpus)) == ("embedded", 300)
    assert load_corpus("embedded", kind, count=50).checksum == corpus.rows(0, 50).checksum
    assert load_corpus("embedded", kind, count=300) == corpus


def test_embedded_has_rows_beyond_the_papers():
    assert len(load_corpus("embedded", "translation")) == EMBEDDED_ROWS > 10_240 + 4_096


def test_too_few_rows(tmp_path, suffix):
    path = str(write(tmp_path / f"few{suffix}", "text", TEXTS))
    with pytest.raises(
        DataError, match=rf"few{suffix}: 13 rows were asked for, but it has 12"
    ) as e:
        load_corpus(path, "text", count=13)
    one_line(e)
    with pytest.raises(DataError, match=r"5 rows from row 8 on were asked for, but there are 12"):
        load_corpus(path, "text").rows(8, 5)
    with pytest.raises(ValueError, match="count >= 1"):
        load_corpus(path, "text").rows(0, 0)


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_an_empty_text_matters_only_in_a_used_row(tmp_path, suffix, empty):
    values = [*PAIRS[:7], {"en": "A cat.", "fr": empty}, *PAIRS[8:]]
    corpus = load_corpus(str(write(tmp_path / f"a{suffix}", "translation", values)), "translation")
    assert len(corpus.rows(0, 7)) == 7
    with pytest.raises(DataError, match=r"column 'translation\.fr' has no text in row 7") as error:
        corpus.rows(3, 6).rows(0, 6)
    one_line(error)


def test_missing_columns(tmp_path, suffix):
    path = str(write(tmp_path / f"a{suffix}", "text", TEXTS))
    with pytest.raises(DataError, match="no column 'translation' among id, text") as error:
        load_corpus(path, "translation")
    one_line(error)
    path = str(write(tmp_path / f"b{suffix}", "translation", [{"en": "a", "de": "b"}]))
    with pytest.raises(DataError, match="column 'translation' has no 'fr' in row 0"):
        load_corpus(path, "translation")


def test_truncated_and_unreadable_files(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", "text", TEXTS)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        DataError, match=rf"a{suffix}: unreadable (parquet|JSON) file .*(in row 11)?"
    ) as e:
        load_corpus(str(path), "text")
    one_line(e)
    path.write_bytes(b"\xff\xfe\x00\x01" * 9)
    with pytest.raises(DataError, match="unreadable") as error:
        load_corpus(str(path), "text")
    one_line(error)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"unreadable|no rows"):
        load_corpus(str(path), "text")


def test_a_corrupt_page_inside_a_parquet_file(tmp_path):
    path = write(tmp_path / "a.parquet", "text", [text * 50 for text in TEXTS])
    content = bytearray(path.read_bytes())
    content[4:400] = bytes(396)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: unreadable parquet file"):
        load_corpus(str(path), "text")


def test_rows_that_are_not_objects(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n[1]\n')
    with pytest.raises(DataError, match=r"a\.jsonl: unreadable JSON file"):
        load_corpus(str(path), "text")
    path.write_text('{"text": "a"}\n{"id": 1}\n')
    with pytest.raises(DataError, match="column 'text' has no text in row 1"):
        load_corpus(str(path), "text").rows(0, 2)


def test_json_as_people_have_it(tmp_path):
    """A byte-order mark, blank lines, an array, compression: the same rows in the same order."""
    lines = write(tmp_path / "a.jsonl", "text", TEXTS).read_bytes()
    rows = [json.loads(line) for line in lines.splitlines()]
    contents = {
        "mark.jsonl": b"\xef\xbb\xbf" + lines,
        "blank.jsonl": b"\n\n" + lines.replace(b"\n", b"\n  \n\n"),
        "windows.jsonl": lines.replace(b"\n", b"\r\n"),
        "lines.json": lines,
        "array.json": json.dumps(rows, indent=1).encode(),
        "packed.jsonl.gz": gzip.compress(lines),
        "packed.json.gz": gzip.compress(json.dumps(rows).encode()),
    }
    for name, content in contents.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        corpus = load_corpus(str(path), "text")
        assert corpus.name == f"in/{name}" and corpus.columns == (tuple(TEXTS),), name
        assert load_corpus(str(path), "text", count=5).columns == (tuple(TEXTS[:5]),), name


def test_a_folder_of_several_files(tmp_path, suffix):
    for name, texts in {"part-1": TEXTS[:5], "part-0": TEXTS[5:]}.items():
        write(tmp_path / f"{name}{suffix}", "text", texts)
    (tmp_path / "dataset_info.json").write_text("{}")
    corpus = load_corpus(str(tmp_path), "text")
    assert corpus.columns == ((*TEXTS[5:], *TEXTS[:5]),)  # In the order of their names.
    assert corpus.name == f"{tmp_path.name} (2 files)"
    assert load_corpus(str(tmp_path), "text", count=9).columns[0] == corpus.columns[0][:9]
    # Split by the files' names, the training texts alone are taken.
    write(tmp_path / f"train-00000{suffix}", "text", TEXTS[:3])
    write(tmp_path / f"test-00000{suffix}", "text", TEXTS[3:])
    assert load_corpus(str(tmp_path), "text").columns == (tuple(TEXTS[:3]),)


def test_a_folder_without_training_texts(tmp_path):
    with pytest.raises(DataError, match=r"no text to train on \(none in it\)"):
        load_corpus(str(tmp_path), "text")
    for name in ("test", "validation"):
        write(tmp_path / f"{name}.jsonl", "text", TEXTS)
    with pytest.raises(DataError, match="none of its 2 files is of the train split"):
        load_corpus(str(tmp_path), "text")


def test_a_path_may_hold_any_sign(tmp_path, suffix):
    folder = tmp_path / "C# [1]* ?é"
    folder.mkdir()
    path = write(folder / f"a#b{suffix}", "text", TEXTS)
    for source in (path, folder):
        assert load_corpus(str(source), "text").columns == (tuple(TEXTS),)
    # After the path's own, a "#" still names the column.
    other = write(folder / f"c#d{suffix}", "review", TEXTS)
    assert load_corpus(f"{other}#review", "text").columns == (tuple(TEXTS),)
    with pytest.raises(DataError, match="no column 'x' among id, review"):
        load_corpus(f"{other}#x", "text")


def test_half_a_surrogate_pair_is_named_with_its_row(tmp_path):
    lines = [json.dumps({"text": text}) for text in TEXTS]
    lines[7] = '{"text": "half \\ud83d of it"}'
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl: .*surrogate pair .* in row 7") as error:
        load_corpus(str(tmp_path / "a.jsonl"), "text")
    one_line(error)
    corpus = Corpus("x", "text", (("a", "b\udc3dc"),), first_row=40)
    assert corpus.rows(0, 1).columns == (("a",),)
    with pytest.raises(DataError, match="'text' has half of a surrogate pair in row 41") as error:
        corpus.rows(0, 2)
    one_line(error).encode("utf-8")


def test_the_embedded_corpus_has_an_end():
    with pytest.raises(DataError, match=r"embedded: 1000000000000 rows .* 1048576 at most"):
        load_corpus("embedded", "text", count=10**12)


def test_unknown_sources(tmp_path):
    (tmp_path / "c.csv").write_text("text\n")
    for source, message in {
        "nowhere": "neither 'embedded', nor a file here, nor a hub id",
        str(tmp_path / "none.parquet"): "no such file",
        str(tmp_path / "c.csv"): r"ends in one of \.parquet, \.jsonl",
    }.items():
        with pytest.raises(DataError, match=message) as error:
            load_corpus(source, "text")
        one_line(error)
    with pytest.raises(ValueError, match="kind must be"):
        load_corpus("embedded", "images")
    with pytest.raises(ValueError, match="count must be"):
        load_corpus("embedded", "text", count=0)


def test_the_hub_is_asked_for_the_train_split(monkeypatch):
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs, datasets.utils.logging.is_progress_bar_enabled()))
        return datasets.Dataset.from_dict({"translation": PAIRS})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = load_corpus("Helsinki-NLP/opus_books", "translation", count=5)
    assert corpus.name == "Helsinki-NLP/opus_books:en-fr"
    assert corpus.columns[0] == tuple(pair["en"] for pair in PAIRS[:5])
    load_corpus("owner/name:fr-en", "translation")
    assert asked == [
        (("Helsinki-NLP/opus_books", "en-fr"), {"split": "train"}, False),
        (("owner/name", "fr-en"), {"split": "train"}, False),
    ]
    assert datasets.utils.logging.is_progress_bar_enabled()
    with pytest.raises(DataError, match="stanfordnlp/imdb: no column 'text' among translation"):
        load_corpus("stanfordnlp/imdb", "text")


def test_the_hub_cannot_be_reached(monkeypatch):
    def load_dataset(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match="stanfordnlp/imdb: could not be loaded from the hub") as e:
        load_corpus("stanfordnlp/imdb", "text")
    assert one_line(e).endswith("(ConnectionError: Couldn't reach the Hub)")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data are not here")
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("imdb/train_first_10240.parquet", "text"),
        ("books_standin_en_fr/train.parquet", "translation"),
    ],
)
def test_real_files(file, kind):
    corpus = load_corpus(str(SHARED / file), kind)
    assert (corpus.name, len(corpus)) == (file, 10_240)
    assert len(corpus.rows(0, 10_240)) == 10_240
