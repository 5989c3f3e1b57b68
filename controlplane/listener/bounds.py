"""The listener's bounds, each beside its reason. `docs/security.md` lists them with their tests."""

from __future__ import annotations

# -- the head of a request ----------------------------------------

# A client that removes files puts a thousand paths into one query; the parser's own limit is 64 KiB.
MAX_URL_BYTES = 60 << 10
MAX_HEAD_BYTES = 64 << 10  # of header lines, beside the URL; also of chunk extensions and trailers in a row
MAX_HEADER_LINES = 256  # each line costs an object; browsers and SDKs send about twenty
HEAD_S = 10  # for a whole head; also for the silence before a connection's first request
# Clients keep idle connections for later requests, the official Python SDK for 30 s. Clients must close first: if the
# server closes, a request on its way fails, and the client cannot know whether to send it again.
IDLE_S = 75

# -- the body of a request ----------------------------------------

STILL_S = 30  # for a body that stops; a mobile network can lose its connection for almost as long
# The slowest mobile network sends 5 KiB/s. A streamed upload may be as slow as STILL_S allows.
MIN_BODY_BYTES_PER_S = 1 << 10
FREE_BODY_BYTES = 64 << 10  # memory of one client that does not count
MAX_HELD_BYTES = 64 << 20  # of incomplete bodies and messages of all clients beyond that: four of the largest

# -- what a client does not read ----------------------------------------

# A client may stop reading, such as a stopped pager; the kernel buffers megabytes before the server notices.
UNREAD_S = 300
STALLED_S = 10  # from here on, a connection makes room for new ones if there is none
LINGER_S = 2  # after a refusal: a reset of the socket would lose the answer
LINGER_BYTES = 256 << 10  # read and dropped meanwhile
CLOSING_S = 30  # of a closed connection, for the rest of an answer that the client does not take

# -- WebSocket ----------------------------------------

# A run of code is one message of the native stream, of up to 16 MiB. Services behind ports take any size.
MAX_MESSAGE_BYTES = 16 << 20
MAX_FRAGMENTS = 4096  # of one message: 16 MiB in pieces of 4 KiB
HANDSHAKE_S = 60  # for the answer to a handshake, perhaps by a service behind a port
PING_S = 20  # from one keepalive ping to the next, and for its answer

# -- turns of the event loop ----------------------------------------

TURN_BYTES = 64 << 10  # of one connection, before the turn of another
TURN_EVENTS = 64  # the same in frames, chunks, header lines and requests, which cost by number and not by size
# Of a body or a chunk, fed to the HTTP parser at once, which costs a copy: as much as one read of the socket.
BODY_PIECE_BYTES = 256 << 10
PIECE_BYTES = 4 << 10  # of a head or trailers, fed to the HTTP parser at once: header lines may be short
TURNS_A_ROUND = 4  # of all HTTP connections in a round of the event loop: a request takes up to a millisecond
LANE_SHARE = 1 / 3  # of the event loop, for all connections together whose turns end by number

# -- connections ----------------------------------------

MAX_REFUSED = 64  # beyond the limit, at once, while they read the refusal
DESCRIPTORS_SHARE = 0.5  # of the process's file descriptors may be connections: sandboxes need the others
SWEEP_S = 1.0  # from one check of all time limits to the next
