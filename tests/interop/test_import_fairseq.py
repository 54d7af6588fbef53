"""fairseq's files, by their documented layout, become runs that compute what the model does."""

import argparse
import json

import numpy as np
import pytest

from tests.interop import sources
from tests.interop.test_import_huggingface import refused
from xlsr_jax.interop import fairseq_layout, huggingface, importing
from xlsr_jax.interop.importing import Options
from xlsr_jax.schema import ConfigError
from xlsr_jax.training.checkpoint import CheckpointError

DICTIONARY = "| 50\ne 40\nt 30\n' 20\n"


@pytest.fixture(scope="module")
def made():
    """State of a class and flavour under fairseq's names, its configuration, and the model."""
    cache = {}

    def make(architecture="Wav2Vec2ForPreTraining", flavour="large"):
        if (architecture, flavour) not in cache:
            values = sources.FLAVOURS[flavour]
            model = sources.torch_model(architecture, values)
            named = sources.fairseq_names(sources.state_of(model), flavour == "large")
            cache[architecture, flavour] = named, sources.fairseq_args(values), model
        return cache[architecture, flavour]

    return make


def nested(args):
    """The same configuration as later versions have it."""
    model = dict(vars(args)) | {"_name": "wav2vec2"}
    return {"model": model, "task": {"normalize": model.pop("normalize")},
            "criterion": {"loss_weights": [0.2, 5.0]}}  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("flavour", sources.FLAVOURS)
def test_pretraining(made, tmp_path, flavour, old):
    named, args, model = made(flavour=flavour)
    path = tmp_path / "xlsr.pt"
    settings = {"args": args} if old else {"args": None, "cfg": nested(args)}
    sources.save_fairseq(path, named, old, **settings)
    run = importing.read(path)
    sources.assert_close(sources.ours(run.params, run.about), sources.theirs(model))
    back = huggingface.to_state_dict(run.params, run.source.model)
    assert all(np.array_equal(back[k], v) for k, v in sources.state_of(model).items())
    config = run.about["config"]
    assert config["method"] == "wav2vec2" and config["data"]["normalize"] == (flavour == "large")
    assert config["objective"]["gumbel_floor"] == 0.1 and run.about["step"] == 77
    assert config["objective"]["diversity_weight"] == (0.1 if old else 0.2)
    assert run.report.taken.keys() == named.keys() and not run.report.initialised


@pytest.mark.parametrize("flavour", sources.FLAVOURS)
@pytest.mark.parametrize("wrapped", ["args", "cfg", "both"])
def test_ctc_with_its_dictionary(made, tmp_path, flavour, wrapped):
    """The model's configuration is inside the classifier's, under one name or another."""
    named, args, model = made("Wav2Vec2ForCTC", flavour)
    outer = {"arch": "wav2vec_ctc", "normalize": args.normalize, "mask_prob": 0.33}
    document = {
        "args": {"args": argparse.Namespace(w2v_args=args, **outer)},
        "cfg": {"cfg": {"model": outer | {"w2v_args": nested(args)}, "task": outer}},
        "both": {"args": None, "cfg": {"model": outer | {"w2v_args": args}, "task": outer}},
    }[wrapped]
    left = named | {"w2v_encoder.w2v_model.project_q.bias": np.zeros(10, np.float32)}
    sources.save_fairseq(tmp_path / "ctc.pt", left, **document)
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY)
    run = importing.read(tmp_path / "ctc.pt")
    sources.assert_close(sources.ours(run.params, run.about), sources.theirs(model))
    assert run.about["vocabulary"]["symbols"] == (
        ["<blank>", "<pad>", "</s>", "<unk>", "|", "e", "t", "'"]
    )  # fmt: skip
    assert run.about["config"]["objective"]["mask_prob"] == 0.33
    assert run.about["config"]["data"]["normalize"] == (flavour == "large")
    assert run.report.left_out.keys() == left.keys() - named.keys()


