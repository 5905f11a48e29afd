/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * CRC-32C (Castagnoli, reflected, as in iSCSI and ext4), with the processor's
 * instruction where it has one.  Plain C; thread-safe after the first call of
 * lunary_crc32c_init().
 */

#ifndef LUNARY_CRC32C_H
#define LUNARY_CRC32C_H

#include <stddef.h>
#include <stdint.h>


/* chooses the implementation; portable != 0 forces the table, for tests */
void lunary_crc32c_init(int portable);

/* of n bytes that follow those whose CRC is crc; 0 to begin with */
uint32_t lunary_crc32c(uint32_t crc, const void *data, size_t n);


#endif /* LUNARY_CRC32C_H */
