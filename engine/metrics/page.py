"""The shared-memory page that every process counts into, and the snapshot that the aggregator takes of it.

Owns the page's life: create, attach, claim, snapshot. The words are in names.py, the byte layout in layout.py, the
writers in slots.py, what a reader gets in samples.py.

The page is an anonymous memory file (memfd_create(2)) that the supervisor creates, sealed against a change of its
size; children inherit the descriptor. It outlives a worker, so counters go on where a killed worker left them. The
file is sparse: only parts that somebody wrote take memory, about 1 KiB a tenant.

Invariants:
- One writer: a block is written by its own process only, the supervisor's part by the supervisor only, and by one
  thread of it. Readers never write.
- Every number is one aligned 8-byte word. CPython's memoryview copies it with one machine store, so a reader sees the
  old or the new number, never half of each (a test tries). An increment is a load and a store and needs no lock, as
  nobody else stores there.
- Numbers that belong together are changed inside `TenantSlots.together()`, which makes the tenant's sequence odd
  meanwhile; a snapshot copies a tenant again while its sequence is odd or has moved. x86 keeps the order of stores, ARM
  may not: a reader who finds that received != committed + quarantined + dropped + in flight looks again before
  believing it. When nothing is being stored, every look is exact.
- Slugs are never taken out and counters never set back, so what a reader sees of them never decreases.

After a worker died: the next one that claims the block sets the gauges to zero, but for IN_FLIGHT: everything that was
received and not accounted for is in flight, until the tenant's journal and database have been asked
(`TenantSlots.settle`). Then what the database took without the dead worker having counted it is committed, what is in
the journal is in flight, and the rest was in the dead worker's memory: dropped, WORKER_KILLED. Nobody had acknowledged
it, and servers send it again. So received = committed + quarantined + dropped + in flight holds again, exactly.
"""

from __future__ import annotations

import fcntl
import mmap
import os

from engine.errors import ConfigurationError
from engine.metrics.layout import (
    BYTE_ORDER,
    MAGIC,
    TENANTS_PER_BLOCK,
    VERSION,
    WORD,
    Header,
    ProcessWord,
    SupervisorWord,
    block_word,
    supervisor_word,
    tenant_word,
)
from engine.metrics.names import ProcessKind, ProcessState
from engine.metrics.samples import (
    PageSample,
    ProcessSample,
    read_process,
    read_tenant,
    sum_by_slug,
)
from engine.metrics.slots import ProcessSlots, ShardSlots


