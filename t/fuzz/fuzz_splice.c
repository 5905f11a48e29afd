/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The splicer against another parser: a body with members taken out, put in
 * (lunary_strip, lunary_inject_user) and asked for usage (lunary_stream_usage)
 * is, for yajl, the body with just these members changed: every other name,
 * value, number as written, and their order, are what they were.
 *
 * Input: how to cut (1 byte), what to put in (1 byte), what to take out (4
 * bytes) and in other letters (4 bytes), the body.
 */

#include "fuzz.h"

#include <yajl/yajl_parse.h>

#include "inspect/lunary_call.h"
#include "inspect/lunary_json.h"
#include "inspect/lunary_request.h"
#include "inspect/lunary_usage_filter.h"


#define HEAD  10

#define ROOT      "\"user\":\"\\u00e9\\\\\",\"safety_identifier\":\"s\""
#define METADATA  "\"user_id\":\"m\""
#define EDITS     (2 * LUNARY_REQUEST_MARKS + 2)


/* how a value stands in what is compared; a text's bytes follow its length */

enum { OBJECT = '{', ARRAY = '[', KEY = 'k', STRING = 's', NUMBER = '#',
       NIL = 'n' };


typedef struct {
    const char    *name;
    int            top;
    int            metadata;
} name_t;

static const name_t  names[] = {
    { "user_id", LUNARY_M_USER_ID, LUNARY_M_MD_USER_ID },
    { "userid", LUNARY_M_USERID, LUNARY_M_MD_USERID },
    { "user", LUNARY_M_USER, 0 },
    { "safety_identifier", LUNARY_M_SAFETY, 0 },
    { "user_props", LUNARY_M_USER_PROPS, LUNARY_M_MD_USER_PROPS },
    { "userprops", LUNARY_M_USERPROPS, LUNARY_M_MD_USERPROPS },
    { "thread_id", LUNARY_M_THREAD_ID, LUNARY_M_MD_THREAD_ID },
    { "threadid", LUNARY_M_THREADID, LUNARY_M_MD_THREADID },
    { "parent_run_id", LUNARY_M_PARENT_RUN_ID, LUNARY_M_MD_PARENT_RUN_ID },
    { "parentrunid", LUNARY_M_PARENTRUNID, LUNARY_M_MD_PARENTRUNID },
    { "tags", LUNARY_M_TAGS, LUNARY_M_MD_TAGS },
    { "templateid", LUNARY_M_TEMPLATEID, 0 },
    { "metadata", LUNARY_M_METADATA, 0 },
    { "litellm_metadata", LUNARY_M_LITELLM, 0 }
};

/* those of them that are written with capitals */

static const char  *const capitals[] = {
    "userId", "userProps", "threadId", "parentRunId", "templateId"
};


/* what is to become of a body */

typedef struct {
    uint32_t       strip;
    uint32_t       folded;
    int            root;
    int            metadata;
    int            usage;           /* lunary_usage_e                        */
} wish_t;


typedef struct {
    unsigned char *p;
    size_t         len;
    size_t         size;
} text_t;


/* a pass over a text: what it is, changed where a wish is given */

typedef struct {
    const wish_t  *wish;
    text_t         out;

    unsigned       depth;
    unsigned       skip;            /* the depth at which the skipped ends   */
    int            skipping;
    int            object[2];       /* what is open at depth 1 and 2         */

    int            is_metadata;     /* the root's member under way           */
    int            exact;
    int            is_options;
    int            is_stream;
    int            replace;         /* its next value, by "true"             */
    size_t         member;          /* where the root's member begins        */
    size_t         inner;           /* where the inside of its value begins  */
    size_t         all;             /* members in metadata, and what stays   */
    size_t         left;
    int            placed;
    int            asked;           /* include_usage stands in the options   */

    /* seen by the first pass */
    int            no_object;       /* a metadata that is none               */
    int            options;         /* a stream_options                      */
} pass_t;


static lunary_mem_t  mem;


static void
put(text_t *t, size_t at, const void *p, size_t n)
{
    if (n == 0) {
        return;
    }

    if (t->size - t->len < n) {
        t->size = 2 * t->size + n;
        t->p = realloc(t->p, t->size);
        must(t->p != NULL);
    }

    memmove(t->p + at + n, t->p + at, t->len - at);
    memcpy(t->p + at, p, n);
    t->len += n;
}


static void
put_text(text_t *t, char kind, const void *p, size_t n)
{
    unsigned char  head[4];

    head[0] = (unsigned char) kind;
    head[1] = (unsigned char) (n >> 16);
    head[2] = (unsigned char) (n >> 8);
    head[3] = (unsigned char) n;

    put(t, t->len, head, sizeof(head));
    put(t, t->len, p, n);
}


