import base64
import json
import re
from html.parser import HTMLParser

import pytest

from xlsr_jax.evaluation import error_rate
from xlsr_jax.evaluation.error_rate import Utterance
from xlsr_jax.evaluation.report import write_report

UTTERANCES = [
    Utterance("es-1", "es", ("tʃ", "a", "t"), ("t", "a"), "cha t", "ta"),  # S and D of 3
    Utterance("es-2", "es", tuple("abcdefg"), tuple("abcdefg"), "abc defg", "abc defg"),
    Utterance("tt-1", "tt", ("<b>", "&"), ("<b>", "&", "x"), "b", "b"),  # I of 2
    Utterance("tt-2", "tt", (), ("y",), "", ""),
]
FACTS = {"checkpoint": "runs/a<b", "decoding": "greedy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "made"
    page = write_report(folder, UTTERANCES, "Test & <title>", FACTS, units=("phoneme", "word"))
    assert page == folder / "report.html"
    return folder


class Page(HTMLParser):
    """Text by tag, rows of tables, and every attribute that would fetch something."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.references, self.open, self.texts = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.references += [v for name, v in attributes if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data
        if self.open and self.open[-1] != "style":
            self.texts.append(data)


def test_utterances(folder):
    lines = (folder / "utterances.jsonl").read_text("utf-8").splitlines()
    first, second, third, fourth = map(json.loads, lines)
    assert first == {
        "id": "es-1",
        "language": "es",
        "reference": "tʃ a t",
        "hypothesis": "t a",
        "errors": 2,
        "rate": 2 / 3,
        "reference_text": "cha t",
        "hypothesis_text": "ta",
    }
    assert (second["errors"], second["rate"], third["rate"]) == (0, 0.0, 0.5)
    assert (fourth["errors"], fourth["rate"]) == (1, None)


def test_figures_by_hand(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    document = json.loads((folder / "report.json").read_text("utf-8"), parse_constant=refuse)
    assert document["facts"] == FACTS
    phoneme = document["units"]["phoneme"]
    spanish, tatar = phoneme["languages"]["es"], phoneme["languages"]["tt"]
    assert (spanish["corpus_rate"], spanish["utterance_mean"]) == (0.2, pytest.approx(1 / 3))
    assert (tatar["corpus_rate"], tatar["utterance_mean"]) == (1.0, 0.5)  # 2 insertions of 2
    assert (tatar["utterances"], tatar["empty_references"]) == (2, 1)
    assert phoneme["language_average"] == pytest.approx(
        {"corpus_rate": 0.6, "utterance_mean": (1 / 3 + 1 / 2) / 2}
    )
    together = phoneme["all_utterances"]
    counts = [together[name] for name in ("substitutions", "deletions", "insertions", "errors")]
    assert counts == [1, 1, 2, 4] and together["corpus_rate"] == pytest.approx(4 / 12)
    expected = error_rate.score(error_rate.align(UTTERANCES[:2]))
    assert spanish["corpus_rate_95_interval"] == [expected.low, expected.high]
    assert {"reference": "tʃ", "hypothesis": "t", "count": 1} in phoneme["confusions"]
    words = document["units"]["word"]
    assert words["rate"] == "WER" and words["languages"]["es"]["corpus_rate"] == 0.5


def test_markdown_table(folder):
    text = (folder / "report.md").read_text("utf-8")
    table = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert table[0][3:6] == ["PER corpus %", "95 % interval", "PER utterance mean %"]
    assert table[1][0] == "es" and table[1][1:4] == ["2", "10", "20.0"] and table[1][5] == "33.3"
    assert table[1][6:] == ["1", "1", "0"]
    assert [cell.strip() for cell in table[3]][:4] == ["average of languages", "", "", "60.0"]
    assert table[4][:4] == ["all utterances", "4", "12", "33.3"]
    assert "empty reference (1)" in text and "(per_language.png)" in text


def test_the_page_needs_no_other_file(folder):
    text = (folder / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.open == []
    (image,) = page.references
    kind, data = image.split(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(data) == (folder / "per_language.png").read_bytes()
    assert not re.search(r"@import|url\(|<script|https?:", text)
    assert page.rows[1][:4] == ["es", "2", "10", "20.0"]
    assert "Test & <title>" in page.texts and "runs/a<b" in page.texts  # escaped, so read as text


def test_the_page_shows_errors_side_by_side(folder):
    text = (folder / "report.html").read_text("utf-8")
    worst = text[text.index("Worst utterances") :]
    assert worst.index("es-1") < worst.index("tt-1") < worst.index("es-2")
    pairs = re.findall(
        r'<span class="pair (\w*)"><span[^>]*>([^<]*)</span><span[^>]*>([^<]*)</span>', worst
    )
    assert ("sub", "tʃ", "t") in pairs and ("del", "t", "∅") in pairs
    assert ("ins", "∅", "x") in pairs and ("", "&lt;b&gt;", "&lt;b&gt;") in pairs


def test_the_picture_has_a_bar_of_the_right_height_for_each_language(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    drawn = []
    bar = Axes.bar
    monkeypatch.setattr(
        Axes,
        "bar",
        lambda self, x, height, **kw: drawn.extend(height) or bar(self, x, height, **kw),
    )
    write_report(tmp_path, UTTERANCES, "title", {})
    assert drawn == [20.0, 100.0]
    assert (tmp_path / "per_language.png").read_bytes()[:4] == b"\x89PNG"


def test_one_language_and_no_reference(tmp_path):
    write_report(tmp_path, UTTERANCES[3:], "title", {})
    table = (tmp_path / "report.md").read_text("utf-8")
    assert "| tt | 1 | 0 | – | – | – | 0 | 0 | 1 |" in table and "average" not in table
    with pytest.raises(ValueError, match="no utterances to report"):
        write_report(tmp_path, [], "title", {})
