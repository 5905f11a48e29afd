/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * lunary_session_cache: answers of Redis remembered in shared memory, absence
 * too.  Keys are SHA-256 digests: no session id stands in the zone.
 *
 * Invariants
 *   - bounded by the zone: what is used least makes room, and what is too
 *     large for it is not kept;
 *   - an answer is given at most as long as it was put in for;
 *   - the mutex is held for a search and a copy, never while anybody waits.
 */

#include "ngx_http_lunary_module.h"

#include <openssl/evp.h>


#define NGX_HTTP_LUNARY_CACHE_MIN    (8 * ngx_pagesize)
#define NGX_HTTP_LUNARY_CACHE_ENTRY  (16 * 1024)
#define NGX_HTTP_LUNARY_CACHE_EVICT  32


typedef struct {
    ngx_rbtree_node_t          node;           /* by the digest's head       */
    ngx_queue_t                queue;          /* used last: at the head     */
    ngx_msec_t                 expires;
    uint32_t                   user;           /* bytes; 0: absent           */
    uint32_t                   props;
    u_char                     digest[NGX_HTTP_LUNARY_DIGEST];
    u_char                     data[1];        /* user, props                */
} ngx_http_lunary_entry_t;


typedef struct {
    ngx_rbtree_t               rbtree;
    ngx_rbtree_node_t          sentinel;
    ngx_queue_t                queue;
} ngx_http_lunary_cache_sh_t;


typedef struct {
    ngx_http_lunary_cache_sh_t  *sh;
    ngx_slab_pool_t             *shpool;
} ngx_http_lunary_cache_zone_t;


static ngx_int_t ngx_http_lunary_cache_init(ngx_shm_zone_t *shm_zone,
    void *data);
static void ngx_http_lunary_cache_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static ngx_http_lunary_entry_t *ngx_http_lunary_cache_find(
    ngx_http_lunary_cache_sh_t *sh, u_char *digest);
static void ngx_http_lunary_cache_delete(ngx_http_lunary_cache_zone_t *zone,
    ngx_http_lunary_entry_t *entry);
static ngx_rbtree_key_t ngx_http_lunary_cache_key(u_char *digest);


