/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Replies: what hiredis may allocate for one, how an error is to be taken,
 * and what of it may go into the log.
 */

#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#include "ngx_lunary_redis_internal.h"


/*
 * hiredis allocates an array when it has read its length, whatever that is,
 * and frees it element by element: its function is wrapped to refuse what no
 * reply to us can be.  The number's type differs between its versions.
 */

#if (HIREDIS_MAJOR >= 1)
typedef size_t  ngx_lunary_redis_elements_t;
#else
typedef int     ngx_lunary_redis_elements_t;
#endif

static void *(*ngx_lunary_redis_create_string)(const redisReadTask *task,
    char *str, size_t len);
static void *(*ngx_lunary_redis_create_array)(const redisReadTask *task,
    ngx_lunary_redis_elements_t n);
static redisReplyObjectFunctions  ngx_lunary_redis_functions;


/*
 * Of a transaction's replies all but the last are "+QUEUED": they are one
 * object, which nobody frees
 */

static redisReply  ngx_lunary_redis_queued = {
    .type = REDIS_REPLY_STATUS,
    .str = (char *) "QUEUED",
    .len = 6
};


/*
 * ... and of the last one nobody wants the strings, such as the ids that XADD
 * gave, but for the first: these are one object, too.  A reader whose privdata
 * is set reads a transaction's (ngx_lunary_redis_exec()).
 */

static redisReply  ngx_lunary_redis_added = {
    .type = REDIS_REPLY_STRING,
    .str = (char *) "",
    .len = 0
};


static void *
ngx_lunary_redis_string(const redisReadTask *task, char *str, size_t len)
{
    redisReply  *array;

    if (task->privdata
        && task->type == REDIS_REPLY_STRING
        && task->parent
        && task->parent->type == REDIS_REPLY_ARRAY
        && task->parent->parent == NULL
        && task->idx > 0)
    {
        array = task->parent->obj;
        array->element[task->idx] = &ngx_lunary_redis_added;

        return &ngx_lunary_redis_added;
    }

    if (task->type == REDIS_REPLY_STATUS
        && task->parent == NULL
        && len == 6
        && ngx_memcmp(str, "QUEUED", 6) == 0)
    {
        return &ngx_lunary_redis_queued;
    }

    return ngx_lunary_redis_create_string(task, str, len);
}


static void
ngx_lunary_redis_free_object(void *reply)
{
    ngx_lunary_redis_free(reply);
}


void
ngx_lunary_redis_free(redisReply *reply)
{
    size_t  i;

    if (reply == &ngx_lunary_redis_queued) {
        return;
    }

    if (reply && reply->type == REDIS_REPLY_ARRAY) {

        for (i = 0; i < reply->elements; i++) {
            if (reply->element[i] == &ngx_lunary_redis_added) {
                reply->element[i] = NULL;
            }
        }
    }

    freeReplyObject(reply);
}


static void *
ngx_lunary_redis_limited_array(const redisReadTask *task,
    ngx_lunary_redis_elements_t n)
{
    ngx_uint_t            depth;
    const redisReadTask  *parent;

    depth = 0;

    for (parent = task->parent; parent; parent = parent->parent) {
        if (++depth > NGX_LUNARY_REDIS_MAX_DEPTH) {
            return NULL;
        }
    }

    if (n > NGX_LUNARY_REDIS_MAX_ELEMENTS) {
        return NULL;
    }

    return ngx_lunary_redis_create_array(task, n);
}


redisReader *
ngx_lunary_redis_reader(void)
{
    redisReader  *reader;

    reader = redisReaderCreate();

    if (reader) {

        if (ngx_lunary_redis_create_array == NULL) {
            ngx_lunary_redis_functions = *reader->fn;
            ngx_lunary_redis_create_array = reader->fn->createArray;
            ngx_lunary_redis_create_string = reader->fn->createString;
            ngx_lunary_redis_functions.createString = ngx_lunary_redis_string;
            ngx_lunary_redis_functions.freeObject =
                                                ngx_lunary_redis_free_object;
            ngx_lunary_redis_functions.createArray =
                                              ngx_lunary_redis_limited_array;
        }

        reader->fn = &ngx_lunary_redis_functions;
    }

    return reader;
}


void
ngx_lunary_redis_text(redisReply *reply, ngx_str_t *text)
{
    u_char  *args;
    size_t   i;

    ngx_str_null(text);

    if (reply->type != REDIS_REPLY_ERROR) {
        return;
    }

    text->data = (u_char *) reply->str;
    text->len = ngx_min((size_t) reply->len, 200);

    /* "unknown command 'GET', with args beginning with: 'sess:...'" */

    args = ngx_strlcasestrn(text->data, text->data + text->len,
                            (u_char *) ", with args",
                            sizeof(", with args") - 2);

    if (args) {
        text->len = args - text->data;
    }

    for (i = 0; i < text->len; i++) {
        if (text->data[i] < ' ' || text->data[i] >= 0x7f) {
            text->data[i] = '?';
        }
    }
}


