"""Certificates for the servers of the tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)


def self_signed(
    directory: Path,
    host: str = "127.0.0.1",
    file: str = "server",
    lasts: timedelta = timedelta(days=1),
) -> tuple[Path, Path]:
    """A certificate for ``host`` that signs itself, and its key: ``file`` with suffixes."""
    key = ec.generate_private_key(ec.SECP256R1())
    # Who trusts several of them finds each by its name.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"{file} of the tests")])
    address = x509.SubjectAlternativeName([_name(host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + lasts)
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    certificate_file, key_file = directory / f"{file}.pem", directory / f"{file}.key"
    certificate_file.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate_file, key_file


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
