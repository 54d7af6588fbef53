"""The page about a corpus: its numbers are those of the recordings, its bytes those of the data."""

import dataclasses
import functools
import json
import logging
import shutil
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest

from tests.data.corpora import make_corpus
from xlsr_jax import prepare as entry
from xlsr_jax.data.records import Manifest
from xlsr_jax.data.speech import Speech, UnreadableAudio
from xlsr_jax.preparation import card, card_pictures, contents
from xlsr_jax.preparation.corpora.base import Utterance
from xlsr_jax.preparation.prepare import prepare


def sound(samples: int, reason: str) -> Speech:
    if reason:
        raise UnreadableAudio(reason)
    return Speech(np.full(samples, 0.01, np.float32), 16_000)


@dataclasses.dataclass(frozen=True)
class Told:
    """A corpus of (split, language, speaker, samples, reason) rows."""

    rows: tuple[tuple[str, str, str, int, str], ...]
    name: str = "told"

    def splits(self) -> Sequence[str]:
        return tuple(dict.fromkeys(row[0] for row in self.rows))

    def utterances(self, split: str) -> Iterator[Utterance]:
        for number, (where, language, speaker, samples, reason) in enumerate(self.rows):
            if where == split:
                load = functools.partial(sound, samples, reason)
                yield Utterance(f"u{number}", language, load, speaker=speaker)

    def fingerprint(self) -> Mapping[str, str]:
        return {"source": "a <b>told</b> | one"}


def rows() -> tuple[tuple[str, str, str, int, str], ...]:
    rng = np.random.default_rng(1)
    made = [("train", "es", f"s{n % 3}", int(rng.integers(9_000, 90_000)), "") for n in range(20)]
    made += [("train", "tt", "" if n else "s0", 16_000 + 1_000 * n, "") for n in range(4)]
    made += [("test", "es", f"s{n + 2}", 40_000 + 160 * n, "") for n in range(3)]
    made += [("test", "es", "", 0, "no | voice: 7")] * 2
    made += [("test", "ky", "", 0, "too <long>: 9 s"), ("train", "tt", "", 0, "no | voice: 3")]
    return tuple(made)


