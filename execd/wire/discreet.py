"""Structs that may hold secrets, and whose repr hides them: a repr ends up in the texts of errors, and so in logs."""

from __future__ import annotations

# The fields whose values only their receiver may see.
HIDDEN = frozenset(("api_keys", "auth", "collector_headers", "credentials", "env", "envs", "made_key", "password"))


class Discreet:
    """A base class to name before `msgspec.Struct`.

    The repr tells only whether a field that may hold a secret is set.
    """

    __slots__ = ()
    __struct_fields__: tuple[str, ...]

    def __repr__(self) -> str:
        fields = ((name, getattr(self, name)) for name in self.__struct_fields__)
        shown = (f"{name}={'…' if name in HIDDEN and value else repr(value)}" for name, value in fields)
        return f"{type(self).__name__}({', '.join(shown)})"
