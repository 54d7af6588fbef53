"""Folders of the hub become runs that compute what transformers computes of them."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from tests.interop import sources
from xlsr_jax import config as configuration
from xlsr_jax import convert, features, recognizer
from xlsr_jax.interop import huggingface, importing
from xlsr_jax.interop.importing import Options
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CheckpointError, load_parameters

METHODS = {
    "Wav2Vec2ForPreTraining": "wav2vec2", "Wav2Vec2ForCTC": "finetune", "Wav2Vec2Model": "wav2vec2",
    "UniSpeechForPreTraining": "unispeech", "UniSpeechForCTC": "finetune",
}  # fmt: skip


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Makes folder and model of a class and flavour, once each."""
    made = {}

    def folder_of(architecture, flavour="base"):
        if (architecture, flavour) not in made:
            folder = tmp_path_factory.mktemp("hub") / f"{architecture}_{flavour}"
            model = sources.torch_model(architecture, sources.FLAVOURS[flavour])
            letters = sources.LETTERS if architecture.endswith("ForCTC") else ()
            sources.save(model, folder, normalize=flavour == "large", letters=letters)
            made[architecture, flavour] = folder, model
        return made[architecture, flavour]

    return folder_of


@pytest.fixture
def copied(hub, tmp_path):
    """A folder of Wav2Vec2ForCTC to spoil."""
    folder, _ = hub("Wav2Vec2ForCTC")
    return shutil.copytree(folder, tmp_path / "hub")


def rewrite(folder, change, name="model.safetensors"):
    """Changes the tensors of a folder."""
    numpy = pytest.importorskip("safetensors.numpy")
    state = numpy.load_file(folder / name)
    change(state)
    numpy.save_file(state, folder / name)


