"""What became of a connection's tags in one session: monitored, polled, or missing and why. Columns, no objects.

Owns the state by place, its sums and its words. Owns no request: items.py and poll.py fill it in.

By place, in columns of n: status uint32 (0: monitored or polled, else the server's or our StatusCode), reason uint8 (a
MissingReason, 255: none), item_id uint32, subscription uint16 (which of `subscriptions`, 65535: none), and a uint16 for
what the server revised: sampling interval and queue size together, as few pairs of them occur. 13 bytes a tag.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import TYPE_CHECKING, Any

import numpy as np
from asyncua.ua.status_codes import StatusCodes

from engine.errors import InvalidInput
from engine.metrics.names import MissingReason
from workers.opcua.monitoring.nodes import column
from workers.opcua.monitoring.subscribe import Subscription
from workers.opcua.seam import status_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from engine.catalog.tag_set import TagSet
    from workers.opcua.monitoring.nodes import Addresses, Columns, Places, Problem
    from workers.opcua.monitoring.ways import Way

NOT_MISSING = 255
NO_SUBSCRIPTION = 0xFFFF
_REVISED_MOST = 1_000
# What a caller of `note` may add; each is a sentence for last_error.
_NOTES_MOST = 8

_INDEX_RANGE = (
    StatusCodes.BadIndexRangeInvalid,
    StatusCodes.BadIndexRangeNoData,
    StatusCodes.BadIndexRangeDataMismatch,
)
_REASONS: dict[int, MissingReason] = {
    StatusCodes.BadNodeIdInvalid: MissingReason.INVALID_NODE_ID,
    StatusCodes.BadNodeIdUnknown: MissingReason.UNKNOWN_NODE,
    StatusCodes.BadNoMatch: MissingReason.UNKNOWN_NODE,
    StatusCodes.BadNotReadable: MissingReason.NOT_READABLE,
    StatusCodes.BadUserAccessDenied: MissingReason.NOT_READABLE,
    StatusCodes.BadAttributeIdInvalid: MissingReason.NOT_READABLE,
    StatusCodes.BadSecurityModeInsufficient: MissingReason.NOT_READABLE,
    **dict.fromkeys(_INDEX_RANGE, MissingReason.INVALID_ELEMENT),
    StatusCodes.BadMonitoredItemFilterInvalid: MissingReason.REFUSED_SETTINGS,
    StatusCodes.BadMonitoredItemFilterUnsupported: MissingReason.REFUSED_SETTINGS,
    StatusCodes.BadFilterNotAllowed: MissingReason.REFUSED_SETTINGS,
    StatusCodes.BadDeadbandFilterInvalid: MissingReason.REFUSED_SETTINGS,
    StatusCodes.BadTimestampsToReturnInvalid: MissingReason.REFUSED_SETTINGS,
    StatusCodes.BadTooManyMonitoredItems: MissingReason.SERVER_LIMIT,
    StatusCodes.BadTooManySubscriptions: MissingReason.SERVER_LIMIT,
    StatusCodes.BadOutOfMemory: MissingReason.SERVER_LIMIT,
}


# With these a server says no to an index range, as old ones do to every range.
RANGE_REFUSED = np.array(
    [*_INDEX_RANGE, StatusCodes.BadNotSupported, StatusCodes.BadNotImplemented], np.uint32
)
# A read that ends so says nothing of a value: the tag is missing.
UNREADABLE = np.array(
    [
        *_INDEX_RANGE,
        StatusCodes.BadNodeIdInvalid,
        StatusCodes.BadNodeIdUnknown,
        StatusCodes.BadNotReadable,
        StatusCodes.BadUserAccessDenied,
        StatusCodes.BadAttributeIdInvalid,
        StatusCodes.BadSecurityModeInsufficient,
        StatusCodes.BadNotSupported,
        StatusCodes.BadNotImplemented,
    ],
    np.uint32,
)


def reason_of(status: int) -> MissingReason:
    """Return why a tag is missing whose item or read ended with this Bad StatusCode."""
    return _REASONS.get(status, MissingReason.OTHER)


class Monitoring:
    """The tags of one connection in one session; see the module's docstring for the columns."""

    def __init__(self, tags: TagSet, addresses: Addresses) -> None:
        count = len(tags)
        self.tags = tags
        self.addresses = addresses
        self.ways: tuple[Way, ...] = ()
        self.subscriptions: tuple[Subscription, ...] = ()
        self.polled: Places = np.empty(0, np.int32)
        self.revision = 0
        """Counts up when other tags are polled, or have other NodeIds."""
        self.nodes_per_read = 1
        self.status = np.zeros(count, np.uint32)
        self.reason = np.full(count, NOT_MISSING, np.uint8)
        self.item_id = np.zeros(count, np.uint32)
        self._revised = np.zeros(count, np.uint16)
        self._revised_pairs: dict[tuple[float, int], int] = {(0.0, 0): 0}
        self.subscription = np.full(count, NO_SUBSCRIPTION, np.uint16)
        self.unfiltered = 0
        """Tags that are monitored without the filter that they ask for."""
        self._notes: list[str] = []

    def __len__(self) -> int:
        return len(self.status)

    @property
    def elements(self) -> NDArray[np.int32] | None:
        """For decode_publish: which element of an array is the reading, by handle; None where no tag is one."""
        return self.addresses.elements

    @property
    def sampling_ms(self) -> NDArray[np.float32]:
        """The sampling intervals that the server revised, by place; 0 where it has none."""
        return np.array([pair[0] for pair in self._revised_pairs], np.float32)[self._revised]

    @property
    def queue_size(self) -> NDArray[np.uint32]:
        """The queue sizes that the server revised, by place; 0 where it has none."""
        return np.array([pair[1] for pair in self._revised_pairs], np.uint32)[self._revised]

    def revise(
        self, places: Places, sampling_ms: NDArray[np.float64], queue_size: NDArray[np.uint32]
    ) -> None:
        """Take over what the server made of these items' sampling intervals and queue sizes."""
        if len(places) and (sampling_ms == sampling_ms[0]).all() and (queue_size == queue_size[0]).all():
            self._revised[places] = self._pair(float(sampling_ms[0]), int(queue_size[0]))
            return
        pairs = np.stack((sampling_ms, queue_size.astype(np.float64)))
        distinct, which = np.unique(pairs, axis=1, return_inverse=True)
        codes = np.array([self._pair(*pair) for pair in distinct.T.tolist()], np.uint16)
        self._revised[places] = codes[which.reshape(-1)]

    def _pair(self, sampling_ms: float, queue_size: float) -> int:
        pair = (sampling_ms, int(queue_size))
        if pair not in self._revised_pairs and len(self._revised_pairs) >= _REVISED_MOST:
            return 0  # a server that revises each item in its own way: not shown
        return self._revised_pairs.setdefault(pair, len(self._revised_pairs))

    @property
    def monitored(self) -> int:
        """Tags that are monitored or polled."""
        return int(np.count_nonzero(self.reason == NOT_MISSING))

    def missing(self) -> dict[MissingReason, int]:
        """Return how many tags are missing for each reason that there is."""
        counts = np.bincount(self.reason, minlength=NOT_MISSING + 1)
        return {reason: int(counts[reason]) for reason in MissingReason if counts[reason]}

    def missing_places(self) -> Places:
        """Return the places of the tags that are missing."""
        return np.flatnonzero(self.reason != NOT_MISSING).astype(np.int32)

    def refusals(self, most: int) -> list[str]:
        """Return at most so many sentences: a missing tag's node id, and why it is missing."""
        return [
            f"{self.tags.node_id(place)}: {self._words(place)}"
            for place in self.missing_places()[:most].tolist()
        ]

    def remove(self, subscription_id: int) -> Places:
        """Take out a subscription that the server has ended; return its tags, for `Items.create` to make them again."""
        at = [subscription.subscription_id for subscription in self.subscriptions].index(subscription_id)
        self.subscriptions = self.subscriptions[:at] + self.subscriptions[at + 1 :]
        places = np.flatnonzero(self.subscription == at).astype(np.int32)
        self.refuse(places, StatusCodes.BadSubscriptionIdInvalid)
        self.subscription[places] = NO_SUBSCRIPTION
        behind = (self.subscription > at) & (self.subscription != NO_SUBSCRIPTION)
        self.subscription[behind] -= 1
        return places

    def poll(self, places: Places) -> None:
        """Count these among the polled ones, once."""
        self.polled = np.union1d(self.polled, places).astype(np.int32)
        self.revision += 1

    def polled_by_timestamps(self) -> list[tuple[int, Places]]:
        """Return the polled places by the TimestampsToReturn that they ask for."""
        wanted = np.array([way.timestamps for way in self.ways], np.uint8)[self.tags.profile[self.polled]]
        return [(code, self.polled[wanted == code]) for code in np.unique(wanted).tolist()]

    @property
    def notes(self) -> tuple[str, ...]:
        """What an operator has to know although every tag may be there."""
        noted = list(self._notes)
        if self.unfiltered:
            noted.append(
                f"the server refuses the deadband or trigger of {self.unfiltered} tags: monitored without it"
            )
        return tuple(noted)

    def note(self, sentence: str) -> None:
        """Keep a sentence for `notes`."""
        if sentence and sentence not in self._notes and len(self._notes) < _NOTES_MOST:
            self._notes.append(sentence)

    def settle(self, places: Places, status: NDArray[np.uint32]) -> None:
        """Take over the status of each of these places; only a Bad one makes a tag missing."""
        if not status.any():
            self.status[places] = 0
            self.reason[places] = NOT_MISSING
            return
        bad = status >= StatusCodes.Bad
        self.status[places] = np.where(bad, status, 0)
        reasons = np.full(len(places), NOT_MISSING, np.uint8)
        for code in np.unique(status[bad]).tolist():
            reasons[status == code] = reason_of(code)
        self.reason[places] = reasons

    def refuse(self, places: Places | Iterable[int], status: int) -> None:
        """Mark all of these places as missing."""
        chosen = np.fromiter(places, np.int32) if not isinstance(places, np.ndarray) else places
        self.settle(chosen, np.full(len(chosen), status, np.uint32))

    def has_problem(self, place: int, problem: Problem) -> None:
        """Mark a place as missing that has no NodeId in this session."""
        if isinstance(problem, int):
            self.status[place], self.reason[place] = problem, reason_of(problem)
        elif isinstance(problem, InvalidInput):
            self.status[place] = StatusCodes.BadNodeIdInvalid
            self.reason[place] = MissingReason.INVALID_NODE_ID
        else:
            self.status[place] = StatusCodes.BadNodeIdUnknown
            self.reason[place] = MissingReason.UNKNOWN_NAMESPACE

    def remember(self) -> tuple[Columns, dict[str, Any]]:
        """Return all that a new process needs: arrays by name, and what JSON can hold."""
        columns: Columns = {
            "status": self.status,
            "reason": self.reason,
            "item_id": self.item_id,
            "subscription": self.subscription,
            "revised": self._revised,
            "polled": self.polled,
        }
        return columns, {
            "revised_pairs": list(self._revised_pairs),
            "subscriptions": [astuple(made) for made in self.subscriptions],
            "nodes_per_read": self.nodes_per_read,
            "unfiltered": self.unfiltered,
            "notes": self._notes,
        }

    def recall(self, columns: Columns, said: Mapping[str, Any]) -> None:
        """Take over what `remember` gave. Raises ValueError, TypeError and KeyError when it cannot be that."""
        count = len(self)
        self._revised_pairs = {
            (float(sampling_ms), int(queue_size)): code
            for code, (sampling_ms, queue_size) in enumerate(said["revised_pairs"])
        }
        self.subscriptions = tuple(Subscription(int(made[0]), *made[1:]) for made in said["subscriptions"])
        self.status = column(columns, "status", np.uint32, count)
        self.reason = column(columns, "reason", np.uint8, count)
        self.item_id = column(columns, "item_id", np.uint32, count)
        self.subscription = column(columns, "subscription", np.uint16, count)
        self._revised = column(columns, "revised", np.uint16, count, below=len(self._revised_pairs))
        self.polled = column(columns, "polled", np.int32, None, below=count)
        subscribed = self.subscription[self.subscription != NO_SUBSCRIPTION]
        if len(subscribed) and subscribed.max() >= len(self.subscriptions):
            raise ValueError("an item in a subscription that is not there")
        self.nodes_per_read = max(1, int(said["nodes_per_read"]))
        self.unfiltered = int(said["unfiltered"])
        self._notes = [str(note) for note in said["notes"]]
        self.revision += 1

    def _words(self, place: int) -> str:
        reason = int(self.reason[place])
        if reason in {MissingReason.INVALID_NODE_ID, MissingReason.UNKNOWN_NAMESPACE}:
            problem = self.addresses.problem(place)
            if isinstance(problem, InvalidInput):
                return str(problem)
            if isinstance(problem, KeyError):
                return f"the server has no namespace {problem.args[0]}"
        return status_name(int(self.status[place]))
