"""Whether a run fits a TPU slice, and what it takes, before anyone rents one.

    python -m xlsr_jax.compile --config=configs/xlsr10_base.py --topology=v4-128
    python -m xlsr_jax.compile --config=configs/xlsr10_large.py --topology=v4:4x4x8 --json

The very update that training runs is compiled by the TPU's own compiler, on a machine without any
TPU (``pip install 'xlsr_jax[aot]'``, JAX_PLATFORMS=cpu), for every shape of batch where the corpus
of the config is here, for the longest crop elsewhere. ``--search`` compiles several meshes,
policies of remat and numbers of microbatches, and takes the best. Settings are given as to
``xlsr_jax.train``. Exit status 1 where it does not fit.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from xlsr_jax.config_flag import CONFIG, parse_flags

_TOPOLOGY = flags.DEFINE_string("topology", "", "Slice, such as v4:4x4x8 or v4-256.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices, joined by the data centre's network.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON document.")
_SEARCH = flags.DEFINE_bool("search", False, "Try meshes, remat and microbatches; take the best.")
_CLASSES = flags.DEFINE_integer("classes", 100, "Size of the vocabulary where no corpus is here.")


def main(_: list[str]) -> None:
    from absl import logging

    from xlsr_jax.data.records import CorpusError
    from xlsr_jax.schema import ConfigError

    logging.set_verbosity(logging.ERROR)
    try:
        sys.exit(0 if _compile() else 1)
    except (ConfigError, CorpusError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)


def _compile() -> bool:
    """Prints the forecast; whether every shape fits."""
    import jax

    from xlsr_jax import config as configuration
    from xlsr_jax import runtime
    from xlsr_jax.compilation import forecast
    from xlsr_jax.parallel import mesh as meshes
    from xlsr_jax.parallel import topology as topologies
    from xlsr_jax.schema import ConfigError

    if not _TOPOLOGY.value:
        raise ConfigError("--topology is missing; try --topology=v4-32")
    config = configuration.resolve(CONFIG.value)
    topology = topologies.parse(_TOPOLOGY.value, _SLICES.value)
    runtime.start()
    # The cache would keep programs that nothing here can load again.
    jax.config.update("jax_enable_compilation_cache", False)
    if _SEARCH.value:
        plan, found = _search(config, topology)
        config = plan.config
    else:
        plan = _plan(config, topology)
        _say(plan.describe())
        found = _measure(plan)
    if _JSON.value:
        told = forecast.to_dict(found, config.training.updates)
        about = {"config": config.name, "mesh": dict(plan.mesh.shape), "parameters": plan.count}
        print(json.dumps(about | told, indent=1))
    for each in found:
        _say("\n".join(forecast.lines(each)))
    _say("\n".join(forecast.run_lines(found, config.training.updates)))
    for each in found:
        if not each.fits:
            rows = each.shape.rows // meshes.data_parallel(plan.mesh)
            remat = getattr(config.model, "remat", "layer")
            mend = forecast.smaller(each, config.training.accumulation, rows, remat)
            print(f"{each.shape} does not fit: {mend}", file=sys.stderr)
    return all(each.fits for each in found)


def _say(text: str) -> None:
    if not _JSON.value:
        print(text, flush=True)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is to be compiled."""

    config: Any
    topology: Any
    mesh: Any
    phase: Any
    shapes: Sequence[Any]
    note: str
    count: int

    def describe(self) -> str:
        config, topology = self.config, self.topology
        slices = f"{topology.slices} x " if topology.slices > 1 else ""
        return (
            f"{config.name}: {self.count / 1e6:.1f} M parameters on {slices}{topology.name} "
            f"({slices}{topology.sold_as}), {topology.devices} chips\n"
            f"mesh {dict(self.mesh.shape)}, remat {getattr(config.model, 'remat', 'none')}, "
            f"microbatches {config.training.accumulation}; {self.note}"
        )


def _plan(config: Any, topology: Any) -> _Plan:
    import jax

    from xlsr_jax import experiment, inputs
    from xlsr_jax.parallel import mesh as meshes
    from xlsr_jax.parallel import topology as topologies

    mesh = meshes.make_mesh(config.mesh, topologies.describe(topology))
    shapes, languages, vocabulary, note = inputs.batch_shapes(
        config, experiment.row_multiple(config, mesh), meshes.data_parallel(mesh), _CLASSES.value
    )
    phase = experiment.make_phases(config, languages, vocabulary)[-1]
    params = jax.eval_shape(phase.objective.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return _Plan(config, topology, mesh, phase, shapes, note, count)


def _measure(plan: _Plan) -> list[Any]:
    """A forecast of each shape; compiling takes minutes, and says so."""
    from xlsr_jax.compilation import forecast, update

    found = []
    for number, shape in enumerate(plan.shapes, 1):
        print(f"compiling {shape} ({number} of {len(plan.shapes)})", file=sys.stderr, flush=True)
        began = time.monotonic()
        accumulation = plan.config.training.accumulation
        compiled, state = update.compile_update(plan.phase, accumulation, plan.mesh, shape)
        flops = plan.phase.objective.flops(shape.rows, shape.samples)
        found.append(forecast.forecast(compiled, state, shape, plan.topology, plan.mesh, flops))
        print(f"compiled in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return found


def _search(config: Any, topology: Any) -> tuple[_Plan, list[Any]]:
    """What fits and takes the least time, and its forecasts; a line for each that is tried."""
    from xlsr_jax.compilation import forecast, search
    from xlsr_jax.models.context_network import REMAT
    from xlsr_jax.parallel import mesh as meshes
    from xlsr_jax.schema import ConfigError

    def changed(candidate: search.Candidate) -> Any:
        replace = dataclasses.replace
        return replace(
            config,
            mesh=replace(config.mesh, replica=candidate.replica),
            model=replace(config.model, remat=candidate.remat),
            training=replace(config.training, accumulation=candidate.accumulation),
        )

    plans = {}

    def measure(candidate: search.Candidate) -> Sequence[Any] | None:
        try:
            plans[candidate] = _plan(changed(candidate), topology)
            return _measure(plans[candidate])
        except ConfigError as error:
            print(f"{candidate}: {error}", file=sys.stderr)
            return None

    if not hasattr(config.model, "remat"):
        raise ConfigError(f"--search: method {config.method} has nothing to choose from")
    mesh = meshes.mesh_shape(config.mesh, topology.devices)
    shards = topology.devices // mesh[2]
    replicas = sorted({topology.slices, mesh[0], shards})
    replicas = [n for n in replicas if n % topology.slices == 0 and shards % n == 0]
    fitting = []
    for candidate, found in search.candidates(measure, replicas, REMAT, (1, 2, 4, 8)):
        hidden, waiting = forecast.mean_seconds(found)
        fits = all(each.fits for each in found)
        _say(
            f"{candidate}: {'' if fits else 'does not fit, '}{1e3 * hidden:.0f} to "
            f"{1e3 * waiting:.0f} ms an update"
        )
        if fits:
            fitting.append((waiting, str(candidate), candidate, found))
    if not fitting:
        raise ConfigError(f"nothing fits {topology.name}: take a larger slice or shorter crops")
    _, _, best, found = min(fitting, key=lambda each: each[:2])
    _say(f"best: {best}\n{plans[best].describe()}")
    return plans[best], found


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
