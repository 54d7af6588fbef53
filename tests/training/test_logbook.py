"""The log: one line an entry, cut back on resumption, drawn as a picture."""

import json
import math

from xlsr_jax.training.clock import Clock, peak_flops
from xlsr_jax.training.logbook import Logbook, draw_curves, read_log


def test_resumption_drops_what_will_be_written_again(tmp_path):
    log = Logbook(tmp_path, start=0, total=10)
    for step in (2, 4, 6):
        log.metrics(step, "train", {"loss": 1 / step, "r2": math.nan})
    log.close()
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"step": 7, "kind": "tr')  # cut by a kill
    log = Logbook(tmp_path, start=4, total=10)
    log.metrics(6, "train", {"loss": 0.5})
    log.close()
    entries = read_log(tmp_path / "log.jsonl")
    assert [(e["step"], e["loss"]) for e in entries] == [(2, 0.5), (4, 0.25), (6, 0.5)]
    assert "r2" not in entries[0], "what is not finite is left out, so that every line is JSON"


def test_tensorboard_holds_the_same_figures(tmp_path):
    log = Logbook(tmp_path, start=0, total=10)
    log.metrics(5, "eval", {"accuracy": 0.25})
    log.close()
    content = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"eval/accuracy" in content


def test_curves_are_drawn_from_the_log(tmp_path):
    lines = [
        {"step": s, "kind": k, "accuracy": 0.1 * s, "chance_accuracy": 0.05}
        for s in range(3)
        for k in ("train", "eval")
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    picture = draw_curves(tmp_path, "a run").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5_000


def test_peak_is_known_by_device_kind_and_never_assumed():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None


def test_clock_counts_audio_waiting_and_use_of_the_peak(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock(devices=2, device_kind="TPU v4")

    def slow():
        now[0] += 1.0
        yield "batch"

    assert clock.waited(slow()) == "batch"
    now[0] = 4.0
    clock.update(audio_seconds=7200.0, flops=4 * 550e12 / 2)
    figures = clock.figures()
    assert figures["audio_seconds_per_second"] == 1800
    assert figures["audio_hours_per_update"] == 2
    assert figures["data_wait_share"] == 0.25
    assert figures["mfu"] == 0.5
