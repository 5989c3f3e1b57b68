"""A registry of images, in memory: one tiny image, to be had for a user name and a password."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "slt/tiny"
FILE, CONTENT = "pulled.txt", b"from the registry\n"


@contextlib.contextmanager
def serving_image(username: str = "", password: str = "") -> Iterator[str]:
    """Serve `slt/tiny:1` on loopback; yields its name with the registry's address. No user name: open to all."""
    documents = _image()
    expected = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if username and self.headers.get("Authorization") != expected:
                self._answer(401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', ("WWW-Authenticate", 'Basic realm="slt"'))
            elif self.path == "/v2/":
                self._answer(200, b"{}")
            elif self.path in documents:
                kind, body = documents[self.path]
                self._answer(200, body, ("Content-Type", kind))
            else:
                self._answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}')

        do_HEAD = do_GET  # noqa: N815 - as the base class calls it

        def _answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
            self.send_response(status)
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            for name, value in (*headers, ("Content-Length", str(len(body))), ("Docker-Content-Digest", digest)):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing on the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}/{NAME}:1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _image() -> dict[str, tuple[str, bytes]]:
    """All that a pull asks for, by path: content type and body."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as layer:
        entry = tarfile.TarInfo(FILE)
        entry.size = len(CONTENT)
        layer.addfile(entry, io.BytesIO(CONTENT))
    layer_bytes = packed.getvalue()
    layer_digest = f"sha256:{hashlib.sha256(layer_bytes).hexdigest()}"
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
            "history": [{"created_by": "a test"}],
        }
    ).encode()
    config_digest = f"sha256:{hashlib.sha256(config).hexdigest()}"
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    layer_kind, config_kind = (
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.container.image.v1+json",
    )
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": config_kind, "size": len(config), "digest": config_digest},
            "layers": [{"mediaType": layer_kind, "size": len(layer_bytes), "digest": layer_digest}],
        }
    ).encode()
    manifest_digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    return {
        f"/v2/{NAME}/manifests/1": (kind, manifest),
        f"/v2/{NAME}/manifests/{manifest_digest}": (kind, manifest),
        f"/v2/{NAME}/blobs/{config_digest}": ("application/octet-stream", config),
        f"/v2/{NAME}/blobs/{layer_digest}": ("application/octet-stream", layer_bytes),
    }
