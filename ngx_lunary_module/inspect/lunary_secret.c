/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Secrets in parameters.  See lunary_secret.h.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE                   /* memmem() */
#endif

#include "lunary_escape.h"
#include "lunary_json.h"
#include "lunary_secret.h"
#include "lunary_string.h"


#define LUNARY_SECRET_NAME  24        /* longer names are none of ours        */


typedef enum {
    LUNARY_SECRET_NONE = 0,
    LUNARY_SECRET_STRING,             /* a string is one                      */
    LUNARY_SECRET_WHOLE               /* so is an object, in its place        */
} lunary_secret_e;


typedef struct {
    lunary_str_t     name;            /* small letters, without _ and -       */
    lunary_secret_e  kind;
} lunary_secret_t;


static lunary_secret_e lunary_secret_name(lunary_str_t key);
static int lunary_secret_is(lunary_str_t key, const lunary_str_t *names,
    size_t n);
static int lunary_secret_tools(lunary_mem_t *mem, lunary_buf_t *b,
    lunary_str_t tools);
static int lunary_secret_value(lunary_mem_t *mem, lunary_buf_t *b,
    lunary_str_t value, int whole);


static const lunary_secret_t  lunary_secrets[] = {
    { lunary_string("apikey"),             LUNARY_SECRET_STRING },
    { lunary_string("secret"),             LUNARY_SECRET_STRING },
    { lunary_string("headers"),            LUNARY_SECRET_WHOLE },
    { lunary_string("xapikey"),            LUNARY_SECRET_STRING },
    { lunary_string("apitoken"),           LUNARY_SECRET_STRING },
    { lunary_string("password"),           LUNARY_SECRET_STRING },
    { lunary_string("authtoken"),          LUNARY_SECRET_STRING },
    { lunary_string("secretkey"),          LUNARY_SECRET_STRING },
    { lunary_string("privatekey"),         LUNARY_SECRET_STRING },
    { lunary_string("accesstoken"),        LUNARY_SECRET_STRING },
    { lunary_string("bearertoken"),        LUNARY_SECRET_STRING },
    { lunary_string("credentials"),        LUNARY_SECRET_WHOLE },
    { lunary_string("azureadtoken"),       LUNARY_SECRET_STRING },
    { lunary_string("clientsecret"),       LUNARY_SECRET_STRING },
    { lunary_string("extraheaders"),       LUNARY_SECRET_WHOLE },
    { lunary_string("refreshtoken"),       LUNARY_SECRET_STRING },
    { lunary_string("sessiontoken"),       LUNARY_SECRET_STRING },
    { lunary_string("authorization"),      LUNARY_SECRET_WHOLE },
    { lunary_string("azurepassword"),      LUNARY_SECRET_STRING },
    { lunary_string("encodedapikey"),      LUNARY_SECRET_STRING },
    { lunary_string("authentication"),     LUNARY_SECRET_WHOLE },
    { lunary_string("awsaccesskeyid"),     LUNARY_SECRET_STRING },
    { lunary_string("defaultheaders"),     LUNARY_SECRET_WHOLE },
    { lunary_string("awssessiontoken"),    LUNARY_SECRET_STRING },
    { lunary_string("secretaccesskey"),    LUNARY_SECRET_STRING },
    { lunary_string("subscriptionkey"),    LUNARY_SECRET_STRING },
    { lunary_string("connectionstring"),   LUNARY_SECRET_STRING },
    { lunary_string("awssecretaccesskey"), LUNARY_SECRET_STRING },
    { lunary_string("authorizationtoken"), LUNARY_SECRET_STRING },
    { lunary_string("vertexcredentials"),  LUNARY_SECRET_WHOLE }
};

#define LUNARY_SECRETS_N  (sizeof(lunary_secrets) / sizeof(lunary_secret_t))


/* whom the provider is to ask, and with which key */

static const lunary_str_t  lunary_secret_sources[] = {
    lunary_string("mcp_servers"),
    lunary_string("data_sources"),
    lunary_string("dataSources")
};


/* descriptions */

static const lunary_str_t  lunary_secret_schemas[] = {
    lunary_string("text"),
    lunary_string("format"),
    lunary_string("functions"),
    lunary_string("toolConfig"),
    lunary_string("guided_json"),
    lunary_string("json_schema"),
    lunary_string("tool_config"),
    lunary_string("output_config"),
    lunary_string("response_format"),
    lunary_string("generationConfig")
};


