/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Media.  See lunary_media.h.
 */

#include "lunary_media.h"
#include "lunary_simd.h"


#define LUNARY_PROBE_SCHEME  0          /* is it `data:`?                     */
#define LUNARY_PROBE_TYPE    1          /* up to `;base64,`                   */
#define LUNARY_PROBE_BASE64  2

#define LUNARY_PROBE_TYPE_MAX  128


typedef struct {
    lunary_str_t  name;
    unsigned      class;
} lunary_media_name_t;


/* sorted by length: lunary_media_class() stops at the first longer one */

static const lunary_media_name_t  lunary_media_names[] = {
    { lunary_string("data"), LUNARY_MEDIA_STRING|LUNARY_MEDIA_VECTOR },
    { lunary_string("int8"), LUNARY_MEDIA_VECTOR },
    { lunary_string("bytes"), LUNARY_MEDIA_STRING },
    { lunary_string("float"), LUNARY_MEDIA_VECTOR },
    { lunary_string("input"), LUNARY_MEDIA_VECTOR },
    { lunary_string("uint8"), LUNARY_MEDIA_VECTOR },
    { lunary_string("binary"), LUNARY_MEDIA_VECTOR },
    { lunary_string("images"), LUNARY_MEDIA_ELEMENT },
    { lunary_string("result"), LUNARY_MEDIA_STRING },
    { lunary_string("values"), LUNARY_MEDIA_VECTOR },
    { lunary_string("ubinary"), LUNARY_MEDIA_VECTOR },
    { lunary_string("b64_json"), LUNARY_MEDIA_STRING },
    { lunary_string("embedding"), LUNARY_MEDIA_STRING|LUNARY_MEDIA_VECTOR },
    { lunary_string("file_data"), LUNARY_MEDIA_STRING },
    { lunary_string("signature"), LUNARY_MEDIA_STRING },
    { lunary_string("embeddings"), LUNARY_MEDIA_VECTOR },
    { lunary_string("thoughtSignature"), LUNARY_MEDIA_STRING },
    { lunary_string("encrypted_content"), LUNARY_MEDIA_STRING },
    { lunary_string("partial_image_b64"), LUNARY_MEDIA_STRING },
    { lunary_string("thought_signature"), LUNARY_MEDIA_STRING }
};

#define LUNARY_MEDIA_NAMES                                                   \
    (sizeof(lunary_media_names) / sizeof(lunary_media_names[0]))


const uint32_t  lunary_media_letters[LUNARY_MEDIA_KEY + 1] = {
    [4] = lunary_letter('d')|lunary_letter('i'),
    [5] = lunary_letter('b')|lunary_letter('f')|lunary_letter('i')
          |lunary_letter('u'),
    [6] = lunary_letter('b')|lunary_letter('i')|lunary_letter('r')
          |lunary_letter('v'),
    [7] = lunary_letter('u'),
    [8] = lunary_letter('b'),
    [9] = lunary_letter('e')|lunary_letter('f')|lunary_letter('s'),
    [10] = lunary_letter('e'),
    [16] = lunary_letter('t'),
    [17] = lunary_letter('e')|lunary_letter('p')|lunary_letter('t')
};


unsigned
lunary_media_class(lunary_str_t key)
{
    const lunary_media_name_t  *m, *end;

    if (!lunary_media_maybe(key)) {
        return 0;
    }

    m = lunary_media_names;
    end = m + LUNARY_MEDIA_NAMES;

    for ( /* void */ ; m < end && m->name.len <= key.len; m++) {

        if (m->name.len == key.len && m->name.data[0] == key.data[0]
            && memcmp(m->name.data, key.data, key.len) == 0)
        {
            return m->class;
        }
    }

    return 0;
}


void
lunary_probe_init(lunary_probe_t *pr, int keyed)
{
    pr->state = LUNARY_PROBE_SCHEME;
    pr->keyed = (keyed != 0);
    pr->escape = 0;
    pr->pos = 0;
    pr->run = 0;
}


size_t
lunary_probe_room(const lunary_probe_t *pr)
{
    size_t  n;

    if (pr->state != LUNARY_PROBE_BASE64) {
        return LUNARY_PROBE_TYPE_MAX / 2;
    }

    n = pr->pos - pr->run;

    return (n < LUNARY_MEDIA_RUN) ? LUNARY_MEDIA_RUN - n : 1;
}


int
lunary_probe(lunary_probe_t *pr, const unsigned char *p, size_t n)
{
    unsigned char         c;
    const unsigned char  *q;

    static const unsigned char  scheme[] = "data:";
    static const unsigned char  base64[] = ";base64,";

    while (pr->state == LUNARY_PROBE_SCHEME && pr->pos < n) {

        if (p[pr->pos] != scheme[pr->pos]) {

            if (!pr->keyed) {
                return LUNARY_ERROR;
            }

            pr->pos = 0;
            pr->state = LUNARY_PROBE_BASE64;

        } else if (++pr->pos == sizeof(scheme) - 1) {
            pr->state = LUNARY_PROBE_TYPE;
        }
    }

    while (pr->state == LUNARY_PROBE_TYPE && pr->pos < n) {

        if (pr->pos == LUNARY_PROBE_TYPE_MAX) {
            return LUNARY_ERROR;
        }

        if (p[pr->pos++] != ',') {
            continue;
        }

        if (pr->pos < sizeof(base64) - 1
            || memcmp(p + pr->pos - (sizeof(base64) - 1), base64,
                      sizeof(base64) - 1)
               != 0)
        {
            return LUNARY_ERROR;
        }

        pr->run = pr->pos;
        pr->state = LUNARY_PROBE_BASE64;
    }

    if (pr->state != LUNARY_PROBE_BASE64) {
        return LUNARY_OK;
    }

    while (pr->pos < n) {

        c = p[pr->pos];

        if (pr->escape) {

            if (!lunary_media_escape(c)) {
                return LUNARY_ERROR;
            }

            pr->escape = 0;
            pr->pos++;
            continue;
        }

        if (c == '\\') {
            pr->escape = 1;
            pr->pos++;
            continue;
        }

        q = lunary_simd_base64(p + pr->pos, p + n);

        if (q == p + pr->pos) {
            return LUNARY_ERROR;
        }

        pr->pos = (size_t) (q - p);
    }

    if (!pr->escape && pr->pos - pr->run >= LUNARY_MEDIA_RUN) {
        return LUNARY_DONE;
    }

    return LUNARY_OK;
}
