"""A stand-in for Google Cloud Storage, below the names of the clients that we and Orbax use.

Each object is one file of the folder that the environment variable OBJECTS names, so that the
processes of a test share them. It knows no folders, and shows an object when its upload is whole.
fsspec reads and writes the files; TensorStore speaks to a server of ``serving``.

    python -m tests.store xlsr_jax.train --workdir=gs://bucket/run ...

runs a command of ours with it.
"""

import contextlib
import http.server
import io
import json
import os
import runpy
import sys
import threading
import types
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import fsspec
import pytest


class Upload(io.BytesIO):
    """Bytes that become an object when closed."""

    def __init__(self, file: Path):
        super().__init__()
        self.file = file

    def close(self):
        if not self.closed:
            partial = self.file.with_name(f"{uuid.uuid4().hex}")
            partial.write_bytes(self.getvalue())
            os.replace(partial, self.file)
        super().close()


class Store(fsspec.AbstractFileSystem):
    """Objects below the folder of the environment variable OBJECTS."""

    protocol = ("gs", "gcs")

    def _file(self, path: str) -> Path:
        return Path(os.environ["OBJECTS"], urllib.parse.quote(self._strip_protocol(path), safe=""))

    def _names(self) -> list[str]:
        return [urllib.parse.unquote(name) for name in os.listdir(os.environ["OBJECTS"])]

    def info(self, path, **_):
        name = self._strip_protocol(path)
        if self._file(path).exists():
            return {"name": name, "type": "file", "size": self._file(path).stat().st_size}
        if any(other.startswith(name + "/") for other in self._names()):
            return {"name": name, "type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **_):
        name = self._strip_protocol(path)
        if self.info(path)["type"] == "file":
            return [self.info(path)] if detail else [name]
        below = (other[len(name) + 1 :] for other in self._names() if other.startswith(name + "/"))
        found = sorted({f"{name}/{rest.split('/')[0]}" for rest in below})
        return [self.info(other) for other in found] if detail else found

    def _open(self, path, mode="rb", **_):
        return open(self._file(path), "rb") if mode == "rb" else Upload(self._file(path))

    def _rm(self, path):
        self._file(path).unlink(missing_ok=True)


fsspec.register_implementation("gcs", Store, clobber=True)


class _Server(http.server.BaseHTTPRequestHandler):
    """What TensorStore asks of Google's JSON interface; generations are times of writing."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name, asked = self._asked()
        if name is None:
            return self._list(asked)
        if not self._file(name).exists():
            return self._answer(404)
        generation, data = self._generation(name), self._file(name).read_bytes()
        if asked.get("ifGenerationNotMatch") == generation:
            return self._answer(304)
        if "alt" not in asked:
            return self._answer(200, self._described(name))
        headers, span = {"x-goog-generation": generation}, self.headers.get("Range")
        if span is None:
            return self._answer(200, data, headers)
        first, last = span.removeprefix("bytes=").split("-")
        begin = int(first) if first else len(data) - int(last)
        part = data[begin : int(last) + 1 if first and last else None]
        headers["Content-Range"] = f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"
        return self._answer(206, part, headers)

    def do_POST(self) -> None:
        _, asked = self._asked()
        name, data = asked["name"], self.rfile.read(int(self.headers["Content-Length"]))
        with _WRITING:
            if asked.get("ifGenerationMatch", self._generation(name)) != self._generation(name):
                return self._answer(412)
            upload = Upload(self._file(name))
            upload.write(data)
            upload.close()
            return self._answer(200, self._described(name))

    def do_DELETE(self) -> None:
        name, asked = self._asked()
        with _WRITING:
            if asked.get("ifGenerationMatch", self._generation(name)) != self._generation(name):
                return self._answer(412)
            self._file(name).unlink(missing_ok=True)
            return self._answer(204)

    def log_message(self, *_: object) -> None:
        pass

    def _asked(self) -> tuple[str | None, dict[str, str]]:
        """The object, if it is about one, and the query."""
        url = urllib.parse.urlsplit(self.path)
        self.bucket, _, rest = url.path.partition("/b/")[2].partition("/")
        name = urllib.parse.unquote(rest.removeprefix("o").removeprefix("/")) or None
        return name, dict(urllib.parse.parse_qsl(url.query))

    def _file(self, name: str) -> Path:
        return self.server.objects / urllib.parse.quote(f"{self.bucket}/{name}", safe="")

    def _generation(self, name: str) -> str:
        file = self._file(name)
        return str(file.stat().st_mtime_ns) if file.exists() else "0"

    def _described(self, name: str) -> bytes:
        size = str(self._file(name).stat().st_size)
        return json.dumps(
            {"name": name, "size": size, "generation": self._generation(name)}
        ).encode()

    def _list(self, asked: dict[str, str]) -> None:
        names = map(urllib.parse.unquote, os.listdir(self.server.objects))
        prefix = f"{self.bucket}/{asked.get('prefix', '')}"
        found = [n.removeprefix(f"{self.bucket}/") for n in sorted(names) if n.startswith(prefix)]
        items = [json.loads(self._described(name)) for name in found]
        self._answer(200, json.dumps({"items": items}).encode())

    def _answer(self, status: int, data: bytes = b"", headers: Mapping[str, str] = {}) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


_WRITING = threading.Lock()


@contextlib.contextmanager
def serving(objects: Path) -> Iterator[None]:
    """The store in the folder ``objects``, for this process and those that it starts.

    One for each process of tests: TensorStore looks for its server once.
    """
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    server.objects = objects
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OBJECTS", str(objects))
        patch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", "token")
        for name, module in _clients().items():
            patch.setitem(sys.modules, name, module)
        yield
    server.shutdown()
    server.server_close()


def _clients() -> dict[str, types.ModuleType]:
    """``google.cloud.storage``, which Orbax asks whether a bucket has folders; this has none."""
    cloud, storage = types.ModuleType("google.cloud"), types.ModuleType("google.cloud.storage")
    cloud.storage = storage
    storage.Client = lambda: types.SimpleNamespace(get_bucket=lambda name: name)
    return {"google.cloud": cloud, "google.cloud.storage": storage}


if __name__ == "__main__":
    sys.modules |= _clients()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
