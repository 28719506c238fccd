"""Adds TLS in front of a PostgreSQL server without TLS, as a proxy does."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path


def certify(folder: Path, name: str) -> Path:
    """Create a self-signed certificate for a name of this machine, and its key, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    if name == "127.0.0.1":
        names = [x509.IPAddress(ipaddress.ip_address(name))]
    certificate = (
        x509.CertificateBuilder().subject_name(issuer).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    pem = serialization.Encoding.PEM
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    return path


@contextlib.contextmanager
def tls_relay(port: int, certificate: Path) -> Iterator[int]:
    """Open a port that speaks TLS and forwards to the port of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    threads: list[threading.Thread] = []

    def start(function, *values) -> None:
        threads.append(threading.Thread(target=function, args=values, daemon=True))
        threads[-1].start()

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(8)  # PostgreSQL's SSLRequest
            client.sendall(b"S")
            with (
                context.wrap_socket(client, server_side=True) as secret,
                socket.create_connection(("127.0.0.1", port)) as server,
            ):
                there = threading.Thread(target=copy, args=(secret, server), daemon=True)
                there.start()
                copy(server, secret)
                there.join(10)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                start(serve, listening.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listening:
        start(accept)
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(10)
