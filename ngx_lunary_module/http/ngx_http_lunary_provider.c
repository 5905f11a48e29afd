/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Whose service was called: lunary_provider where it is set, else the path
 * where only one provider has it, else the host that was proxied to against a
 * table, else the dialect's own provider.
 */

#include "ngx_http_lunary_module.h"


/* longer names are looked up each time */
#define NGX_HTTP_LUNARY_HOST  128

#define ngx_http_lunary_path_is(p, last, name)                                \
    ((size_t) ((last) - (p)) >= sizeof(name) - 1                              \
     && ngx_memcmp(p, name, sizeof(name) - 1) == 0)


typedef struct {
    ngx_str_t   host;           /* its end, behind a dot or whole            */
    ngx_str_t   provider;       /* OpenTelemetry's name where it has one
                                   (gen_ai.provider.name), else a plain one  */
} ngx_http_lunary_provider_t;


static ngx_str_t ngx_http_lunary_provider_at(ngx_str_t *uri);
static ngx_str_t ngx_http_lunary_provider_of(ngx_str_t *host);
static ngx_int_t ngx_http_lunary_proxy_host(ngx_http_request_t *r,
    ngx_str_t *host);


static ngx_http_lunary_provider_t  ngx_http_lunary_providers[] = {
    { ngx_string("api.openai.com"), ngx_string("openai") },
    { ngx_string("openai.azure.com"), ngx_string("azure.ai.openai") },
    { ngx_string("cognitiveservices.azure.com"),
      ngx_string("azure.ai.openai") },
    { ngx_string("services.ai.azure.com"), ngx_string("azure.ai.inference") },
    { ngx_string("models.inference.ai.azure.com"),
      ngx_string("azure.ai.inference") },
    { ngx_string("api.anthropic.com"), ngx_string("anthropic") },
    { ngx_string("generativelanguage.googleapis.com"),
      ngx_string("gcp.gemini") },
    { ngx_string("aiplatform.googleapis.com"), ngx_string("gcp.vertex_ai") },
    { ngx_string("api.mistral.ai"), ngx_string("mistral_ai") },
    { ngx_string("api.cohere.com"), ngx_string("cohere") },
    { ngx_string("api.cohere.ai"), ngx_string("cohere") },
    { ngx_string("api.groq.com"), ngx_string("groq") },
    { ngx_string("api.deepseek.com"), ngx_string("deepseek") },
    { ngx_string("api.x.ai"), ngx_string("x_ai") },
    { ngx_string("api.perplexity.ai"), ngx_string("perplexity") },
    { ngx_string("ml.cloud.ibm.com"), ngx_string("ibm.watsonx.ai") },
    { ngx_string("openrouter.ai"), ngx_string("openrouter") },
    { ngx_string("api.together.xyz"), ngx_string("together") },
    { ngx_string("api.together.ai"), ngx_string("together") },
    { ngx_string("api.fireworks.ai"), ngx_string("fireworks") },
    { ngx_string("api.cerebras.ai"), ngx_string("cerebras") },
    { ngx_string("huggingface.co"), ngx_string("huggingface") },
    { ngx_string("api.replicate.com"), ngx_string("replicate") },
    { ngx_string("api.writer.com"), ngx_string("writer") },
    { ngx_string("api.venice.ai"), ngx_string("venice") },
    { ngx_string("api.voyageai.com"), ngx_string("voyage") },
    { ngx_string("api.z.ai"), ngx_string("zai") },
    { ngx_string("api.githubcopilot.com"), ngx_string("copilot") },
    { ngx_string("snowflakecomputing.com"), ngx_string("snowflake") },
    { ngx_string("cloud.databricks.com"), ngx_string("databricks") },
    { ngx_string("azuredatabricks.net"), ngx_string("databricks") },
    { ngx_string("gateway.ai.cloudflare.com"), ngx_string("cloudflare") },
    { ngx_string("api.cloudflare.com"), ngx_string("cloudflare") },
    { ngx_string("api.aleph-alpha.com"), ngx_string("alephalpha") },
    { ngx_string("ollama.com"), ngx_string("ollama") },
    { ngx_string("ai-gateway.vercel.sh"), ngx_string("vercel") },
    { ngx_string("dashscope.aliyuncs.com"), ngx_string("dashscope") },
    { ngx_string("dashscope-intl.aliyuncs.com"), ngx_string("dashscope") },
    { ngx_string("api.moonshot.ai"), ngx_string("moonshot") },
    { ngx_string("api.ai21.com"), ngx_string("ai21") },
    { ngx_string("api.portkey.ai"), ngx_string("portkey") },
    { ngx_string("integrate.api.nvidia.com"), ngx_string("nvidia") },
    { ngx_string("api.sambanova.ai"), ngx_string("sambanova") },
    { ngx_string("api.deepinfra.com"), ngx_string("deepinfra") },
    { ngx_string("models.github.ai"), ngx_string("github") },
    { ngx_null_string, ngx_null_string }
};


