"""A real reverse proxy from an example in `deploy/`, with a certificate of its own, before a real server."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.agent.live_agent import free_port
from tests.support.server.live_server import ROOT, LiveServer

PATIENCE_S = 60.0
DOMAIN = "sandbox.localhost"
EXAMPLE = "sandbox.example.com"
UPSTREAM = "127.0.0.1:8194"
# Browsers resolve names below localhost by themselves; the SDKs' Python does it by this module.
RESOLVER = """
import socket

ask = socket.getaddrinfo

def getaddrinfo(host, *arguments, **keywords):
    name = host.decode() if isinstance(host, bytes) else host
    return ask("127.0.0.1" if name and name.endswith(".localhost") else host, *arguments, **keywords)

socket.getaddrinfo = getaddrinfo
"""


class Proxied(LiveServer):
    """A server behind a proxy. `address` is the server's own, `port` the proxy's, on 127.0.0.1 by TLS."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        super().__init__(
            [
                *("--pool-size", "1", "--allow-user-namespaces", "true"),
                *("--trusted-proxies", "127.0.0.1", "--port-domain", f"{DOMAIN}:{self.port}"),
            ]
        )
        self._proxy: subprocess.Popen[bytes] | None = None
        self.certificate = self.directory / "certificate.pem"

    def __enter__(self) -> Proxied:
        super().__enter__()
        try:
            self._start_proxy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def end(self) -> None:
        """Stop proxy and server, and remove the containers."""
        if self._proxy is not None:
            self._proxy.terminate()
            self._proxy.wait(PATIENCE_S)
        super().end()

    def sdk_environment(self) -> dict[str, str]:
        """The variables by which the official SDKs and our tour reach the server through the proxy."""
        return {
            **super().sdk_environment(),
            "OPEN_SANDBOX_DOMAIN": f"localhost:{self.port}",
            "PYTHONPATH": str(self.directory / "python"),
            "SSL_CERT_FILE": str(self.certificate),
            "TOUR_PROTOCOL": "https",
        }

    @property
    def tls(self) -> ssl.SSLContext:
        """A context that trusts the proxy's certificate, and no other."""
        return ssl.create_default_context(cafile=str(self.certificate))

    def connect(self, host: str = "localhost") -> http.client.HTTPSConnection:
        """Return a connection to the proxy for one of its names."""
        connection = http.client.HTTPSConnection(host, self.port, context=self.tls, timeout=PATIENCE_S)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        connection.sock = self.tls.wrap_socket(plain, server_hostname=host)
        return connection

    def _start_proxy(self) -> None:
        self._make_certificate()
        (self.directory / "python").mkdir()
        (self.directory / "python" / "sitecustomize.py").write_text(RESOLVER)
        command, environment = PROXIES[self.name](self)
        with (self.directory / "proxy.log").open("wb") as log:
            self._proxy = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(OSError):
                self.connect().close()
                return
            assert self._proxy.poll() is None, (self.directory / "proxy.log").read_text()
            assert time.monotonic() < deadline, (self.directory / "proxy.log").read_text()
            time.sleep(0.05)

    def _make_certificate(self) -> None:
        names = f"DNS:localhost,DNS:{DOMAIN},DNS:*.{DOMAIN}"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-subj", "/CN=localhost", "-days", "2", "-addext", f"subjectAltName={names}"),
                *("-keyout", self.directory / "key.pem", "-out", self.certificate),
            ],
            check=True,
            capture_output=True,
        )

    def adapted(self, example: Path, changes: dict[str, str]) -> str:
        """Return an example with this machine's values in the place of its own. Each must be there."""
        text = example.read_text()
        for before, after in {
            f"/etc/ssl/{EXAMPLE}.pem": str(self.certificate),
            f"/etc/ssl/{EXAMPLE}.key": str(self.directory / "key.pem"),
            UPSTREAM: self.address.removeprefix("http://"),
            **changes,
        }.items():
            assert before in text, f"{example}: there is no {before!r}"
            text = text.replace(before, after)
        return text


def _caddy(proxied: Proxied) -> tuple[list[str], dict[str, str]]:
    names = ", ".join(f"https://{name}:{proxied.port}" for name in ("localhost", DOMAIN, f"*.{DOMAIN}"))
    text = proxied.adapted(
        ROOT / "deploy" / "caddy" / "Caddyfile",
        {f"{EXAMPLE}, *.{EXAMPLE} {{": f"{names} {{\n\tbind 127.0.0.1"},
    )
    file = proxied.directory / "Caddyfile"
    # Nothing of this may reach beyond the test: no administration, no port 80, no authority of Caddy's own.
    file.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n" + text)
    homes = {name: str(proxied.directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    return ["caddy", "run", "--config", str(file), "--adapter", "caddyfile"], homes


def _nginx(proxied: Proxied) -> tuple[list[str], dict[str, str]]:
    text = proxied.adapted(
        ROOT / "deploy" / "nginx" / "sandlot.conf",
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{proxied.port} ssl;",
            "listen 80;": f"listen unix:{proxied.directory}/plain.sock;",
            f"{EXAMPLE} *.{EXAMPLE};": f"localhost {DOMAIN} *.{DOMAIN};",
        },
    )
    folder = proxied.directory
    (folder / "sandlot.conf").write_text(text)
    places = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main = folder / "nginx.conf"
    main.write_text(
        f"daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\n"
        f"http {{ access_log off; {places} include {folder}/sandlot.conf; }}\n"
    )
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(main)], {}


PROXIES: dict[str, Callable[[Proxied], tuple[list[str], dict[str, str]]]] = {"caddy": _caddy, "nginx": _nginx}


@contextlib.contextmanager
def behind(name: str) -> Iterator[Proxied]:
    """Run a server behind a proxy, which this machine must have."""
    with Proxied(name) as proxied:
        yield proxied


def missing(name: str) -> str:
    """Return what this machine lacks for a proxy; "" if nothing."""
    return ", ".join(program for program in (name, "openssl") if not shutil.which(program))
