"""The Colab notebooks: what their texts say, and all of their commands, run on the CPU."""

import ast
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import soundfile

from launch.colab import notebook
from tests import runs
from tools import build_notebooks
from xlsr_jax import runtime
from xlsr_jax.data.records import Manifest, Record, open_shards
from xlsr_jax.schema import ConfigError
from xlsr_jax.transcribe import transcribe

nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[test]' brings nbformat")
nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[test]' brings nbclient")
pytest.importorskip("ipykernel", reason="pip install -e '.[test]' brings ipykernel")

FOLDER = build_notebooks.FOLDER
NAMES = ("analyze", "finetune", "pretrain")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def tagged(book, tag):
    (cell,) = (cell for cell in book.cells if tag in cell.metadata.get("tags", []))
    return cell


def offered(form):
    """Names of the settings that a form has."""
    return {line.targets[0].id for line in ast.parse(form.source).body}


def execute(name, folder, **settings):
    """Runs a notebook without its install cell, with other settings; returns it with outputs."""
    book = read(name)
    book.cells.remove(tagged(book, "install"))
    form = tagged(book, "parameters")
    assert settings.keys() <= offered(form)
    form.source += "".join(f"\n{key} = {value!r}" for key, value in settings.items())
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    own = {"PATH": path, "JAX_PLATFORMS": "cpu", "IPYTHONDIR": str(folder / "ipython")}
    client = nbclient.NotebookClient(
        book, timeout=600, kernel_name="python3", resources={"metadata": {"path": runs.ROOT}}
    )
    try:
        client.execute(env=os.environ | own)
    finally:
        nbformat.write(book, folder / f"{name}.ipynb")  # to look at
    return book


def printed(book):
    """What the commands wrote, one text."""
    outputs = (output for cell in book.cells for output in cell.get("outputs", []))
    return "".join(output.text for output in outputs if output.output_type == "stream")


def shown(book, kind):
    """What is displayed of a MIME type."""
    outputs = (output for cell in book.cells for output in cell.get("outputs", []))
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, tiny_corpus):
    """A run folder with a space in its name, as Drive has them, and the notebook that made it."""
    folder = tmp_path_factory.mktemp("notebooks")
    run = folder / "My Drive" / "run"
    book = execute(
        "pretrain", folder, RUN=str(run), CONFIG="configs/quickstart.py:tiny", UPDATES=4,
        CORPUS=str(tiny_corpus), DEVICE="cpu",
    )  # fmt: skip
    return run, book


def test_the_pretraining_notebook_trains(pretrained):
    run, book = pretrained
    assert "1 cpu device(s)" in printed(book)
    losses = runs.figures(run, "contrastive_loss")
    assert max(losses) == 12 and 0 < losses[12] < 10, "8 updates of warm start, then 4"
    held_out = runs.figures(run, "contrastive_loss", kind="eval")[12]
    assert f"update 12: held out: contrastive_loss {held_out:.4g}," in printed(book)
    assert (run / "checkpoints" / "12").is_dir()
    (picture,) = shown(book, "image/png")
    assert base64.b64decode(picture) == (run / "curves.png").read_bytes()


def test_the_finetuning_notebook_ends_with_a_transcript(pretrained, tiny_corpus, tmp_path):
    start, _ = pretrained
    recordings, rows = tmp_path / "my recordings", ["path\ttext\n"]
    recordings.mkdir()
    (shard,) = (s for s in Manifest.load(tiny_corpus).split("valid") if s.language == "it")
    source = open_shards(tiny_corpus, [shard])
    for number in range(len(source)):
        record = Record.from_bytes(source[number])
        soundfile.write(recordings / f"{number}.flac", record.waveform(), 16_000)
        rows.append(f"{number}.flac\t{record.text}\n")
    (recordings / "transcripts.tsv").write_text("".join(rows))
    run, corpus = tmp_path / "run", tmp_path / "corpus"
    book = execute(
        "finetune", tmp_path, SOURCE=str(recordings), TABLE=str(recordings / "transcripts.tsv"),
        LANGUAGE="it", START=str(start), CONFIG="configs/quickstart_finetune.py:tiny", UPDATES=4,
        RUN=str(run), RECORDING=str(recordings / "0.flac"), CORPUS=str(corpus), DEVICE="cpu",
    )  # fmt: skip
    said = printed(book)
    assert f"begun from update 12 of {start}" in said and "new: output" in said
    assert (run / "checkpoints" / "4").is_dir() and 4 in runs.figures(run, "loss")
    prepared = Manifest.load(corpus)
    counts = {split: sum(shard.utterances for shard in prepared.split(split))
              for split in ("train", "valid", "test")}  # fmt: skip
    assert sum(counts.values()) == len(rows) - 1 and all(counts.values())
    report = run / "evaluation" / "test-greedy" / "utterances.jsonl"
    assert len(report.read_text().splitlines()) == counts["test"]
    (transcript,) = transcribe([recordings / "0.flac"], run)
    last = "".join(output.text for output in book.cells[-1].outputs)
    assert transcript.text and transcript.text in last


