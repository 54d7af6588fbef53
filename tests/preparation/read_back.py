"""What a preparation wrote, read back, and folders made into archives as people make them."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import soundfile

from xlsr_jax.data import records
from xlsr_jax.data.records import Record
from xlsr_jax.preparation.prepare import prepare


def noise(path, samples, rate=16_000, **how):
    """Writes a file of noise that is its name's own; returns [samples] int16."""
    rng = np.random.default_rng(sum(path.name.encode()) + 1000 * len(path.name))
    pcm = rng.integers(-9000, 9000, samples).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, pcm, rate, **how)
    return pcm


def packed(folder, archive, *inside, links=()):
    """A .tar.gz of ``folder/inside`` in an order that no listing would give, and of links."""
    with tarfile.open(archive, "w:gz") as tar:
        for top in inside:
            files = (path for path in (folder / top).rglob("*") if path.is_file())
            for path in sorted(files, key=lambda path: path.name[::-1]):
                tar.add(path, path.relative_to(folder))
        for name, target in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
    return archive


def packed_bytes(made, path, links=()):
    """A .tar.gz of {name: bytes}, last name first, and of links out of it; its path."""
    with tarfile.open(path, "w:gz") as tar:
        for name, data in sorted(made.items(), reverse=True):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return str(path)


def prepared(corpus, out):
    """({id: (split, record)}, {id: (split, language, reason)}) of a corpus prepared in ``out``."""
    manifest = prepare(corpus, out, workers=1, progress_bar=False)
    found = {}
    for shard in manifest.shards:
        source = records.open_shards(out, [shard])
        for record in (Record.from_bytes(source[i]) for i in range(len(source))):
            assert record.id not in found
            found[record.id] = (shard.split, record)
    aside = {}
    for line in map(json.loads, (Path(out) / "rejected.jsonl").read_text().splitlines()):
        assert line["id"] not in aside
        aside[line["id"]] = (line["split"], line["language"], line["reason"])
    return found, aside
