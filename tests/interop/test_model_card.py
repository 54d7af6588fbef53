"""The model card: its head is what hubs read, its figures are the run's, its code runs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.interop.test_export import (
    CHARACTERS,
    CPC,
    PHONEMES,
    load_file,
    make_params,
    talkative,
    values_of,
    write_run,
)
from xlsr_jax.data.records import Manifest, Shard
from xlsr_jax.interop.export import export_run
from xlsr_jax.transcribe import transcribe

yaml = pytest.importorskip("yaml")  # comes with transformers


def corpus(folder: Path, name: str, hours: dict[str, float]) -> str:
    """A corpus as far as its manifest."""
    folder.mkdir(parents=True)
    shards = tuple(
        Shard(f"train/{language}-00000.array_record", "train", language, 10,
              round(each * 3600 * 16_000), "0" * 64)
        for language, each in hours.items()
    )  # fmt: skip
    Manifest(name, shards, {}, {}).save(folder)
    return str(folder)


def report(folder: Path, checkpoint: str, rates: dict[str, float], data="/home/me/corpora/mine"):
    """report.json of an evaluation, the keys that are read."""
    figures = {
        language: {"corpus_rate": rate, "utterances": 12} for language, rate in rates.items()
    }
    units = {
        "phoneme": {
            "rate": "PER",
            "languages": figures,
            "all_utterances": {"corpus_rate": 0.25, "utterances": 24},
        }
    }
    folder.mkdir(parents=True)
    facts = {"checkpoint": checkpoint, "data": data, "decoder": "greedy"}
    (folder / "report.json").write_text(json.dumps({"facts": facts, "units": units}))


def export(folder: Path, values, vocabulary=None, format="huggingface", licence="", **run) -> str:
    """The card of a run that is written and exported."""
    params = make_params(values, vocabulary)
    write_run(folder / "run", values, params, vocabulary, **run)
    export_run(str(folder / "run"), format, str(folder / "out"), licence=licence)
    return (folder / "out" / "README.md").read_text(encoding="utf-8")


def head_of(card: str) -> dict:
    _, head, _ = card.split("---\n", 2)
    return yaml.safe_load(head)


def finetuned(tmp_path):
    """A run with labels that began from a pretraining, whose corpora are there."""
    pretraining = values_of("wav2vec2")
    pretraining |= {"name": "xlsr_small", "init_from": str(tmp_path / "hub" / "facebook-xlsr")}
    pretraining["data"]["path"] = corpus(tmp_path / "a", "many", {"es": 12.5, "no": 3.0, "fr": 800})
    pretraining["training"]["updates"] = 12_345
    (tmp_path / "before").mkdir()
    (tmp_path / "before" / "config.json").write_text(json.dumps(pretraining))
    values = values_of("finetune")
    values |= {"name": "spanish", "init_from": str(tmp_path / "before")}
    values["data"]["path"] = corpus(tmp_path / "b", "labelled", {"es": 2.0, "no": 0.5, "it": 9.0})
    values["data"] |= {"label_seconds": 3600.0, "languages": ["es", "no"]}
    return values


def test_data_hours_and_results_are_those_of_the_run(tmp_path):
    values = finetuned(tmp_path)
    reports = tmp_path / "run" / "evaluation"
    report(reports / "test-greedy", "update 7", {"es": 0.125, "no": 0.375})
    report(reports / "valid-beam", "update 6", {"es": 0.99})
    card = export(
        tmp_path, values, PHONEMES, figures={"error_rate": 0.2, "error_rate/es": 0.1},
        languages=["es", "no"], licence="cc-by-4.0",
    )  # fmt: skip
    head = head_of(card)
    assert head["language"] == ["es", "no"], "a language and no truth value"
    assert head["license"] == "cc-by-4.0"
    assert head["pipeline_tag"] == "automatic-speech-recognition"
    assert head["library_name"] == "transformers"
    (model,) = head["model-index"]
    found = {
        each["dataset"]["name"]: (each["metrics"][0]["type"], each["metrics"][0]["value"])
        for each in model["results"]
    }
    assert found == {
        "mine, es, test": ("per", 12.5),
        "mine, no, test": ("per", 37.5),
        "mine, all, test": ("per", 25.0),
    }
    hub = pytest.importorskip("huggingface_hub", reason="pip install -e '.[reference]'")
    assert len(hub.ModelCard(card).data.eval_results) == 3, "a hub reads the same"
    assert "| mine | test | no | 12 | greedy | 37.5 PER |" in card
    assert "99.0" not in card, "another checkpoint's"
    assert "| error_rate | 0.2 |" in card and "error_rate/es" not in card
    # An hour of es at most was learned from, half of no, and nothing of it.
    updates = f"{values['training']['updates']:,}"
    assert f"**spanish** (finetune, {updates} updates): labelled, with labels, 1.50 h." in card
    assert "| es | 1.00 |" in card and "| no | 0.50 |" in card and "| it |" not in card
    assert "**xlsr_small** (wav2vec2, 12,345 updates): many, without labels, 816 h." in card
    assert "| fr | 800 |" in card
    assert "**facebook-xlsr**: weights from elsewhere. Its data: TO BE FILLED IN." in card
    assert str(tmp_path) not in card and "/home" not in card, "no folder of this machine"


def test_what_is_not_known_is_marked(tmp_path):
    card = export(tmp_path, values_of("finetune"), CHARACTERS, languages=["zh-CN", "zh-TW", "x1"])
    head = head_of(card)
    assert head["license"] == "unknown" and head["language"] == ["zh"]
    assert "model-index" not in head
    assert "Not evaluated on a test split yet: TO BE FILLED IN." in card
    assert "gone, with labels, hours: TO BE FILLED IN." in card
    assert "TO BE FILLED IN: the licence of these weights." in card
    assert "TO BE FILLED IN: the licences of what they were made from (gone)" in card
    assert "/nowhere" not in card


def test_labelled_and_unlabelled_hours_of_unispeech(tmp_path):
    values = values_of("unispeech")
    values["data"]["path"] = corpus(tmp_path / "a", "labelled", {"en": 700.0})
    other = corpus(tmp_path / "b", "audio", {"sv": 9.0, "tt": 17.0})
    values["unlabelled"] = {"share": 0.5, "path": other, "languages": ["sv"], "alpha": 0.5}
    card = export(tmp_path, values, PHONEMES, languages=["en", "sv"])
    assert "labelled, with labels, 700 h." in card
    assert "audio, without labels, 9.00 h." in card and "| tt |" not in card
    assert head_of(card)["tags"] == ["speech", "unispeech", "xlsr_jax"]
    assert "pipeline_tag" not in head_of(card)


def test_of_several_rates_the_kept_runs_figures_are_told(tmp_path):
    values, run = values_of("finetune"), tmp_path / "run"
    params = make_params(values, PHONEMES)
    write_run(run / "lr_6e-05", values, params, PHONEMES, figures={"error_rate": 0.31})
    (run / "choice.json").write_text(json.dumps({"kept": "lr_6e-05"}))
    report(run / "evaluation" / "test-greedy", "update 7", {"es": 0.125})
    report(run / "lr_6e-05" / "evaluation" / "valid-greedy", "update 7", {"es": 0.5})
    export_run(str(run), "huggingface", str(tmp_path / "out"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| error_rate | 0.31 |" in card
    assert "| mine | test | es | 12 | greedy | 12.5 PER |" in card
    assert "| mine | valid | es | 12 | greedy | 50.0 PER |" in card


def test_a_chain_of_runs_ends(tmp_path):
    """Two configs that name each other, and one that is damaged."""
    values = values_of("wav2vec2") | {"init_from": str(tmp_path / "run"), "name": "ring"}
    card = export(tmp_path, values)
    assert card.count("**ring**") == 2
    (tmp_path / "run" / "config.json").write_text('{"name": "x", "method": "none"}')
    export_run(str(tmp_path / "run"), "safetensors", str(tmp_path / "again"))
    assert (tmp_path / "again" / "README.md").read_text().count("**ring**") == 1


def run_card(folder: Path) -> str:
    """What the card's code prints, run in its folder."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def recorded(folder: Path) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    noise = np.random.default_rng(4).normal(0, 0.2, 16_000).astype(np.float32)
    soundfile.write(folder / "recording.wav", noise, 16_000, subtype="FLOAT")
    return folder / "recording.wav"


