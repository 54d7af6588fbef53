"""The one joint: a validated config becomes data, objective, optimizer and mesh."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax

from xlsr_jax import config as configuration
from xlsr_jax.config import Config
from xlsr_jax.data import pipeline
from xlsr_jax.data.records import write_atomically
from xlsr_jax.objectives.log_mel import LogMelObjective
from xlsr_jax.parallel import mesh as meshes
from xlsr_jax.schema import ConfigError
from xlsr_jax.training import loop, optimizer
from xlsr_jax.training.checkpoint import Checkpoints
from xlsr_jax.training.logbook import Logbook, draw_curves
from xlsr_jax.training.state import abstract_state, materialize, parameter_count

CONFIG = "config.json"


def pretrain(config: Config, workdir: Path) -> None:
    """Trains ``config`` in ``workdir``, going on from the newest checkpoint there.

    Raises:
      ConfigError, CorpusError, CheckpointError, TrainingStopped: each a line that says the mend.
    """
    prepare_corpus(config)
    mesh = meshes.make_mesh(config.mesh)
    jax.set_mesh(mesh)
    multiple = row_multiple(config, mesh)
    plan = pipeline.plan_training(config.data, multiple)
    eval_plan = pipeline.plan_evaluation(config.data, meshes.data_parallel(mesh))
    phases = make_phases(config, plan.languages)
    about = {"config": configuration.to_dict(config), "languages": list(plan.languages)}

    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, config.training.keep)
    key = jax.random.key(config.seed)
    init = phases[0].objective.init
    abstract = abstract_state(init, phases[0].optimizer, mesh)
    newest = checkpoints.latest()
    if newest is None:
        state = materialize(init, phases[0].optimizer, key, abstract)
    else:
        state = checkpoints.restore(newest, abstract)

    total = phases[-1].start + phases[-1].updates
    first_host = jax.process_index() == 0
    changed = _remember_config(about["config"], workdir) if first_host else []
    logbook = Logbook(workdir, int(state.step), total, active=first_host)
    logbook.say(f"{config.name}: {parameter_count(state.params) / 1e6:.1f} M parameters in {workdir}")
    logbook.say(plan.summary())
    for change in changed:
        logbook.event(int(state.step), f"setting changed since the run began: {change}")
    if newest is not None:
        logbook.event(newest, f"going on from the checkpoint of update {newest}")
    hosts = {"host": jax.process_index(), "hosts": jax.process_count()}
    run = loop.Run(
        config=config.training,
        phases=phases,
        open_batches=lambda step: pipeline.train_batches(
            plan, seed=config.seed, start_step=step, **hosts
        ),
        eval_batches=partial(pipeline.eval_batches, eval_plan, **hosts),
        mesh=mesh,
        key=key,
        checkpoints=checkpoints,
        logbook=logbook,
        about=about,
    )
    try:
        state = loop.train(run, state)
    finally:
        logbook.close()
        checkpoints.close()
        if first_host:
            draw_curves(workdir, config.name)


def make_objective(config: Config, languages: tuple[str, ...]) -> loop.Objective:
    """The objective of the config's method."""
    module = configuration.method_module(config.method)
    return module.make_objective(config.model, config.objective, languages, meshes.constrain)


def make_phases(config: Config, languages: tuple[str, ...]) -> list[loop.Phase]:
    """The warm start, where there is one, and the main phase, over one tree of parameters."""
    main = make_objective(config, languages)
    phases = []
    warm = config.warm_start
    if warm.updates:
        regression = LogMelObjective(config.model, warm.bands, meshes.constrain)
        settings = optimizer.OptimizerConfig(
            peak_lr=warm.peak_lr, warmup_share=warm.warmup_share, weight_decay=0.0
        )
        phases.append(_phase("warm_start", regression, settings, 0, warm.updates))
    updates = config.training.updates
    phases.append(_phase(config.method, main, config.optimizer, warm.updates, updates))
    return phases


def _phase(
    name: str, objective: loop.Objective, settings: optimizer.OptimizerConfig, start: int, updates: int
) -> loop.Phase:
    return loop.Phase(
        name=name,
        objective=objective,
        optimizer=optimizer.make_optimizer(settings, updates),
        learning_rate=partial(optimizer.learning_rate, settings, updates),
        start=start,
        updates=updates,
    )


def row_multiple(config: Config, mesh: jax.sharding.Mesh) -> int:
    """What the number of rows of every batch must be a multiple of.

    Each microbatch is spread over all data-parallel devices, and holds whole diversity groups.
    """
    groups = getattr(config.objective, "diversity_groups", 1)
    accumulation = config.training.accumulation
    if groups % accumulation and accumulation > 1:
        raise ConfigError(
            f"config.training.accumulation={accumulation} does not divide "
            f"config.objective.diversity_groups={groups}: each microbatch must hold whole groups; "
            f"set config.objective.diversity_groups={accumulation} or a multiple"
        )
    devices = meshes.data_parallel(mesh) * accumulation
    return math.lcm(devices, groups)


def prepare_corpus(config: Config) -> None:
    """Makes the config's own corpus on first use, or checks that it is the one asked for."""
    if not config.corpus.make:
        return
    from xlsr_jax.data.corpora.spoken_text import SpokenText
    from xlsr_jax.data.prepare import ensure

    ensure(SpokenText(hours=config.corpus.hours, seed=config.corpus.seed), config.data.path)


def _remember_config(config: dict[str, Any], workdir: Path) -> list[str]:
    """Writes ``config.json``; returns what differs from the one already there."""
    path = workdir / CONFIG
    document = json.loads(json.dumps(config))
    changed = configuration.changes(json.loads(path.read_text()), document) if path.exists() else []
    write_atomically(path, json.dumps(config, indent=1).encode())
    return changed
