"""UniSpeech from its configs to checkpoints: published values, joint streams, what goes wrong."""

import dataclasses
import importlib.util
import shutil

import numpy as np
import pytest

from tests import runs
from tests.parallel.test_rules import load
from tests.test_configs import ALL, BASE, LARGE, PATHS, check, network, run
from xlsr_jax import config as configuration
from xlsr_jax import inputs
from xlsr_jax.data.joint import UnlabelledConfig
from xlsr_jax.data.records import CorpusError, Manifest, Record, open_shards
from xlsr_jax.schema import ConfigError

SOURCES, TARGETS = ("en", "es", "fr", "it"), ("ky", "nl", "ru", "sv", "tt")
# arXiv 2101.07597 section 4.1.1 and the released scripts, where they differ from wav2vec 2.0.
OURS = {"objective.mask_prob": 0.5, "objective.feature_penalty_weight": 0.0, "model.layerdrop": 0.0,
        "model.dropout": 0.1, "model.attention_dropout": 0.1, "model.dropout_input": 0.1,
        "model.dropout_features": 0.1}  # fmt: skip
JOINT = OURS | {"objective.alpha": 0.5, "objective.replace_prob": 0.5, "model.final_dropout": 0.1,
                "objective.distractors_from": "everywhere", "objective.ctc_over": "utterance",
                "objective.replace_in_evaluation": False, "model.targets": "context_width",
                "labels.unit": "phonemes", "labels.separate": False, "unlabelled.share": 0.0,
                }  # fmt: skip
B64 = run(250_000, 0.1, 5e-4, 64, 1.4e6, 0.5)
L64 = run(250_000, 0.1, 1e-3, 64, 1.2e6, 0.5)
SUPERVISED = network(BASE) | {"objective.frozen": "nothing", "objective.freeze_updates": 0,
                              "objective.mask_prob": 0.5, "objective.channel_prob": 0.0,
                              "model.feature_grad_scale": 0.1, "optimizer.peak_lr": 5e-4,
                              "optimizer.schedule": "linear", "training.updates": 250_000,
                              "data.batch_seconds": 5_600.0, "data.languages": ("en",)}  # fmt: skip
FINETUNED = {"optimizer.peak_lr": 2e-5, "optimizer.peak_lr_choices": (), "model.dropout": 0.1,
             "optimizer.warmup_share": 0.1, "optimizer.hold_share": 0.4,
             "objective.mask_prob": 0.75, "objective.channel_prob": 0.25,
             "objective.freeze_updates": 2_000, "training.updates": 20_000,
             "objective.final_dropout": 0.1, "data.batch_seconds": 250.0,
             "data.label_seconds": 3600.0}  # fmt: skip