def edit(folder, name, **values):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(source, tmp_path, capsys, *flags):
    """The one line that importing says of ``source``; nothing is written."""
    before = sorted(path.name for path in tmp_path.iterdir())
    assert convert.main(["import", str(source), f"--output={tmp_path / 'run'}", *flags]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1, said
    return said.err


@pytest.mark.parametrize("flavour", sources.FLAVOURS)
@pytest.mark.parametrize("architecture", METHODS)
def test_a_run_computes_what_the_folder_does(hub, tmp_path, architecture, flavour):
    folder, model = hub(architecture, flavour)
    run = tmp_path / "run"
    assert convert.main(["import", str(folder), f"--output={run}"]) == 0
    params, about = load_parameters(run)
    config = about["config"]
    assert config["method"] == METHODS[architecture]
    assert config["data"]["normalize"] == (flavour == "large")
    sources.assert_close(sources.ours(params, about), sources.theirs(model))

    # Every tensor went somewhere, and bit by bit comes back.
    state, report = sources.state_of(model), json.loads((run / "import.json").read_text())
    assert report["taken"].keys() == state.keys() and not report["left_out"]
    source = importing.describe(folder)
    back = huggingface.to_state_dict(
        {k: v for k, v in params.items() if k not in report["initialised"]},
        source.model, classes=source.classes, architecture=architecture,
    )  # fmt: skip
    prefixed = {key.split(".", 1)[-1] if architecture.endswith("Model") else key: value
                for key, value in back.items()}  # fmt: skip
    assert prefixed.keys() == state.keys()
    assert all(np.array_equal(prefixed[name], state[name]) for name in state)
    fresh = {"quantizer", "quantized_projection", "context_projection"}
    assert report["initialised"].keys() == (fresh if architecture == "Wav2Vec2Model" else set())


@pytest.mark.parametrize("flavour", sources.FLAVOURS)
def test_contrastive_and_ctc_losses_are_theirs(hub, flavour):
    """By the objectives that the run's own configuration makes."""
    import jax
    import torch

    random = np.random.default_rng(0)
    folder, model = hub("Wav2Vec2ForPreTraining", flavour)
    run = importing.read(folder)
    config = configuration.resolve(configuration.from_saved(run.about["config"]))
    frames = int(config.model.frames(sources.SAMPLES))
    masked = np.stack([np.sort(random.permutation(frames)[:7]) for _ in range(sources.ROWS)])
    mask = (masked[..., None] == np.arange(frames)).any(1)
    drawn = random.integers(0, 6, (sources.ROWS, 7, config.objective.distractors))
    drawn += drawn >= np.arange(7)[:, None]
    negatives = np.zeros((sources.ROWS, frames, drawn.shape[-1]), int)
    for row in range(sources.ROWS):
        negatives[row, masked[row]] = masked[row][drawn[row]] + row * frames
    with torch.no_grad():
        out = model(torch.tensor(sources.waveform()), mask_time_indices=torch.tensor(mask),
                    sampled_negative_indices=torch.tensor(negatives))  # fmt: skip
    batch = {
        "waveform": sources.waveform(), "samples": np.full(sources.ROWS, sources.SAMPLES, np.int32),
        "row": np.arange(sources.ROWS, dtype=np.int32), "weight": np.ones(sources.ROWS, np.float32),
        "language": np.zeros(sources.ROWS, np.int32), "masked": masked.astype(np.int32),
        "masked_valid": np.ones(masked.shape, bool), "distractors": drawn.astype(np.int32),
    }  # fmt: skip
    module = configuration.method_module("wav2vec2")
    objective = module.make_objective(config.model, config.objective, ())
    sums = jax.jit(lambda p: objective.loss(p, batch, jax.random.key(0), 0, train=False))(
        run.params
    )
    np.testing.assert_allclose(sums["contrastive_loss"][0], out.contrastive_loss, rtol=1e-5)

    folder, model = hub("Wav2Vec2ForCTC", flavour)
    run = importing.read(folder)
    labels = random.integers(1, sources.CLASSES, (sources.ROWS, 5))
    model.config.ctc_loss_reduction = "sum"
    with torch.no_grad():
        out = model(torch.tensor(sources.waveform()), labels=torch.tensor(labels))
    batch |= {"labels": labels.astype(np.int32), "label_count": np.full(sources.ROWS, 5, np.int32)}
    config = configuration.resolve(configuration.from_saved(run.about["config"]))
    module = configuration.method_module("finetune")
    objective = module.make_objective(config.model, config.objective, (), classes=sources.CLASSES)
    sums = jax.jit(lambda p: objective.loss(p, batch, jax.random.key(0), 0, train=False))(
        run.params
    )
    np.testing.assert_allclose(sums["loss"][0], out.loss, rtol=1e-5)


def test_the_rest_of_the_house_takes_the_run(hub, tmp_path):
    folder, model = hub("Wav2Vec2ForCTC", "large")
    importing.import_run(folder, tmp_path / "run", Options(languages=("en",)))
    listening = recognizer.load(tmp_path / "run")
    # Labels are lower case here; the blank and the delimiter have names of their own.
    assert listening.vocabulary.symbols == (
        "<blank>", "<s>", "</s>", "<unk>", "|", "e", "t", "'"
    )  # fmt: skip
    assert listening.vocabulary.unit == "characters" and listening.normalize
    assert listening.vocabulary.languages == ("en",)
    outputs = listening.log_probabilities(list(sources.waveform()))
    logits = sources.theirs(model)["logits"]
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(np.stack(outputs), expected, atol=1e-4)
    heard = features.load(tmp_path / "run").of(list(sources.waveform()))
    import torch

    with torch.no_grad():
        last = model.wav2vec2(torch.tensor(sources.waveform())).last_hidden_state.numpy()
    np.testing.assert_allclose(np.stack(heard), last, atol=1e-4)


def test_the_blank_is_found_by_its_name(hub, copied):
    """A pad token in the last row comes first; the logits move with it."""
    letters = ("A", "B", "C", "|", "D", "<unk>", "<s>", "[PAD]")
    numbers = {letter: number for number, letter in enumerate(letters)}
    (copied / "vocab.json").write_text(json.dumps(numbers))
    (copied / "special_tokens_map.json").write_text('{"pad_token": {"content": "[PAD]"}}')
    with pytest.raises(ConfigError, match=r"pad_token_id is 0 in config.json, and '\[PAD\]' is 7"):
        importing.read(copied)
    edit(copied, "config.json", pad_token_id=7)
    run = importing.read(copied)
    assert run.about["vocabulary"]["symbols"] == ["<blank>", *"abc|d", "<unk>", "<s>"]
    assert run.about["source"]["tokens"] == list(letters) and run.about["source"]["blank"] == 7
    logits = sources.theirs(hub("Wav2Vec2ForCTC")[1])["logits"]
    found = sources.ours(run.params, run.about)
    sources.assert_close(found, {"logits": np.roll(logits, 1, axis=-1)})


def test_tokens_that_were_added(copied):
    """Added within the outputs they count, added beyond them nobody writes them."""
    numbers = {letter: number for number, letter in enumerate(sources.LETTERS[:-1])}
    (copied / "vocab.json").write_text(json.dumps(numbers))
    (copied / "added_tokens.json").write_text(json.dumps({"X": 7, "Y": 8}))
    assert importing.describe(copied).tokens.names == (*sources.LETTERS[:-1], "X")


def test_phonemes_and_separate_languages(copied):
    names = ("<pad>", "(es)t", "(es)a", "(sv)t", "(sv)ø", "<s>", "</s>", "<unk>")
    (copied / "vocab.json").write_text(json.dumps({n: i for i, n in enumerate(names)}))
    found = importing.describe(copied).tokens.vocabulary()
    assert found.separate and found.languages == ("es", "sv") and found.unit == "phonemes"
    assert found.of_language("sv") == [0, 3, 4]
    assert found.decode([1, 2, 5]) == ["t", "a", "<s>"]


def test_shards_half_precision_old_names_and_bin(hub, tmp_path):
    """The same run from every way of writing it."""
    import torch

    folder, model = hub("Wav2Vec2ForPreTraining")
    expected = importing.read(folder)
    shards = shutil.copytree(folder, tmp_path / "shards")
    (shards / "model.safetensors").unlink()
    model.save_pretrained(shards, max_shard_size="4KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    old = {
        name.replace("parametrizations.weight.original0", "weight_g")
        .replace("parametrizations.weight.original1", "weight_v")
        .replace("masked_spec_embed", "mask_time_emb_vector"): value
        for name, value in model.state_dict().items()
    }
    pickled = shutil.copytree(folder, tmp_path / "bin")
    (pickled / "model.safetensors").unlink()
    torch.save(old, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="name the file: .*pytorch_model.bin"):
        importing.read(pickled)
    same = [importing.read(shards), importing.read(pickled / "pytorch_model.bin")]
    half = shutil.copytree(folder, tmp_path / "half")
    model_half = sources.torch_model("Wav2Vec2ForPreTraining", sources.BASE).to(torch.bfloat16)
    model_half.save_pretrained(half)
    for run in same:
        a, b = (huggingface.to_state_dict(x.params, x.source.model) for x in (run, expected))
        assert all(np.array_equal(a[name], b[name]) for name in b)
    found = importing.read(half)
    state = huggingface.to_state_dict(found.params, found.source.model)
    for name, value in model_half.state_dict().items():
        np.testing.assert_array_equal(state[name], value.float().numpy(), err_msg=name)


def test_a_model_without_masks_lacks_their_embedding(tmp_path):
    values = sources.BASE | {"mask_time_prob": 0.0}
    model = sources.torch_model("Wav2Vec2ForCTC", values)
    assert "wav2vec2.masked_spec_embed" not in model.state_dict()
    sources.save(model, tmp_path / "hub", letters=sources.LETTERS)
    run = importing.read(tmp_path / "hub")
    assert run.report.initialised == {"mask_embedding": "uniform on [0, 1)"}
    embedding = run.params["mask_embedding"]
    assert embedding.shape == (16,) and 0 <= embedding.min() < embedding.max() < 1


DAMAGE = {
    "truncated": (lambda d: (d / "model.safetensors").write_bytes(
        (d / "model.safetensors").read_bytes()[:-9]), "no whole safetensors file"),
    "no header": (lambda d: (d / "model.safetensors").write_bytes(b"\xff" * 99), "a header of"),
    "shape": (lambda d: rewrite(d, lambda s: s.update({"lm_head.bias": s["lm_head.bias"][:-1]})),
              r"of another shape: lm_head.bias \[7\] for \[8\]"),
    "missing": (lambda d: rewrite(d, lambda s: s.pop("wav2vec2.encoder.layer_norm.bias")),
                "missing: wav2vec2.encoder.layer_norm.bias"),
    "extra": (lambda d: rewrite(d, lambda s: s.update(adapter=s["lm_head.bias"])),
              "unknown: adapter; --leave_out"),
    "NaN": (lambda d: rewrite(d, lambda s: s["lm_head.weight"].__setitem__((0, 0), np.nan)),
            "with NaN or infinity: lm_head.weight"),
    "integers": (lambda d: rewrite(d, lambda s: s.update(
        {"lm_head.bias": s["lm_head.bias"].astype(np.int8)})), "lm_head.bias is int8"),
    "layers": (lambda d: edit(d, "config.json", num_hidden_layers=3),
               "layers is 3 by its configuration and 2 by its tensors"),
    "many layers": (lambda d: edit(d, "config.json", num_hidden_layers=10**9), "layers is 1000000"),
    "width": (lambda d: edit(d, "config.json", hidden_size=32), "dim is 32"),
    "kernel": (lambda d: edit(d, "config.json", num_conv_pos_embeddings=10**8), "position_kernel"),
    "strides": (lambda d: edit(d, "config.json", conv_stride=[10**6] * 3), "a frame would see"),
    "bias": (lambda d: edit(d, "config.json", conv_bias=True), "conv_bias is True"),
    "norm": (lambda d: edit(d, "config.json", feat_extract_norm="layer"), "encoder_norm is layer"),
    "heads": (lambda d: edit(d, "config.json", num_attention_heads=5), "16 must be a multiple of"),
    "no heads": (lambda d: edit(d, "config.json", num_attention_heads=0), "config.json: "),
    "codes": (lambda d: edit(d, "config.json", codevector_dim=2 * 10**9), "code_dim is 2,000,000"),
    "not a number": (lambda d: edit(d, "config.json", hidden_dropout=float("nan")), "be a number"),
    "activation": (lambda d: edit(d, "config.json", hidden_act="gelu_new",
                                  feat_extract_activation="gelu"), "both must be the same"),
    "words": (lambda d: edit(d, "config.json", hidden_size="many"), "config.json: "),
    "class": (lambda d: edit(d, "config.json", architectures=["Wav2Vec2ForXVector"]), "read are"),
    "model": (lambda d: edit(d, "config.json", model_type="hubert"), "model_type is 'hubert'"),
    "a list": (lambda d: edit(d, "config.json", model_type=[]), "model_type is"),
    "no widths": (lambda d: edit(d, "config.json", conv_dim=None), "config.json: "),
    "another head": (lambda d: edit(d, "config.json", architectures=["Wav2Vec2ForPreTraining"]),
                     "classes is 0 by its configuration and 8"),
    "adapter": (lambda d: edit(d, "config.json", add_adapter=True), "sets add_adapter"),
    "vocabulary": (lambda d: edit(d, "vocab.json", x=8), "has 9 tokens and the classifier 8"),
    "numbers": (lambda d: edit(d, "vocab.json", x=99), "9 tokens are not numbered 0 to 8"),
    "nested": (lambda d: edit(d, "vocab.json", eng={"a": 1}), "no flat table"),
    "no pad": (lambda d: (d / "vocab.json").write_text('{"a": 0}'), "has no '<pad>'"),
    "rate": (lambda d: edit(d, "preprocessor_config.json", sampling_rate=8000), "8000 is not"),
    "no JSON": (lambda d: (d / "config.json").write_text("[" * 99_999), "cannot be read"),
    "nothing": (lambda d: (d / "model.safetensors").unlink(), "has no model.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_line_and_nothing_written(copied, tmp_path, capsys, damage):
    spoil, said = DAMAGE[damage]
    spoil(copied)
    line = refused(copied, tmp_path, capsys)
    assert re.search(said, line), line
    assert len(line) < 1_200


def test_leaving_out(copied, tmp_path, capsys):
    rewrite(
        copied, lambda s: s.update({"adapter.a": s["lm_head.bias"], "adapter.b": s["lm_head.bias"]})
    )
    run = importing.read(copied, Options(leave_out=("adapter",)))
    assert run.report.left_out.keys() == {"adapter.a", "adapter.b"}
    assert "no such tensor" in refused(copied, tmp_path, capsys, "--leave_out=adaptor")


def test_shards_stay_in_their_folder(copied, tmp_path, capsys):
    (copied / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    index = {"weight_map": {"lm_head.bias": "../elsewhere.safetensors"}}
    (copied / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "is no file beside it" in refused(copied, tmp_path, capsys)


def test_an_output_that_is_there_stays(hub, tmp_path, capsys):
    folder, _ = hub("Wav2Vec2ForCTC")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    assert "is there already" in refused(folder, tmp_path, capsys)
    assert (tmp_path / "run" / "mine").read_text() == "mine"


def test_a_full_disk_leaves_nothing(hub, tmp_path, capsys, monkeypatch):
    from xlsr_jax.training.checkpoint import Checkpoints

    folder, _ = hub("Wav2Vec2ForCTC")

    def fail(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "wait", fail)
    assert "No space left on device" in refused(folder, tmp_path, capsys)


def test_numbers_stand_for_symbols_that_no_file_tells(hub):
    run = importing.read(hub("UniSpeechForPreTraining")[0])
    assert run.about["vocabulary"]["symbols"] == ["<blank>", *(f"<{n}>" for n in range(1, 8))]
    assert any("no vocab.json" in line for line in run.lines())


def test_configuration_is_carried_over(hub):
    folder, _ = hub("Wav2Vec2ForPreTraining", "large")
    config = importing.read(folder).about["config"]
    assert config["model"]["heads"] == 4 and config["model"]["codewords"] == 5
    assert config["objective"]["distractors"] == 4
    assert config["objective"]["gumbel_floor"] == 0.1
    source = importing.describe(folder)
    assert dataclasses.asdict(source.model)["conv_dims"] == (8, 12, 8)
