/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * vertex.predict: Vertex AI's models that are no chat (REST reference v1, 2025:
 * projects.locations.publishers.models.predict): embeddings, images.
 *
 * What an instance holds is the model's own; text that is embedded is counted
 * one by one.
 */

#include "../lunary_dialects.h"


static int lunary_vertex_request(lunary_call_t *call, lunary_str_t text);
static int lunary_vertex_body(lunary_call_t *call, lunary_str_t text);


const lunary_dialect_t  lunary_vertex_predict = {
    lunary_string("vertex.predict"),
    lunary_null_str,
    lunary_string("gcp.vertex_ai"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_vertex_request,
    lunary_vertex_body,
    NULL
};

/* the same where the model's name says that it embeds */

static const lunary_dialect_t  lunary_vertex_embed = {
    lunary_string("vertex.predict"),
    lunary_string("embed"),
    lunary_string("gcp.vertex_ai"),
    LUNARY_STYLE_GEMINI,
    LUNARY_STRIP_ALL,
    lunary_vertex_request,
    lunary_vertex_body,
    NULL
};


/* instances: {"content":TEXT} to embed, {"prompt":TEXT} for an image, others */

static int
lunary_vertex_request(lunary_call_t *call, lunary_str_t text)
{
    int                 rc;
    lunary_str_t        v, instance, instances;
    lunary_json_iter_t  it;

    static const lunary_str_t  but[] = {
        lunary_string("instances"),
        lunary_string("model")
    };

    lunary_gemini_path(call, text);
    lunary_call_params(call, text, but, NULL, 2);

    if (lunary_model_embeds(call->model)) {
        call->dialect = &lunary_vertex_embed;
    }

    instances = lunary_json_get(text, "instances");

    if (!lunary_json_is_array(instances)) {
        return LUNARY_OK;
    }

    rc = LUNARY_OK;

    lunary_json_iter(&it, instances);

    while (rc == LUNARY_OK && lunary_json_element(&it, &instance)) {

        v = lunary_json_get(instance, "content");

        if (!lunary_json_is_string(v)) {
            v = lunary_json_get(instance, "prompt");
        }

        rc = lunary_input_said(call, "user",
                               lunary_json_is_string(v) ? v : instance);
    }

    if (rc == LUNARY_OK) {
        lunary_input_done(call, but[0]);
    }

    return rc;
}


/*
 * Each text that was embedded has its own count: all are the input, where
 * none is missing.
 */

static int
lunary_vertex_body(lunary_call_t *call, lunary_str_t text)
{
    int64_t             n;
    lunary_str_t        v;
    lunary_json_iter_t  it;

    v = lunary_json_get(text, "predictions");

    if (!lunary_json_is_array(v)
        || call->response_state != LUNARY_BODY_JSON)
    {
        /* what came of a body that broke off are not all */

        return LUNARY_OK;
    }

    n = 0;

    lunary_json_iter(&it, v);

    while (n != LUNARY_UNKNOWN && lunary_json_element(&it, &v)) {

        v = lunary_json_get(lunary_json_get(v, "embeddings"), "statistics");
        n = LUNARY_UNKNOWN;

        lunary_call_count(&n, lunary_json_get(v, "token_count"));
        lunary_call_count_more(&lunary_priv(call)->all_input,
                               lunary_json_get(v, "token_count"));
    }

    if (n == LUNARY_UNKNOWN) {
        lunary_priv(call)->all_input = LUNARY_UNKNOWN;
    }

    return LUNARY_OK;
}
