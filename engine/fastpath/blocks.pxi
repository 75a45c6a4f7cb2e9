# Blocks: memory for rows, kept for the next batch of them.
#
# An allocator gives blocks of megabytes back to the system, and what comes from there is a page fault for each 4 KiB of
# it: measured, more than sorting costs. Two commits are in flight, and one of them is being sorted.

from libc.stdlib cimport free, malloc

cdef enum:
    BLOCKS = 4
    MOST_BLOCK_BYTES = 8 * 1024 * 1024   # a quarter of a million rows

cdef void* kept_block[BLOCKS]   # NULL: no block
cdef size_t kept_bytes[BLOCKS]


cdef void* take_block(size_t* nbytes) except NULL:
    """Return a block of at least so many bytes; fill in how many it has."""
    cdef void* block
    cdef Py_ssize_t place, best = -1
    for place in range(BLOCKS):
        if kept_block[place] != NULL and kept_bytes[place] >= nbytes[0]:
            if best < 0 or kept_bytes[place] < kept_bytes[best]:
                best = place
    if best >= 0:
        block = kept_block[best]
        nbytes[0] = kept_bytes[best]
        kept_block[best] = NULL
        return block
    block = malloc(nbytes[0])
    if block == NULL:
        raise MemoryError
    return block


cdef void give_block(void* block, size_t nbytes) noexcept:
    """Keep a block for the next taker, in the place of the smallest one; or free it."""
    cdef Py_ssize_t place, least = 0
    if block == NULL or nbytes > MOST_BLOCK_BYTES:
        free(block)
        return
    for place in range(BLOCKS):
        if kept_block[place] == NULL:
            least = place
            break
        if kept_bytes[place] < kept_bytes[least]:
            least = place
    if kept_block[least] != NULL and kept_bytes[least] >= nbytes:
        free(block)
        return
    free(kept_block[least])
    kept_block[least] = block
    kept_bytes[least] = nbytes
