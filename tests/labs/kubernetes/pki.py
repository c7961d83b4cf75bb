"""Certificates and kubeconfigs of a lab: a root of its own, keys of P-256, a day long. Test secrets, for loopback."""

from __future__ import annotations

import ipaddress
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAY = timedelta(days=1)


class Pki:
    """The files of a lab's certificates, made as they are asked for."""

    def __init__(self, folder: Path, server: str) -> None:
        self.folder, self.server = folder, server
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._root = self._sign(_name("lab"), self._root_key, root=True)
        self._write("root.crt", self._root.public_bytes(serialization.Encoding.PEM))

    @property
    def root(self) -> Path:
        return self.folder / "root.crt"

    def certificate(self, name: str, *, group: str = "", user: str = "") -> tuple[Path, Path]:
        """Return certificate and key, for clients and for a server on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._sign(_name(user or name, group), key)
        self._write(f"{name}.crt", made.public_bytes(serialization.Encoding.PEM))
        self._write(f"{name}.key", _private(key))
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """Return a public and a private key without a certificate: what account tokens are signed with."""
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._write(f"{name}.pub", public)
        self._write(f"{name}.key", _private(key))
        return self.folder / f"{name}.pub", self.folder / f"{name}.key"

    def kubeconfig(self, name: str, *, group: str = "", user: str = "") -> Path:
        """Return a kubeconfig whose account is a certificate."""
        certificate, key = self.certificate(name, group=group, user=user)
        return self.write_config(name, {"client-certificate": str(certificate), "client-key": str(key)})

    def write_config(self, name: str, account: dict[str, str], *, server: str = "", namespace: str = "default") -> Path:
        cluster = {"server": server or self.server, "certificate-authority": str(self.root)}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": name, "user": account}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name, "namespace": namespace}}],
            "current-context": "lab",
        }
        return self._write(f"{name}.conf", json.dumps(config).encode())

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, root: bool = False) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if root else self._root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
        )
        if not root:
            names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in _ADDRESSES)]
            usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(self._root_key, hashes.SHA256())

    def _write(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(data)
        return path


#: loopback, the first address of the lab's services, and a real node's among its pods (node.py)
_ADDRESSES = ("127.0.0.1", "10.223.0.1", "10.224.0.1")


def _name(common: str, group: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