char *
ngx_http_lunary_conf_cache(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_lunary_loc_conf_t *lcf = conf;

    u_char                        *p;
    ssize_t                        size;
    ngx_str_t                     *value, name, s;
    ngx_uint_t                     i;
    ngx_msec_t                    *ms;
    ngx_http_lunary_cache_conf_t  *cache;
    ngx_http_lunary_cache_zone_t  *zone;

    if (lcf->cache_set) {
        return "is duplicate";
    }

    lcf->cache_set = 1;

    cache = &lcf->cache;
    cache->valid = 30000;
    cache->negative = 5000;

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        return cf->args->nelts == 2 ? NGX_CONF_OK
                                    : "takes nothing behind off";
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "zone=", 5) == 0) {

            name.data = value[i].data + 5;

            p = (u_char *) ngx_strchr(name.data, ':');

            name.len = p ? (size_t) (p - name.data) : 0;
            size = NGX_ERROR;

            if (name.len) {
                s.data = p + 1;
                s.len = value[i].data + value[i].len - s.data;

                size = ngx_parse_size(&s);
            }

            if (size == NGX_ERROR) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "invalid \"%V\" in "
                                   "\"lunary_session_cache\": write "
                                   "zone=NAME:SIZE, for example "
                                   "zone=sessions:10m", &value[i]);
                return NGX_CONF_ERROR;
            }

            if (size < (ssize_t) NGX_HTTP_LUNARY_CACHE_MIN) {
                ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                                   "zone \"%V\" of \"lunary_session_cache\" "
                                   "is too small: it must have at least %uz "
                                   "bytes", &name,
                                   (size_t) NGX_HTTP_LUNARY_CACHE_MIN);
                return NGX_CONF_ERROR;
            }

            cache->zone = ngx_shared_memory_add(cf, &name, size,
                                                &ngx_http_lunary_module);
            if (cache->zone == NULL) {
                return NGX_CONF_ERROR;
            }

            continue;
        }

        ms = NULL;

        if (ngx_strncmp(value[i].data, "valid=", 6) == 0) {
            s.data = value[i].data + 6;
            ms = &cache->valid;

        } else if (ngx_strncmp(value[i].data, "negative=", 9) == 0) {
            s.data = value[i].data + 9;
            ms = &cache->negative;
        }

        if (ms) {
            s.len = value[i].data + value[i].len - s.data;
            *ms = ngx_parse_time(&s, 0);
        }

        if (ms == NULL || *ms == (ngx_msec_t) NGX_ERROR) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in "
                               "\"lunary_session_cache\": known are "
                               "zone=NAME:SIZE, valid=TIME, negative=TIME",
                               &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    if (cache->zone == NULL) {
        return "has no zone: write zone=NAME:SIZE, or off";
    }

    if (cache->zone->data == NULL) {

        zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_lunary_cache_zone_t));
        if (zone == NULL) {
            return NGX_CONF_ERROR;
        }

        cache->zone->data = zone;
        cache->zone->init = ngx_http_lunary_cache_init;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_lunary_cache_init(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_lunary_cache_zone_t *ozone = data;

    ngx_http_lunary_cache_sh_t    *sh;
    ngx_http_lunary_cache_zone_t  *zone;

    zone = shm_zone->data;

    if (ozone) {
        *zone = *ozone;
        return NGX_OK;
    }

    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (shm_zone->shm.exists) {
        zone->sh = zone->shpool->data;
        return NGX_OK;
    }

    sh = ngx_slab_alloc(zone->shpool, sizeof(ngx_http_lunary_cache_sh_t));
    if (sh == NULL) {
        return NGX_ERROR;
    }

    ngx_rbtree_init(&sh->rbtree, &sh->sentinel, ngx_http_lunary_cache_insert);
    ngx_queue_init(&sh->queue);

    zone->sh = sh;
    zone->shpool->data = sh;
    zone->shpool->log_nomem = 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_lunary_cache_digest(ngx_str_t **parts, ngx_uint_t n,
    u_char digest[NGX_HTTP_LUNARY_DIGEST])
{
    ngx_int_t    rc;
    ngx_uint_t   i;
    EVP_MD_CTX  *md;

    md = EVP_MD_CTX_new();
    if (md == NULL) {
        return NGX_ERROR;
    }

    rc = EVP_DigestInit_ex(md, EVP_sha256(), NULL) ? NGX_OK : NGX_ERROR;

    for (i = 0; rc == NGX_OK && i < n; i++) {

        if (!EVP_DigestUpdate(md, &parts[i]->len, sizeof(size_t))
            || !EVP_DigestUpdate(md, parts[i]->data, parts[i]->len))
        {
            rc = NGX_ERROR;
        }
    }

    if (rc == NGX_OK && !EVP_DigestFinal_ex(md, digest, NULL)) {
        rc = NGX_ERROR;
    }

    EVP_MD_CTX_free(md);

    return rc;
}


ngx_int_t
ngx_http_lunary_cache_get(ngx_http_lunary_cache_conf_t *cache,
    u_char *digest, ngx_pool_t *pool, ngx_str_t *user, ngx_str_t *props)
{
    u_char                        *p;
    ngx_int_t                      rc;
    ngx_http_lunary_entry_t       *entry;
    ngx_http_lunary_cache_zone_t  *zone;

    zone = cache->zone->data;
    rc = NGX_DECLINED;

    ngx_str_null(user);
    ngx_str_null(props);

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_lunary_cache_find(zone->sh, digest);

    if (entry == NULL) {
        goto done;
    }

    if ((ngx_msec_int_t) (entry->expires - ngx_current_msec) <= 0) {
        ngx_http_lunary_cache_delete(zone, entry);
        goto done;
    }

    ngx_queue_remove(&entry->queue);
    ngx_queue_insert_head(&zone->sh->queue, &entry->queue);

    rc = NGX_DONE;

    if (entry->user == 0) {
        goto done;
    }

    p = ngx_pnalloc(pool, entry->user + entry->props);

    if (p == NULL) {
        rc = NGX_ERROR;
        goto done;
    }

    ngx_memcpy(p, entry->data, entry->user + entry->props);

    user->data = p;
    user->len = entry->user;

    if (entry->props) {
        props->data = p + entry->user;
        props->len = entry->props;
    }

    rc = NGX_OK;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return rc;
}


void
ngx_http_lunary_cache_put(ngx_http_lunary_cache_conf_t *cache,
    u_char *digest, ngx_str_t *user, ngx_str_t *props, ngx_msec_t ms)
{
    size_t                         size;
    ngx_uint_t                     i;
    ngx_queue_t                   *q;
    ngx_http_lunary_entry_t       *entry, *old;
    ngx_http_lunary_cache_zone_t  *zone;

    zone = cache->zone->data;

    ngx_shmtx_lock(&zone->shpool->mutex);

    entry = ngx_http_lunary_cache_find(zone->sh, digest);

    if (entry) {
        ngx_http_lunary_cache_delete(zone, entry);
    }

    size = offsetof(ngx_http_lunary_entry_t, data) + user->len
           + (user->len ? props->len : 0);

    if (ms == 0 || size > NGX_HTTP_LUNARY_CACHE_ENTRY) {
        goto done;
    }

    entry = ngx_slab_alloc_locked(zone->shpool, size);

    /* the least recently used make room */

    for (i = 0;
         entry == NULL && i < NGX_HTTP_LUNARY_CACHE_EVICT
         && !ngx_queue_empty(&zone->sh->queue);
         i++)
    {
        q = ngx_queue_last(&zone->sh->queue);
        old = ngx_queue_data(q, ngx_http_lunary_entry_t, queue);

        ngx_http_lunary_cache_delete(zone, old);

        entry = ngx_slab_alloc_locked(zone->shpool, size);
    }

    if (entry == NULL) {
        goto done;
    }

    entry->node.key = ngx_http_lunary_cache_key(digest);
    entry->expires = ngx_current_msec + ms;
    entry->user = (uint32_t) user->len;
    entry->props = (uint32_t) (user->len ? props->len : 0);

    ngx_memcpy(entry->digest, digest, NGX_HTTP_LUNARY_DIGEST);

    if (entry->user) {
        ngx_memcpy(entry->data, user->data, entry->user);
    }

    if (entry->props) {
        ngx_memcpy(entry->data + entry->user, props->data, entry->props);
    }

    ngx_rbtree_insert(&zone->sh->rbtree, &entry->node);
    ngx_queue_insert_head(&zone->sh->queue, &entry->queue);

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static ngx_rbtree_key_t
ngx_http_lunary_cache_key(u_char *digest)
{
    ngx_rbtree_key_t  key;

    ngx_memcpy(&key, digest, sizeof(ngx_rbtree_key_t));

    return key;
}


static ngx_http_lunary_entry_t *
ngx_http_lunary_cache_find(ngx_http_lunary_cache_sh_t *sh, u_char *digest)
{
    ngx_int_t                 rc;
    ngx_rbtree_key_t          key;
    ngx_rbtree_node_t        *node;
    ngx_http_lunary_entry_t  *entry;

    key = ngx_http_lunary_cache_key(digest);

    node = sh->rbtree.root;

    while (node != sh->rbtree.sentinel) {

        if (key != node->key) {
            node = key < node->key ? node->left : node->right;
            continue;
        }

        entry = (ngx_http_lunary_entry_t *) node;

        rc = ngx_memcmp(digest, entry->digest, NGX_HTTP_LUNARY_DIGEST);

        if (rc == 0) {
            return entry;
        }

        node = rc < 0 ? node->left : node->right;
    }

    return NULL;
}


static void
ngx_http_lunary_cache_insert(ngx_rbtree_node_t *temp, ngx_rbtree_node_t *node,
    ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t        **p;
    ngx_http_lunary_entry_t   *entry, *other;

    for ( ;; ) {

        if (node->key != temp->key) {
            p = node->key < temp->key ? &temp->left : &temp->right;

        } else {
            entry = (ngx_http_lunary_entry_t *) node;
            other = (ngx_http_lunary_entry_t *) temp;

            p = ngx_memcmp(entry->digest, other->digest,
                           NGX_HTTP_LUNARY_DIGEST)
                < 0
                ? &temp->left : &temp->right;
        }

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


static void
ngx_http_lunary_cache_delete(ngx_http_lunary_cache_zone_t *zone,
    ngx_http_lunary_entry_t *entry)
{
    ngx_queue_remove(&entry->queue);
    ngx_rbtree_delete(&zone->sh->rbtree, &entry->node);
    ngx_slab_free_locked(zone->shpool, entry);
}