make = functools.partial(prepare, workers=1, utterances_per_shard=6, progress_bar=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("card") / "corpus"
    make(Told(rows()), root)
    return root


def copy(corpus, tmp_path):
    return shutil.copytree(corpus, tmp_path / "corpus")


def tables(page) -> dict[str, list[list[str]]]:
    """Cells of the table below each heading."""
    found, heading = {}, ""
    for line in page.read_text().splitlines():
        if line.startswith("## "):
            heading = line[3:]
        if line.startswith("| "):
            cells = line.replace("\\|", "\0").strip("| ").split(" | ")
            found.setdefault(heading, []).append([cell.replace("\0", "|") for cell in cells])
    return {name: lines[2:] for name, lines in found.items()}


def pages(root) -> dict[str, bytes]:
    files = [*root.glob("*.md"), *root.glob("card/*")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_hours_lengths_and_speakers_are_those_of_the_recordings(corpus):
    table = {(row[0], row[1]): row[2:] for row in tables(corpus / "README.md")["Audio"]}
    assert list(table) == [
        ("train", "**all**"), ("train", "es"), ("train", "tt"), ("test", "**all**"), ("test", "es"),
    ]  # fmt: skip
    voices = {
        ("train", "**all**"): "4 and unnamed",  # s0 of es, s0 of tt are two
        ("train", "es"): "3", ("train", "tt"): "1 and unnamed",
        ("test", "**all**"): "3", ("test", "es"): "3",
    }  # fmt: skip
    for (split, language), shown in table.items():
        seconds = [
            samples / 16_000
            for where, code, _, samples, reason in rows()
            if where == split and language in (code, "**all**") and not reason
        ]
        assert shown == [
            f"{sum(seconds) / 3600:.3f}", str(len(seconds)), voices[split, language],
            f"{statistics.mean(seconds):.2f}", f"{statistics.median(seconds):.2f}",
            f"{min(seconds):.2f}", f"{max(seconds):.2f}",
        ]  # fmt: skip
    text = (corpus / "README.md").read_text()
    assert "h of speech in 2 languages: 27 utterances" in text
    assert "4 of 31 listed were set aside" in text
    assert "Named speakers in both train and test: 1." in text  # s2


def test_the_histogram_counts_every_utterance_where_it_belongs(corpus):
    shown = tables(corpus / "README.md")["Lengths"]
    longest = max(row[3] for row in rows()) / 16_000
    assert shown[-1][0] == "5 to 5.5" and 5 < longest < 5.5
    edges = np.arange(12) * 0.5
    for column, split in ((1, "train"), (2, "test")):
        seconds = [row[3] / 16_000 for row in rows() if row[0] == split and not row[4]]
        assert [int(row[column]) for row in shown] == np.histogram(seconds, edges)[0].tolist()


def test_a_few_long_ones_share_the_last_row(tmp_path):
    seconds = [0.25 * n for n in range(1, 48)] * 10 + [100.0, 200.0]
    make_corpus(tmp_path, {"es": [int(16_000 * each) for each in seconds]})
    shown = tables(card.write(tmp_path))["Lengths"]
    assert [row[0] for row in shown[-2:]] == ["10 to 11", "11 and more"]
    edges = [*range(12), np.inf]
    assert [int(row[1]) for row in shown] == np.histogram(seconds, edges)[0].tolist()


def test_what_was_set_aside_is_counted_by_reason_and_is_no_markup(corpus):
    assert sorted(tables(corpus / "README.md")["Set aside"]) == [
        ["test", "es", "no | voice", "2"],
        ["test", "ky", "too &lt;long&gt;", "1"],
        ["train", "tt", "no | voice", "1"],
    ]
    text = (corpus / "README.md").read_text()
    assert "In all: 3 no \\| voice; 1 too &lt;long&gt;." in text
    assert "| source | a &lt;b&gt;told&lt;/b&gt; \\| one |" in text


def test_shares_follow_the_hours_to_the_power_of_alpha(corpus):
    hours = {
        code: sum(row[3] for row in rows() if row[:2] == ("train", code)) for code in ("es", "tt")
    }
    shown = {row[0]: [float(cell) for cell in row[2:]] for row in
             tables(corpus / "README.md")["Languages in training"]}  # fmt: skip
    for code in hours:
        for share, alpha in zip(shown[code], (1.0, 0.5, 0.0), strict=True):
            weights = {each: amount**alpha for each, amount in hours.items()}
            assert share == pytest.approx(100 * weights[code] / sum(weights.values()), rel=5e-3)


def test_the_training_command_names_the_splits_that_there_are(corpus, tmp_path):
    text = (corpus / "README.md").read_text()
    assert "--config.corpus.make= --config.data.eval_split=test\n" in text and "DIR" in text
    short = sum(row[0] == "train" and 0 < row[3] < 32_000 for row in rows())
    assert f"{short} of 24 utterances are shorter than 2 s" in text
    make_corpus(tmp_path, {"es": [50_000]}, split="dev")
    text = card.write(tmp_path).read_text()
    assert "--config.data.train_split=dev --config.data.eval_split=dev" in text


def test_made_again_it_is_the_same_and_the_licence_is_kept(corpus, tmp_path, capsys):
    root = copy(corpus, tmp_path)
    before = pages(root)
    assert sorted(before) == [
        "README.md", "card/durations.png", "card/hours.png", "card/shares.png",
    ]  # fmt: skip
    (root / "card" / "hours.png").unlink()
    assert entry.main(["card", "--output", str(root)]) == 0
    assert capsys.readouterr().out == f"the page is {root / 'README.md'}\n"
    assert pages(root) == before
    given = before["README.md"].replace(b"To be filled in", b"CC0, of \xc3\x85land. Not to")
    (root / "README.md").write_bytes(given)
    make(Told(rows()), root)
    assert pages(root)["README.md"] == given
    make(Told(rows()), root, overwrite=True)
    assert pages(root) == before  # another corpus may have another licence


def test_a_readme_of_somebody_else_stays(corpus, tmp_path):
    root = copy(corpus, tmp_path)
    page = (root / "README.md").read_bytes()
    (root / "README.md").write_bytes(b"# mine \xff")
    assert card.write(root) == root / "CARD.md"
    assert pages(root)["README.md"] == b"# mine \xff" and pages(root)["CARD.md"] == page
    (root / "card" / "notes").write_text("mine")
    card.remove(root)
    assert pages(root) == {"README.md": b"# mine \xff", "card/notes": b"mine"}


def test_speakers_are_unknown_where_a_commit_is_gone_or_of_another_shard(corpus, tmp_path):
    root = copy(corpus, tmp_path)
    manifest = Manifest.load(root)
    (root / "progress/train/tt-00000.json").unlink()
    path = root / "progress/test/es-00000.json"
    document = json.loads(path.read_text())
    document["shard"]["sha256"] = "of another one"
    path.write_text(json.dumps(document))
    known = {(c.split, c.language): c.speakers for c in contents.read_cells(root, manifest)}
    assert {place for place, names in known.items() if names is None} == {
        ("train", ""), ("train", "tt"), ("test", ""), ("test", "es"),
    }  # fmt: skip
    assert known["train", "es"] == {("es", "s0"), ("es", "s1"), ("es", "s2")}
    table = {tuple(row[:2]): row[4] for row in tables(card.write(root))["Audio"]}
    assert table["train", "es"] == "3" and table["train", "tt"] == "unknown"


def test_without_matplotlib_the_page_says_so_and_shows_no_pictures(
    corpus, tmp_path, monkeypatch, caplog
):
    root = copy(corpus, tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with caplog.at_level(logging.WARNING):
        text = card.write(root).read_text()
    assert "the corpus' page has no pictures: matplotlib failed" in caplog.text
    assert "![" not in text and not list(root.glob("card/*.png"))
    assert tables(root / "README.md") == tables(corpus / "README.md")


def test_a_page_for_a_missing_shard_names_the_mend(corpus, tmp_path, capsys):
    root = copy(corpus, tmp_path)
    (root / "train/es-00000.samples.npy").unlink()
    assert entry.main(["card", "--output", str(root)]) == 1
    assert "lacks train/es-00000.samples.npy" in capsys.readouterr().err


def picture_rows():
    counts = np.zeros(card_pictures.BINS, np.int64)
    hours = {("train", "fr"): 2.0, ("train", "es"): 30.0, ("test", "fr"): 0.5, ("test", "ky"): 4.0}
    made = []
    for number, ((split, language), amount) in enumerate(hours.items()):
        own = counts.copy()
        own[number : number + 2] = 3, 1
        made.append(card_pictures.Row(split, language, amount, own))
    return made


def dots(axes) -> dict[str, dict[str, float]]:
    """{label of a series: {language of a row: value}} of the dots in a panel."""
    names = [label.get_text() for label in axes.get_yticklabels()]
    return {
        line.get_label(): {
            names[int(y)]: float(x) for x, y in zip(*line.get_data(), strict=True)
        }
        for line in axes.lines
        if line.get_marker() == "o"
    }  # fmt: skip


def test_pictures_show_each_number_beside_its_language():
    (axes,) = card_pictures._hours(picture_rows()).axes
    assert dots(axes) == {"train": {"es": 30.0, "fr": 2.0}, "test": {"fr": 0.5, "ky": 4.0}}
    assert [text.get_text() for text in axes.texts] == ["30.0 h", "4.00 h", "2.50 h"]
    (axes,) = card_pictures._shares(picture_rows(), "train").axes
    root = 30**0.5 + 2**0.5
    for label, es in (("alpha 1", 30 / 32), ("alpha 0.5", 30**0.5 / root), ("alpha 0", 0.5)):
        shown = dots(axes)[label]
        assert shown == pytest.approx({"es": 100 * es, "fr": 100 * (1 - es)})
    by_split, by_language = card_pictures._durations(picture_rows(), 0.5).axes
    train, test = (patch.get_data() for patch in by_split.patches)
    np.testing.assert_allclose(train.edges, [0, 0.5, 1, 1.5, 2, 2.5])
    np.testing.assert_allclose(train.values, [37.5, 50, 12.5, 0, 0])
    np.testing.assert_allclose(test.values, [0, 0, 37.5, 50, 12.5])
    assert [label.get_text() for label in by_language.get_yticklabels()] == ["es", "ky", "fr"]
    grid = by_language.collections[0].get_array().reshape(3, 5)
    np.testing.assert_allclose(  # es is row 1 of the rows, ky 3, fr 0 and 2
        grid, [[0, 1, 1 / 3, 0, 0], [0, 0, 0, 1, 1 / 3], [1, 1 / 3, 1, 1 / 3, 0]]
    )


def test_pictures_have_the_same_bytes_without_date_or_version():
    first, again = (card_pictures.draw(picture_rows(), "train", 0.5) for _ in range(2))
    assert first == again and list(first) == list(card_pictures.FILES)
    for data in first.values():
        assert data.startswith(b"\x89PNG") and b"Software" not in data and b"tIME" not in data
    alone = [row for row in picture_rows() if row.language == "fr"]
    assert list(card_pictures.draw(alone, "train", 0.5)) == ["hours.png", "durations.png"]
