/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * What can be a user id.  See lunary_user_id_valid() in lunary_request.h.
 */

#include "lunary_request.h"
#include "lunary_utf8.h"


#define LUNARY_USER_MAX  256


typedef struct {
    uint32_t  first;
    uint32_t  last;
} lunary_range_t;


/*
 * What nobody sees: controls (General_Category Cc), what Unicode 15.0 calls
 * Default_Ignorable_Code_Point (DerivedCoreProperties.txt: zero-width, bidi,
 * fillers, tags, variation selectors), line and paragraph separators, and the
 * interlinear annotation marks.  Two ids that look alike would else be two
 * users, and a log line could be made to read backwards.
 */

static const lunary_range_t  lunary_user_hidden[] = {
    { 0x0000, 0x001f },
    { 0x007f, 0x009f },
    { 0x00ad, 0x00ad },
    { 0x034f, 0x034f },
    { 0x061c, 0x061c },
    { 0x115f, 0x1160 },
    { 0x17b4, 0x17b5 },
    { 0x180b, 0x180f },
    { 0x200b, 0x200f },
    { 0x2028, 0x202e },
    { 0x2060, 0x206f },
    { 0x3164, 0x3164 },
    { 0xfe00, 0xfe0f },
    { 0xfeff, 0xfeff },
    { 0xffa0, 0xffa0 },
    { 0xfff0, 0xfffb },
    { 0x1bca0, 0x1bca3 },
    { 0x1d173, 0x1d17a },
    { 0xe0000, 0xe0fff }
};


/* blanks: White_Space of Unicode 15.0 (PropList.txt) that is not in the table
 * above, and the empty Braille pattern */

static const lunary_range_t  lunary_user_blank[] = {
    { 0x0020, 0x0020 },
    { 0x00a0, 0x00a0 },
    { 0x1680, 0x1680 },
    { 0x2000, 0x200a },
    { 0x202f, 0x202f },
    { 0x205f, 0x205f },
    { 0x2800, 0x2800 },
    { 0x3000, 0x3000 }
};

#define lunary_ranges(t)  (sizeof(t) / sizeof(t[0]))


static int
lunary_in_ranges(uint32_t cp, const lunary_range_t *ranges, size_t n)
{
    size_t  i;

    for (i = 0; i < n && cp >= ranges[i].first; i++) {
        if (cp <= ranges[i].last) {
            return 1;
        }
    }

    return 0;
}


int
lunary_user_id_valid(lunary_str_t s)
{
    int                   n, seen;
    uint32_t              cp;
    const unsigned char  *p, *end;

    if (s.len == 0 || s.len > LUNARY_USER_MAX) {
        return 0;
    }

    seen = 0;
    end = s.data + s.len;

    for (p = s.data; p < end; p += n) {

        /* mostly what ASCII prints */

        if ((unsigned char) (*p - 0x21) < 0x7f - 0x21) {
            seen = 1;
            n = 1;
            continue;
        }

        n = lunary_utf8_char(p, end, &cp);

        if (n <= 0
            || lunary_in_ranges(cp, lunary_user_hidden,
                                lunary_ranges(lunary_user_hidden)))
        {
            return 0;
        }

        seen |= !lunary_in_ranges(cp, lunary_user_blank,
                                  lunary_ranges(lunary_user_blank));
    }

    return seen;
}
