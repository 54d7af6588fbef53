"""Whether a run fits a TPU slice, and what it takes, before anyone rents one.

    python -m xlsr_jax.compile --config=configs/xlsr10_base.py --topology=v4-128
    python -m xlsr_jax.compile --config=configs/xlsr10_large.py --topology=v4:4x4x8 --json

The very update that training runs is compiled by the TPU's own compiler, on a machine without any
TPU (``pip install 'xlsr_jax[aot]'``, JAX_PLATFORMS=cpu), for every shape of batch where the corpus
of the config is here, for the longest crop elsewhere. Settings are given as to ``xlsr_jax.train``.
Exit status 1 where it does not fit.
"""

import json
import sys
import time

from absl import app, flags

from xlsr_jax.config_flag import CONFIG, parse_flags

_TOPOLOGY = flags.DEFINE_string("topology", "", "Slice, such as v4:4x4x8 or v4-256.")
_SLICES = flags.DEFINE_integer("slices", 1, "Slices, joined by the data centre's network.")
_JSON = flags.DEFINE_bool("json", False, "Print one JSON document.")
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
    from xlsr_jax import experiment, inputs, runtime
    from xlsr_jax.compilation import forecast, update
    from xlsr_jax.parallel import mesh as meshes
    from xlsr_jax.parallel import topology as topologies
    from xlsr_jax.schema import ConfigError

    if not _TOPOLOGY.value:
        raise ConfigError("--topology is missing; try --topology=v4-32")
    config = configuration.resolve(CONFIG.value)
    topology = topologies.parse(_TOPOLOGY.value, _SLICES.value)
    runtime.start()
    mesh = meshes.make_mesh(config.mesh, topologies.describe(topology))
    shapes, languages, vocabulary, note = inputs.batch_shapes(
        config, experiment.row_multiple(config, mesh), meshes.data_parallel(mesh), _CLASSES.value
    )
    phase = experiment.make_phases(config, languages, vocabulary)[-1]
    count = sum(leaf.size for leaf in jax.tree.leaves(
        jax.eval_shape(phase.objective.init, jax.random.key(0))))  # fmt: skip
    say = (lambda *_: None) if _JSON.value else print
    say(f"{config.name}: {count / 1e6:.1f} M parameters on {topology.slices} x {topology.name} "
        f"({topology.sold_as}), {topology.devices} chips, mesh {dict(mesh.shape)}, "
        f"remat {getattr(config.model, 'remat', 'none')}, "
        f"{config.training.accumulation} microbatch(es)")  # fmt: skip
    say(note)
    found = []
    for shape in shapes:
        began = time.monotonic()
        compiled, state = update.compile_update(phase, config.training.accumulation, mesh, shape)
        flops = phase.objective.flops(shape.rows, shape.samples)
        found.append(forecast.forecast(compiled, state, shape, topology, mesh, flops))
        say("\n".join(forecast.lines(found[-1])))
        say(f"  compiled in {time.monotonic() - began:.0f} s")
    fits = all(each.fits for each in found)
    if _JSON.value:
        document = {
            "config": config.name,
            "topology": topology.name,
            "sold_as": topology.sold_as,
            "slices": topology.slices,
            "chips": topology.devices,
            "mesh": dict(mesh.shape),
            "parameters": count,
            "fits": fits,
            "shapes": [forecast.to_dict(each) for each in found],
            "run": forecast.run_dict(found, config.training.updates),
        }
        print(json.dumps(document, indent=1))
    else:
        print("\n".join(forecast.run_lines(found, config.training.updates)))
    for each in found:
        if not each.fits:
            rows = each.shape.rows // meshes.data_parallel(mesh)
            remat = getattr(config.model, "remat", "layer")
            mend = forecast.smaller(each, config.training.accumulation, rows, remat)
            print(f"{each.shape} does not fit: {mend}", file=sys.stderr)
    return fits


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