/* a name folded as upstreams may: ASCII, and the long s */

static size_t
fold(const unsigned char *p, size_t n, char *out, size_t max)
{
    size_t  i, k;

    for (i = 0, k = 0; i < n; i++) {

        if (k == max || p[i] == '\0') {
            return 0;
        }

        if (p[i] == 0xc5 && i + 1 < n && p[i + 1] == 0xbf) {
            out[k++] = 's';
            i++;

        } else {
            out[k++] = (char) ((p[i] >= 'A' && p[i] <= 'Z') ? p[i] | 0x20
                                                            : p[i]);
        }
    }

    return k;
}


static int
member_of(const unsigned char *p, size_t n, int inside, int *exact)
{
    char    text[32];
    size_t  i, k, len;

    len = fold(p, n, text, sizeof(text));

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {

        if (strlen(names[i].name) != len
            || memcmp(names[i].name, text, len) != 0)
        {
            continue;
        }

        *exact = (n == len && memcmp(p, text, n) == 0);

        for (k = 0; k < sizeof(capitals) / sizeof(capitals[0]); k++) {

            if (strlen(capitals[k]) != len) {
                continue;
            }

            if (fold((const unsigned char *) capitals[k], len, text + 16, 16)
                == len && memcmp(text + 16, text, len) == 0)
            {
                *exact = (n == len && memcmp(p, capitals[k], n) == 0);
            }
        }

        return inside ? names[i].metadata : names[i].top;
    }

    return 0;
}


static int
is(const unsigned char *p, size_t n, const char *name)
{
    return n == strlen(name) && memcmp(p, name, n) == 0;
}


static int
goes(pass_t *s, int id, int exact)
{
    uint32_t  strip;

    strip = s->wish->strip;

    if (s->wish->metadata && s->no_object) {
        strip |= lunary_member_bit(LUNARY_M_METADATA);
    }

    return id != 0 && ((exact ? strip : s->wish->folded)
                       & lunary_member_bit(id));
}


/* the root's member has ended */

static void
ended(pass_t *s)
{
    if (s->wish == NULL || !s->is_stream
        || s->wish->usage != LUNARY_USAGE_ADDED || s->options)
    {
        return;
    }

    put_text(&s->out, KEY, "stream_options", 14);
    put(&s->out, s->out.len, "{", 1);
    put_text(&s->out, KEY, "include_usage", 13);
    put(&s->out, s->out.len, "t]", 2);
}


/* 1 where a value that begins here is not to be written */

static int
skipped(pass_t *s, int object)
{
    if (s->skipping) {
        if (s->depth == s->skip && !object) {
            s->skipping = 0;
        }

        return 1;
    }

    if (s->depth == 1 && s->is_metadata && s->exact && object != OBJECT) {
        s->no_object = 1;
    }

    if (s->replace) {
        s->replace = 0;
        put(&s->out, s->out.len, "t", 1);

        if (object) {
            s->skipping = 1;
            s->skip = s->depth;
        }

        return 1;
    }

    return 0;
}


static int
simple(pass_t *s, char kind, const void *p, size_t n)
{
    if (skipped(s, 0)) {
        return 1;
    }

    if (s->depth == 1 && s->is_options && kind == NIL && s->wish
        && s->wish->usage == LUNARY_USAGE_ADDED)
    {
        put(&s->out, s->out.len, "{", 1);
        put_text(&s->out, KEY, "include_usage", 13);
        put(&s->out, s->out.len, "t]", 2);
        return 1;
    }

    put_text(&s->out, kind, p, n);

    if (s->depth == 1) {
        ended(s);
    }

    return 1;
}


static int
on_null(void *ctx)
{
    return simple(ctx, NIL, "", 0);
}


static int
on_boolean(void *ctx, int value)
{
    pass_t  *s = ctx;

    if (skipped(s, 0)) {
        return 1;
    }

    put(&s->out, s->out.len, value ? "t" : "f", 1);

    if (s->depth == 1) {
        ended(s);
    }

    return 1;
}


static int
on_number(void *ctx, const char *p, size_t n)
{
    return simple(ctx, NUMBER, p, n);
}


static int
on_string(void *ctx, const unsigned char *p, size_t n)
{
    return simple(ctx, STRING, p, n);
}


