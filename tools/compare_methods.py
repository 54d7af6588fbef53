"""Which pretraining serves ten minutes of labels best? Six methods, equal compute, over seeds.

    python -m xlsr_jax.prepare spoken_text --output=corpora/mix --hours=10
    python -m xlsr_jax.prepare spoken_text --output=corpora/sv --languages sv --hours=0.25 \\
        --seed=1 --valid-utterances=60 --test-utterances=200
    python tools/compare_methods.py --audio=corpora/mix --labels=corpora/sv --languages=sv \\
        --output=runs/methods --jobs=2

UniSpeech learns from the labels of en es fr it and the audio of all languages, XLSR and modified
CPC from that audio, CTC-Transfer from those labels, as fine-tuning does; the log-mel warm start is
what all but modified CPC begin with, and the control. Equal compute is equal model FLOPs, warm
start included. Each seed is pretrained and fine-tuned anew. Can be killed and started again. Writes
table.md: test PER, and what the codebooks know of the held-out split's phones.
"""

import argparse
import collections
import dataclasses
import importlib.util
import json
import statistics
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from study import AVERAGE, ROOT, interval, run, side_by_side, test_rates


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table: its config, "name" or "name:variant", and what it has."""

    name: str
    config: str
    codebook: bool = True
    tuned_by: str = "quickstart_finetune"
    begins_with: str = ""  # another method, of the same seed


METHODS = {
    "unispeech": Method("UniSpeech, r 0.5", "quickstart_unispeech"),
    "unispeech_r0": Method("UniSpeech, r 0", "quickstart_unispeech:r0"),
    "xlsr": Method("XLSR", "quickstart"),
    "cpc": Method(
        "modified CPC", "quickstart_cpc", codebook=False, tuned_by="quickstart_finetune:cpc"
    ),
    "warm_start": Method("log-mel warm start alone", "quickstart"),
    "ctc_transfer": Method(
        "CTC-Transfer", "quickstart_finetune:transfer", codebook=False, begins_with="warm_start"
    ),
}
SECONDS = 120  # of each language, that the codebooks are asked about


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--audio", type=Path, required=True, help="corpus of the pretraining")
    add("--labels", type=Path, required=True, help="corpus of the fine-tuning")
    add("--languages", required=True, help="of the fine-tuning, comma-separated")
    add("--output", type=Path, required=True, help="folder of the runs and the table")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--seeds", type=int, default=3)
    add("--updates", type=int, default=2_000, help="of XLSR, after its warm start")
    add("--finetune-updates", type=int, default=800)
    add("--finetune-seconds", type=float, default=40.0, help="of audio in such an update")
    add("--jobs", type=int, default=1, help="runs side by side, each on cores of its own")
    flags, more = parser.parse_known_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    budget = flags.updates * _flops("quickstart")
    updates = {
        name: 1 if name == "warm_start" else _updates(method, budget)
        for name, method in METHODS.items()
    }

    under_way = collections.defaultdict(threading.Lock)

    def pretrain(name: str, seed: int, cores: list[int]) -> Path:
        method, folder = METHODS[name], flags.output / f"{name}_{seed}" / "pretrained"
        special = ["--config.optimizer.peak_lr=0.0"] if name == "warm_start" else []
        if method.begins_with:
            special = [f"--config.init_from={pretrain(method.begins_with, seed, cores)}"]
        with under_way[name, seed]:
            _train(
                cores, method.config, folder, seed, updates[name],
                f"--config.data.path={flags.audio}", *special, *more,
            )  # fmt: skip
        return folder

    def measure(name: str, seed: int, cores: list[int]) -> dict[str, Any]:
        method, folder = METHODS[name], flags.output / f"{name}_{seed}"
        start = pretrain(name, seed, cores)
        _train(
            cores, method.tuned_by, folder / "finetuned", seed, flags.finetune_updates,
            f"--config.data.path={flags.labels}", f"--config.data.languages={flags.languages}",
            f"--config.data.batch_seconds={flags.finetune_seconds}",
            f"--config.init_from={start}", "--config.data.eval_seconds=0", *more,
        )  # fmt: skip
        found = {"error": test_rates(folder / "finetuned", cores)[AVERAGE]}
        if method.codebook:
            found |= _codebook(start, flags.audio, cores)
        print(f"{method.name}, seed {seed}: PER {found['error']:.1%}", flush=True)
        return found

    # Seed by seed, so that what is there when it is stopped is a whole table of fewer seeds.
    runs = [(name, seed) for seed in range(flags.seeds) for name in flags.methods]
    rows = side_by_side(measure, runs, flags.jobs)
    found = {
        name: [row for (other, _), row in zip(runs, rows, strict=True) if other == name]
        for name in flags.methods
    }
    (flags.output / "table.md").write_text(table := _table(found, updates))
    print(table)


def _train(cores: Sequence[int], config: str, folder: Path, seed: int, updates: int, *more) -> None:
    name, _, variant = config.partition(":")
    path = f"{ROOT}/configs/{name}.py{':' if variant else ''}{variant}"
    run(
        cores, "-m", "xlsr_jax.train", f"--config={path}", f"--workdir={folder}",
        f"--config.seed={seed}", f"--config.training.updates={updates}", "--config.corpus.make=",
        *more,
    )  # fmt: skip


def _load(config: str) -> Any:
    from xlsr_jax import config as configuration

    name, _, variant = config.partition(":")
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return configuration.resolve(module.get_config(variant))


def _flops(config: str, warm_start: bool = False) -> float:
    """Model FLOPs of an update; of a classifier without its classes."""
    from xlsr_jax.experiment import make_objective
    from xlsr_jax.objectives.log_mel import LogMelObjective

    settings = _load(config)
    samples = settings.data.max_crop_samples
    rows = settings.data.batch_seconds * 16_000 / samples
    if warm_start:
        return LogMelObjective(settings.model, settings.warm_start.bands).flops(rows, samples)
    return make_objective(settings, ()).flops(rows, samples)


def _updates(method: Method, budget: float) -> int:
    """Updates of ``budget`` FLOPs; without a warm start those of the quickstart's are added."""
    warm = _load("quickstart").warm_start.updates
    if not _load(method.config).warm_start.updates and not method.begins_with:
        budget += warm * _flops("quickstart", warm_start=True)
    return round(budget / _flops(method.config))


