"""Time and peak memory of one full update, ours against transformers' PyTorch model.

    python tools/benchmark_step.py [--rows 4 --seconds 4 --repeats 5]

Both sides do the same work on the same machine: span masks, distractors, forward, backward and
AdamW of a Base model in fp32, with dropout and LayerDrop as published. Each side is a subprocess
of its own, so that its peak memory is its own, and the two take turns, update by update. Needs
the ``reference`` extra.

Beside the two ratios stands what the machine could do: its rate on large matrix products, and the
time that the update's matrix products would take at that rate.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

SIDES = ("ours", "theirs")
PEAK_LR, BETAS, EPSILON, WEIGHT_DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.01
WARMUP_UPDATES, UPDATES = 32_000, 400_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.side:
        _serve({"ours": _our_update, "theirs": _their_update}[flags.side](flags))
    else:
        _compare(flags)


def _compare(flags: argparse.Namespace) -> None:
    workers = {side: _start(flags, side) for side in SIDES}
    for side, worker in workers.items():
        first = _ask(worker)
        print(f"{side}: first update (compilation and allocation included) {first['time']:.1f} s")
    times: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu: dict[str, list[float]] = {side: [] for side in SIDES}
    rates = [_matrix_rate()]
    memory = {}
    for _ in range(flags.repeats):
        for side, worker in workers.items():
            answer = _ask(worker)
            times[side].append(answer["time"])
            cpu[side].append(answer["cpu"])
            memory[side] = answer["peak_bytes"]
        rates.append(_matrix_rate())
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()

    flops = _flops(flags)
    rate = statistics.median(rates)
    print(f"one Base update on {flags.rows} x {flags.seconds:g} s, fp32, {flags.threads} threads")
    for side in SIDES:
        print(
            f"{side:>7}: {statistics.median(times[side]):6.2f} s "
            f"({min(times[side]):.2f} to {max(times[side]):.2f}), "
            f"processor time {statistics.median(cpu[side]):.2f} s, "
            f"peak memory {memory[side] / 2**30:.2f} GiB"
        )
    print(f"machine: {rate / 1e9:.0f} GFLOP/s on 2048 x 2048 matrices (NumPy, fp32)")
    print(f"  limit: {flops / 1e9:.0f} GFLOP of matrix products: {flops / rate:.2f} s at that rate")
    pairs = [a / b for a, b in zip(times["ours"], times["theirs"], strict=True)]
    print(f"time ratio   {statistics.median(pairs):.2f}  (target 0.8)")
    # On a machine that others use too, wall time is the others' as well.
    cpu_pairs = [a / b for a, b in zip(cpu["ours"], cpu["theirs"], strict=True)]
    print(f"time ratio by processor time {statistics.median(cpu_pairs):.2f}")
    print(f"memory ratio {memory['ours'] / memory['theirs']:.2f}  (target 1.0)")


def _start(flags: argparse.Namespace, side: str) -> subprocess.Popen:
    command = [sys.executable, __file__, "--side", side]
    for name in ("rows", "seconds", "threads"):
        command += [f"--{name}", str(getattr(flags, name))]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": str(flags.threads)}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _ask(worker: subprocess.Popen) -> dict[str, float]:
    worker.stdin.write("update\n")
    worker.stdin.flush()
    line = worker.stdout.readline()
    if not line:
        raise SystemExit("a side stopped; its error stands above")
    return json.loads(line)


def _serve(update) -> None:
    """Does one update for every line read, and says what it took."""
    for _ in sys.stdin:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        loss = update()
        answer = {
            "time": time.perf_counter() - begin,
            "cpu": time.process_time() - begin_cpu,
            "loss": loss,
            "peak_bytes": _peak_bytes(),
        }
        print(json.dumps(answer), flush=True)


def _peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _waveform(flags: argparse.Namespace):
    import numpy as np

    shape = (flags.rows, round(flags.seconds * 16_000))
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


def _our_update(flags: argparse.Namespace):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from xlsr_jax import runtime
    from xlsr_jax.models.wav2vec2 import ModelConfig
    from xlsr_jax.objectives.wav2vec2 import ObjectiveConfig, Wav2Vec2Objective
    from xlsr_jax.training.optimizer import OptimizerConfig, make_optimizer
    from xlsr_jax.training.state import TrainState
    from xlsr_jax.training.step import train_step

    runtime.keep_freed_memory()  # as ``runtime.start`` does for a run
    objective = Wav2Vec2Objective(ModelConfig(), ObjectiveConfig())
    settings = OptimizerConfig(
        peak_lr=PEAK_LR,
        warmup_share=WARMUP_UPDATES / UPDATES,
        beta1=BETAS[0],
        beta2=BETAS[1],
        epsilon=EPSILON,
        weight_decay=WEIGHT_DECAY,
    )
    optimizer = make_optimizer(settings, UPDATES)
    waveform = _waveform(flags)
    rows = np.arange(flags.rows, dtype=np.int32)
    batch = {
        "waveform": waveform,
        "samples": np.full(flags.rows, waveform.shape[1], np.int32),
        "language": np.zeros(flags.rows, np.int32),
        "row": rows,
        "weight": np.ones(flags.rows, np.float32),
    }
    key = jax.random.key(0)
    step = jax.jit(
        partial(train_step, partial(objective.loss, train=True), optimizer, 1, 0),
        donate_argnums=0,
    )
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    params = jax.jit(objective.init)(key)
    state = TrainState(
        step=zero(),
        params=params,
        opt_state=jax.jit(optimizer.init)(params),
        skipped=zero(),
        skipped_in_a_row=zero(),
    )
    del params

    def update() -> float:
        nonlocal state
        state, sums = step(state, batch, key)
        numerator, denominator = jax.block_until_ready(sums["loss"])
        return float(numerator / denominator)

    return update


def _their_update(flags: argparse.Namespace):
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
    from transformers.models.wav2vec2 import modeling_wav2vec2 as theirs

    from xlsr_jax.interop.huggingface import to_config_json
    from xlsr_jax.models.wav2vec2 import ModelConfig

    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    config = Wav2Vec2Config(**to_config_json(ModelConfig()))
    model = Wav2Vec2ForPreTraining(config).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), PEAK_LR, BETAS, EPSILON, weight_decay=WEIGHT_DECAY
    )
    warmup = lambda count: (count + 1) / WARMUP_UPDATES  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup)
    waveform = torch.tensor(_waveform(flags))
    shape = (flags.rows, int(model._get_feat_extract_output_lengths(waveform.shape[1])))

    def update() -> float:
        mask = theirs._compute_mask_indices(shape, 0.65, 10, min_masks=2)
        negatives = theirs._sample_negative_indices(shape, config.num_negatives, mask)
        loss = model(
            waveform,
            mask_time_indices=torch.tensor(mask),
            sampled_negative_indices=torch.tensor(negatives),
        ).loss / int(mask.sum())
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return update


def _matrix_rate(size: int = 2048) -> float:
    """FLOP/s of large fp32 matrix products in NumPy."""
    import numpy as np

    a = np.ones((size, size), np.float32)
    a @ a
    begin = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * size**3 / (time.perf_counter() - begin)


def _flops(flags: argparse.Namespace) -> float:
    from xlsr_jax.models.wav2vec2 import ModelConfig
    from xlsr_jax.objectives.wav2vec2 import ObjectiveConfig, Wav2Vec2Objective

    objective = Wav2Vec2Objective(ModelConfig(), ObjectiveConfig())
    return objective.flops(flags.rows, round(flags.seconds * 16_000))


if __name__ == "__main__":
    main()