def test_the_analysis_notebook_shows_the_page(pretrained, tiny_corpus, tmp_path):
    run, _ = pretrained
    book = execute("analyze", tmp_path, RUN=str(run), CORPUS=str(tiny_corpus), HOURS=0.05,
                   SECONDS=10, DEVICE="cpu")  # fmt: skip
    folder = run / "analysis" / "notebook"
    figures = json.loads((folder / "figures.json").read_text())
    trained = {shard.language for shard in Manifest.load(tiny_corpus).split("train")}
    assert figures["languages"].keys() == trained
    found = figures["runs"]["run"]
    assert found["facts"]["update"] == "12"
    assert 0.01 < found["phones"]["found"]["phone_purity"] < 1
    (picture,) = shown(book, "image/png")
    assert base64.b64decode(picture) == (folder / "phones.png").read_bytes()
    (page,) = shown(book, "text/html")
    assert page == (folder / "analysis.html").read_text() and "</html>" in page


def test_without_a_device_a_notebook_stops_with_one_sentence(tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError) as failure:
        execute("pretrain", tmp_path, RUN=str(tmp_path / "run"), DEVICE="gpu",
                CONFIG="configs/quickstart.py:tiny", CORPUS=str(tmp_path / "corpus"))  # fmt: skip
    assert failure.value.ename == "RuntimeError"
    assert re.fullmatch(
        r"no GPU here \(jax .*, 1 cpu device.*\); in Colab choose one with Runtime > Change "
        "runtime type and run all cells again, or ask for the device cpu and be patient",
        failure.value.evalue,
    )
    assert not (tmp_path / "run").exists()


def test_devices_are_held_against_what_is_asked_for(monkeypatch):
    assert "cpu device" in runtime.check_device("cpu")
    for kind, name in [("", "GPU or TPU"), ("gpu", "GPU"), ("tpu", "TPU")]:
        with pytest.raises(ConfigError, match=rf"no {name} here"):
            runtime.check_device(kind)
    with pytest.raises(ConfigError, match="device 'vax' must be gpu, tpu, cpu"):
        runtime.check_device("vax")
    monkeypatch.setattr(runtime.jax, "default_backend", lambda: "tpu")
    assert all(runtime.check_device(kind) for kind in ("", "tpu", "cpu"))
    with pytest.raises(ConfigError, match="no GPU here"):
        runtime.check_device("gpu")

    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu'\nand more")

    monkeypatch.setattr(runtime.jax, "default_backend", fail)
    with pytest.raises(ConfigError, match=r"no TPU here \(Unable to initialize backend 'tpu'\);"):
        runtime.check_device("tpu")


def test_notebooks_are_what_their_texts_say(capsys):
    assert build_notebooks.main(["--check"]) == 0, capsys.readouterr().err


def test_the_check_finds_outputs_and_stale_notebooks(tmp_path, capsys):
    for name in NAMES:
        (tmp_path / f"{name}.md").write_text((FOLDER / f"{name}.md").read_text())
    here = f"--folder={tmp_path}"
    assert build_notebooks.main(["--check", here]) == 1
    assert capsys.readouterr().err.count("is missing") == 3
    assert build_notebooks.main([here]) == 0 == build_notebooks.main(["--check", here])
    book = nbformat.read(tmp_path / "analyze.ipynb", as_version=4)
    book.cells[1].outputs.append(nbformat.v4.new_output("stream", text="3 s"))
    nbformat.write(book, tmp_path / "analyze.ipynb")
    with open(tmp_path / "finetune.md", "a") as file:
        file.write("\nOne word more.\n")
    assert build_notebooks.main(["--check", here]) == 1
    said = capsys.readouterr().err.splitlines()
    assert "analyze.ipynb has outputs;" in said[0]
    assert "finetune.ipynb is not what its text says; run python tools/build_notebooks" in said[1]
    assert len(said) == 2
    assert build_notebooks.main([here, "--repository=me/fork"]) == 0
    forked = (tmp_path / "pretrain.ipynb").read_text()
    assert "colab.research.google.com/github/me/fork/blob/main/launch" in forked
    assert "https://github.com/me/fork /content" in forked and "xlsr-jax/xlsr_jax" not in forked


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# Title\n", "the first line must be <!-- runtime: NAME -->"),
        ("<!-- runtime: GPU V100 -->\n# Title\n", "one of GPU A100"),
        ("<!-- runtime: GPU T4 -->\nWords.\n", "the title"),
        ("<!-- runtime: GPU T4 -->\n# Title\n```python\n1\n", "has no end"),
    ],
)
def test_a_text_that_is_no_notebook_is_one_line(text, words):
    with pytest.raises(ValueError, match=words):
        build_notebooks.build(text, "name")


