# CRC32C (Castagnoli): polynomial 0x1EDC6F41, reflected, begun with and finished by all ones (RFC 3720, 12.1).
#
# Processors have an instruction for it; the one that runs this is asked once, at import. Elsewhere eight tables do it,
# eight bytes a step ("slicing-by-8", Kounavis and Berry 2005). Tests reach both, and hold them against the definition.

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "records hold columns as they are in memory, and their format is little-endian"
    #endif

    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>

    static uint32_t scada_crc_tables[8][256];

    static void scada_crc_fill_tables(void)
    {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = byte;
            for (int bit = 0; bit < 8; bit++)
                crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
            scada_crc_tables[0][byte] = crc;
        }
        for (int table = 1; table < 8; table++)
            for (int byte = 0; byte < 256; byte++) {
                uint32_t before = scada_crc_tables[table - 1][byte];
                scada_crc_tables[table][byte] = before >> 8 ^ scada_crc_tables[0][before & 0xFF];
            }
    }

    static uint32_t scada_crc_by_tables(uint32_t crc, const uint8_t *at, size_t size)
    {
        uint32_t (*const t)[256] = scada_crc_tables;
        for (; size >= 8; size -= 8, at += 8) {
            uint32_t low, high;
            memcpy(&low, at, 4);
            memcpy(&high, at + 4, 4);
            low ^= crc;
            crc = t[7][low & 0xFF] ^ t[6][low >> 8 & 0xFF] ^ t[5][low >> 16 & 0xFF] ^ t[4][low >> 24]
                ^ t[3][high & 0xFF] ^ t[2][high >> 8 & 0xFF] ^ t[1][high >> 16 & 0xFF] ^ t[0][high >> 24];
        }
        for (; size > 0; size--, at++)
            crc = crc >> 8 ^ t[0][(crc ^ *at) & 0xFF];
        return crc;
    }

    #if defined(__x86_64__)
    #include <nmmintrin.h>
    static int scada_crc_has_instruction(void)
    {
        __builtin_cpu_init();
        return __builtin_cpu_supports("sse4.2");
    }
    #define SCADA_CRC_TARGET __attribute__((target("sse4.2")))
    #define SCADA_CRC_8_BYTES(crc, eight) ((uint32_t)_mm_crc32_u64(crc, eight))
    #define SCADA_CRC_BYTE(crc, byte) _mm_crc32_u8(crc, byte)
    #elif defined(__aarch64__) && defined(__ARM_FEATURE_CRC32)
    #include <arm_acle.h>
    static int scada_crc_has_instruction(void) { return 1; }
    #define SCADA_CRC_TARGET
    #define SCADA_CRC_8_BYTES(crc, eight) __crc32cd(crc, eight)
    #define SCADA_CRC_BYTE(crc, byte) __crc32cb(crc, byte)
    #else
    static int scada_crc_has_instruction(void) { return 0; }
    #endif

    #ifdef SCADA_CRC_TARGET
    SCADA_CRC_TARGET static uint32_t scada_crc_by_instruction(uint32_t crc, const uint8_t *at, size_t size)
    {
        for (; size >= 8; size -= 8, at += 8) {
            uint64_t eight;
            memcpy(&eight, at, 8);
            crc = SCADA_CRC_8_BYTES(crc, eight);
        }
        for (; size > 0; size--, at++)
            crc = SCADA_CRC_BYTE(crc, *at);
        return crc;
    }
    #else
    #define scada_crc_by_instruction scada_crc_by_tables
    #endif

    typedef uint32_t (*scada_crc_way)(uint32_t, const uint8_t *, size_t);
    static scada_crc_way scada_crc = scada_crc_by_tables;

    static void scada_crc_choose(void)
    {
        scada_crc_fill_tables();
        if (scada_crc_has_instruction())
            scada_crc = scada_crc_by_instruction;
    }
    """
    void scada_crc_choose() noexcept
    uint32_t scada_crc(uint32_t crc, const uint8_t* at, size_t size) noexcept nogil
    uint32_t scada_crc_by_tables(uint32_t crc, const uint8_t* at, size_t size) noexcept nogil

scada_crc_choose()


cdef inline uint32_t crc_of(const uint8_t* at, size_t size) noexcept nogil:
    return scada_crc(0xFFFFFFFFU, at, size) ^ 0xFFFFFFFFU


def crc32c(data, Py_ssize_t start=0, *, bint by_tables=False):
    """Return the CRC32C of the bytes from `start` on; `by_tables` takes the way of processors without an instruction.

    Raises ValueError for a start outside of `data`.
    """
    cdef const uint8_t[::1] view = data
    cdef Py_ssize_t size = view.shape[0] - start
    cdef const uint8_t* at
    cdef uint32_t crc = 0xFFFFFFFFU
    if start < 0 or size < 0:
        raise ValueError(f"start: {start} is outside of {view.shape[0]} bytes")
    if size == 0:
        return 0
    at = &view[start]
    with nogil:
        crc = scada_crc_by_tables(crc, at, size) if by_tables else scada_crc(crc, at, size)
    return crc ^ 0xFFFFFFFFU
