"""Certificates for servers on loopback."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def issue_certificates(directory: Path) -> None:
    """Make a new authority and a server certificate for localhost and 127.0.0.1 in `directory`.

    Writes ca.pem, server.pem and server-key.pem. The authority's own key is thrown away.
    """
    directory.mkdir(parents=True, exist_ok=True)
    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
    end = start + datetime.timedelta(days=3650)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority_name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Local database {secrets.token_hex(4)}")]
    )
    authority_identifier = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())

    def certificate(
        subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, authority: bool
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder(
                authority_name, subject, public_key, x509.random_serial_number(), start, end
            )
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_identifier),
                critical=False,
            )
            .add_extension(
                x509.KeyUsage(not authority, False, False, False, False, authority, authority, False, False),
                critical=True,
            )
        )
        if not authority:
            names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(authority_key, hashes.SHA256())

    server_key = ec.generate_private_key(ec.SECP256R1())
    server_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(
        certificate(authority_name, authority_key.public_key(), authority=True).public_bytes(pem)
    )
    (directory / "server.pem").write_bytes(
        certificate(server_name, server_key.public_key(), authority=False).public_bytes(pem)
    )
    key_file = directory / "server-key.pem"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        server_key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
