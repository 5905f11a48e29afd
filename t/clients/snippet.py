"""The snippets of Lunary's page on user tracking, in Python, run as they
stand there.  Arguments: which one, nginx's URL, the URL of the ingest
endpoint; ID and PROPS are those of the page."""

import os
import sys

which, base, ingest = sys.argv[1:4]
os.environ.update(OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=base + "/v1",
                  LUNARY_PUBLIC_KEY="k", LUNARY_API_URL=ingest)

MESSAGES = [{"role": "user", "content": "Hello, world!"}]
USER = {"X-Lunary-User-Id": "user123"}


def openai_():
    from openai import OpenAI
    import lunary

    client = OpenAI()
    lunary.monitor(client)

    client.chat.completions.create(
        model="gpt-4o",
        messages=MESSAGES,
        user_id="user123",
        user_props={"name": "John Doe"},
    )


def openai_headers():
    from openai import OpenAI

    client = OpenAI(default_headers=USER)
    client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def openai_extra_body():
    from openai import OpenAI

    client = OpenAI()
    client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES,
        extra_body={"user_id": "user123", "user_props": {"name": "John Doe"}})


def langchain():
    from langchain_openai import ChatOpenAI
    from lunary import LunaryCallbackHandler

    handler = LunaryCallbackHandler()

    chat = ChatOpenAI(
        model="gpt-4o",
        callbacks=[handler],
        metadata={"user_id": "user123", "user_props": {"name": "John Doe"}})
    chat.invoke("Hello, world!")


def langchain_headers():
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model="gpt-4o", default_headers=USER)
    chat.invoke("Hello, world!")


def identify():
    from openai import OpenAI
    import lunary

    client = OpenAI()
    lunary.monitor(client)

    with lunary.identify("user123", user_props={"email": "a@b.example"}):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)


def identify_headers():
    from openai import OpenAI
    import lunary

    client = OpenAI()
    lunary.monitor(client)

    with lunary.identify("user123", user_props={"email": "a@b.example"}):
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES,
                                       extra_headers=USER)


{"openai": openai_, "openai_headers": openai_headers,
 "openai_extra_body": openai_extra_body, "langchain": langchain,
 "langchain_headers": langchain_headers, "identify": identify,
 "identify_headers": identify_headers}[which]()
