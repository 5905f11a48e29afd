/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * URLs of Redis, and of Lunary and collectors.  See url.h.
 */

#include <ctype.h>
#include <stdlib.h>
#include <strings.h>

#include "url.h"


static const char *lw_url_authority(const char *text, size_t *len);
static int lw_url_number(const char *s, int max, int *n);
static void lw_url_unescape(char *s);


int
lw_url_parse(lw_url_t *u, const char *text)
{
    char  *p, *at, *slash, *colon, *end;

    memset(u, 0, sizeof(*u));

    u->text = strdup(text);
    if (u->text == NULL) {
        return LW_NOMEM;
    }

    p = u->text;

    if (strncmp(p, "unix:", 5) == 0) {

        p += 5;

        if (p[0] == '/' && p[1] == '/') {
            p += 2;
        }

        u->path = p;
        end = strchr(p, '?');

        if (end) {
            *end = '\0';

            if (strncmp(end + 1, "db=", 3) != 0
                || lw_url_number(end + 4, 1 << 20, &u->db) != LW_OK)
            {
                return LW_ERROR;
            }
        }

        return *u->path == '/' ? LW_OK : LW_ERROR;
    }

    if (strncmp(p, "rediss://", 9) == 0) {
        u->tls = 1;
        p += 9;

    } else if (strncmp(p, "redis://", 8) == 0) {
        p += 8;

    } else {
        return LW_ERROR;
    }

    slash = strchr(p, '/');

    if (slash) {
        *slash++ = '\0';

        if (*slash && lw_url_number(slash, 1 << 20, &u->db) != LW_OK) {
            return LW_ERROR;
        }
    }

    at = strrchr(p, '@');

    if (at) {
        *at = '\0';
        colon = strchr(p, ':');

        if (colon) {
            *colon++ = '\0';
            u->pass = colon;
            lw_url_unescape(u->pass);
        }

        if (*p) {
            u->user = p;
            lw_url_unescape(u->user);
        }

        p = at + 1;
    }

    u->port = 6379;

    if (*p == '[') {
        end = strchr(++p, ']');

        if (end == NULL) {
            return LW_ERROR;
        }

        *end++ = '\0';
        colon = (*end == ':') ? end : NULL;

    } else {
        colon = strrchr(p, ':');
    }

    if (colon) {
        *colon++ = '\0';

        if (lw_url_number(colon, 65535, &u->port) != LW_OK) {
            return LW_ERROR;
        }
    }

    u->host = *p ? p : NULL;

    return u->host ? LW_OK : LW_ERROR;
}


static int
lw_url_number(const char *s, int max, int *n)
{
    int64_t  v;

    if (!lw_int(lw_str(s), &v) || v < 0 || v > max) {
        return LW_ERROR;
    }

    *n = (int) v;

    return LW_OK;
}


static void
lw_url_unescape(char *s)
{
    char      *out;
    unsigned   c;

    for (out = s; *s; s++) {

        if (*s == '%' && isxdigit((unsigned char) s[1])
            && isxdigit((unsigned char) s[2])
            && sscanf(s + 1, "%2x", &c) == 1 && c != 0)
        {
            *out++ = (char) c;
            s += 2;
            continue;
        }

        *out++ = *s;
    }

    *out = '\0';
}


void
lw_url_free(lw_url_t *u)
{
    free(u->text);
    memset(u, 0, sizeof(*u));
}


void
lw_url_where(const lw_url_t *u, char *out, size_t size)
{
    if (u->host == NULL) {
        (void) snprintf(out, size, "%s", u->path);

    } else if (strchr(u->host, ':')) {
        (void) snprintf(out, size, "[%s]:%d", u->host, u->port);

    } else {
        (void) snprintf(out, size, "%s:%d", u->host, u->port);
    }
}


const char *
lw_url_check(const char *text)
{
    size_t       i, len;
    const char  *host, *port;

    if (*text == '\0') {
        return "is empty";
    }

    if (strncasecmp(text, "http://", 7) != 0
        && strncasecmp(text, "https://", 8) != 0)
    {
        return "does not begin with http:// or https://";
    }

    for (i = 0; text[i]; i++) {

        if ((unsigned char) text[i] <= 0x20 || text[i] == 0x7f) {
            return "has a blank or a control character in it";
        }

        if (text[i] == '?' || text[i] == '#') {
            return "has a ? or # in it: a path is put behind it";
        }
    }

    if (i > LW_URL_MAX) {
        return "is too long";
    }

    host = lw_url_authority(text, &len);

    if (len == 0 || *host == ':') {
        return "names no host";
    }

    /* user:pa/ss@host: what is before the slash would be told for a host */

    if (strchr(host + len, '@')) {
        return "has an @ in its path: a / in a password is written %2F";
    }

    port = memrchr(host, ':', len);

    if (port && memchr(port, ']', (size_t) (host + len - port)) == NULL
        && strspn(port + 1, "0123456789") != (size_t) (host + len - port) - 1)
    {
        return "has a port that is no number";
    }

    return NULL;
}


void
lw_url_host(const char *text, char *out, size_t size)
{
    size_t       len;
    const char  *host;

    host = lw_url_authority(text, &len);

    (void) snprintf(out, size, "%.*s", (int) (len > 255 ? 255 : len), host);
}


/* host and port, without user and password, of a URL with a scheme */

static const char *
lw_url_authority(const char *text, size_t *len)
{
    size_t       n;
    const char  *p, *at;

    p = strstr(text, "://");
    p = p ? p + 3 : text;
    n = strcspn(p, "/?#");

    at = memrchr(p, '@', n);

    if (at) {
        n -= (size_t) (at + 1 - p);
        p = at + 1;
    }

    *len = n;

    return p;
}