@pytest.mark.parametrize("name", NAMES)
def test_cells_have_no_logic(name):
    """Imports, settings, single calls and commands of ours; and the check before all commands."""
    book = read(name)
    nbformat.validate(book)
    assert f"/blob/main/launch/colab/{name}.ipynb)" in book.cells[0].source
    assert book.metadata.accelerator in ("GPU", "TPU")
    sources = [cell.source for cell in book.cells if cell.cell_type == "code"]
    install, form, check, *rest = sources
    assert install == tagged(book, "install").source and "notebook.install()" in install
    assert form == tagged(book, "parameters").source and check.endswith("check_device(DEVICE)")
    assert all(isinstance(line.value, ast.Constant) for line in ast.parse(form).body)
    names = offered(tagged(book, "parameters"))
    for source in [check, *rest]:
        if source.startswith("!"):
            assert re.match(r"!python -m xlsr_jax\.\w+ ", source)
            assert source.count("\n") == source.count("\\\n")
            assert set(re.findall(r"\{(\w+)\}", source)) <= names
            continue
        for line in ast.parse(source).body:
            assert isinstance(line, ast.ImportFrom | ast.Expr)
            assert isinstance(line, ast.ImportFrom) or isinstance(line.value, ast.Call)


def test_the_install_cell_takes_the_accelerators_jax(tmp_path, monkeypatch):
    assert notebook.accelerator(tmp_path) == "cpu"
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # the driver's own, on machines without a TPU too
    assert notebook.accelerator(tmp_path) == "cpu"
    (tmp_path / "vfio" / "0").touch()
    assert notebook.accelerator(tmp_path) == "tpu"
    (tmp_path / "nvidiactl").touch()
    assert notebook.accelerator(tmp_path) == "gpu"
    commands = []

    def record(command, **_):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(notebook.subprocess, "run", record)
    monkeypatch.setattr(notebook, "accelerator", lambda: "tpu")
    monkeypatch.setenv("PATH", "/usr/bin")
    for _ in range(2):
        notebook.install()
    first = str(runs.ROOT / ".venv" / "bin")
    assert os.environ["PATH"] == f"{first}{os.pathsep}/usr/bin"
    assert len(commands) == 6 and commands[:3] == commands[3:]
    last = commands[2]
    assert last[-3:] == ("--editable", str(runs.ROOT), "jax[tpu]")
    assert Path(last[last.index("--constraint") + 1]).is_file()
    assert not any("jax" in word for word in commands[0]), "Colab's own packages stay as they are"


def test_a_failed_install_says_why(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "progress\nerror: No space left on device\n")
    monkeypatch.setattr(notebook.subprocess, "run", lambda command, **_: failed)
    with pytest.raises(RuntimeError, match="No space left on device"):
        notebook.install()


def test_drive_is_mounted_only_where_a_folder_lies_there(monkeypatch):
    mounted = []
    colab, drive = ModuleType("google.colab"), ModuleType("google.colab.drive")
    drive.mount, colab.drive = mounted.append, drive
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    notebook.mount("runs/quickstart", "", "/content/drive-of-mine")
    assert mounted == []
    notebook.mount("runs/quickstart", "/content/drive/MyDrive/run")
    assert mounted == ["/content/drive"]
    monkeypatch.setitem(sys.modules, "google.colab", None)
    with pytest.raises(RuntimeError, match="/content/drive/MyDrive/run is on Google Drive"):
        notebook.mount("/content/drive/MyDrive/run")
