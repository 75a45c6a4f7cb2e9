"""What one publish response meant to the ring. The compiled decoder returns the same integers; a test compares them."""

from enum import IntEnum


class Outcome(IntEnum):
    """What decode_publish did with a message; named by what the caller has to know next."""

    DATA = 0
    """Notifications were read; every value whose handle is known is in the ring."""

    KEEP_ALIVE = 1
    """The message has no notifications; its sequence number is that of the next one."""

    STATUS_CHANGE = 2
    """The subscription changed its state (`Publish.status_change`); values beside it are in the ring."""

    FAULT = 3
    """The server refused the publish request (`Publish.service_result`)."""

    RING_FULL = 4
    """The values do not fit into the ring now; nothing was taken. Drain, then decode the same bytes again."""
