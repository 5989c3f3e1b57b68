"""The errors of the link.

WireError
├── RemoteProtocolError   the peer broke the rules: close the link; nothing else is affected
├── LocalProtocolError    this side broke the rules: a defect
├── TooManyStreams        the link has no room for another stream now
└── MessageTooLarge       no peer would accept this message
"""

from __future__ import annotations


class WireError(Exception):
    """The base class."""


MAX_REASON_CHARS = 1000


class RemoteProtocolError(WireError):
    """The peer sent what the protocol forbids. The link cannot be used any more.

    The reason is logged and may quote the peer, so it is cut.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason[:MAX_REASON_CHARS])


class LocalProtocolError(WireError):
    """This side asked for what the protocol forbids. Nothing was sent."""


class TooManyStreams(WireError):
    """The link has as many streams as it may have. Nothing was sent."""


class MessageTooLarge(WireError):
    """The encoded message is larger than MAX_MESSAGE_BYTES. Nothing was sent."""
