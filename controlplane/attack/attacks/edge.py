"""Attacks on the edge: HTTP and WebSocket of the server, without a key, with a wrong one, and with one sandbox's token.

No attack sends more than 16 MiB or opens more than 256 connections, and each watches /health: a client that sends bytes
may harm only itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.attack.attacks import doors, flood, services, sockets
from controlplane.attack.client.model import Act, Attack

_REPORT = "upgrade Sandlot; where a reverse proxy stands before it, see the proxy's limits as well"
_AUTH = "upgrade Sandlot, and see that no reverse proxy adds a key of its own"


def _attacks(outcome: str, cure: str, rows: Sequence[tuple[str, str, Act]], *, waits: bool = False) -> list[Attack]:
    """Return attacks that have the required outcome and the cure in common."""
    return [
        Attack(
            id=f"edge.{name}",
            tries=tries,
            outcome=outcome,
            cure=cure,
            act=act,
            waits=waits,
            timeout_s=120,
        )
        for name, tries, act in rows
    ]


_STOPPED = "The server stops taking it after a bounded number of bytes, and answers others meanwhile"
_CLOSED = f"The server closes the connection within {flood.PATIENCE_S:.0f} s"
_REFUSED = "Each is refused before anything is done or told"
_BOUNDED = "It costs the sender its request or connection; memory, /health and other sandboxes stay as they were"
ATTACKS = (
    *_attacks(
        _CLOSED,
        _REPORT,
        (
            ("silent-connection", "Open a connection and say nothing", flood.silent),
            ("half-a-head", "Send half of a request's head", flood.half_a_head),
            ("half-a-body", "Send half of a body, with a key", flood.half_a_body),
            ("idle-connection", "Keep a connection after an answer", flood.idle),
            ("half-a-handshake", "Send half of a WebSocket handshake", flood.half_a_handshake),
        ),
        waits=True,
    ),
    *_attacks(
        _STOPPED,
        _REPORT,
        (
            ("endless-headers", "Send header lines without end, without a key", flood.header_lines),
            ("endless-value", "Send a header whose value has no end", flood.header_value),
            ("endless-name", "Send a header whose name has no end", flood.header_name),
            ("endless-url", "Send a URL without end", flood.url),
            ("endless-method", "Send a method without end", flood.method),
            ("endless-trailers", "Send trailers without end after a chunked body", flood.trailers),
            ("endless-chunk-extension", "Send a chunk extension without end", flood.chunk_extension),
            ("endless-body", "Send a body of 100 GB to an operation that takes JSON", flood.body),
            ("endless-chunks", "Send a chunked body without end", flood.chunked_body),
            ("tiny-chunks", "Send a body in chunks of one byte", flood.tiny_chunks),
            ("body-without-key", "Send a body of 100 GB without a key", flood.body_without_key),
            ("pipeline", "Send requests without end on one connection and read no answer", flood.pipeline),
        ),
    ),
    *_attacks(
        _BOUNDED,
        _REPORT,
        (
            ("connections", f"Hold {flood.CONNECTIONS} connections open that say nothing", flood.connections),
            ("json", "Send JSON that is deep, long, repeated or no text", flood.json),
            ("compressed-body", "Send a compressed body that inflates a thousandfold", flood.compressed_body),
            ("multipart", "Upload a form of 50,000 parts, and one with an endless head", flood.multipart),
            ("lists", "Ask for pages and filters beyond every measure", flood.lists),
            ("patterns", "Search files by a pattern that careless matchers never finish", flood.patterns),
            ("socket-fragments", "Send one WebSocket message in empty fragments without end", sockets.fragments),
            ("socket-messages", "Send WebSocket messages of one byte without end", sockets.small_messages),
            ("socket-pings", "Send pings without end and read no pong", sockets.pings),
            ("socket-large-message", "Announce a WebSocket message of 1 GiB and send it", sockets.large_message),
            ("socket-compression", "Have the server inflate compressed WebSocket messages", sockets.compression),
            ("socket-bad-frames", "Break the WebSocket protocol in eight ways", sockets.bad_frames),
            ("endless-services", "Answer a forwarded request without end, in four ways", services.endless_services),
        ),
    ),
    *_attacks(
        _REFUSED,
        _AUTH,
        (
            ("no-key", "Ask every operation without a key", doors.no_key),
            ("wrong-key", "Ask every operation with a wrong key", doors.wrong_key),
            ("near-keys", "Send nearly right keys, and the key in places where it does not belong", doors.near_keys),
            ("spellings", "Write paths so that a check and a router may read them differently", doors.spellings),
            ("other-token", "Use one sandbox's token at every operation of another", doors.other_token),
            ("token-as-key", "Use a sandbox's token as an API key", doors.token_as_key),
            (
                "sockets-without-key",
                "Open every WebSocket without a key, from a foreign page",
                doors.sockets_without_key,
            ),
            ("ticket-twice", "Use a stream's ticket twice, or for another sandbox", doors.ticket_twice),
            (
                "signed-addresses",
                "Change the time, the port or the sandbox of a signed address",
                doors.signed_addresses,
            ),
            ("cross-site", "Call the API from a foreign page with the user's cookies", doors.cross_site),
        ),
    ),
    *_attacks(
        "One request has one answer, of the server's own making",
        _REPORT,
        (
            ("methods", "Use methods, targets and protocols that echo, tunnel or mean nothing", doors.methods),
            ("smuggling", "Hide a request in the body of another, in twelve ways", doors.smuggling),
            ("header-injection", "Have the server write a header of the client's making", doors.header_injection),
            ("bad-answers", "Have a service give answers that no server may pass on", services.bad_answers),
            ("ports", "Name a port that is none, or that leads out of the sandbox", doors.ports),
        ),
    ),
    Attack(
        id="edge.one-origin",
        tries="Have a service set cookies, workers and site data for the origin that sandboxes share in a browser",
        outcome="Cookies keep to the sandbox's path, and the other headers are dropped",
        cure="upgrade Sandlot, or give browsers host names alone ([server] port_domain)",
        act=services.one_origin,
    ),
    Attack(
        id="edge.metrics",
        tries="Read the server's metrics without a key",
        outcome="It is refused",
        cure="set [server] open_metrics = false, unless only Prometheus reaches the port",
        must_pass=False,
        act=doors.metrics,
    ),
    Attack(
        id="edge.clear-text",
        tries="Read keys on the way to the server",
        outcome="Beyond the machine itself they cross the network encrypted",
        cure="put a reverse proxy with TLS before the server, and let the server listen on 127.0.0.1",
        must_pass=False,
        act=doors.clear_text,
    ),
)
