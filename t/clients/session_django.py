"""Logs a user in with the real Django sessions, kept by django-redis with its
JSON serializer, and prints the cookie.  Argument: Redis' socket."""

import sys

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x", USE_TZ=True,
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SESSION_COOKIE_NAME="sessionid",
    CACHES={"default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": f"unix://{sys.argv[1]}?db=0",
        "OPTIONS": {"SERIALIZER":
                    "django_redis.serializers.json.JSONSerializer"}}})
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402

session = SessionStore()
# what django.contrib.auth.login() writes
session["_auth_user_id"] = "42"
session["_auth_user_backend"] = "django.contrib.auth.backends.ModelBackend"
session["_auth_user_hash"] = "0123456789abcdef"
session["name"] = "Carol Diaz"
session.save()
print(f"sessionid={session.session_key}")