int
lunary_secret_copy(lunary_mem_t *mem, lunary_buf_t *b, lunary_str_t key,
    lunary_str_t value)
{
    int              rc;
    size_t           len;
    lunary_secret_e  kind;

    if (value.len == 0
        || (value.data[0] != '"' && value.data[0] != '{'
            && value.data[0] != '['))
    {
        return lunary_buf_append(mem, b, value.data, value.len);
    }

    kind = lunary_secret_name(key);

    if (kind == LUNARY_SECRET_WHOLE
        || (kind == LUNARY_SECRET_STRING && value.data[0] == '"'))
    {
        return lunary_buf_lit(mem, b, "\"[redacted]\"");
    }

    if (value.data[0] == '"'
        || lunary_secret_is(key, lunary_secret_schemas,
                            sizeof(lunary_secret_schemas)
                            / sizeof(lunary_str_t)))
    {
        return lunary_buf_append(mem, b, value.data, value.len);
    }

    len = b->len;

    if (lunary_eq(key, "tools")) {
        rc = lunary_secret_tools(mem, b, value);

    } else {
        rc = lunary_secret_value(mem, b, value,
                                 lunary_secret_is(key, lunary_secret_sources,
                                              sizeof(lunary_secret_sources)
                                              / sizeof(lunary_str_t)));
    }

    if (rc != LUNARY_OK) {
        b->len = len;
    }

    return rc;
}


/* what a name that is written so says of its value */

static lunary_secret_e
lunary_secret_name(lunary_str_t key)
{
    int                   lone;
    size_t                i, n;
    unsigned char         c, out[4], name[LUNARY_SECRET_NAME];
    const unsigned char  *p, *end;

    n = 0;
    end = key.data + key.len;

    for (p = key.data; p < end; /* void */ ) {
        c = *p;

        if (c != '\\') {
            p++;

        } else if (lunary_escape_read(&p, end, out, &lone) == 1) {
            c = out[0];

        } else {
            return LUNARY_SECRET_NONE;
        }

        if (c == '_' || c == '-') {
            continue;
        }

        if (n == LUNARY_SECRET_NAME) {
            return LUNARY_SECRET_NONE;
        }

        name[n++] = (c >= 'A' && c <= 'Z') ? c | 0x20 : c;
    }

    for (i = 0; i < LUNARY_SECRETS_N; i++) {
        if (n == lunary_secrets[i].name.len
            && memcmp(name, lunary_secrets[i].name.data, n) == 0)
        {
            return lunary_secrets[i].kind;
        }
    }

    return LUNARY_SECRET_NONE;
}


static int
lunary_secret_is(lunary_str_t key, const lunary_str_t *names, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (key.len == names[i].len
            && memcmp(key.data, names[i].data, key.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/* of tools only those that are servers: others are schemas */

static int
lunary_secret_tools(lunary_mem_t *mem, lunary_buf_t *b, lunary_str_t tools)
{
    int                   rc;
    lunary_str_t          v;
    lunary_json_iter_t    it;
    const unsigned char  *from, *end;

    if (!lunary_json_is_array(tools)
        || memmem(tools.data, tools.len, "mcp", 3) == NULL)
    {
        return lunary_buf_append(mem, b, tools.data, tools.len);
    }

    from = tools.data;
    end = tools.data + tools.len;

    lunary_json_iter(&it, tools);

    while (lunary_json_element(&it, &v)) {

        if (!lunary_str_eq(lunary_json_inside(lunary_json_get(v, "type")),
                           "mcp", 3))
        {
            continue;
        }

        rc = lunary_buf_append(mem, b, from, (size_t) (v.data - from));

        if (rc == LUNARY_OK) {
            rc = lunary_secret_value(mem, b, v, 1);
        }

        if (rc != LUNARY_OK) {
            return rc;
        }

        from = v.data + v.len;
    }

    return lunary_buf_append(mem, b, from, (size_t) (end - from));
}


/* an object or array, and all in it; whole: it is no schema */

static int
lunary_secret_value(lunary_mem_t *mem, lunary_buf_t *b, lunary_str_t value,
    int whole)
{
    lunary_str_t          key, v;
    lunary_secret_e       kind;
    const unsigned char  *p, *q, *from, *end;

    p = value.data;
    from = p;
    end = p + value.len;

    while (p < end) {

        p = memchr(p, '"', (size_t) (end - p));

        if (p == NULL) {
            break;
        }

        q = lunary_string_close(p + 1, end);

        if (q == end) {
            break;
        }

        key = lunary_str(p + 1, (size_t) (q - p) - 1);

        for (p = q + 1; p < end && strchr(" \t\r\n", *p) && *p; p++) {
            /* void */
        }

        if (p == end || *p != ':') {
            continue;
        }

        for (p++; p < end && strchr(" \t\r\n", *p) && *p; p++) {
            /* void */
        }

        if (p == end || (*p != '"' && !(whole && (*p == '{' || *p == '[')))) {
            continue;
        }

        kind = lunary_secret_name(key);

        if (kind == LUNARY_SECRET_NONE
            || (kind == LUNARY_SECRET_STRING && *p != '"'))
        {
            continue;
        }

        if (lunary_buf_append(mem, b, from, (size_t) (p - from)) != LUNARY_OK
            || lunary_buf_lit(mem, b, "\"[redacted]\"") != LUNARY_OK)
        {
            return LUNARY_NOMEM;
        }

        v = lunary_json_value(&p, end);
        from = p;

        if (v.len == 0) {
            return LUNARY_ERROR;
        }
    }

    return lunary_buf_append(mem, b, from, (size_t) (end - from));
}
