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
from xlsr_jax.models.feature_encoder import receptive_field
from xlsr_jax.objectives.log_mel import LogMelObjective
from xlsr_jax.parallel import mesh as meshes
from xlsr_jax.schema import ConfigError
from xlsr_jax.training import loop, optimizer
from xlsr_jax.training.checkpoint import CheckpointError, Checkpoints
from xlsr_jax.training.logbook import Logbook, draw_curves
from xlsr_jax.training.state import abstract_state, materialize, parameter_count

CONFIG = "config.json"


def pretrain(config: Config, workdir: Path) -> None:
    """Trains ``config`` in ``workdir``, going on from the newest checkpoint there.

    Raises:
      ConfigError, CorpusError, CheckpointError, TrainingStopped: each a line that says the mend.
    """
    mesh = meshes.make_mesh(config.mesh)
    jax.set_mesh(mesh)
    multiple = row_multiple(config, mesh)
    host, hosts = meshes.host_rows(mesh)
    prepare_corpus(config)
    window, hop = frame_geometry(config.model)
    plan = pipeline.plan_training(config.data, multiple, window=window, hop=hop)
    eval_plan = pipeline.plan_evaluation(
        config.data,
        meshes.data_parallel(mesh),
        batch_seconds=config.data.batch_seconds / config.training.accumulation,
        window=window,
        hop=hop,
    )
    phases = make_phases(config, plan.languages)
    about = {"config": configuration.to_dict(config), "languages": list(plan.languages)}

    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir, config.training.keep)
    init_key, key, eval_key = jax.random.split(jax.random.key(config.seed), 3)
    init = phases[0].objective.init
    abstract = abstract_state(init, phases[0].optimizer, mesh)
    newest = checkpoints.latest()
    if newest is None:
        state = materialize(init, phases[0].optimizer, init_key, abstract)
    else:
        refuse_another_model(checkpoints.about(newest)["config"], about["config"], newest)
        state = checkpoints.restore(newest, abstract)

    total = phases[-1].start + phases[-1].updates
    first_host = jax.process_index() == 0
    changed = _remember_config(about["config"], workdir) if first_host else []
    logbook = Logbook(workdir, int(state.step), total, active=first_host)
    logbook.say(
        f"{config.name}: {parameter_count(state.params) / 1e6:.1f} M parameters in {workdir}"
    )
    logbook.say(plan.summary())
    for change in changed:
        logbook.event(int(state.step), f"setting changed since the run began: {change}")
    if newest is not None:
        logbook.event(newest, f"going on from the checkpoint of update {newest}")
    run = loop.Run(
        config=config.training,
        phases=phases,
        open_batches=lambda step: pipeline.train_batches(
            plan, seed=config.seed, start_step=step, host=host, hosts=hosts
        ),
        eval_batches=partial(pipeline.eval_batches, eval_plan, host=host, hosts=hosts),
        mesh=mesh,
        key=key,
        eval_key=eval_key,
        checkpoints=checkpoints,
        logbook=logbook,
        about=about,
    )
    try:
        loop.train(run, state)
    finally:
        if first_host:
            try:
                draw_curves(workdir, config.name)
            except Exception as error:  # a picture is never worth hiding why the run ended
                logbook.say(f"no picture of the curves: {error}")
        logbook.close()
        checkpoints.close()


# Settings of the model that may change between starts of a run: they leave its function alone.
CHANGEABLE = {
    "dropout", "attention_dropout", "activation_dropout", "dropout_input", "dropout_features",
    "layerdrop", "feature_grad_scale", "dtype", "remat",
}  # fmt: skip


def refuse_another_model(saved: dict[str, Any], wanted: dict[str, Any], step: int) -> None:
    """Raises ``CheckpointError`` where a checkpoint's model or normalisation is not the config's.

    Shapes do not tell everything: other numbers of heads, strides or norms fit the same arrays.
    """
    settings = [("method", saved["method"], wanted["method"])]
    settings += [
        (f"model.{name}", saved["model"].get(name), value)
        for name, value in json.loads(json.dumps(wanted["model"])).items()
        if name not in CHANGEABLE
    ]
    settings.append(("data.normalize", saved["data"]["normalize"], wanted["data"]["normalize"]))
    for name, before, now in settings:
        if before != now:
            raise CheckpointError(
                f"the checkpoint of update {step} is of another model: config.{name} is {before} "
                f"there and {now} in this config; use another --workdir, or the config that the "
                "run was started with"
            )


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


def frame_geometry(model: Any) -> tuple[int, int]:
    """(samples that a frame sees, samples between frames) of a model with convolution settings."""
    return receptive_field(model.conv_kernels, model.conv_strides)


def _phase(
    name: str,
    objective: loop.Objective,
    settings: optimizer.OptimizerConfig,
    start: int,
    updates: int,
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
