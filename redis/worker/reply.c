/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Replies in pools.  See reply.h.
 */

#include <stdlib.h>

#include "reply.h"


#define LW_ROOTS_KEPT      4
#define LW_ELEMENTS_MAX    (16 * 1024 * 1024)


struct lw_root_s {
    lw_pool_t       pool;
    lw_root_t      *next;
};

/* what lies in the pool first */
typedef struct {
    lw_root_t      *root;
    redisReply      reply;
} lw_top_t;

/* arrays are counted by int up to 0.14, by size_t since */
#if (HIREDIS_MAJOR >= 1)
typedef size_t  lw_elements_t;
#else
typedef int     lw_elements_t;
#endif


static void *lw_make_string(const redisReadTask *task, char *str, size_t len);
static void *lw_make_array(const redisReadTask *task, lw_elements_t n);
static void *lw_make_integer(const redisReadTask *task, long long value);
static void *lw_make_nil(const redisReadTask *task);
static redisReply *lw_make(const redisReadTask *task);
static void lw_make_free(void *reply);
static lw_root_t *lw_root_take(void);
static void lw_root_give(lw_root_t *root);
static redisReply *lw_reply_top(lw_root_t *root);
static int lw_reply_set(lw_pool_t *p, redisReply *to, const redisReply *from);


/* RESP3's types have no function: the worker speaks RESP2 */

static redisReplyObjectFunctions  lw_reply_functions = {
    .createString = lw_make_string,
    .createArray = lw_make_array,
    .createInteger = lw_make_integer,
    .createNil = lw_make_nil,
    .freeObject = lw_make_free
};

static lw_root_t  *lw_roots;
static unsigned    lw_nroots;


void
lw_reply_setup(redisReader *reader, lw_maker_t *m)
{
    m->root = NULL;

    reader->fn = &lw_reply_functions;
    reader->privdata = m;
}


void
lw_reply_made(lw_maker_t *m)
{
    m->root = NULL;
}


void
lw_reply_drop(lw_maker_t *m)
{
    if (m->root) {
        lw_root_give(m->root);
        m->root = NULL;
    }
}


void
lw_reply_free(redisReply *reply)
{
    lw_top_t  *top;

    if (reply) {
        top = (lw_top_t *) (void *) ((char *) reply
                                     - offsetof(lw_top_t, reply));
        lw_root_give(top->root);
    }
}


redisReply *
lw_reply_copy(const redisReply *reply)
{
    lw_root_t   *root;
    redisReply  *copy;

    root = lw_root_take();
    if (root == NULL) {
        return NULL;
    }

    copy = lw_reply_top(root);

    if (copy == NULL || lw_reply_set(&root->pool, copy, reply) != LW_OK) {
        lw_root_give(root);
        return NULL;
    }

    return copy;
}


static int
lw_reply_set(lw_pool_t *p, redisReply *to, const redisReply *from)
{
    size_t  i;

    *to = *from;

    if (from->str) {

        to->str = lw_pool_alloc(p, from->len + 1);
        if (to->str == NULL) {
            return LW_NOMEM;
        }

        memcpy(to->str, from->str, from->len + 1);
    }

    if (from->elements == 0) {
        return LW_OK;
    }

    to->element = lw_pool_alloc(p, from->elements * sizeof(*to->element));
    if (to->element == NULL) {
        return LW_NOMEM;
    }

    for (i = 0; i < from->elements; i++) {

        to->element[i] = lw_pool_alloc(p, sizeof(*to));

        if (to->element[i] == NULL
            || lw_reply_set(p, to->element[i], from->element[i]) != LW_OK)
        {
            return LW_NOMEM;
        }
    }

    return LW_OK;
}


static void *
lw_make_string(const redisReadTask *task, char *str, size_t len)
{
    redisReply  *reply;
    lw_maker_t  *m;

    reply = lw_make(task);
    if (reply == NULL) {
        return NULL;
    }

    m = task->privdata;

    reply->str = lw_pool_alloc(&m->root->pool, len + 1);
    if (reply->str == NULL) {
        return NULL;
    }

    memcpy(reply->str, str, len);
    reply->str[len] = '\0';
    reply->len = len;

    return reply;
}


static void *
lw_make_array(const redisReadTask *task, lw_elements_t n)
{
    redisReply  *reply;
    lw_maker_t  *m;

    reply = lw_make(task);

    if (reply == NULL || n <= 0) {
        return reply;
    }

    if (n > LW_ELEMENTS_MAX) {
        return NULL;
    }

    m = task->privdata;

    reply->element = lw_pool_alloc(&m->root->pool,
                                   (size_t) n * sizeof(*reply->element));
    if (reply->element == NULL) {
        return NULL;
    }

    memset(reply->element, 0, (size_t) n * sizeof(*reply->element));
    reply->elements = (size_t) n;

    return reply;
}


static void *
lw_make_integer(const redisReadTask *task, long long value)
{
    redisReply  *reply;

    reply = lw_make(task);

    if (reply) {
        reply->integer = value;
    }

    return reply;
}


static void *
lw_make_nil(const redisReadTask *task)
{
    redisReply  *reply;

    reply = lw_make(task);

    /* the task is of a string, or of an array, that turned out to be none */

    if (reply) {
        reply->type = REDIS_REPLY_NIL;
    }

    return reply;
}


static redisReply *
lw_make(const redisReadTask *task)
{
    lw_maker_t  *m;
    redisReply  *reply, *parent;

    m = task->privdata;

    if (task->parent == NULL) {

        lw_reply_drop(m);

        m->root = lw_root_take();
        reply = m->root ? lw_reply_top(m->root) : NULL;

    } else {

        reply = lw_pool_alloc(&m->root->pool, sizeof(*reply));

        if (reply) {
            parent = task->parent->obj;
            parent->element[task->idx] = reply;
        }
    }

    if (reply) {
        memset(reply, 0, sizeof(*reply));
        reply->type = task->type;
    }

    return reply;
}


/* the pool has it all */

static void
lw_make_free(void *reply)
{
    (void) reply;
}


static redisReply *
lw_reply_top(lw_root_t *root)
{
    lw_top_t  *top;

    top = lw_pool_alloc(&root->pool, sizeof(*top));
    if (top == NULL) {
        return NULL;
    }

    top->root = root;

    return &top->reply;
}


static lw_root_t *
lw_root_take(void)
{
    lw_root_t  *root;

    root = lw_roots;

    if (root == NULL) {
        return calloc(1, sizeof(*root));
    }

    lw_roots = root->next;
    lw_nroots--;

    return root;
}


static void
lw_root_give(lw_root_t *root)
{
    if (lw_nroots == LW_ROOTS_KEPT) {
        lw_pool_free(&root->pool);
        free(root);
        return;
    }

    lw_pool_reset(&root->pool);

    root->next = lw_roots;
    lw_roots = root;
    lw_nroots++;
}
