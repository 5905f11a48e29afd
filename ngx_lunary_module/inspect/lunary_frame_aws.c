/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * AWS' event streams (application/vnd.amazon.eventstream).  See
 * lunary_frame.h.
 */

#include <zlib.h>

#include "lunary_frame_internal.h"


/* AWS: bounds of what a message may be (its limits are 16 MB and 128 KB) */

#define LUNARY_FRAME_AWS_MAX      (24 * 1024 * 1024)
#define LUNARY_FRAME_AWS_HEADERS  4096


static void lunary_frame_aws_headers(lunary_frame_t *f);
static uint32_t lunary_frame_be32(const unsigned char *p);


int
lunary_frame_aws_starts(const unsigned char *p)
{
    uint32_t  total;

    total = lunary_frame_be32(p);

    return total >= 16 && total <= LUNARY_FRAME_AWS_MAX
           && lunary_frame_be32(p + 4) <= total - 16
           && lunary_frame_be32(p + 8)
              == (uint32_t) crc32(crc32(0L, Z_NULL, 0), p, 8);
}


int
lunary_frame_aws(lunary_frame_t *f, const unsigned char *p,
    const unsigned char *end)
{
    size_t    n, want;
    uint32_t  total, headers;

    while (p < end) {

        n = (size_t) (end - p);

        switch (f->state) {

        case LUNARY_AWS_PRELUDE:
        case LUNARY_AWS_CRC:

            want = (f->state == LUNARY_AWS_PRELUDE ? LUNARY_FRAME_PRELUDE : 4)
                   - f->head_len;

            if (n > want) {
                n = want;
            }

            memcpy(f->head + f->head_len, p, n);
            f->head_len += n;
            p += n;

            if (n < want) {
                return f->error;
            }

            f->head_len = 0;

            if (f->state == LUNARY_AWS_CRC) {

                if (lunary_frame_be32(f->head) != f->crc) {
                    f->error = LUNARY_ERROR;
                    return f->error;
                }

                if (f->have) {
                    lunary_frame_dispatch(f, 1);
                }

                f->state = LUNARY_AWS_PRELUDE;
                continue;
            }

            if (!lunary_frame_aws_starts(f->head)) {
                f->error = LUNARY_ERROR;
                return f->error;
            }

            total = lunary_frame_be32(f->head);
            headers = lunary_frame_be32(f->head + 4);

            f->crc = (uint32_t) crc32(crc32(0L, Z_NULL, 0), f->head,
                                      LUNARY_FRAME_PRELUDE);
            f->left = headers;
            f->payload = total - 16 - headers;
            f->name_len = 0;
            f->flags = 0;
            f->have = 0;
            f->headers.len = 0;
            f->state = LUNARY_AWS_HEADERS;

            if (f->left != 0) {
                continue;
            }

            break;

        case LUNARY_AWS_HEADERS:

            if (n > f->left) {
                n = f->left;
            }

            f->crc = (uint32_t) crc32(f->crc, p, (uInt) n);

            if (f->headers.len + n <= LUNARY_FRAME_AWS_HEADERS
                && lunary_buf_append(f->mem, &f->headers, p, n) != LUNARY_OK)
            {
                f->error = LUNARY_NOMEM;
            }

            p += n;
            f->left -= n;

            if (f->left != 0) {
                return f->error;
            }

            break;

        default:  /* LUNARY_AWS_PAYLOAD */

            if (n > f->left) {
                n = f->left;
            }

            f->crc = (uint32_t) crc32(f->crc, p, (uInt) n);
            f->have = 1;
            lunary_frame_add(f, p, n);

            p += n;
            f->left -= n;

            if (f->left != 0) {
                return f->error;
            }

            f->state = LUNARY_AWS_CRC;
            continue;
        }

        /* the headers are there */

        lunary_frame_aws_headers(f);

        f->left = f->payload;
        f->have = 1;
        f->state = (f->left != 0) ? LUNARY_AWS_PAYLOAD : LUNARY_AWS_CRC;
    }

    return f->error;
}


/*
 * Headers: name length (1), name, type (1), value.  Of interest are strings
 * (type 7: length (2), bytes): `:event-type` and `:exception-type` name the
 * message, `:message-type` says what it is.
 */

static void
lunary_frame_aws_headers(lunary_frame_t *f)
{
    size_t                len;
    lunary_str_t          name, value;
    const unsigned char  *p, *end;

    static const unsigned char  sizes[] = { 0, 0, 1, 2, 4, 8, 0, 0, 8, 16 };

    p = f->headers.data;
    end = p + f->headers.len;

    while (end - p >= 2) {
        len = *p++;

        if ((size_t) (end - p) < len + 1) {
            return;
        }

        name = lunary_str(p, len);
        p += len;

        switch (*p) {

        case 6:
        case 7:
            if (end - p < 3) {
                return;
            }

            len = (size_t) p[1] << 8 | p[2];
            p += 3;
            break;

        case 0: case 1: case 2: case 3: case 4: case 5: case 8: case 9:
            len = sizes[*p];
            p++;
            break;

        default:
            return;
        }

        if ((size_t) (end - p) < len) {
            return;
        }

        value = lunary_str(p, len);
        p += len;

        if (lunary_eq(name, ":event-type")
            || lunary_eq(name, ":exception-type")
            || lunary_eq(name, ":error-code"))
        {
            lunary_frame_set_name(f, value.data, value.len);

        } else if (lunary_eq(name, ":message-type")
                   && !lunary_eq(value, "event"))
        {
            f->flags |= LUNARY_FRAME_EXCEPTION;
        }
    }
}


static uint32_t
lunary_frame_be32(const unsigned char *p)
{
    return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16
           | (uint32_t) p[2] << 8 | (uint32_t) p[3];
}
