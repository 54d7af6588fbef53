"""Does pretraining pay? One fine-tuning from three starts, over seeds, on the same labels.

    python -m xlsr_jax.prepare spoken_text --output=corpora/mix --hours=10
    python -m xlsr_jax.prepare spoken_text --output=corpora/sv --languages sv --hours=0.25 \\
        --seed=1 --valid-utterances=60 --test-utterances=200
    python -m xlsr_jax.train --config=configs/quickstart.py --workdir=runs/pretrained \\
        --config.data.path=corpora/mix --config.corpus.make= --config.training.updates=10000
    python tools/compare_starts.py --pretrained=runs/pretrained --corpus=corpora/sv \\
        --output=runs/compared

The starts: (a) the pretrained run; (b) random weights, all of them trained, with as many updates as
given and the best of several rates, chosen on validation; (c) the pretrained run's own warm start
(log-mel regression) without contrastive training. Every run can be killed and the command started
again. Writes a Markdown table and a picture of test PER, mean and 95 % interval over the seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = {
    "pretrained": "contrastive pretraining",
    "warm_start": "log-mel warm start alone",
    "scratch": "from scratch",
}
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t, two-sided, by number of seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrained", type=Path, required=True, help="a pretraining run")
    parser.add_argument("--corpus", type=Path, required=True, help="of the labels, one language")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--starts", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--updates", type=int, default=400)
    parser.add_argument("--scratch-updates", type=int, default=1200)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3], help="of (a) and (c)")
    parser.add_argument("--scratch-rates", type=float, nargs="+", default=[1e-3])
    flags, more = parser.parse_known_args()  # further --config flags go to every fine-tuning
    config = json.loads((flags.pretrained / "config.json").read_text())
    flags.output.mkdir(parents=True, exist_ok=True)
    inits = {"pretrained": flags.pretrained, "scratch": None}
    if "warm_start" in flags.starts:
        inits["warm_start"] = _warm_start(config, flags.output / "warm_start")
    found = {}
    for start in flags.starts:
        scratch = start == "scratch"
        for seed in range(flags.seeds):
            folder = flags.output / f"{start}_{seed}"
            rates = flags.scratch_rates if scratch else flags.rates
            updates = flags.scratch_updates if scratch else flags.updates
            _finetune(folder, inits[start], flags.corpus, seed, rates, updates, more)
            found.setdefault(start, []).append(_test(folder))
            print(f"{NAMES[start]}, seed {seed}: PER {found[start][-1]:.1%}", flush=True)
    _report(flags, found)


def _run(*command: object) -> None:
    print(" ".join(map(str, command)), file=sys.stderr, flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True)


def _warm_start(config: dict, folder: Path) -> Path:
    """The warm start of a pretraining run, and no update after it: one at a rate of 0."""
    data, warm = config["data"], config["warm_start"]
    _run(
        "-m", "xlsr_jax.train", f"--config={ROOT}/configs/quickstart.py", f"--workdir={folder}",
        f"--config.data.path={data['path']}", "--config.corpus.make=",
        f"--config.seed={config['seed']}", f"--config.warm_start.updates={warm['updates']}",
        f"--config.warm_start.peak_lr={warm['peak_lr']}",
        "--config.training.updates=1", "--config.optimizer.peak_lr=0.0",
    )  # fmt: skip
    return folder


def _finetune(folder, init, corpus, seed, rates, updates, more) -> None:
    flags = [
        f"--config={ROOT}/configs/quickstart_finetune.py", f"--workdir={folder}",
        f"--config.data.path={corpus}", "--config.corpus.make=", "--config.data.languages=",
        f"--config.seed={seed}", f"--config.training.updates={updates}",
        "--config.data.eval_seconds=0", *more,
    ]  # fmt: skip
    if len(rates) == 1:
        flags.append(f"--config.optimizer.peak_lr={rates[0]}")
    else:
        flags.append(f"--config.optimizer.peak_lr_choices=({','.join(map(str, rates))})")
    if init is None:
        flags += ["--config.objective.frozen=nothing", "--config.objective.freeze_updates=0",
                  "--config.model.feature_grad_scale=1.0"]  # fmt: skip
    else:
        flags.append(f"--config.init_from={init}")
    _run("-m", "xlsr_jax.train", *flags)


def _test(folder: Path) -> float:
    """Corpus-level PER on the test split."""
    output = folder / "test"
    if not (output / "report.json").exists():
        _run("-m", "xlsr_jax.evaluate", f"--run={folder}", "--split=test", f"--output={output}")
    lines = (output / "utterances.jsonl").read_text().splitlines()
    utterances = [json.loads(line) for line in lines]
    errors = sum(utterance["errors"] for utterance in utterances)
    return errors / sum(len(utterance["reference"].split()) for utterance in utterances)


def _report(flags: argparse.Namespace, found: dict[str, list[float]]) -> None:
    rows = ["| start | test PER % by seed | mean | 95 % interval | relative to pretraining |",
            "|---|---|---:|---|---:|"]  # fmt: skip
    means = {start: statistics.mean(rates) for start, rates in found.items()}
    for start, rates in found.items():
        half = 0.0
        if len(rates) in T_95:
            half = T_95[len(rates)] * statistics.stdev(rates) / len(rates) ** 0.5
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in rates)
        gain = ""
        if "pretrained" in means and start != "pretrained":
            gain = f"{100 * (1 - means['pretrained'] / means[start]):.0f} % fewer errors"
        rows.append(
            f"| {NAMES[start]} | {by_seed} | {100 * means[start]:.1f} | "
            f"± {100 * half:.1f} | {gain} |"
        )
    table = "\n".join(rows)
    (flags.output / "table.md").write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