class MetricsPage:
    """The page, mapped: `create` it in the supervisor, `attach` to it in a child."""

    def __init__(self, fd: int) -> None:
        """Map an open page; use `create` or `attach`."""
        self.fd = fd
        self._map = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        # Two views of the same bytes; a slot is an index into one of them, so no object is made for each.
        self._u64 = memoryview(self._map).cast("Q")
        self._f64 = memoryview(self._map).cast("d")
        self.shards: int = self._u64[Header.SHARDS]
        self.fronts: int = self._u64[Header.FRONTS]
        self._claimed: dict[int, ProcessSlots] = {}

    @classmethod
    def create(cls, shards: int, *, fronts: int = 1) -> MetricsPage:
        """Create the page for `shards` ingest workers, the aggregator, `fronts` gRPC fronts and REST."""
        processes = shards + 1 + fronts + 1
        size_bytes = block_word(processes, processes) * WORD
        fd = os.memfd_create("scada-metrics", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size_bytes)
        # A process that shrank the file would kill all others with SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        header = (MAGIC, VERSION, shards, fronts, TENANTS_PER_BLOCK, size_bytes)
        os.pwrite(fd, b"".join(word.to_bytes(WORD, BYTE_ORDER) for word in header), 0)
        return cls(fd)

    @classmethod
    def attach(cls, fd: int) -> MetricsPage:
        """Map the page behind an inherited descriptor. Raises ConfigurationError when it is not one of ours."""
        try:
            size_bytes = os.fstat(fd).st_size
            raw = os.pread(fd, len(Header) * WORD, 0)
        except OSError as exc:
            raise ConfigurationError(f"descriptor {fd} is not the metrics page: {exc.strerror}") from exc
        words = [int.from_bytes(raw[at : at + WORD], BYTE_ORDER) for at in range(0, len(raw), WORD)]
        if words[:2] != [MAGIC, VERSION] or words[Header.PAGE_BYTES] != size_bytes:
            raise ConfigurationError(f"descriptor {fd} is not the metrics page of this version of the engine")
        return cls(fd)

    def close(self) -> None:
        """Unmap the page and close its descriptor; slots that were taken from it are dead afterwards."""
        self._u64.release()
        self._f64.release()
        self._map.close()
        os.close(self.fd)

    def shard(self, index: int) -> ShardSlots:
        """Claim the block of ingest worker `index`: only that worker may, at its start.

        Accounts for a predecessor that died (see the module's docstring). Asked again, the same page returns the same
        object and resets nothing.
        """
        place = self._place(ProcessKind.INGEST, index)
        shard = self._claimed.get(place)
        if not isinstance(shard, ShardSlots):
            shard = self._claimed[place] = ShardSlots(self._u64, self._f64, self._block(place))
        return shard

    def aggregator(self) -> ProcessSlots:
        """Claim the aggregator's block: only the aggregator may."""
        return self._process(ProcessKind.AGGREGATOR, 0)

    def front(self, index: int = 0) -> ProcessSlots:
        """Claim the block of gRPC front `index`: only that front may."""
        return self._process(ProcessKind.FRONT, index)

    def rest(self) -> ProcessSlots:
        """Claim the block of the REST process: only that process may."""
        return self._process(ProcessKind.REST, 0)

    def process_died(self, kind: str, index: int, exit_status: int = 0) -> None:
        """Note the death of a process that will be started again: only the supervisor may.

        `exit_status` is its exit code, or minus the signal that killed it.
        """
        place = self._place(kind, index)
        entry = supervisor_word(place)
        self._u64[entry + SupervisorWord.DEATHS] += 1
        self._u64[entry + SupervisorWord.EXIT_STATUS] = exit_status % 2**64
        # The successor's id is another one: as soon as it claims the block, the process counts as alive.
        self._u64[entry + SupervisorWord.DEAD_PID] = self._u64[self._block(place) + ProcessWord.PID]

    def process_state(self, kind: str, index: int) -> ProcessState:
        """Return what a process says of itself; ABSENT before its first start and while it is dead."""
        return self._sample(ProcessKind(kind), index).state

    def snapshot(self) -> PageSample:
        """Copy everything on the page; about 3 ms for 300 tenants."""
        members = [
            *((ProcessKind.INGEST, index) for index in range(self.shards)),
            (ProcessKind.AGGREGATOR, 0),
            *((ProcessKind.FRONT, index) for index in range(self.fronts)),
            (ProcessKind.REST, 0),
        ]
        processes = tuple(self._sample(kind, index) for kind, index in members)
        samples = []
        for place, process in enumerate(processes[: self.shards]):
            block = self._block(place)
            for at in range(self._u64[block + ProcessWord.TENANTS]):
                tenant = tenant_word(block, at)
                samples.append(read_tenant(self._u64, tenant, exited=process.exited))
        return PageSample(sum_by_slug(samples), processes)

    def _process(self, kind: ProcessKind, index: int) -> ProcessSlots:
        place = self._place(kind, index)
        if place not in self._claimed:
            self._claimed[place] = ProcessSlots(self._u64, self._f64, self._block(place))
        return self._claimed[place]

    def _sample(self, kind: ProcessKind, index: int) -> ProcessSample:
        place = self._place(kind, index)
        return read_process(
            self._u64, kind=kind, index=index, block=self._block(place), entry=supervisor_word(place)
        )

    def _block(self, place: int) -> int:
        return block_word(place, self.shards + 1 + self.fronts + 1)

    def _place(self, kind: str, index: int) -> int:
        first, count = {
            ProcessKind.INGEST: (0, self.shards),
            ProcessKind.AGGREGATOR: (self.shards, 1),
            ProcessKind.FRONT: (self.shards + 1, self.fronts),
            ProcessKind.REST: (self.shards + 1 + self.fronts, 1),
        }[ProcessKind(kind)]
        if not 0 <= index < count:
            raise ConfigurationError(
                f"the metrics page has {count} blocks for {kind} processes, none for {index}"
            )
        return first + index
