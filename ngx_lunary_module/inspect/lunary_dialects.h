/*
 * Copyright (C) the ngx_lunary_module authors.  BSD-2-Clause, see LICENSE.
 *
 * The dialects, each defined in a file of dialect/, and what files there
 * lend to each other.  Private to inspect/.
 */

#ifndef LUNARY_DIALECTS_H
#define LUNARY_DIALECTS_H

#include "lunary_call_internal.h"


/* X(variable): every dialect; a new one is a line here and its paths in
 * lunary_dialect.c */

#define LUNARY_DIALECTS(X)                                                   \
    X(lunary_openai_chat)                                                    \
    X(lunary_snowflake_complete)                                             \
    X(lunary_openai_completions)                                             \
    X(lunary_openai_responses)                                               \
    X(lunary_openai_input_tokens)                                            \
    X(lunary_openai_embeddings)                                              \
    X(lunary_openai_moderations)                                             \
    X(lunary_openai_images)                                                  \
    X(lunary_openai_transcriptions)                                          \
    X(lunary_openai_translations)                                            \
    X(lunary_openai_speech)                                                  \
    X(lunary_openai_assistants)                                              \
    X(lunary_anthropic_messages)                                             \
    X(lunary_anthropic_complete)                                             \
    X(lunary_anthropic_count_tokens)                                         \
    X(lunary_gemini_generate)                                                \
    X(lunary_gemini_count_tokens)                                            \
    X(lunary_gemini_embed)                                                   \
    X(lunary_gemini_batch_embed)                                             \
    X(lunary_gemini_interactions)                                            \
    X(lunary_vertex_predict)                                                 \
    X(lunary_bedrock_converse)                                               \
    X(lunary_bedrock_invoke)                                                 \
    X(lunary_bedrock_agent)                                                  \
    X(lunary_bedrock_rag)                                                    \
    X(lunary_bedrock_rerank)                                                 \
    X(lunary_ollama_chat)                                                    \
    X(lunary_ollama_generate)                                                \
    X(lunary_ollama_embed)                                                   \
    X(lunary_cohere_chat_v1)                                                 \
    X(lunary_cohere_chat_v2)                                                 \
    X(lunary_cohere_generate)                                                \
    X(lunary_cohere_embed)                                                   \
    X(lunary_cohere_rerank)                                                  \
    X(lunary_mistral_conversations)                                          \
    X(lunary_mistral_ocr)                                                    \
    X(lunary_watsonx_generation)                                             \
    X(lunary_huggingface_inference)                                          \
    X(lunary_sagemaker_invocations)                                          \
    X(lunary_replicate_predictions)                                          \
    X(lunary_alephalpha_complete)

#define LUNARY_DIALECT_EXTERN(d)  extern const lunary_dialect_t  d;
LUNARY_DIALECTS(LUNARY_DIALECT_EXTERN)
#undef LUNARY_DIALECT_EXTERN


/* identity members that no provider defines (those that OpenAI's APIs do
 * define stay out of it) */

#define LUNARY_STRIP_TOP                                                     \
    (lunary_member_bit(LUNARY_M_USER_ID) | lunary_member_bit(LUNARY_M_USERID)\
     | lunary_member_bit(LUNARY_M_USER_PROPS)                                \
     | lunary_member_bit(LUNARY_M_USERPROPS)                                 \
     | lunary_member_bit(LUNARY_M_THREAD_ID)                                 \
     | lunary_member_bit(LUNARY_M_THREADID)                                  \
     | lunary_member_bit(LUNARY_M_PARENT_RUN_ID)                             \
     | lunary_member_bit(LUNARY_M_PARENTRUNID)                               \
     | lunary_member_bit(LUNARY_M_TAGS)                                      \
     | lunary_member_bit(LUNARY_M_TEMPLATEID))

#define LUNARY_STRIP_METADATA                                                \
    (lunary_member_bit(LUNARY_M_MD_USERID)                                   \
     | lunary_member_bit(LUNARY_M_MD_USER_PROPS)                             \
     | lunary_member_bit(LUNARY_M_MD_USERPROPS)                              \
     | lunary_member_bit(LUNARY_M_MD_THREADID)                               \
     | lunary_member_bit(LUNARY_M_MD_PARENTRUNID))

/* OpenAI and what speaks like it: user, safety_identifier and metadata are
 * the provider's own, metadata's camel case and props are not */

#define LUNARY_STRIP_OPENAI  (LUNARY_STRIP_TOP | LUNARY_STRIP_METADATA)

/* what refuses members it does not know */

#define LUNARY_STRIP_USER                                                    \
    (lunary_member_bit(LUNARY_M_USER) | lunary_member_bit(LUNARY_M_SAFETY))

#define LUNARY_STRIP_MD_REST                                                 \
    (LUNARY_STRIP_METADATA | lunary_member_bit(LUNARY_M_MD_THREAD_ID)        \
     | lunary_member_bit(LUNARY_M_MD_PARENT_RUN_ID)                          \
     | lunary_member_bit(LUNARY_M_MD_TAGS))

/* Anthropic: metadata.user_id is its own, nothing else */

#define LUNARY_STRIP_ANTHROPIC                                               \
    (LUNARY_STRIP_TOP | LUNARY_STRIP_USER | LUNARY_STRIP_MD_REST)