def test_unispeech_with_phonemes_before_its_specials(made, tmp_path):
    """The blank is <s>, which stands behind the phonemes; targets are as wide as contexts."""
    named, args, model = made("UniSpeechForPreTraining", "large")
    args = argparse.Namespace(**vars(args) | {"arch": "unispeech_large", "transpose": True})
    sources.save_fairseq(tmp_path / "a.pt", named, args=args)
    phones = {"a": 0, "ø": 1, "t": 2, "s": 3}
    (tmp_path / "vocab.json").write_text(json.dumps(phones))
    run = importing.read(tmp_path / "a.pt", Options(vocabulary=tmp_path / "vocab.json"))
    assert run.about["config"]["method"] == "unispeech"
    assert run.about["config"]["model"]["targets"] == "context_width"
    symbols = ["<blank>", "a", "ø", "t", "s", "<pad>", "</s>", "<unk>"]
    assert run.about["vocabulary"]["symbols"] == symbols
    expected = sources.theirs(model)
    expected["logits"] = expected["logits"][..., [4, 0, 1, 2, 3, 5, 6, 7]]
    sources.assert_close(sources.ours(run.params, run.about), expected)


def test_a_model_as_wide_as_its_features_has_no_projection(tmp_path):
    values = sources.BASE | {"conv_dim": [8, 12, 16]}
    model = sources.torch_model("Wav2Vec2ForPreTraining", values)
    import torch

    with torch.no_grad():
        model.wav2vec2.feature_projection.projection.weight.copy_(torch.eye(16))
        model.wav2vec2.feature_projection.projection.bias.zero_()
    named = sources.fairseq_names(sources.state_of(model), False)
    named = {k: v for k, v in named.items() if not k.startswith("post_extract_proj")}
    sources.save_fairseq(tmp_path / "a.pt", named, args=sources.fairseq_args(values))
    run = importing.read(tmp_path / "a.pt")
    sources.assert_close(sources.ours(run.params, run.about), sources.theirs(model))
    assert "identity" in run.report.initialised.values()


def test_the_dictionary_that_is_in_the_file(made, tmp_path, monkeypatch):
    import sys

    named, args, _ = made("Wav2Vec2ForCTC", "base")
    module = type(sys)("fairseq.data.dictionary")
    module.Dictionary = type("Dictionary", (), {"__module__": module.__name__})
    for name in ("fairseq", "fairseq.data"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    dictionary = module.Dictionary()
    dictionary.symbols = ["<s>", "<pad>", "</s>", "<unk>", "|", "e", "t", "'"]
    task = {"target_dictionary": dictionary}
    sources.save_fairseq(tmp_path / "a.pt", named, args=args, task_state=task)
    run = importing.read(tmp_path / "a.pt")
    assert run.about["vocabulary"]["symbols"][4:] == ["|", "e", "t", "'"]
    assert run.about["vocabulary"]["unit"] == "characters"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[(512, 10, 5)] + [(512, 3, 2)] * 2 + [(512,2,2)]",
         [(512, 10, 5), (512, 3, 2), (512, 3, 2), (512, 2, 2)]),
        ("[(1,2,3),(4,5,6),]", [(1, 2, 3), (4, 5, 6)]),
        ("[(1,2,3),(4,5,6)]*2", [(1, 2, 3), (4, 5, 6)] * 2),
    ],
)  # fmt: skip
def test_convolutions(text, expected):
    assert fairseq_layout.parse_convolutions(text) == expected == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[(1,2)]", "(1,2,3)", "[(1,2,3)]*[(1,2,3)]", "[(1,2,-3)]", "[(1,2,3)]**9",
        "__import__('os').system('touch mark')", "[(1,2,3)]*99 + [(1,2,3)]*99", "9" * 2_000,
        "[" * 900, ("[" + "(1,1,1)" * 100 + "!")[:999], None, 7, [(1, 2, 3)],
    ],
)  # fmt: skip
def test_convolutions_that_are_none(text):
    with pytest.raises(ConfigError, match="conv_feature_layers"):
        fairseq_layout.parse_convolutions(text)


