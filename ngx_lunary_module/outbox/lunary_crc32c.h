/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * CRC-32C (Castagnoli, reflected, as in iSCSI and ext4), with the processor's
 * instructions where it has some.  Plain C; thread-safe after the first call of
 * lunary_crc32c_init(), and beside others that ask for the same.
 *
 * Invariant: every implementation gives the same sums.
 */

#ifndef LUNARY_CRC32C_H
#define LUNARY_CRC32C_H

#include <stddef.h>
#include <stdint.h>


/* implementations, each faster than the one before it where data is long */

typedef enum {
    LUNARY_CRC32C_TABLE = 0,
    LUNARY_CRC32C_WORDS,              /* SSE4.2                               */
    LUNARY_CRC32C_LANES,              /* and PCLMULQDQ                        */
    LUNARY_CRC32C_FOLDS,              /* and VPCLMULQDQ, AVX2                 */
    LUNARY_CRC32C_BEST = LUNARY_CRC32C_FOLDS
} lunary_crc32c_e;


/* chooses the best one that this processor can run, none above `most`: that
 * is for tests.  Returns which. */
lunary_crc32c_e lunary_crc32c_init(lunary_crc32c_e most);

/* of n bytes that follow those whose CRC is crc; 0 to begin with */
uint32_t lunary_crc32c(uint32_t crc, const void *data, size_t n);


#endif /* LUNARY_CRC32C_H */