static int
on_open(pass_t *s, char kind)
{
    if (!skipped(s, kind)) {
        put(&s->out, s->out.len, &kind, 1);

        if (s->depth == 1) {
            s->inner = s->out.len;
            s->all = 0;
            s->left = 0;
            s->asked = 0;
        }
    }

    if (s->depth < 2) {
        s->object[s->depth] = (kind == OBJECT);
    }

    s->depth++;

    return 1;
}


static int
on_object(void *ctx)
{
    return on_open(ctx, OBJECT);
}


static int
on_array(void *ctx)
{
    return on_open(ctx, ARRAY);
}


static int
on_key(void *ctx, const unsigned char *p, size_t n)
{
    int      id, exact;
    pass_t  *s = ctx;

    if (s->skipping) {
        return 1;
    }

    if (s->depth == 1 && s->object[0]) {

        id = member_of(p, n, 0, &s->exact);

        s->is_metadata = (id == LUNARY_M_METADATA);
        s->is_options = is(p, n, "stream_options");
        s->is_stream = is(p, n, "stream");
        s->options |= s->is_options;
        s->member = s->out.len;

        if (s->wish && goes(s, id, s->exact)) {
            s->skipping = 1;
            s->skip = 1;
            return 1;
        }

    } else if (s->depth == 2 && s->object[0] && s->object[1] && s->wish) {

        if (s->is_metadata) {
            s->all++;
            id = member_of(p, n, 1, &exact);

            if (goes(s, id, exact && s->exact)) {
                s->skipping = 1;
                s->skip = 2;
                return 1;
            }

            s->left++;

        } else if (s->is_options && is(p, n, "include_usage")
                   && s->wish->usage == LUNARY_USAGE_ADDED)
        {
            s->asked = 1;
            s->replace = 1;
        }
    }

    put_text(&s->out, KEY, p, n);

    return 1;
}


/* one more member whose value is a string */

static void
put_member(text_t *t, const char *name, const char *value)
{
    put_text(t, KEY, name, strlen(name));
    put_text(t, STRING, value, strlen(value));
}


/* a text into another one */

static void
put_inside(text_t *t, size_t at, text_t *inside)
{
    put(t, at, inside->p, inside->len);
    free(inside->p);
    memset(inside, 0, sizeof(text_t));
}


static int
on_close(void *ctx)
{
    text_t   t;
    pass_t  *s = ctx;

    memset(&t, 0, sizeof(t));

    s->depth--;

    if (s->skipping) {
        if (s->depth == s->skip) {
            s->skipping = 0;
        }

        return 1;
    }

    if (s->wish && s->depth == 1 && s->object[0] && s->object[1]) {

        if (s->is_metadata && s->all != 0 && s->left == 0) {
            s->out.len = s->member;
            return 1;
        }

        if (s->is_metadata && s->exact && s->wish->metadata) {
            put_member(&t, "user_id", "m");
            put_inside(&s->out, s->inner, &t);
            s->placed = 1;
        }

        if (s->is_options && s->wish->usage == LUNARY_USAGE_ADDED
            && !s->asked)
        {
            put_text(&t, KEY, "include_usage", 13);
            put(&t, t.len, "t", 1);
            put_inside(&s->out, s->inner, &t);
        }
    }

    if (s->wish && s->depth == 0 && s->object[0]) {

        if (s->wish->root) {
            put_member(&t, "user", "\xc3\xa9\\");
            put_member(&t, "safety_identifier", "s");
        }

        if (s->wish->metadata && !s->placed) {
            put_text(&t, KEY, "metadata", 8);
            put(&t, t.len, "{", 1);
            put_member(&t, "user_id", "m");
            put(&t, t.len, "]", 1);
        }

        put_inside(&s->out, 1, &t);
    }

    put(&s->out, s->out.len, "]", 1);

    if (s->depth == 1) {
        ended(s);
    }

    return 1;
}


static const yajl_callbacks  callbacks = {
    on_null, on_boolean, NULL, NULL, on_number, on_string, on_object, on_key,
    on_close, on_array, on_close
};


/* 1 where yajl takes it for one JSON value */

static int
parse(pass_t *s, const wish_t *wish, int no_object, int options,
    const unsigned char *p, size_t n)
{
    int          ok;
    yajl_handle  h;

    memset(s, 0, sizeof(pass_t));

    s->wish = wish;
    s->no_object = no_object;
    s->options = options;

    h = yajl_alloc(&callbacks, NULL, s);
    must(h != NULL);

    (void) yajl_config(h, yajl_dont_validate_strings, 1);

    ok = yajl_parse(h, p, n) == yajl_status_ok
         && yajl_complete_parse(h) == yajl_status_ok;

    yajl_free(h);

    return ok;
}


