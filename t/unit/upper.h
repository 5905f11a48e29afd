/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Whether wide vector registers were left dirty.  What is in their upper halves
 * makes all that follows slower, so a function that uses them clears them.
 */

#ifndef UPPER_H
#define UPPER_H

#if defined(__x86_64__)
#include <cpuid.h>
#endif


/* 1 where upper halves of the registers 0 to 15 are in use; 0 where they are
 * not, or the processor does not tell */

static inline int
upper_halves_in_use(void)
{
#if defined(__x86_64__)

    unsigned  a, b, c, d;

    /* OSXSAVE, and XGETBV with 1 */

    if (__get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 27)
        && __get_cpuid_count(0x0d, 1, &a, &b, &c, &d) && (a & 1u << 2))
    {
        __asm__ volatile ("xgetbv" : "=a" (a), "=d" (d) : "c" (1));

        return (a & (1u << 2 | 1u << 6)) != 0;
    }

#endif

    return 0;
}


#endif /* UPPER_H */
