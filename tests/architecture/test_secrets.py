"""No Struct shows what may be a secret: its repr ends up in the texts of errors, and so in logs."""

from __future__ import annotations

import ast

import pytest

from controlplane.sandbox import CreateRequest, Credentials
from controlplane.settings.sections import ServerSettings
from execd.wire.discreet import HIDDEN, Discreet
from execd.wire.messages import ProcessStart, PtyOpen, SandboxClaim, SessionRun
from tests.architecture.sources import MODULES

SECRET = "correct-horse"
ENV = {"PASSWORD": SECRET}


def _holders() -> dict[str, list[str]]:
    """Return module.class → names of its bases, of every class that has a field which may hold a secret.

    Those of the control plane and of the link: what execd says elsewhere stays in its sandbox.
    """
    found = {}
    for module, tree in MODULES.items():
        if not module.startswith(("controlplane", "execd.wire")):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and any(map(_is_secret, node.body)):
                found[f"{module}.{node.name}"] = [ast.unparse(base) for base in node.bases]
    return found


def _is_secret(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and node.target.id in HIDDEN
        and ast.unparse(node.annotation) != "bool"
    )


def test_whoever_holds_secrets_is_discreet() -> None:
    """By the names of fields, so that a new Struct is found too."""
    holders = _holders()

    assert len(holders) > 10
    assert [name for name, bases in holders.items() if "Discreet" not in bases] == []


@pytest.mark.attack(
    "secrets",
    "an error quotes a request, a setting or a message with keys, passwords or environment variables in it",
    "the text says that they are set, and nothing of them",
)
@pytest.mark.parametrize(
    "holder",
    [
        CreateRequest(entrypoint=(), env=ENV, credentials=Credentials("me", SECRET)),
        ServerSettings(api_keys=(SECRET,)),
        SandboxClaim("1", env=ENV),
        ProcessStart("1", env=ENV),
        SessionRun("1", "true", env=ENV),
        PtyOpen("1", env=ENV),
    ],
    ids=lambda holder: type(holder).__name__,
)
@pytest.mark.parametrize("is_bounded", [True, False])
def test_no_repr_tells_a_secret(holder: object, is_bounded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also inside of another one. Everything else is shown."""
    if not is_bounded:
        monkeypatch.setattr("execd.wire.discreet.HIDDEN", frozenset())

    text = f"{holder} {[holder]!r}"

    assert isinstance(holder, Discreet)
    assert (SECRET in text) is not is_bounded
    assert text.startswith(f"{type(holder).__name__}(")
