"""The journal: a tenant's readings on disk, from the moment they leave the ring until the database has them for good.

Owns the files of one stream: append, fdatasync, recovery, trim, quota. Knows no database and no OPC UA; what a frame is
stands in engine/frames.py. This docstring is the format's specification; tests hold it, byte by byte.

Folder of a tenant, <journal.folder>/<slug>, mode 0700:

    lock                                    flock(2) by the one process that owns the stream
    <epoch:08x>-<first sequence:016x>.seg   segments; their names sort in the order of the stream
    checkpoint                              what the database is known to have; may be lost, see below
    corrupt/                                bytes that were no frames, and segments of others: kept for a person
    sessions/                               OPC UA sessions (workers.opcua.remembered); not the journal's

A segment is a header and then records, all numbers little-endian, every record at a multiple of 8 bytes from the start
of the file, padded with zeros:

    header, 96 bytes
       0  magic "SCADAJNL"                8 bytes
       8  format version                  u32, now 1
      12  CRC32C of bytes 0 .. 11 and 16 .. 95    u32; so in every version, so that damage is not taken for a later one
      16  stream                          16 bytes, a UUID
      32  tenant                          16 bytes, a UUID
      48  database                        16 bytes, the UUID in its database_identity
      64  epoch of the owner              u64
      72  first sequence of this segment  u64
      80  sequence before the first       u64, 0 for the first of a stream
      88  made at                         i64, microseconds since 1970
    record: header, 56 bytes, then the payload
       0  magic "SREC"                    4 bytes; where a search goes on behind bytes that are no record
       4  CRC32C of bytes 8 .. 55 and of the payload    u32
       8  bytes of the payload            u32, at most 256 MiB
      12  type                            u32: 1 a frame
      16  stream                          16 bytes
      32  epoch                           u64
      40  sequence                        u64
      48  journaled at                    i64, microseconds since 1970; the low ten bits are not time but how many
                                          frames of its group are before it: of those written and synced together
    payload of a frame
       0  rows n                          u32
       4  texts t                         u32
       8  bytes of all texts b            u32
      12  gaps recorded g                 u32
      16  gaps recovered r                u32
      20  positions p                     u32
      24  ts_us      n x i64
          value      n x f64
          tag_id     n x i32
          status     n x u32
          kind       n x u8
          (zeros up to a multiple of 8 from the start of the payload)
          texts      t x (row u32, bytes u32), by row, one for each row whose kind has TEXT; then their UTF-8 one
                     after the other, b bytes. Surrogates are the bytes that surrogateescape made them of, so that
                     what was not UTF-8 comes out as it came in
          (zeros up to a multiple of 8)
          gaps       (g + r) x from_us i64, then to_us i64, tag_id i32, cause u8; the recorded ones first
          (zeros up to a multiple of 8)
          positions  p x (connection 16 bytes, subscription u32, sequence number u32)

    checkpoint, 120 bytes
       0  magic "SCADACKP"                8 bytes
       8  version                         u32, now 1
      12  CRC32C of bytes 16 .. 119       u32
      16  stream, tenant, database        16 bytes each
      64  epoch of the owner              u64
      72  committed                       u64, everything up to this sequence is in the database
      80  trimmed                         u64, the last sequence of the segments that were removed
      88  last                            u64, the sequence of the last frame at that time
      96  saved at                        i64, microseconds since 1970
     104  closed                          u64, 1: there are no later frames
     112  zeros                           8 bytes

Invariants:
- `append` returns after fdatasync of everything that it wrote, and after fsync of the folder for a new segment. What
  it has not returned for may be there or not; nobody acknowledges it.
- A write for which there was no room is undone, and tried again when there is some. Any other write, and any fdatasync,
  that failed is never tried again on that file. What it held and nobody was told is durable goes to a new segment;
  records of a segment from the first sequence of a later segment on do not count.
- Bytes behind the last valid record of the newest segment are a torn tail: they are cut off, and kept in corrupt/
  where they are not all zeros. So is all that follows a hole in that segment's last group, unless the checkpoint knows
  a frame of it: pages of one sync get lost in any order, and nothing of a group was acknowledged before its sync.
- All other bytes that are no record between two that are, are a hole: they are kept in corrupt/, and reading goes on
  behind them.
- A start never fails because of what a segment holds, with one exception: a segment of a later format version means
  that a newer engine has been here, and nothing may be skipped (JournalTooNew).
- Segments are removed from the oldest on, and only when everything in them is committed, and `grace_s` has passed
  since; when the quota is reached, they go before the grace is over. The newest that holds frames is never removed.
- An owner counts its frames without a hole, and a segment's header says what was before it: so a hole is always seen,
  but for one at the very end. That the checkpoint shows, if it was saved since.
- The first frame of each segment holds the positions of all subscriptions, each other frame those that moved. The
  newest segment that holds frames, and so all positions, is never removed.
- The checkpoint is never needed: without it a start reads more, and the database's mark says what is committed.
"""
