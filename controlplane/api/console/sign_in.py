"""Signing in at the console, with an API key or with the code of a link; and such links."""

from __future__ import annotations

from datetime import datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from controlplane.access.control import AccessControl
from controlplane.access.key import Key
from controlplane.access.scopes import OF_SANDBOX, Caller
from controlplane.api.edge.auth import PAGES, failed_attempt
from controlplane.api.edge.bodies import json_answer, read_json, utc
from controlplane.api.edge.guard import caller_of, set_caller
from controlplane.api.edge.notes import note
from controlplane.api.edge.origins import (
    CONSOLE_HEADER,
    by_name,
    cookie_name,
    has_console_header,
    is_own_page,
    own_origin,
    scheme_of,
    tokens_of,
    why_foreign,
)
from controlplane.api.edge.problems import flat
from controlplane.errors import Forbidden, InvalidRequest, NotFound

MAX_BODY_BYTES = 4096
NO_STORE = {"Cache-Control": "no-store"}


class SignInRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Either an API key, or the code of a link."""

    key: str = ""
    code: str = ""


class SignInView(msgspec.Struct, frozen=True):
    """A sign-in or an API key: the name of the key, its owner and scopes, and when the sign-in or the key ends."""

    name: str
    owner: str
    scopes: list[str]
    expires_at: datetime | None


class LinkView(msgspec.Struct, frozen=True):
    """A link that signs one browser in, once. The code is behind the `#`, which no browser sends to a server."""

    url: str
    expires_at: datetime


class SignInEndpoints:
    """The endpoints of sign-ins and links. A page of another origin is refused, whatever it sends."""

    def __init__(self, access: AccessControl, *, why_off: str = "") -> None:
        """Serve the endpoints; *why_off* is the reason why the console is off, or ""."""
        self._access = access
        self._why_off = why_off

    async def sign_in(self, request: Request) -> Response:
        """Sign a browser in with `key` or `code`, and set its cookie.

        The header `Sandlot-Console: 1` is needed. A code is used up by this request.
        """
        self._expect_on()
        if not has_console_header(request.scope):
            raise InvalidRequest(f"the header {CONSOLE_HEADER}: 1 is needed")
        if not is_own_page(request.scope):
            return flat(403, "FOREIGN_ORIGIN", why_foreign(request.scope))
        sent = await read_json(request, SignInRequest, limit=MAX_BODY_BYTES)
        if bool(sent.key) == bool(sent.code):
            raise InvalidRequest("send either `key`, an API key, or `code`, from a link of `sandlot console`")
        if (key := self._key(sent)) is None:
            return failed_attempt(self._access.attempts, request.scope) or flat(401, "INVALID_API_KEY", _what(sent))
        self._end_those_of(request)
        token, caller = self._access.sign_ins.begin(key)
        set_caller(request.scope, caller)
        note(request.scope, key=caller.actor)
        answer = json_answer(_view(caller), headers=NO_STORE)
        _set_cookie(answer, request, token, self._access.sign_ins.seconds_left(caller))
        return answer

    async def who(self, request: Request) -> Response:
        """Return who asks: the key of the sign-in, or of the request."""
        return json_answer(_view(caller_of(request.scope)), headers=NO_STORE)

    async def sign_out(self, request: Request) -> Response:
        """End the sign-in of the request, with all connections that it has opened."""
        if sign_in := caller_of(request.scope).sign_in:
            self._access.sign_ins.end(sign_in)
        answer = Response(status_code=204, headers=NO_STORE)
        _set_cookie(answer, request, "", 0)
        return answer

    async def make_link(self, request: Request) -> Response:
        """Create a link that signs one browser in with the key of the request, once within five minutes."""
        self._expect_on()
        caller = caller_of(request.scope)
        if caller.sign_in:
            raise Forbidden("a link needs the API key itself: who has signed in could prolong the sign-in by it")
        code, expires = self._access.links.make(caller.key_id)
        url = link_url(by_name(own_origin(request.scope)), code)
        return json_answer(LinkView(url, utc(expires)), 201, NO_STORE)

    def _expect_on(self) -> None:
        if self._why_off:
            raise NotFound(f"the console is off: {self._why_off}", code="console.off")

    def _key(self, sent: SignInRequest) -> Key | None:
        return self._access.keys.find_text(sent.key) if sent.key else self._access.links.redeem(sent.code)

    def _end_those_of(self, request: Request) -> None:
        """End the sign-ins of the cookies that the request has: a new cookie is about to replace them."""
        for token in tokens_of(request.scope):
            if (before := self._access.sign_ins.caller(token)) is not None:
                self._access.sign_ins.end(before.sign_in)


def link_url(origin: str, code: str) -> str:
    """Return the link that signs in by a code."""
    return f"{origin}{PAGES}/#code={code}"


def _what(sent: SignInRequest) -> str:
    if sent.key:
        return "the API key is wrong"
    return "the link was used already, or has expired: `sandlot console` prints another"


def _view(caller: Caller) -> SignInView:
    scopes = sorted(caller.scopes | {OF_SANDBOX + sandbox for sandbox in caller.sandboxes})
    expires = None if caller.expires_at is None else utc(caller.expires_at)
    return SignInView(caller.name, caller.owner, scopes, expires)


def _set_cookie(answer: Response, request: Request, token: str, life_s: int) -> None:
    answer.set_cookie(
        cookie_name(request.scope),
        token,
        max_age=life_s,
        path="/",
        secure=scheme_of(request.scope) == "https",
        httponly=True,
        samesite="strict",
    )