def test_the_code_writes_what_transcribe_writes(tmp_path):
    values = values_of("finetune", "base")
    params = talkative(make_params(values, CHARACTERS), values, CHARACTERS)
    run = write_run(tmp_path / "run", values, params, CHARACTERS)
    export_run(str(run), "huggingface", str(tmp_path / "out"))
    recording = recorded(tmp_path / "out")
    (ours,) = transcribe([recording], str(run))
    assert run_card(tmp_path / "out") == ours.text and len(set(ours.text)) > 3


def test_the_code_of_a_pretraining_reads_hidden_states(tmp_path):
    export(tmp_path, values_of("wav2vec2"))
    recorded(tmp_path / "out")
    assert run_card(tmp_path / "out") == "torch.Size([1, 49, 12])"


def test_the_code_of_a_plain_folder_reads_weights(tmp_path):
    card = export(tmp_path, values_of("cpc", **CPC), format="safetensors")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict = {}
    exec(code.replace('"config.json"', f'"{tmp_path}/out/config.json"').replace(
        '"model.safetensors"', f'"{tmp_path}/out/model.safetensors"'), names)  # fmt: skip
    assert names["settings"]["method"] == "cpc"
    expected = load_file(tmp_path / "out" / "model.safetensors")
    assert names["weights"].keys() == expected.keys()
    assert "library_name" not in head_of(card)
