"""Compiled updates in a folder, for a start without compiling.

Each is two files: the executable as JAX serialises it, and a JSON document that says what it is
for. The program is known by the hash of its text before compilation, which the settings and the
code both shape, so that a changed setting is another program. The rest is what the compiler was
told beside it: devices, versions, flags.

Loading runs code out of the files. So load only what you, or somebody you trust, have saved.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.sharding import Mesh

from xlsr_jax import storage
from xlsr_jax.data.buckets import Shape

EXECUTABLE, ABOUT = ".xla", ".json"
# What to say where hashes differ, which say nothing.
HASHED = {
    "program": "it is another program: a setting or the code has changed",
    "order": "the devices are numbered or placed otherwise",
    "processor": "it was compiled for another kind of processor",
}
COMPILERS = {"tpu": "libtpu", "gpu": "jax-cuda", "cuda": "jax-cuda", "rocm": "jax-rocm"}


def describe(phase: str, lowered: jax.stages.Lowered, shape: Shape, mesh: Mesh) -> dict[str, Any]:
    """What a compiled update is for; two of the same description can stand for each other."""
    devices = list(mesh.devices.flat)
    platform = devices[0].platform
    places = [
        (d.id, tuple(getattr(d, "coords", None) or ()), getattr(d, "slice_index", None) or 0)
        for d in devices
    ]
    about = {
        "phase": phase,
        "rows": shape.rows,
        "samples": shape.samples,
        "labels": shape.labels,
        "jax": jax.__version__,
        "jaxlib": metadata.version("jaxlib"),
        "compiler": compiler(platform),
        "device kind": devices[0].device_kind,
        "devices": len(devices),
        "mesh": dict(mesh.shape),
        "flags": _flags(),
        "order": _hash(repr(places)),
        "processor": _hash(_features()) if platform == "cpu" else "",
        "program": _hash(lowered.as_text()),
    }
    return json.loads(json.dumps(about))


@contextlib.contextmanager
def without_places() -> Iterator[None]:
    """To lower in: kernels would tell the names of their files, which differ between machines."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def save(folder: Path, compiled: jax.stages.Compiled, about: Mapping[str, Any]) -> Path:
    """Writes a compiled update; a reader never sees half of it. Returns the executable's file.

    Raises:
      StorageError: the disk or store is full or refuses.
    """
    executable, _, _ = serialize_executable.serialize(compiled)
    labels = f"x{about['labels']}" if about["labels"] else ""
    digest = _hash(json.dumps(about, sort_keys=True))[:12]
    stem = f"{about['phase']}-{about['rows']}x{about['samples']}{labels}-{digest}"
    storage.make_folder(folder)
    storage.write_atomically(folder / (stem + EXECUTABLE), executable)
    told = {"for": dict(about), "sha256": hashlib.sha256(executable).hexdigest()}
    storage.write_atomically(folder / (stem + ABOUT), json.dumps(told, indent=1).encode())
    return folder / (stem + EXECUTABLE)


def load(
    folder: Path, lowered: jax.stages.Lowered, wanted: Mapping[str, Any], mesh: Mesh
) -> tuple[jax.stages.Compiled | None, str]:
    """The saved update of a description, and its file; None where there is none, and why.

    It runs on the devices of ``mesh``, whose order on a slice is not that of ``jax.devices()``.
    """
    reasons = []
    for path, told in _listed(folder):
        about = told["for"]
        if any(about.get(x) != wanted[x] for x in ("phase", "rows", "samples", "labels")):
            continue
        differ = [name for name, value in wanted.items() if about.get(name) != value]
        if differ:
            reasons.append((len(differ), _reason(differ[0], about, wanted)))
            continue
        try:
            executable = path.read_bytes()
            if hashlib.sha256(executable).hexdigest() != told["sha256"]:
                raise ValueError("it is not what was written")
            found = serialize_executable.deserialize_and_load(
                executable, lowered.in_tree, lowered.out_tree,
                execution_devices=list(mesh.devices.flat),
            )  # fmt: skip
            return found, path.name
        except Exception as error:  # whatever JAX raises: compiling is always possible
            reasons.append((0, f"{path.name} cannot be loaded: {_first_line(error)}"))
    return None, min(reasons)[1] if reasons else f"{folder} has none for it"


def digest(folder: Path) -> str:
    """Of all descriptions in a folder: hosts of a run have to load the same."""
    return _hash(json.dumps([told for _, told in _listed(folder)], sort_keys=True))[:12]


def _listed(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each executable's file and what is said of it, without files that are none of ours."""
    names = []
    with contextlib.suppress(Exception):  # whatever a store raises: nothing is to be had there
        names = sorted(path.name for path in folder.glob("*" + ABOUT))
    for name in names:
        with contextlib.suppress(Exception):
            told = json.loads((folder / name).read_text())
            found = {"for": dict(told["for"]), "sha256": str(told["sha256"])}
            yield folder / (name.removesuffix(ABOUT) + EXECUTABLE), found


def _reason(name: str, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    if name in HASHED:
        return HASHED[name]
    return f"it is for {name} {saved.get(name) or 'none'}, here {wanted[name] or 'none'}"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def compiler(platform: str) -> str:
    """Package and version of what compiles for a platform beside jaxlib, which does for CPUs."""
    package = COMPILERS.get(platform)
    if package is None:
        return ""
    found = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    chosen = sorted(name for name in found if name and name.startswith(package))
    return ", ".join(f"{name} {found[name]}" for name in chosen)


def _flags() -> str:
    """Flags of XLA, but for the number of simulated devices and what JAX adds on TPU machines."""
    given = " ".join(os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"))
    left_out = ("xla_force_host_platform_device_count", "xla_tpu_use_enhanced_launch_barrier")
    return " ".join(sorted(x for x in given.split() if not any(y in x for y in left_out)))


def _features() -> str:
    """What this machine's processor can do, as far as Linux tells."""
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", told, re.MULTILINE)
    return " ".join(sorted(found.group(1).split())) if found else ""