/*
 * 1 where a command is missing: versions and services differ in the case of
 * the letters, and a script has words of its own, and perhaps its line first,
 * "@user_script: 12: Unknown Redis command called from Lua script"
 */

static ngx_uint_t
ngx_lunary_redis_is_unknown(redisReply *reply)
{
    size_t       len;
    u_char      *p, *last;
    ngx_uint_t   i;

    static const ngx_str_t  texts[] = {
        ngx_string("unknown command"),
        ngx_string("unknown redis command")
    };

    p = (u_char *) reply->str;
    last = p + reply->len;

    if (last - p > 4 && ngx_strncmp(p, "ERR ", 4) == 0) {
        p += 4;
    }

    if (last - p > 14 && ngx_strncmp(p, "@user_script: ", 14) == 0) {

        for (p += 14; p < last && *p >= '0' && *p <= '9'; p++) {
            /* void */
        }

        while (p < last && (*p == ':' || *p == ' ')) {
            p++;
        }
    }

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        len = texts[i].len;

        if ((size_t) (last - p) >= len
            && ngx_strncasecmp(p, texts[i].data, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


ngx_lunary_redis_error_e
ngx_lunary_redis_error(redisReply *reply)
{
    size_t      len;
    ngx_uint_t  i;

    static const struct {
        ngx_str_t                  text;
        ngx_lunary_redis_error_e   kind;
    } errors[] = {
        { ngx_string("LOADING"),      NGX_LUNARY_REDIS_RETRY },
        { ngx_string("READONLY"),     NGX_LUNARY_REDIS_RETRY },
        { ngx_string("OOM"),          NGX_LUNARY_REDIS_RETRY },
        { ngx_string("MASTERDOWN"),   NGX_LUNARY_REDIS_RETRY },
        { ngx_string("CLUSTERDOWN"),  NGX_LUNARY_REDIS_RETRY },
        { ngx_string("TRYAGAIN"),     NGX_LUNARY_REDIS_RETRY },
        { ngx_string("BUSY"),         NGX_LUNARY_REDIS_RETRY },
        { ngx_string("MISCONF"),      NGX_LUNARY_REDIS_RETRY },
        { ngx_string("NOREPLICAS"),   NGX_LUNARY_REDIS_RETRY },
        { ngx_string("UNBLOCKED"),    NGX_LUNARY_REDIS_RETRY },
        { ngx_string("UNKILLABLE"),   NGX_LUNARY_REDIS_RETRY },
        { ngx_string("ERR max number of clients"), NGX_LUNARY_REDIS_RETRY },
        { ngx_string("ERR Error running script, script killed"),
                                      NGX_LUNARY_REDIS_RETRY },
        { ngx_string("ERR Script killed"), NGX_LUNARY_REDIS_RETRY },
        { ngx_string("MOVED"),        NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ASK"),          NGX_LUNARY_REDIS_FATAL },
        { ngx_string("CROSSSLOT"),    NGX_LUNARY_REDIS_FATAL },
        { ngx_string("NOAUTH"),       NGX_LUNARY_REDIS_FATAL },
        { ngx_string("WRONGPASS"),    NGX_LUNARY_REDIS_FATAL },
        { ngx_string("NOPERM"),       NGX_LUNARY_REDIS_FATAL },
        { ngx_string("WRONGTYPE"),    NGX_LUNARY_REDIS_FATAL },
        { ngx_string("DENIED"),       NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR invalid password"), NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR DB index"), NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR operation not permitted"), NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR The user executing the script"),
                                      NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR ACL failure"), NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR AUTH"),     NGX_LUNARY_REDIS_FATAL },
        { ngx_string("ERR Client sent AUTH"), NGX_LUNARY_REDIS_FATAL }
    };

    if (reply == NULL) {
        return NGX_LUNARY_REDIS_RETRY;
    }

    if (ngx_lunary_redis_is_unknown(reply)) {
        return NGX_LUNARY_REDIS_FATAL;
    }

    for (i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
        len = errors[i].text.len;

        if ((size_t) reply->len >= len
            && ngx_memcmp(reply->str, errors[i].text.data, len) == 0)
        {
            return errors[i].kind;
        }
    }

    return NGX_LUNARY_REDIS_OTHER;
}