def _codebook(start: Path, audio: Path, cores: Sequence[int]) -> dict[str, float]:
    """What ``analyze`` says of the held-out split."""
    output = start / "analysis"
    if not (output / "figures.json").exists():
        run(
            cores, "-m", "xlsr_jax.analyze", f"--run={start}", f"--corpus={audio}",
            "--split=valid", f"--seconds={SECONDS}", f"--output={output}",
        )  # fmt: skip
    (figures,) = json.loads((output / "figures.json").read_text())["runs"].values()
    found, chance = figures["phones"]["found"], figures["phones"]["phones_shuffled"]
    return {
        "active": found["codes"],
        "entropy": found["mean_entropy"],
        "frame entropy": found["conditional_entropy"],
        "information": found["nmi"],
        "purity": found["phone_purity"],
        "chance purity": chance["phone_purity"],
    }


def _table(found: dict[str, list[dict[str, Any]]], updates: dict[str, int]) -> str:
    """A line a method; of codebooks the mean over seeds."""
    lines = [
        "| pretraining | updates | test PER % by seed | mean | 95 % | active pairs | "
        "H(phone/code), nats, of codes | of frames | NMI | purity % (shuffled) |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|---|",
    ]
    for name, seeds in found.items():
        rates = [seed["error"] for seed in seeds]
        mean, half = interval(rates)
        by_seed = ", ".join(f"{100 * rate:.1f}" for rate in rates)
        half = f"± {100 * half:.1f}" if half == half else "one seed"
        cells = ["", "", "", "", ""]
        if METHODS[name].codebook:
            of = {key: statistics.mean(seed[key] for seed in seeds) for key in seeds[0]}
            cells = [f"{of['active']:.0f}", f"{of['entropy']:.2f}", f"{of['frame entropy']:.2f}",
                     f"{of['information']:.3f}",
                     f"{100 * of['purity']:.1f} ({100 * of['chance purity']:.1f})"]  # fmt: skip
        lines.append(
            f"| {METHODS[name].name} | {updates[name]:,} | {by_seed} | {100 * mean:.1f} | {half} | "
            f"{' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
