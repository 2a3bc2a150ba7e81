"""Pairs of Ed25519 keys, for tests of signatures."""

import pytest


def write_keys(folder, name, password=None):
    """Writes a pair of keys; returns the paths of the private and the public one."""
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as form

    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    protection = form.NoEncryption() if password is None else form.BestAvailableEncryption(password)
    private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, protection))
    public.write_bytes(key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo))
    return private, public
