"""Shows how alpha spreads audio over the locales of a Common Voice release.

    python tools/show_mixture.py RELEASE.json --png mixture.png

Reads the release's statistics (hours and mean clip length of each locale), draws clip lengths,
and runs the index part of the training stream; no audio is needed. Prints for each locale its
share of the hours and, at alpha 1, 0.5 and 0, the planned and the achieved share of the audio.
"""

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from xlsr_jax.data.index import DataConfig, Index
from xlsr_jax.data.pipeline import schedule
from xlsr_jax.data.plan import TrainPlan, plan_training
from xlsr_jax.data.records import SAMPLE_RATE

SPREAD = 0.4  # standard deviation of log clip length
ALPHAS = (1.0, 0.5, 0.0)


@dataclasses.dataclass(frozen=True)
class Locale:
    """Statistics of one locale: hours recorded, clips, mean clip length in seconds."""

    name: str
    hours: float
    clips: int
    clip_seconds: float


def read_locales(path: Path) -> list[Locale]:
    """All locales of a release with their recorded audio, validated or not.

    Pretraining needs no validated transcripts, and four locales of release 17 have none.
    """
    locales = json.loads(Path(path).read_text())["locales"]
    return [
        Locale(name, entry["duration"] / 3.6e6, entry["clips"], entry["avgDurationSecs"])
        for name, entry in sorted(locales.items())
    ]


def plan_locales(
    locales: list[Locale], alpha: float, batch_seconds: float, utterances: int
) -> TrainPlan:
    """The training plan for about ``utterances`` clips with each locale's mean length.

    Hours stay as released, so that shares do not change with the number of clips drawn.
    """
    rng = np.random.default_rng(0)
    scale = utterances / sum(locale.clips for locale in locales)
    lengths = []
    for locale in locales:
        count = max(50, round(locale.clips * scale))
        seconds = rng.lognormal(np.log(locale.clip_seconds) - SPREAD**2 / 2, SPREAD, count)
        lengths.append((np.clip(seconds, 1, 11) * SAMPLE_RATE).astype(np.int32))
    index = Index(
        root="",
        shards=(),
        languages=tuple(locale.name for locale in locales),
        hours=np.array([locale.hours for locale in locales]),
        samples=np.concatenate(lengths),
        language=np.repeat(np.arange(len(lengths), dtype=np.int16), [len(n) for n in lengths]),
    )
    config = DataConfig(alpha=alpha, batch_seconds=batch_seconds)
    return plan_training(config, row_multiple=8, index=index)


def achieved_shares(plan: TrainPlan, steps: int, seed: int = 0) -> np.ndarray:
    """[languages] share of each language in the seconds of audio of the first ``steps`` updates."""
    seconds, stream = np.zeros(len(plan.languages)), schedule(plan, seed)
    for step in range(steps):
        bucket, numbers = stream[step]
        rows = np.bincount(plan.index.language[numbers], minlength=len(seconds))
        seconds += rows * plan.lengths[bucket] / SAMPLE_RATE
    return seconds / seconds.sum()


def draw(path: Path, title: str, locales: list[Locale], shares: dict[float, np.ndarray]) -> None:
    """Writes a picture: share of the hours against share of the audio drawn, for each alpha."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    hours = np.array([locale.hours for locale in locales])
    order = np.argsort(-hours)
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    axes.plot(hours[order] / hours.sum(), "k:", label="share of the hours")
    for alpha, achieved in shares.items():
        axes.plot(achieved[order], ".", markersize=4, label=f"drawn at alpha {alpha:g}")
    axes.set(yscale="log", ylim=(1e-7, 1), ylabel="share of audio", title=title)
    ticks = np.arange(0, len(order), 4)
    axes.set_xticks(ticks, [locales[order[i]].name for i in ticks], rotation=90, fontsize=7)
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("release", type=Path, help="statistics of a Common Voice release, JSON")
    parser.add_argument("--png", type=Path, help="where to write the picture")
    parser.add_argument("--steps", type=int, default=300, help="updates to run")
    parser.add_argument("--batch-seconds", type=float, default=5600.0)
    parser.add_argument("--utterances", type=int, default=1_000_000, help="clip lengths to draw")
    flags = parser.parse_args()

    locales = read_locales(flags.release)
    plans = {
        alpha: plan_locales(locales, alpha, flags.batch_seconds, flags.utterances)
        for alpha in ALPHAS
    }
    shares = {alpha: achieved_shares(plan, flags.steps) for alpha, plan in plans.items()}
    hours = np.array([locale.hours for locale in locales])
    print("planned and achieved share of audio, %".rjust(60))
    print("locale       hours  of hours" + "".join(f"{f'alpha {a:g}':>21}" for a in ALPHAS))
    for i in np.argsort(-hours):
        line = f"{locales[i].name:10} {hours[i]:7.2f} {hours[i] / hours.sum():9.4%}"
        for alpha in ALPHAS:
            line += f"   {plans[alpha].shares[i]:8.4%} {shares[alpha][i]:8.4%}"
        print(line)
    for alpha, plan in plans.items():
        off = np.abs(shares[alpha] - plan.shares)
        often = plan.shares * flags.steps * plan.seconds_per_update > 100 * 5
        relative = (off[often] / plan.shares[often]).max()
        by_bucket, _ = plan.discarded
        print(
            f"alpha {alpha:g}: largest difference {off.max():.4%} of all audio; {relative:.2%} of "
            f"its share for the {often.sum()} locales with 100 draws or more; lengths "
            f"{', '.join(f'{n / SAMPLE_RATE:.2f}' for n in plan.lengths)} s, no padding, "
            f"{by_bucket:.1%} discarded"
        )
    if flags.png:
        draw(flags.png, flags.release.stem, locales, shares)


if __name__ == "__main__":
    main()
