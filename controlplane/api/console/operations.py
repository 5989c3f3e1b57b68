"""The operations `/` and of the console's sign-in. The pages are no operations: they need no key, and tell nothing."""

from __future__ import annotations

from controlplane.access.scopes import Needs
from controlplane.api.console.pages import SEE_OTHER, Root, Welcome
from controlplane.api.console.sign_in import LinkView, SignInEndpoints, SignInRequest, SignInView
from controlplane.api.edge.operation import Operation

_SIGN_IN = "/console/sign-in"

CONSOLE = (
    Operation(
        *("welcome", "GET", "/", Root.welcome, Needs.NOTHING),
        is_change=False,
        answer=Welcome,
        more=((SEE_OTHER, None),),
    ),
    Operation(
        *("console.sign_in", "POST", _SIGN_IN, SignInEndpoints.sign_in, Needs.NOTHING),
        answer=SignInView,
        body=SignInRequest,
        headers=("Sandlot-Console",),
        errors=(400, 401, 403, 404, 429, 503),
    ),
    Operation(
        *("console.who", "GET", _SIGN_IN, SignInEndpoints.who, Needs.KEY),
        is_change=False,
        answer=SignInView,
    ),
    Operation(
        *("console.sign_out", "DELETE", _SIGN_IN, SignInEndpoints.sign_out, Needs.KEY), status=204, errors=(503,)
    ),
    Operation(
        *("console.link", "POST", "/console/links", SignInEndpoints.make_link, Needs.KEY),
        status=201,
        answer=LinkView,
        errors=(404,),
    ),
)
