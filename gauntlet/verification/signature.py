"""Signatures of packs by OpenSSH (`ssh-keygen -Y`): who signs has a key that others know, and nothing new is needed."""

import subprocess
from pathlib import Path

from gauntlet.errors import UserError, printable, some

NAMESPACE = "gauntlet"
"""What a signature is about; one that was made for something else counts for nothing here."""


def signature_of(pack: Path) -> Path:
    """Return where the signature of a pack lies."""
    return pack.with_name(f"{pack.name}.sig")


def sign(pack: Path, key: Path) -> Path:
    """Sign a pack with a private key, or with a public one whose other half an agent holds; return the signature.

    Raises:
        UserError: there is no ssh-keygen, or it refuses.
    """
    signature_of(pack).unlink(missing_ok=True)
    done = _keygen("sign", "-f", str(key), "-n", NAMESPACE, str(pack))
    if done.returncode or not signature_of(pack).exists():
        raise UserError(f"{pack} is not signed ({_said(done)}); give a key of ssh-keygen with --sign KEY")
    return signature_of(pack)


def signer(pack: Path, signers: Path) -> str:
    """Return who of some known signers signed a pack.

    Args:
        signers: a file of lines `name ssh-ed25519 AAAA...` (ALLOWED SIGNERS of the manual of ssh-keygen).

    Raises:
        UserError: there is no signature, or none of them made it.
    """
    signature = signature_of(pack)
    for path, what in ((signature, "signature"), (signers, "file of signers")):
        if not path.is_file():
            raise UserError(f"there is no {what} {path}; leave --signers out to check the pack without")
    found = _keygen("find-principals", "-f", str(signers), "-s", str(signature))
    names = found.stdout.decode(errors="replace").split("\n")[0].split(",") if not found.returncode else []
    for name in filter(None, names):
        with pack.open("rb") as content:
            done = _keygen(
                "verify", "-f", str(signers), "-I", name, "-n", NAMESPACE, "-s", str(signature), stdin=content
            )
        if not done.returncode:
            return printable(name)
    raise UserError(f"{pack} is not signed by {some(names) or 'anybody'} of {signers} ({_said(found)})")


def _keygen(action: str, *words: str, stdin: object = subprocess.DEVNULL) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(["ssh-keygen", "-Y", action, *words], stdin=stdin, capture_output=True, check=False)  # type: ignore[call-overload,no-any-return]
    except FileNotFoundError:
        raise UserError(
            "there is no ssh-keygen; install OpenSSH 8.2 or later, or leave --sign and --signers out"
        ) from None


def _said(done: "subprocess.CompletedProcess[bytes]") -> str:
    lines = (done.stderr or done.stdout).decode(errors="replace").strip().split("\n")
    return printable(lines[-1])
