"""The start of execd inside its self-contained tree: python3 -I -S boot.pyc SOCKET."""

import gc
import importlib
import os
import sys
from functools import partial
from types import FunctionType, MethodType, ModuleType


def install_stand_ins() -> None:
    """Install small stand-ins for large modules that libraries import but never use here.

    Without them every sandbox would carry some 40 more modules (email, http.client, zipfile, decimal …). Each stand-in
    has only the names that are looked up at import or while a link lives. The build of the tree makes a real connection
    to check that this is enough. If execd comes to need the real module, remove the stand-in.
    """
    # asyncio takes a missing ssl for "no TLS"; websockets wants the module, but only for annotations.
    sys.modules["inspect"] = _Inspect("inspect")
    sys.modules["ssl"] = None  # type: ignore[assignment]
    _stand_in("asyncio.sslproto")
    import asyncio  # noqa: F401

    _stand_in("ssl")
    _stand_in("importlib.metadata")  # websockets asks it for a version only in development
    _stand_in("urllib.request", getproxies=dict, proxy_bypass=lambda _host: True)  # execd dials a Unix socket
    _stand_in("uuid", UUID=_UUID, SafeUUID=_SafeUUID, uuid4=_UUID)  # numbers the connections of websockets in the log
    _stand_in("decimal", Decimal=type("Decimal", (), {}))  # a type that msgspec compares with
    _stand_in("ipaddress", ip_address=_no_address)  # websockets checks whether the name of the host is an address
    # The C half is complete. The Python half is defined only to be replaced by it, and costs half a megabyte.
    _stand_in("datetime", **vars(importlib.import_module("_datetime")))


def _stand_in(name: str, /, **members: object) -> None:
    module = ModuleType(name)
    vars(module).update({key: value for key, value in members.items() if not key.startswith("__")})
    sys.modules[name] = module


class _Inspect(ModuleType):
    """The names of inspect that asyncio and dataclasses need in normal operation. Any other name loads the real module.

    inspect loads ast, dis and tokenize: nearly a megabyte, for error reports that are rare.
    """

    @staticmethod
    def iscoroutinefunction(function: object) -> bool:
        while isinstance(function, (MethodType, partial)):
            function = function.__func__ if isinstance(function, MethodType) else function.func
        return isinstance(function, FunctionType) and bool(function.__code__.co_flags & 0x80)

    @staticmethod
    def isfunction(function: object) -> bool:
        return isinstance(function, FunctionType)

    @staticmethod
    def unwrap(function: object) -> object:
        while hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        return function

    @staticmethod
    def signature(_function: object) -> str:
        return ""  # dataclasses would use it as a missing docstring

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        if sys.modules["inspect"] is self:
            del sys.modules["inspect"]
        return getattr(importlib.import_module("inspect"), name)


def _no_address(_text: str) -> None:
    raise ValueError


class _UUID:
    def __init__(self) -> None:
        self.hex = os.urandom(16).hex()

    def __str__(self) -> str:
        return self.hex


class _SafeUUID:
    unknown = None


def run() -> int | None:
    """Import and run execd, with the collector off until everything that stays has been created."""
    gc.disable()
    install_stand_ins()
    from execd.main import main

    gc.freeze()
    gc.enable()
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(run())
