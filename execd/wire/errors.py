"""What can go wrong on the wire.

WireError
├── RemoteProtocolError   the peer broke the rules: close the link, nothing else is hurt
├── LocalProtocolError    we broke the rules: a bug on this side
├── TooManyStreams        the link has no room for another stream now
└── MessageTooLarge       no peer would take this message
"""

from __future__ import annotations


class WireError(Exception):
    """Base of them all."""


class RemoteProtocolError(WireError):
    """The peer sent what the protocol forbids; the link cannot be used any more."""


class LocalProtocolError(WireError):
    """This side asked for what the protocol forbids. Nothing was sent."""


class TooManyStreams(WireError):
    """As many streams are open as one link may have; nothing was sent."""


class MessageTooLarge(WireError):
    """The encoded message is larger than MAX_MESSAGE_BYTES; nothing was sent."""