ngx_int_t
ngx_http_lunary_provider(ngx_http_request_t *r, ngx_http_lunary_ctx_t *ctx,
    ngx_str_t *provider)
{
    ngx_str_t                    host;
    ngx_http_lunary_loc_conf_t  *lcf;

    lcf = ctx->conf;

    if (lcf->provider) {

        if (ngx_http_complex_value(r, lcf->provider, provider) != NGX_OK) {
            return NGX_ERROR;
        }

        if (provider->len
            && !(provider->len == 4
                 && ngx_strncmp(provider->data, "auto", 4) == 0))
        {
            return NGX_OK;
        }
    }

    *provider = ngx_http_lunary_provider_at(&ctx->uri);

    if (provider->len) {
        return NGX_OK;
    }

    if (ngx_http_lunary_proxy_host(r, &host) == NGX_OK) {

        *provider = ngx_http_lunary_provider_of(&host);

        if (provider->len) {
            return NGX_OK;
        }
    }

    *provider = ngx_http_lunary_str(ctx->call->dialect->provider);

    return NGX_OK;
}


/*
 * APIs of others under a path of one's own; "" elsewhere.  Every call comes by
 * here: the letter behind a slash tells most segments.
 */

static ngx_str_t
ngx_http_lunary_provider_at(ngx_str_t *uri)
{
    u_char      *p, *last;
    ngx_str_t    found;
    ngx_uint_t   seen;

    ngx_str_null(&found);

    p = uri->data;
    last = p + uri->len;
    seen = 0;

    while (p < last && (p = memchr(p, '/', last - p)) != NULL) {

        p++;

        if (p == last || (*p != 'o' && *p != 'p')) {
            continue;
        }

        if (ngx_http_lunary_path_is(p, last, "openai/deployments/")) {
            ngx_str_set(&found, "azure.ai.openai");
            return found;
        }

        if (ngx_http_lunary_path_is(p, last, "projects/")) {
            seen |= 1;

        } else if (ngx_http_lunary_path_is(p, last, "publishers/")) {
            seen |= 2;
        }
    }

    if (seen == 3) {
        ngx_str_set(&found, "gcp.vertex_ai");
    }

    return found;
}


/* by the table, "" where it does not know; the last answer is remembered:
 * most locations proxy to one host */

static ngx_str_t
ngx_http_lunary_provider_of(ngx_str_t *host)
{
    u_char                      *tail;
    ngx_http_lunary_provider_t  *p;

    static u_char                last[NGX_HTTP_LUNARY_HOST];
    static size_t                len;
    static ngx_str_t             found;

    if (len && host->len == len && ngx_memcmp(host->data, last, len) == 0) {
        return found;
    }

    ngx_str_null(&found);

    if (host->len > sizeof("bedrock") - 1
        && ngx_strncmp(host->data, "bedrock", sizeof("bedrock") - 1) == 0
        && (ngx_strlcasestrn(host->data, host->data + host->len,
                             (u_char *) ".amazonaws.com",
                             sizeof(".amazonaws.com") - 2)
            || ngx_strlcasestrn(host->data, host->data + host->len,
                                (u_char *) ".api.aws",
                                sizeof(".api.aws") - 2)))
    {
        /* bedrock-runtime.<region>.amazonaws.com, bedrock-mantle.<region>
           .api.aws (OpenAI's and Anthropic's APIs) */

        ngx_str_set(&found, "aws.bedrock");

    } else {

        for (p = ngx_http_lunary_providers; p->host.len; p++) {

            if (host->len < p->host.len) {
                continue;
            }

            tail = host->data + host->len - p->host.len;

            /* us-central1-aiplatform.googleapis.com has a dash there */

            if (ngx_strncasecmp(tail, p->host.data, p->host.len) == 0
                && (tail == host->data || tail[-1] == '.' || tail[-1] == '-'))
            {
                found = p->provider;
                break;
            }
        }
    }

    len = 0;

    if (host->len <= sizeof(last)) {
        ngx_memcpy(last, host->data, host->len);
        len = host->len;
    }

    return found;
}


ngx_int_t
ngx_http_lunary_provider_init(ngx_conf_t *cf)
{
    ngx_str_t                     name;
    ngx_uint_t                    i;
    ngx_hash_key_t               *key;
    ngx_http_core_main_conf_t    *cmcf;
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_lunary_module);
    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    mcf->proxy_host = NGX_ERROR;

    ngx_str_set(&name, "proxy_host");

    /* an index of a variable that nobody defines would be an error */

    key = cmcf->variables_keys->keys.elts;

    for (i = 0; i < cmcf->variables_keys->keys.nelts; i++) {

        if (key[i].value != NULL
            && key[i].key.len == name.len
            && ngx_strncmp(key[i].key.data, name.data, name.len) == 0)
        {
            mcf->proxy_host = ngx_http_get_variable_index(cf, &name);

            return mcf->proxy_host == NGX_ERROR ? NGX_ERROR : NGX_OK;
        }
    }

    return NGX_OK;
}


/* $proxy_host without its port */

static ngx_int_t
ngx_http_lunary_proxy_host(ngx_http_request_t *r, ngx_str_t *host)
{
    size_t                        i;
    ngx_http_variable_value_t    *vv;
    ngx_http_lunary_main_conf_t  *mcf;

    mcf = ngx_http_get_module_main_conf(r, ngx_http_lunary_module);

    if (mcf->proxy_host == NGX_ERROR) {
        return NGX_DECLINED;
    }

    vv = ngx_http_get_flushed_variable(r, mcf->proxy_host);

    if (vv == NULL || !vv->valid || vv->not_found || vv->len == 0) {
        return NGX_DECLINED;
    }

    host->data = vv->data;
    host->len = vv->len;

    for (i = 0; i < host->len; i++) {
        if (host->data[i] == ':') {
            host->len = i;
            break;
        }
    }

    return NGX_OK;
}