EN, MANY = {"data.languages": ("en",)}, {"data.languages": SOURCES}
PUBLISHED = {
    "unispeech_base_one_to_one": ALL | BASE | B64 | JOINT | EN,
    "unispeech_large_one_to_one": ALL | LARGE | L64 | JOINT | EN,
    "unispeech_base_many_to_one": ALL | BASE | B64 | JOINT | MANY,
    "unispeech_large_many_to_one": ALL | LARGE | L64 | JOINT | MANY,
    "unispeech_base_many_to_many": ALL | BASE | B64 | JOINT | MANY,
    "unispeech_xlsr_base": ALL | BASE | B64 | OURS | EN,
    "unispeech_xlsr_large": ALL | LARGE | L64 | OURS | EN,
    "unispeech_librispeech": ALL | BASE | B64 | JOINT | EN | {"training.updates": 400_000},
    "continue_unispeech": ALL | LARGE | JOINT | run(100_000, 0.1, 2e-4, 16, 1e6, 0.5)
    | {"unlabelled.share": 1.0, "objective.mask_prob": 0.65, "objective.distractors_from": "masked",
       "model.feature_grad_scale": 0.1, "model.layerdrop": 0.05, "data.max_crop_samples": 250_000},
    "ctc_transfer": SUPERVISED,
    "ctc_transfer_librispeech": SUPERVISED
    | {"training.updates": 400_000, "labels.unit": "characters"},
    "finetune_unispeech_base": network(BASE) | FINETUNED | {"data.languages": ("es",)},
    "finetune_unispeech_large": network(LARGE) | FINETUNED | {"data.languages": ("es",)},
    "finetune_unispeech_many": network(BASE) | FINETUNED | {"data.languages": TARGETS},
    "finetune_tedlium3": network(BASE) | FINETUNED
    | {"training.updates": 320_000, "labels.unit": "characters", "data.label_seconds": 0.0,
       "data.batch_seconds": 500.0},
}  # fmt: skip
VARIANTS = {
    ("unispeech_base_one_to_one", "r0"): {"objective.replace_prob": 0.0},
    ("unispeech_base_one_to_one", "r0.3"): {"objective.replace_prob": 0.3},
    ("unispeech_base_one_to_one", "r0.7"): {"objective.replace_prob": 0.7},
    ("unispeech_base_one_to_one", "alpha0.3"): {"objective.alpha": 0.3},
    ("unispeech_base_one_to_one", "alpha0.7"): {"objective.alpha": 0.7},
    ("unispeech_base_one_to_one", "p0.065"): {"objective.mask_prob": 0.65},
    ("unispeech_base_one_to_one", "p0.075"): {"objective.mask_prob": 0.75},
    ("unispeech_base_many_to_one", "r0"): {"objective.replace_prob": 0.0},
    ("unispeech_base_many_to_many", "target"): {"unlabelled.languages": TARGETS},
    ("unispeech_base_many_to_many", "separate"): {"labels.separate": True},
    ("finetune_unispeech_many", "separate"): {"labels.separate": True},
    ("ctc_transfer", "many"): MANY,
    ("unispeech_xlsr_large", "many"): MANY,
}
FAST = ("--config.data.buckets=1", "--config.labels.unit=recorded")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name):
    check(load(PATHS[name]), PUBLISHED[name])
    tiny = load(PATHS[name], "tiny")
    assert tiny.training.updates == 8 and tiny.model.dim == 32 and tiny.name == f"{name}_tiny"
    whole = load(PATHS[name])
    assert (tiny.labels, tiny.unlabelled) == (whole.labels, whole.unlabelled)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_rows_of_the_papers_tables(name, variant):
    config, plain = load(PATHS[name], variant), load(PATHS[name])
    check(config, VARIANTS[name, variant])
    assert config.name == f"{name}_{variant}"
    changed = {key.split(".")[0] for key in VARIANTS[name, variant]}
    for group in {"model", "optimizer", "training", "data", "labels", "objective"} - changed:
        assert getattr(config, group) == getattr(plain, group)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n.endswith(("_to_one", "_to_many"))])
def test_half_of_the_updates_are_the_target_languages(name):
    config = load(PATHS[name], "target,tiny")
    assert config.unlabelled.share == 0.5 and config.unlabelled.languages
    with pytest.raises(ValueError, match="unknown variant 'r1'; there are .*target.*paper, tiny"):
        load(PATHS[name], "target,r1")


@pytest.fixture(scope="module")
def joint(tmp_path_factory, tiny_corpus):
    """A run on labelled English and French, and on Swedish without labels."""
    workdir = tmp_path_factory.mktemp("joint") / "run"
    return workdir, runs.train(workdir, tiny_corpus, *JOINT_FLAGS, "--config.training.updates=6",
                               config="unispeech_base_one_to_one")  # fmt: skip


JOINT_FLAGS = (*FAST, "--config.data.languages=en,fr", "--config.unlabelled.languages=sv",
               "--config.unlabelled.share=0.5", "--config.training.log_every=1",
               "--config.training.eval_every=6", "--config.data.batch_seconds=24")  # fmt: skip


def test_updates_are_of_one_kind_or_the_other(joint):
    workdir, said = joint
    assert "50% of the updates without labels" in said
    labelled = runs.figures(workdir, "labelled_seconds")
    heard = runs.figures(workdir, "audio_share/sv")
    assert len(labelled) == 6 and {s > 0 for s in labelled.values()} == {True, False}
    for step, seconds in labelled.items():
        assert heard[step] == (0.0 if seconds else 1.0)
    assert runs.figures(workdir, "error_rate", "eval")[6] > 0


def test_a_stopped_run_goes_on_exactly(joint, tmp_path, tiny_corpus):
    workdir, config = tmp_path / "run", "unispeech_base_one_to_one"
    flags = (*JOINT_FLAGS, "--config.training.updates=6", "--config.training.save_every=3")
    runs.train(workdir, tiny_corpus, *flags, config=config)
    shutil.rmtree(workdir / "checkpoints" / "6")
    runs.train(workdir, tiny_corpus, *flags, config=config)
    runs.assert_same(runs.parameters(joint[0]), runs.parameters(workdir, 6), tolerance=0)


