"""The whole command: its files agree with each other, and what goes wrong is one line."""

import csv
import json
import math
from collections import Counter, defaultdict

import pytest

from tests.analysis import pretrained
from xlsr_jax import analyze
from xlsr_jax.training.checkpoint import load_parameters

PICTURES = {"phones", "codes_per_phone", "languages", "tree", "projection"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return pretrained.make_corpus(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    return pretrained.make_run(tmp_path_factory.mktemp("runs") / "mine", corpus=corpus)


@pytest.fixture(scope="module")
def other(tmp_path_factory, corpus):
    return pretrained.make_run(
        tmp_path_factory.mktemp("others") / "other", seed=1, codewords=7, corpus=corpus
    )


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def said(capsys, *flags):
    """What a failing command says: a line."""
    assert analyze.main([str(flag) for flag in flags]) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def folder(run):
    assert analyze.main([f"--run={run}", "--seconds=0"]) == 0
    return run / "analysis" / "train"


def test_the_files_agree(folder):
    document = json.loads((folder / "figures.json").read_text())
    found = document["runs"]["mine"]
    codes, phones = rows(folder / "codes.csv"), rows(folder / "phones.csv")
    assert sum(int(row["frames"]) for row in codes) == found["usage"]["frames"]
    assert len(codes) == found["usage"]["active"]
    with_phone = sum(int(row["frames_with_phone"]) for row in codes)
    assert with_phone == found["phones"]["found"]["frames"]
    assert with_phone + found["phones"]["left_out_frames"] == found["usage"]["frames"]
    assert found["phones"]["left_out_frames"] > 0  # the silence before each utterance
    assert found["phones"]["codes_per_phone"] == {r["phone"]: int(r["codes"]) for r in phones}
    frequency = [int(row["frames"]) for row in phones]
    assert frequency == sorted(frequency, reverse=True) and sum(frequency) == with_phone
    assert {row["phone"] for row in phones} == set("aius")


def test_agreement_follows_from_the_counts(folder):
    joint = Counter()
    for row in rows(folder / "phone_counts.csv"):
        joint[(row["group_1"], row["group_2"]), row["phone"]] += int(row["frames"])
    total, by_code, by_phone = sum(joint.values()), defaultdict(int), defaultdict(int)
    for (code, phone), count in joint.items():
        by_code[code] += count
        by_phone[phone] += count
    information = sum(
        count / total * math.log(count * total / (by_code[code] * by_phone[phone]))
        for (code, phone), count in joint.items()
    )
    best = defaultdict(int)
    for (code, _), count in joint.items():
        best[code] = max(best[code], count)
    phones = json.loads((folder / "figures.json").read_text())["runs"]["mine"]["phones"]
    assert phones["found"]["mutual_information"] == pytest.approx(information)
    assert phones["found"]["mutual_information_bits"] == pytest.approx(information / math.log(2))
    assert phones["found"]["phone_purity"] == pytest.approx(sum(best.values()) / total)
    assert phones["found"]["nmi"] > 3 * phones["phones_shuffled"]["nmi"]  # tones differ
    entropies = [float(r["entropy_nats"]) for r in rows(folder / "codes.csv") if r["phone"]]
    mean = sum(entropies) / len(entropies)
    assert phones["found"]["mean_entropy"] == pytest.approx(mean)


def test_languages_that_speak_alike_are_nearest(folder):
    found = {
        (row["language"], row["other"]): row
        for row in rows(folder / "similarity.csv")
        if row["by"] == "code"
    }
    near, far = found["es", "it"], found["es", "sv"]
    assert float(near["jensen_shannon_bits"]) < float(far["jensen_shannon_bits"])
    assert float(near["cosine"]) > float(far["cosine"])
    languages = json.loads((folder / "figures.json").read_text())["runs"]["mine"]["languages"]
    assert sorted(languages["tree"][0][:2]) == [0, 1]  # es and it join first
    assert languages["by_code"]["jensen_shannon_bits"][0][1] == float(near["jensen_shannon_bits"])


def test_the_page_needs_no_other_file(folder):
    page = (folder / "analysis.html").read_text()
    assert page.count('src="') == page.count('src="data:image/png;base64,') == len(PICTURES)
    assert "href=" not in page and "normalised mutual information" in page
    assert {path.stem for path in folder.glob("*.png")} == PICTURES


def test_two_runs_stand_side_by_side(tmp_path, run, other, capsys):
    flags = [f"--run={run}", f"--against={other}", "--seconds=1", f"--output={tmp_path}"]
    assert analyze.main(flags) == 0
    printed = capsys.readouterr().out
    assert "mine" in printed and "other" in printed
    assert "active code pairs of 25 / active code pairs of 49" in printed
    document = json.loads((tmp_path / "figures.json").read_text())
    mine, others = document["runs"]["mine"], document["runs"]["other"]
    assert mine["usage"]["frames"] == others["usage"]["frames"]
    assert mine["phones"]["found"]["phone_entropy"] == others["phones"]["found"]["phone_entropy"]
    assert mine["usage"]["active"] != others["usage"]["active"]
    for name in ("codes", "languages", "similarity", "summary"):
        assert {row["run"] for row in rows(tmp_path / f"{name}.csv")} == {"mine", "other"}


def test_a_run_against_itself_is_the_same(tmp_path, run):
    assert analyze.main([f"--run={run}", f"--against={run}", f"--output={tmp_path}"]) == 0
    one, two = json.loads((tmp_path / "figures.json").read_text())["runs"].values()
    assert one == two


def test_without_alignment_the_languages_stay(tmp_path, run, capsys):
    silent = pretrained.make_corpus(tmp_path / "corpus", aligned=False)
    output = tmp_path / "out"
    assert analyze.main([f"--run={run}", f"--corpus={silent}", f"--output={output}"]) == 0
    assert "no aligned phones" in capsys.readouterr().err
    assert {path.stem for path in output.glob("*.png")} == {"languages", "tree", "projection"}
    assert not (output / "phones.csv").exists()
    assert "no aligned phones" in (output / "analysis.html").read_text()


def test_one_language_is_compared_with_nothing(tmp_path, run, capsys):
    assert analyze.main([f"--run={run}", "--languages=sv", f"--output={tmp_path}"]) == 0
    assert "One language only (sv)" in capsys.readouterr().err
    assert {path.stem for path in tmp_path.glob("*.png")} == {"phones", "codes_per_phone"}
    assert not (tmp_path / "similarity.csv").exists()


def test_what_another_analysis_left_is_taken_away(tmp_path, run):
    flags = [f"--run={run}", f"--output={tmp_path}"]
    assert analyze.main(flags) == 0
    assert analyze.main([*flags, "--languages=sv"]) == 0
    assert not (tmp_path / "tree.png").exists() and not (tmp_path / "similarity.csv").exists()


def test_less_audio_than_asked_is_said(tmp_path, run, capsys):
    assert analyze.main([f"--run={run}", "--seconds=5", f"--output={tmp_path}"]) == 0
    assert "Less than 5 s: es (4 s)" in capsys.readouterr().err


def test_what_goes_wrong_is_a_line(tmp_path, run, corpus, capsys):
    assert "is no run" in said(capsys, f"--run={tmp_path}")
    assert "no corpus at" in said(capsys, f"--run={run}", f"--corpus={tmp_path}")
    assert "no data for language 'fr'" in said(capsys, f"--run={run}", "--languages=es,fr")
    assert "has no split 'dev'" in said(capsys, f"--run={run}", "--split=dev")
    hopping = pretrained.make_run(tmp_path / "hop", conv_strides=(5, 4, 4), corpus=corpus)
    line = said(capsys, f"--run={run}", f"--against={hopping}")
    assert "cannot be compared frame by frame" in line and "every 160" in line
    assert "no checkpoint of update 3" in said(capsys, f"--run={run}", "--step=3")


def test_a_run_without_codebook_is_named(tmp_path, run, capsys):
    params, about = load_parameters(run)
    params.pop("quantizer")
    about["config"] |= {"init_from": "runs/before"}
    pretrained.save(tmp_path / "tuned", 9, params, about)
    line = said(capsys, f"--run={tmp_path / 'tuned'}")
    assert "has no codebook" in line and "runs/before" in line


def test_parameters_of_another_method_are_read(tmp_path, run):
    """Whatever else a method learns, what it needs here is encoder, norm and quantizer."""
    params, about = load_parameters(run)
    params.pop("context_projection")
    params["target_projection"] = {"kernel": params["quantized_projection"]["kernel"]}
    pretrained.save(tmp_path / "run", 7, params, about)
    flags = [f"--against={run}", "--seconds=1", f"--output={tmp_path / 'out'}"]
    assert analyze.main([f"--run={tmp_path / 'run'}", *flags]) == 0
    figures = json.loads((tmp_path / "out/figures.json").read_text())["runs"]
    assert figures["run"] == figures["mine"]