def test_one_line_and_nothing_written(made, tmp_path, capsys):
    named, args, _ = made()
    path = tmp_path / "a.pt"

    def said(change=lambda s: s, **settings):
        document = {"args": argparse.Namespace(**vars(args) | settings)}
        sources.save_fairseq(path, change(dict(named)), **document)
        return refused(path, tmp_path, capsys)

    drop = lambda name: lambda state: {k: v for k, v in state.items() if k != name}  # noqa: E731
    assert "missing: wav2vec2.encoder.layer_norm.bias" in said(drop("encoder.layer_norm.bias"))
    assert "unknown: strange" in said(lambda s: s | {"strange": np.zeros(3, np.float32)})
    shape = lambda s: s | {"layer_norm.bias": np.zeros(3, np.float32)}  # noqa: E731
    assert "layer_norm.bias [3] for [8]" in said(shape)
    nan = lambda s: s | {"layer_norm.bias": np.full(8, np.nan, np.float32)}  # noqa: E731
    assert "with NaN or infinity: layer_norm.bias" in said(nan)
    assert "does not say encoder_attention_heads" in said(encoder_attention_heads=None)
    assert "layers is 5 by its configuration and 2" in said(encoder_layers=5)
    assert "must be a multiple of model.heads 3" in said(encoder_attention_heads=3)
    assert "quantize_input=True" in said(quantize_input=True)
    assert "activation_fn='relu'" in said(activation_fn="relu")
    assert "contradicts itself: conv_kernels" in said(
        conv_feature_layers="[(8,10,5)]+[(12,3,2)]+[(8,3,2)]"
    )
    assert "list of convolutions" in said(conv_feature_layers="exit(1)")
    laughs: tuple = ("ha",)
    for _ in range(60):  # 2^60 laughs where it is printed
        laughs = (laughs, laughs)
    for name in ("dropout", "extractor_mode", "layer_type", "conv_feature_layers", "logit_temp"):
        assert f"configuration's {name} is no number" in said(**{name: laughs})
    assert "configuration's dropout is no number" in said(dropout=10**400)
    sources.save_fairseq(path, named, args=None, cfg=None)
    assert "neither cfg nor args" in refused(path, tmp_path, capsys)
    path.write_bytes(b"no checkpoint")
    assert "no file of torch.save" in refused(path, tmp_path, capsys)
    assert "there is no" in refused(tmp_path / "none.pt", tmp_path, capsys)


def test_vocabularies_that_do_not_fit(made, tmp_path, capsys):
    named, args, _ = made("Wav2Vec2ForCTC", "base")
    sources.save_fairseq(tmp_path / "a.pt", named, args=args)
    (tmp_path / "dict.ltr.txt").write_text(DICTIONARY + "x 1\n")
    assert "has 9 tokens and the classifier 8" in refused(tmp_path / "a.pt", tmp_path, capsys)
    (tmp_path / "dict.phn.txt").write_text(DICTIONARY)
    assert "say by --vocabulary=FILE" in refused(tmp_path / "a.pt", tmp_path, capsys)
    flag = f"--vocabulary={tmp_path / 'dict.phn.txt'}"
    (tmp_path / "dict.phn.txt").write_text("e\n")
    assert "line 1: a symbol" in refused(tmp_path / "a.pt", tmp_path, capsys, flag)
    (tmp_path / "dict.phn.txt").write_text(DICTIONARY.replace("t 30", "e 30"))
    assert "more than once" in refused(tmp_path / "a.pt", tmp_path, capsys, flag)


def test_other_files_are_named(tmp_path):
    import torch

    torch.save({"weights": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="has no state dict 'model'"):
        importing.read(tmp_path / "a.pt")
