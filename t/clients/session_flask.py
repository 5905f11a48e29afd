"""Logs a user in with the real Flask-Session on Redis, and prints the cookie
that the browser got.  Argument: Redis' socket."""

import sys

import redis
from flask import Flask, session
from flask_session import Session

app = Flask(__name__)
app.config.update(
    SESSION_TYPE="redis",
    SESSION_REDIS=redis.Redis(unix_socket_path=sys.argv[1]),
    SESSION_SERIALIZATION_FORMAT="json" if sys.argv[2:] != ["msgpack"]
    else "msgpack")
Session(app)


@app.get("/login")
def login():
    session["user"] = {"id": "carol", "name": "Carol Diaz", "roles": ["a"]}
    session["csrf_token"] = "not for anybody"
    return "ok"


answer = app.test_client().get("/login")
print(answer.headers["Set-Cookie"].split(";")[0])
