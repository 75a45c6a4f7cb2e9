"""How late live readings are: the age of the newest one that the database shows, looked at again and again."""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field

import psycopg

from tests.end_to_end.plant import Plant

_POLL_S = 0.05
_NEWEST = """
select extract(epoch from ts)::double precision from readings where tag_id = %s and ts > now() - interval '1 hour'
order by ts desc limit 1
"""


@dataclass
class LiveDelay:
    """Looks from `start` to `stop`, in a thread of its own; server and database are on this machine's clock."""

    plant: Plant
    node_id: str
    ages_s: list[float] = field(default_factory=list)
    """Of the newest stored reading, at each look."""
    at_s: list[float] = field(default_factory=list)
    """time.monotonic() of each look."""
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._look, name="live delay", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stopping.set()
        assert self._thread is not None
        self._thread.join()

    def since(self, begin_s: float) -> tuple[float, float]:
        """Return median and greatest age from a moment on."""
        ages_s = [age_s for age_s, at_s in zip(self.ages_s, self.at_s, strict=True) if at_s >= begin_s]
        return statistics.median(ages_s), max(ages_s)

    def fresh_from(self, begin_s: float, *, age_s: float) -> float:
        """Return the moment from which on a newest reading of at most this age was seen."""
        return next(
            at for age, at in zip(self.ages_s, self.at_s, strict=True) if at >= begin_s and age <= age_s
        )

    def _look(self) -> None:
        (tag_id,) = self.plant.rows("select tag_id from tag_mappings where opc_node_id = %s", self.node_id)[0]
        with psycopg.connect(self.plant.databases.tenant_dsn, autocommit=True) as connection:
            while not self._stopping.wait(_POLL_S):
                row = connection.execute(_NEWEST, [tag_id]).fetchone()
                if row is not None:
                    self.ages_s.append(time.time() - row[0])
                    self.at_s.append(time.monotonic())
