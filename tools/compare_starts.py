"""Does pretraining pay? One fine-tuning from three starts, over seeds, on the same labels.

    python -m xlsr_jax.prepare spoken_text --output=corpora/mix --hours=10
    python -m xlsr_jax.train --config=configs/quickstart.py --workdir=runs/pretrained \\
        --config.data.path=corpora/mix --config.corpus.make= --config.training.updates=10000
    python -m xlsr_jax.prepare spoken_text --output=corpora/sv --languages sv --hours=0.25 \\
        --seed=1 --valid-utterances=60 --test-utterances=200
    python tools/compare_starts.py --pretrained=runs/pretrained --corpus=corpora/sv \\
        --output=runs/compared

The starts: the pretrained run; the pretrained run's own warm start (log-mel regression) without
contrastive training; random weights, all of them trained, at the best of several rates, chosen on
validation. Other ``--config`` flags go to every fine-tuning. Can be killed and started again.
Writes table.md and comparison.png: test PER by language, mean and 95 % interval over the seeds.
"""

import argparse
import json
import os
import statistics
from pathlib import Path

from study import AVERAGE, ROOT, interval, run, side_by_side, test_rates

NAMES = {
    "pretrained": "contrastive pretraining",
    "warm_start": "log-mel warm start alone",
    "scratch": "from scratch",
}
COLOURS = {"pretrained": "#3b76a8", "warm_start": "#9db8cd", "scratch": "#c4661f"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--pretrained", type=Path, required=True, help="a pretraining run")
    add("--corpus", type=Path, required=True, help="of the labels")
    add("--languages", default="", help="of the corpus, comma-separated; all if not given")
    add("--output", type=Path, required=True, help="folder of the runs and the table")
    add("--seeds", type=int, default=3)
    add("--starts", nargs="+", choices=NAMES, default=list(NAMES))
    add("--updates", type=int, help="default that of configs/quickstart_finetune.py")
    add("--rates", type=float, nargs="+", default=[1e-3], help="peak rates; several are tried")
    add("--scratch-updates", type=int, help="default --updates")
    add("--scratch-rates", type=float, nargs="+", default=[1e-3, 3e-3])
    add("--scratch-seeds", type=int, help="default --seeds")
    add("--jobs", type=int, default=1, help="runs side by side, each on cores of its own")
    flags, more = parser.parse_known_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    inits = {"pretrained": flags.pretrained, "scratch": None}
    if "warm_start" in flags.starts:
        config = json.loads((flags.pretrained / "config.json").read_text())
        inits["warm_start"] = _warm_start(config, flags.output / "warm_start")

    def measure(start: str, seed: int, cores: list[int]) -> dict[str, float]:
        scratch = start == "scratch"
        rates = flags.scratch_rates if scratch else flags.rates
        updates = scratch and flags.scratch_updates or flags.updates
        folder = flags.output / f"{start}_{seed}"
        common = [f"--config.data.path={flags.corpus}", "--config.corpus.make=", *more]
        common.append(f"--config.data.languages={flags.languages}")
        _finetune(folder, inits[start], seed, rates, updates, common, cores)
        found = test_rates(folder, cores)
        print(f"{NAMES[start]}, seed {seed}: PER {found[AVERAGE]:.1%}", flush=True)
        return found

    seeds = {start: flags.seeds for start in flags.starts}
    if "scratch" in seeds and flags.scratch_seeds:
        seeds["scratch"] = flags.scratch_seeds
    runs = [(start, seed) for start, number in seeds.items() for seed in range(number)]
    rates = side_by_side(measure, runs, flags.jobs)
    found = {
        start: [rate for (other, _), rate in zip(runs, rates, strict=True) if other == start]
        for start in flags.starts
    }
    (flags.output / "table.md").write_text(table := _table(found))
    _draw(found, flags.output / "comparison.png")
    print(table)


def _warm_start(config: dict, folder: Path) -> Path:
    """The warm start of a pretraining run, and no update after it: one at a rate of 0."""
    data, warm = config["data"], config["warm_start"]
    run(
        sorted(os.sched_getaffinity(0)),
        "-m", "xlsr_jax.train", f"--config={ROOT}/configs/quickstart.py", f"--workdir={folder}",
        f"--config.data.path={data['path']}", "--config.corpus.make=",
        f"--config.seed={config['seed']}", f"--config.warm_start.updates={warm['updates']}",
        f"--config.warm_start.peak_lr={warm['peak_lr']}",
        "--config.training.updates=1", "--config.optimizer.peak_lr=0.0",
    )  # fmt: skip
    return folder


def _finetune(folder, init, seed, rates, updates, common, cores) -> None:
    flags = [
        f"--config={ROOT}/configs/quickstart_finetune.py", f"--workdir={folder}",
        f"--config.seed={seed}", "--config.data.eval_seconds=0", *common,
    ]  # fmt: skip
    if updates:
        flags.append(f"--config.training.updates={updates}")
    if len(rates) == 1:
        flags.append(f"--config.optimizer.peak_lr={rates[0]}")
    else:
        flags.append(f"--config.optimizer.peak_lr_choices=({','.join(map(str, rates))})")
    if init is None:
        flags += ["--config.objective.frozen=nothing", "--config.objective.freeze_updates=0",
                  "--config.model.feature_grad_scale=1.0"]  # fmt: skip
    else:
        flags.append(f"--config.init_from={init}")
    run(cores, "-m", "xlsr_jax.train", *flags)


def _columns(found: dict[str, list[dict[str, float]]]) -> list[str]:
    languages = [name for name in next(iter(found.values()))[0] if name != AVERAGE]
    return languages if len(languages) == 1 else [*languages, AVERAGE]


def _table(found: dict[str, list[dict[str, float]]]) -> str:
    """Of one language every seed; of several a column each, the mean over seeds."""
    columns = _columns(found)
    if len(columns) > 1:
        lines = [f"| test PER % | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        for start, seeds in found.items():
            means = [statistics.mean(seed[column] for seed in seeds) for column in columns]
            cells = " | ".join(f"{100 * mean:.1f}" for mean in means)
            lines.append(f"| {NAMES[start]} | {cells} |")
        return "\n".join(lines) + "\n"
    lines = ["| start | test PER % by seed | mean | 95 % interval | pretraining spares |",
             "|---|---|---:|---|---|"]  # fmt: skip
    for start, seeds in found.items():
        rates = [seed[columns[0]] for seed in seeds]
        mean, half = interval(rates)
        gain = ""
        if "pretrained" in found and start != "pretrained":
            best = statistics.mean(seed[columns[0]] for seed in found["pretrained"])
            gain = f"{1 - best / mean:.0%} of the errors"
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in rates)
        half = f"± {100 * half:.1f}" if half == half else "one seed"
        lines.append(f"| {NAMES[start]} | {by_seed} | {100 * mean:.1f} | {half} | {gain} |")
    return "\n".join(lines) + "\n"


def _draw(found: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Bars by language, one for each start, with the seeds' intervals."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = _columns(found)
    bar = 0.8 / len(found)
    figure = Figure(figsize=(max(4.5, 1.5 + 0.28 * len(columns) * (1 + len(found))), 3.6), dpi=160)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (start, seeds) in enumerate(found.items()):
        spread = [interval([seed[column] for seed in seeds]) for column in columns]
        places = [place + (number - (len(found) - 1) / 2) * bar for place in range(len(columns))]
        means = [100 * mean for mean, _ in spread]
        axes.bar(places, means, 0.92 * bar, color=COLOURS[start], label=NAMES[start], zorder=2)
        halves = [0.0 if half != half else 100 * half for _, half in spread]
        if any(halves):
            axes.errorbar(places, means, halves, fmt="none", ecolor="#1d2b38", elinewidth=1,
                          capsize=2, zorder=3)  # fmt: skip
        for place, mean, half in zip(places, means, halves, strict=True):
            axes.annotate(f"{mean:.0f}", (place, mean + half), (0, 3), ha="center", fontsize=7.5,
                          textcoords="offset points")  # fmt: skip
    axes.set_xticks(range(len(columns)), columns)
    axes.set_ylabel("test PER, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", color="#e3e7eb", linewidth=0.8, zorder=0)
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=8.5, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, bbox_inches="tight", facecolor="white")


if __name__ == "__main__":
    main()
