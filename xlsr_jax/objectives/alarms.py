"""Alarms of contrastive pretraining: a collapsed codebook, and a loss that stays at chance.

Both look like ordinary runs to somebody who watches the total loss alone. A collapsed codebook
makes every distractor equal to the positive, so that the loss falls towards 0; a model that learns
nothing stays at log(K + 1) nats for ever.
"""

from collections.abc import Mapping

EQUAL_SHARE = 0.5  # of distractors; a healthy codebook has a few hundredths
COLLAPSED = 1.25  # perplexity of one group, whose floor is 1
AT_CHANCE = 0.985  # of log(K + 1)


def contrastive_alarms(figures: Mapping[str, float], step: int, *, patience: int) -> dict[str, str]:
    """Alarms that the figures of one log line give rise to: name -> what was seen and what to try.

    Args:
      figures: summary of the objective (contrastive_loss, chance_loss, code_perplexity/G, ...).
      step: updates within the phase.
      patience: updates after which a loss at chance level is an alarm.
    """
    alarms = {}
    groups = [value for name, value in figures.items() if name.startswith("code_perplexity/")]
    equal, loss, chance = (
        figures[name] for name in ("distractor_equal", "contrastive_loss", "chance_loss")
    )
    if step > min(patience, 100) and (min(groups) < COLLAPSED or equal > EQUAL_SHARE):
        perplexities = " and ".join(f"{value:.1f}" for value in groups)
        alarms["collapse"] = (
            f"perplexity of the codebook's groups {perplexities} (floor 1), {equal:.0%} of "
            f"distractors equal the positive, contrastive loss {loss:.3f}: the codebook has "
            "collapsed and a falling loss means nothing; go back to an earlier checkpoint with a "
            "lower config.optimizer.peak_lr or a higher config.objective.diversity_weight"
        )
    elif step >= patience and loss > AT_CHANCE * chance:
        alarms["not learning"] = (
            f"contrastive loss {loss:.3f} nats after {step} updates is still the chance level "
            f"{chance:.3f}; try a lower config.optimizer.peak_lr, a larger "
            "config.data.batch_seconds, or config.warm_start.updates=400"
        )
    return alarms