/* Gemini, Bedrock, Ollama, Cohere: none of them */

#define LUNARY_STRIP_ALL                                                     \
    (LUNARY_STRIP_ANTHROPIC | lunary_member_bit(LUNARY_M_MD_USER_ID))


/* what was spoken, in words: an escaped inside */
void lunary_call_transcript(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside);

/* what the model says that it is going to do with tools (Cohere) */
void lunary_call_plan(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t inside);

/* openai_chat.c: a chat or text completion, or a chunk of one */
void lunary_openai_value(lunary_call_t *call, lunary_str_t v, int stream);
/* the content of a message: a string or parts */
void lunary_openai_content(lunary_call_t *call, lunary_choice_t *ch,
    lunary_str_t content);
/* model, stream, params of a request; returns the value of the member `input`
 * that holds what is asked */
lunary_str_t lunary_openai_common(lunary_call_t *call, lunary_str_t text,
    lunary_str_t input);
/* a deployment or model named by the path */
void lunary_openai_path_model(lunary_call_t *call);

/* openai_completions.c: a prompt (string, array of strings or tokens) as
 * messages; key is its member's name */
void lunary_prompt_input(lunary_call_t *call, lunary_str_t prompt,
    lunary_str_t key);

/* anthropic.c */
void lunary_anthropic_request_members(lunary_call_t *call,
    lunary_str_t text);
void lunary_anthropic_value(lunary_call_t *call, lunary_str_t v);
void lunary_anthropic_stream(lunary_call_t *call, lunary_str_t name,
    lunary_str_t v);

/* gemini.c: the model, as the path or the body says */
void lunary_gemini_path(lunary_call_t *call, lunary_str_t text);

/* bedrock_converse.c */
void lunary_bedrock_path(lunary_call_t *call);
void lunary_converse_messages(lunary_call_t *call, lunary_str_t text);
void lunary_converse_value(lunary_call_t *call, lunary_str_t v);
void lunary_converse_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t v);

/* bedrock_agent.c: whether it is its runtime's Rerank, which has Cohere's path;
 * then the request is read */
int lunary_bedrock_reranks(lunary_call_t *call, lunary_str_t text);

/* bedrock_invoke.c: out, which is empty, becomes what base64 (an inside)
 * says */
int lunary_bedrock_base64(lunary_mem_t *mem, lunary_buf_t *out,
    lunary_str_t in);

/* 1 where there is none: the event was too long to be kept.  What it said
 * counts as lost of the output. */
int lunary_bedrock_left_out(lunary_call_t *call, lunary_str_t in);

/* cohere.c */
int lunary_cohere_v1_members(lunary_call_t *call, lunary_str_t text);
void lunary_cohere_usage(lunary_call_t *call, lunary_str_t meta);
int lunary_cohere_v1_event(lunary_call_t *call, lunary_str_t name,
    lunary_str_t v);


/* --- building `input` in Lunary's message form (input_buf) --- */

/* each returns LUNARY_OK or LUNARY_NOMEM */

int lunary_input_raw(lunary_call_t *call, lunary_str_t bytes);
#define lunary_input_lit(call, lit)                                          \
    lunary_input_raw(call, lunary_str(lit, sizeof(lit) - 1))

/* opens the array where it is not, else a comma; then {"role":"ROLE" */
int lunary_input_message(lunary_call_t *call, const char *role);

/* a whole message whose content is that value, as it is */
int lunary_input_said(lunary_call_t *call, const char *role,
    lunary_str_t value);

/* only the array or the comma */
int lunary_input_open(lunary_call_t *call);

/* a whole message of one tool call: id, name and args are values; args that
 * are no string become their JSON; and of a tool's result, or of its failure
 * (is_error) */
int lunary_input_tool_call(lunary_call_t *call, lunary_str_t id,
    lunary_str_t name, lunary_str_t args);
int lunary_input_tool_result(lunary_call_t *call, lunary_str_t id,
    lunary_str_t content);
int lunary_input_tool_failed(lunary_call_t *call, lunary_str_t id,
    lunary_str_t content);

/* one element of tool_calls; first: none stands before it */
int lunary_input_tool(lunary_call_t *call, lunary_str_t id,
    lunary_str_t name, lunary_str_t args, int first);

/* parts: an image by its type and base64 (a reference of its size), or URL */
int lunary_input_image(lunary_call_t *call, lunary_str_t type,
    lunary_str_t base64);
int lunary_input_image_url(lunary_call_t *call, lunary_str_t url);

/* the member `key` is in it too: what was cut of it counts in its size */
void lunary_input_also(lunary_call_t *call, lunary_str_t key);

/* closes the array; gives it to lunary_call_input() */
void lunary_input_done(lunary_call_t *call, lunary_str_t key);

/* a value as the inside of a string: its JSON escaped once more */
int lunary_input_escaped(lunary_call_t *call, lunary_str_t value);

/* 1 where a model's name says that it makes embeddings: Bedrock and Vertex
 * have one path for all */
int lunary_model_embeds(lunary_str_t model);
/* likewise: that it sorts texts by a query */
int lunary_model_reranks(lunary_str_t model);


#endif /* LUNARY_DIALECTS_H */
