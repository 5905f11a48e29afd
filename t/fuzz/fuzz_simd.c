/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_simd.h, lunary_string.h: every implementation that this processor
 * can run gives the portable one's answer, and looks at nothing outside.
 *
 * Input: the text, in which 0xF8, a number and a byte stand for so many times
 * that byte, so that a row may end where a vector does.
 */

#include "fuzz.h"

#include "lunary_string.h"


#define TEXT_MAX  4096
#define FINDERS   (sizeof(finders) / sizeof(finders[0]))


static const size_t  finders[] = {
    offsetof(lunary_simd_t, text), offsetof(lunary_simd_t, quote),
    offsetof(lunary_simd_t, bracket), offsetof(lunary_simd_t, number),
    offsetof(lunary_simd_t, base64), offsetof(lunary_simd_t, space),
    offsetof(lunary_simd_t, nested), offsetof(lunary_simd_t, close),
    offsetof(lunary_simd_t, span)
};


static lunary_simd_pt
finder(const lunary_simd_t *one, size_t i)
{
    return *(const lunary_simd_pt *) ((const char *) one + finders[i]);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t                       i, k, n;
    unsigned char               *p, *padded, text[TEXT_MAX];
    const unsigned char         *want, *got;
    const lunary_simd_t *const  *one;

    n = 0;

    for (i = 0; i < size && n < TEXT_MAX; i++) {

        if (data[i] == 0xf8 && size - i > 2) {
            for (k = data[i + 1]; k > 0 && n < TEXT_MAX; k--) {
                text[n++] = data[i + 2];
            }

            i += 2;
            continue;
        }

        text[n++] = data[i];
    }

    p = fuzz_copy(text, n);

    padded = calloc(1, n + LUNARY_STRING_PAD);
    must(padded != NULL);
    memcpy(padded, text, n);

    for (one = lunary_simd_all(); *one != NULL; one++) {

        lunary_simd = *one;

        for (i = 0; i < FINDERS; i++) {
            want = finder(&lunary_simd_portable, i)(p, p + n);
            got = finder(*one, i)(p, p + n);

            if (got != want) {
                fprintf(stderr, "%s %zu: %td, not %td\n", (*one)->name, i,
                        got ? got - p : -1, want ? want - p : -1);
                abort();
            }
        }

        want = lunary_simd_portable.span(p, p + n);

        must((*one)->padded(padded, padded + n) - padded == want - p);
        must(lunary_string_end(padded, padded + n) - padded == want - p);
    }

    lunary_simd = lunary_simd_all()[0];

    free(padded);
    free(p);

    return 0;
}
