/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * Dialects that are recognised and not yet read.
 */

#include "../lunary_dialects.h"


#define LUNARY_PENDING(d, name)                                              \
    const lunary_dialect_t  d = {                                            \
        lunary_string(name), lunary_null_str, lunary_null_str,               \
        LUNARY_STYLE_OPENAI, 0, NULL, NULL, NULL                             \
    };

LUNARY_PENDING(lunary_bedrock_converse, "bedrock.converse")
LUNARY_PENDING(lunary_bedrock_invoke, "bedrock.invoke")
LUNARY_PENDING(lunary_ollama_chat, "ollama.chat")
LUNARY_PENDING(lunary_ollama_generate, "ollama.generate")
LUNARY_PENDING(lunary_ollama_embed, "ollama.embed")
LUNARY_PENDING(lunary_cohere_chat_v1, "cohere.chat.v1")
LUNARY_PENDING(lunary_cohere_chat_v2, "cohere.chat.v2")
LUNARY_PENDING(lunary_cohere_generate, "cohere.generate")
LUNARY_PENDING(lunary_cohere_embed, "cohere.embed")
LUNARY_PENDING(lunary_cohere_rerank, "cohere.rerank")
LUNARY_PENDING(lunary_mistral_conversations, "mistral.conversations")
LUNARY_PENDING(lunary_watsonx_generation, "watsonx.generation")
LUNARY_PENDING(lunary_huggingface_inference, "huggingface.inference")
LUNARY_PENDING(lunary_replicate_predictions, "replicate.predictions")
LUNARY_PENDING(lunary_alephalpha_complete, "alephalpha.complete")