static size_t
apply(const unsigned char *body, size_t size, const lunary_edit_t *e, int n,
    unsigned char **result)
{
    int             i;
    size_t          at, len, max;
    unsigned char  *out;

    max = size;

    for (i = 0; i < n; i++) {
        max += e[i].text.len;
    }

    out = malloc(max + 1);
    must(out != NULL);

    for (i = 0, at = 0, len = 0; i < n; i++) {
        must(e[i].start >= at && e[i].end >= e[i].start && e[i].end <= size);

        memcpy(out + len, body + at, e[i].start - at);
        len += e[i].start - at;

        if (e[i].text.len) {
            memcpy(out + len, e[i].text.data, e[i].text.len);
            len += e[i].text.len;
        }

        at = e[i].end;
    }

    memcpy(out + len, body + at, size - at);
    len += size - at;

    *result = out;

    return len;
}


static uint32_t
bits(const uint8_t *p)
{
    return (((uint32_t) p[0] << 24 | (uint32_t) p[1] << 16
             | (uint32_t) p[2] << 8 | p[3])
            & (lunary_member_bit(LUNARY_M_MAX) - 2))
           & ~(lunary_member_bit(LUNARY_M_STREAM)
               | lunary_member_bit(LUNARY_M_STREAM_OPTIONS));
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                   n, i;
    wish_t                wish;
    pass_t                first, want, got;
    size_t                at, k, len, body_len;
    lunary_buf_t          scratch;
    lunary_edit_t         e[EDITS + 1], edit;
    lunary_call_t        *call;
    unsigned char        *out, *piece;
    const uint8_t        *body;
    lunary_rewrite_t      rw;
    lunary_request_t     *rq;
    lunary_call_conf_t    conf;

    static const lunary_str_t  post = lunary_string("POST");
    static const lunary_str_t  path = lunary_string("/v1/chat/completions");
    static const lunary_str_t  type = lunary_string("application/json");

    if (size < HEAD) {
        return 0;
    }

    body = data + HEAD;
    body_len = size - HEAD;

    memset(&wish, 0, sizeof(wish));
    memset(&rw, 0, sizeof(rw));
    memset(&scratch, 0, sizeof(scratch));
    memset(&conf, 0, sizeof(conf));

    rw.strip = bits(data + 2);
    rw.folded = bits(data + 6);
    wish.root = data[1] & 1;
    wish.metadata = (data[1] >> 1) & 1;
    wish.strip = rw.strip;
    wish.folded = rw.folded;
    conf.capture_max = (data[1] & 8) ? 1024 : 65536;

    if (wish.root) {
        rw.root = lunary_str(ROOT, sizeof(ROOT) - 1);
    }

    if (wish.metadata) {
        rw.metadata = lunary_str(METADATA, sizeof(METADATA) - 1);
    }

    lunary_mem_init(&mem);

    call = lunary_call_create(&mem, &conf);
    must(call != NULL);

    lunary_call_start(call, post, path, type, lunary_str(NULL, 0));

    for (at = 0; at < body_len; at += k) {
        k = fuzz_piece(data[0], at, body_len - at);
        piece = fuzz_copy(body + at, k);
        lunary_call_request(call, piece, k);
        free(piece);
    }

    lunary_call_request_end(call);

    rq = lunary_call_body(call);

    if (rq == NULL || !lunary_json_is_object(lunary_request_text(rq))) {
        goto done;
    }

    n = lunary_request_rewrite(rq, &rw, &mem, &scratch, e, EDITS);

    if (n < 0) {
        must(n == LUNARY_ERROR && lunary_request_flooded(rq));
        goto done;
    }

    if (data[1] & 4) {
        wish.usage = lunary_usage_edit(call, &edit);

        if (wish.usage == LUNARY_USAGE_ADDED) {

            /* as the rewriter does */

            for (i = n; i > 0 && e[i - 1].start >= edit.start; i--) {
                e[i] = e[i - 1];
            }

            e[i] = edit;
            n++;
        }
    }

    len = apply(body, body_len, e, n, &out);

    /* what we read is JSON for others */

    must(parse(&first, NULL, 0, 0, body, body_len));
    must(parse(&want, &wish, first.no_object, first.options, body, body_len));
    must(parse(&got, NULL, 0, 0, out, len));

    must(want.out.len == got.out.len
         && memcmp(want.out.p, got.out.p, got.out.len) == 0);

    free(first.out.p);
    free(want.out.p);
    free(got.out.p);
    free(out);

done:

    lunary_buf_free(&mem, &scratch);
    lunary_call_destroy(call);

    must(mem.used == 0);

    return 0;
}