def test_the_second_stage_goes_on_without_labels(joint, tmp_path, tiny_corpus):
    flags = (*FAST, f"--config.init_from={joint[0]}", "--config.training.updates=1",
             "--config.data.languages=sv", "--config.model.encoder_norm=group",
             "--config.model.pre_norm=false", "--config.model.conv_bias=false",
             "--config.data.normalize=false")  # fmt: skip
    said = runs.train(tmp_path / "run", tiny_corpus, *flags, config="continue_unispeech")
    assert "new: nothing; not used: ctc_output" in said
    assert "labels:" not in said and not runs.figures(tmp_path / "run", "error_rate", "eval")


def test_what_was_learned_can_be_fine_tuned(joint, tmp_path, tiny_corpus):
    flags = (*FAST, f"--config.init_from={joint[0]}", "--config.training.updates=1",
             "--config.data.languages=sv")  # fmt: skip
    said = runs.train(tmp_path / "run", tiny_corpus, *flags, config="finetune_unispeech_base")
    assert "new: output; not used: ctc_output, quantized_projection, quantizer, target_proj" in said
    after, before = runs.parameters(tmp_path / "run"), runs.parameters(joint[0])
    encoder = [name for name in after if "feature_encoder" in name]
    assert encoder and all(np.array_equal(after[name], before[name]) for name in encoder)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("unlabelled.languages", ("sv",), "unlabelled.share is 0; set it to a share"),
        ("model.targets", "final_dim", "needs model.final_dim 256 to be model.dim 768"),
        ("unlabelled.share", 1.5, "unlabelled.share"),
        ("objective.ctc_over", "frame", "objective.ctc_over"),
    ],
)
def test_settings_that_cannot_be(setting, value, words):
    path = PATHS["unispeech_base_one_to_one"]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    group, name = setting.split(".")
    config[group][name] = value
    with pytest.raises(ConfigError, match=words):
        configuration.resolve(config)


@pytest.mark.parametrize("name", ["xlsr10_base", "finetune_xlsr10_base"])
def test_other_methods_take_no_second_kind_of_audio(name, tiny_corpus):
    config = load(PATHS[name], "tiny")
    config = dataclasses.replace(
        config, unlabelled=UnlabelledConfig(share=0.5),
        corpus=dataclasses.replace(config.corpus, make=""),
        data=dataclasses.replace(config.data, path=str(tiny_corpus)),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="learns from one kind of audio; set it to 0"):
        inputs.open_inputs(config, 1, 1)


def labelled_with(tmp_path, corpus, tokens_of):
    """The inputs of a UniSpeech config with labels of our own, by a record's id."""
    config = load(PATHS["unispeech_base_one_to_one"], "tiny")
    lines = []
    for shard in Manifest.load(corpus).shards:
        source = open_shards(corpus, [shard])
        identities = [Record.from_bytes(source[number]).id for number in range(len(source))]
        lines += [f"{identity}\t{tokens_of(identity)}\n" for identity in identities]
    (tmp_path / "labels.tsv").write_text("".join(lines))
    config = dataclasses.replace(
        config,
        corpus=dataclasses.replace(config.corpus, make=""),
        data=dataclasses.replace(config.data, path=str(corpus), label_seconds=0.0),
        labels=dataclasses.replace(config.labels, file=str(tmp_path / "labels.tsv")),
        unlabelled=UnlabelledConfig(share=0.5),
    )
    return inputs.open_inputs(config, 1, 1)


def test_a_corpus_without_labels_is_refused(tmp_path, tiny_corpus):
    with pytest.raises(CorpusError, match="no utterance has a label"):
        labelled_with(tmp_path, tiny_corpus, lambda identity: "")


def test_phonemes_that_training_lacks_are_said_with_their_counts(tmp_path, tiny_corpus):
    found = labelled_with(tmp_path, tiny_corpus, lambda x: "a b" if "train" in x else "a ʘ ʘ")
    (said,) = [note for note in found.notes if "training lacks" in note]
    english = found.eval_plan.index.language == found.eval_plan.index.languages.index("en")
    assert english.sum() == 25 and "ʘ (en) 50" in said
    assert set(found.vocabulary.symbols[1:]) == {"a", "b"}


def test_bad_data_is_one_line(tmp_path, tiny_corpus):
    flags = ("--config.unlabelled.share=0.5", "--config.unlabelled.languages=xx")
    line = runs.fails(tmp_path / "run", tiny_corpus, *FAST, *flags,
                      config="unispeech_base_one_to_one")  # fmt: skip
    assert "no data for language 'xx'" in line


def test_no_config_is_left_out():
    ours = {name for name in PATHS if "unispeech" in name or name.startswith("ctc_transfer")}
    assert ours | {"finetune_tedlium3"} == PUBLISHED.keys() | {"quickstart_unispeech"}
