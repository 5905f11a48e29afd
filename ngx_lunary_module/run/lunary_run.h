/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The run: the record of one call, as flat named fields, and its encoding as
 * the arguments of an XADD (RESP bulk strings).  It knows fields, their
 * names and what kind of content each holds; it never knows who fills it or
 * where it goes.
 *
 * Invariants
 *   - a field that was not set is absent from the encoding: unknown is never
 *     "" or 0;
 *   - values are borrowed slices (owned by the call or the request pool) and
 *     must outlive the encoding; small numbers live in the run itself;
 *   - what may not be captured leaves in one place, lunary_run_redact(),
 *     which everything passes before the outbox;
 *   - encoding never allocates: an upper bound first, then bytes into memory
 *     that the caller reserved (the spool's ring).
 */

#ifndef LUNARY_RUN_H
#define LUNARY_RUN_H

#include "../inspect/lunary_base.h"


/*
 * The fields of a stream entry, in the order in which they are written.
 * LUNARY_RUN_FIELDS(X) calls X(SYMBOL, "name", class).  Classes say what a
 * field holds: META is always logged, INPUT and OUTPUT are contents, PROPS is
 * the user's props, ERROR may quote contents, PARAMS may hold them.
 */
#define LUNARY_RUN_FIELDS(X)                                                 \
    X(KIND,               "kind",               META)                        \
    X(V,                  "v",                  META)                        \
    X(ORIGIN,             "origin",             META)                        \
    X(RUN_ID,             "run_id",             META)                        \
    X(APP,                "app",                META)                        \
    X(PARENT_RUN_ID,      "parent_run_id",      META)                        \
    X(THREAD_ID,          "thread_id",          META)                        \
    X(TYPE,               "type",               META)                        \
    X(PROVIDER,           "provider",           META)                        \
    X(API,                "api",                META)                        \
    X(USER_ID,            "user_id",            META)                        \
    X(USER_PROPS,         "user_props",         PROPS)                       \
    X(USER_SOURCE,        "user_source",        META)                        \
    X(USER_VERIFIED,      "user_verified",      META)                        \
    X(CLAIMED_USER_ID,    "claimed_user_id",    META)                        \
    X(TAGS,               "tags",               META)                        \
    X(METADATA,           "metadata",           META)                        \
    X(MODEL,              "model",              META)                        \
    X(RESPONSE_MODEL,     "response_model",     META)                        \
    X(RESPONSE_ID,        "response_id",        META)                        \
    X(PARAMS,             "params",             PARAMS)                      \
    X(INPUT,              "input",              INPUT)                       \
    X(OUTPUT,             "output",             OUTPUT)                      \
    X(INPUT_BYTES,        "input_bytes",        META)                        \
    X(OUTPUT_BYTES,       "output_bytes",       META)                        \
    X(TRUNCATED,          "truncated",          META)                        \
    X(STREAM,             "stream",             META)                        \
    X(FINISH_REASON,      "finish_reason",      META)                        \
    X(USAGE,              "usage",              META)                        \
    X(PROMPT_TOKENS,      "prompt_tokens",      META)                        \
    X(COMPLETION_TOKENS,  "completion_tokens",  META)                        \
    X(TOTAL_TOKENS,       "total_tokens",       META)                        \
    X(CACHED_TOKENS,      "cached_tokens",      META)                        \
    X(CACHE_WRITE_TOKENS, "cache_write_tokens", META)                        \
    X(REASONING_TOKENS,   "reasoning_tokens",   META)                        \
    X(INPUT_TOKENS,       "input_tokens",       META)                        \
    X(OUTPUT_TOKENS,      "output_tokens",      META)                        \
    X(REQUEST_BYTES,      "request_bytes",      META)                        \
    X(RESPONSE_BYTES,     "response_bytes",     META)                        \
    X(STATUS,             "status",             META)                        \
    X(UPSTREAM_STATUS,    "upstream_status",    META)                        \
    X(UPSTREAM_ADDR,      "upstream_addr",      META)                        \
    X(ATTEMPTS,           "attempts",           META)                        \
    X(OUTCOME,            "outcome",            META)                        \
    X(WOULD_REJECT,       "would_reject",       META)                        \
    X(ERROR,              "error",              ERROR)                       \
    X(STARTED_AT,         "started_at",         META)                        \
    X(ENDED_AT,           "ended_at",           META)                        \
    X(DURATION_MS,        "duration_ms",        META)                        \
    X(TTFT_MS,            "ttft_ms",            META)                        \
    X(METHOD,             "method",             META)                        \
    X(URI,                "uri",                META)                        \
    X(HOST,               "host",               META)                        \
    X(REQUEST_ID,         "request_id",         META)                        \
    X(CLIENT_REQUEST_ID,  "client_request_id",  META)                        \
    X(TRACE_ID,           "trace_id",           META)                        \
    X(PARENT_SPAN_ID,     "parent_span_id",     META)                        \
    X(NODE,               "node",               META)                        \
    X(BODY_ERROR,         "body_error",         META)                        \
    X(USAGE_ESTIMATED,    "usage_estimated",    META)                        \
    X(EVENT_NAME,         "event_name",         META)                        \
    X(EVENT,              "event",              META)

typedef enum {
#define LUNARY_RUN_ENUM(sym, name, class)  LUNARY_F_##sym,
    LUNARY_RUN_FIELDS(LUNARY_RUN_ENUM)
#undef LUNARY_RUN_ENUM
    LUNARY_F_MAX
} lunary_field_e;


typedef struct {
    lunary_str_t        value[LUNARY_F_MAX];
    uint64_t            set;                  /* bit a field: it is there     */
    size_t              bytes;                /* of all values                */
    uint16_t            used;                 /* of digits[]                  */
    unsigned char       digits[512];          /* numbers' texts               */
} lunary_run_t;

/* more than 64 fields would need another type for `set` */
_Static_assert(LUNARY_F_MAX <= 64, "run fields do not fit the mask");


/* what may be captured */

#define LUNARY_CAPTURE_INPUT   0x01
#define LUNARY_CAPTURE_OUTPUT  0x02
#define LUNARY_CAPTURE_FULL    (LUNARY_CAPTURE_INPUT | LUNARY_CAPTURE_OUTPUT)


void lunary_run_init(lunary_run_t *run);

/* sets a field to borrowed bytes; an empty slice unsets it */
static inline void
lunary_run_set(lunary_run_t *run, lunary_field_e f, lunary_str_t value)
{
    uint64_t  bit;

    bit = (uint64_t) 1 << f;

    run->bytes += value.len - run->value[f].len;
    run->value[f] = value;
    run->set = value.len ? run->set | bit : run->set & ~bit;
}

/* "00" "01" ... "99" */
extern const char  lunary_run_pairs[];

void lunary_run_set_long(lunary_run_t *run, lunary_field_e f, int64_t n);

/* sets a field to a number's decimal text, kept in the run */
static inline void
lunary_run_set_int(lunary_run_t *run, lunary_field_e f, int64_t n)
{
    if ((uint64_t) n < 10) {
        lunary_run_set(run, f, lunary_str(lunary_run_pairs + n * 2 + 1, 1));

    } else if ((uint64_t) n < 100) {
        lunary_run_set(run, f, lunary_str(lunary_run_pairs + n * 2, 2));

    } else {
        lunary_run_set_long(run, f, n);
    }
}

/* a literal */
#define lunary_run_set_lit(run, f, lit)                                      \
    lunary_run_set(run, f, lunary_str(lit, sizeof(lit) - 1))

static inline int
lunary_run_has(const lunary_run_t *run, lunary_field_e f)
{
    return (int) ((run->set >> f) & 1);
}

/* the field's name */
lunary_str_t lunary_run_name(lunary_field_e f);

/*
 * Takes out what `capture` (LUNARY_CAPTURE_*) does not allow: contents, the
 * message of an error that may quote them (type and code stay), parameters
 * that may hold them (numbers, booleans and known short words stay).  New
 * bytes come from mem into scratch, which must outlive the encoding and must
 * not be what values of the run already point into.
 * LUNARY_OK, or LUNARY_NOMEM: then params and error are gone whole.
 */
int lunary_run_redact(lunary_run_t *run, unsigned capture, lunary_mem_t *mem,
    lunary_buf_t *scratch);

/* the number of fields set; an XADD has twice as many arguments for them */
unsigned lunary_run_count(const lunary_run_t *run);

/* bytes that lunary_run_encode() wants at hand: some more than it keeps */
size_t lunary_run_room(const lunary_run_t *run);

/*
 * Writes every set field as two RESP bulk strings, name and value, at dst,
 * which has lunary_run_room() bytes.  Returns the end of what was written;
 * the bytes behind it, up to the room's end, may have changed.
 */
unsigned char *lunary_run_encode(const lunary_run_t *run, unsigned char *dst);

/* 16 bytes as 32 hex digits */
void lunary_run_hex(unsigned char dst[32], const unsigned char src[16]);

/* UUIDv7 (RFC 9562) of a wall clock in ms and 10 random bytes, as 36
 * characters, no terminator */
void lunary_uuid7(unsigned char out[36], uint64_t ms,
    const unsigned char random[10]);


#endif /* LUNARY_RUN_H */
