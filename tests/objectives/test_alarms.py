"""Alarms say what they saw, at the right time and not before."""

import math

from xlsr_jax.objectives import unispeech
from xlsr_jax.objectives.alarms import contrastive_alarms

HEALTHY = {
    "contrastive_loss": 3.1, "chance_loss": math.log(101), "code_perplexity": 210.0,
    "code_perplexity/0": 109.0, "code_perplexity/1": 101.0,
    "distractor_equal": 0.01,
}  # fmt: skip


def alarms(step=2_000, **changed):
    return contrastive_alarms(HEALTHY | changed, step, patience=1_000)


def test_a_healthy_run_is_left_alone():
    assert alarms() == {}


def test_a_collapsed_codebook_is_told_though_its_loss_falls():
    said = alarms(contrastive_loss=0.01, distractor_equal=0.99)
    assert list(said) == ["collapse"] and "99% of distractors" in said["collapse"]


def test_one_group_is_enough_for_a_collapse():
    said = alarms(**{"code_perplexity": 102.0, "code_perplexity/1": 1.0})
    assert list(said) == ["collapse"] and "109.0 and 1.0 (floor 1)" in said["collapse"]


def test_a_loss_at_chance_is_told_after_patience():
    at_chance = {"contrastive_loss": math.log(101) - 0.01}
    assert alarms(step=999, **at_chance) == {}
    said = alarms(step=1_000, **at_chance)
    assert list(said) == ["not learning"] and "4.615" in said["not learning"]


def test_labels_alone_learn_no_contrastive_task():
    at_chance = HEALTHY | {"contrastive_loss": math.log(101)}
    for alpha, alarmed in ((0.5, ["not learning"]), (1.0, [])):
        settings = unispeech.ObjectiveConfig(alpha=alpha, alarm_patience=10)
        objective = unispeech.UniSpeechObjective(unispeech.ModelConfig(), settings, classes=5)
        assert list(objective.alarms(at_chance, 10)) == alarmed
