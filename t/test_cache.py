"""lunary_session_cache: look-ups that are remembered."""

import json
import threading

import pytest

from harness.wait import wait_for

CONFIG = """
{{ globals }}
http {
    {{ http }}
    {{ lunary }}
    lunary_session_cache {{ cache }};
    server {
        listen {{ listen }};
        location / {
            lunary on;
            lunary_session_id cookie=sid;
            lunary_session sess:$lunary_session_id {{ options | default("") }};
            {{ extra | default("") }}
            proxy_pass {{ upstream }};
        }
        location /string/ {
            lunary on;
            lunary_session_id cookie=sid;
            lunary_session sess:$lunary_session_id format=string;
            proxy_pass {{ upstream }}/;
        }
        location = /status { lunary_status; }
    }
}
"""

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
COOKIE = {"Cookie": "sid=s1"}


def lookups(one):
    return one.get("/status").json()["session_lookups_total"]


def asked(redis, command="hgetall"):
    stats = redis.client.info("commandstats")
    return stats.get(f"cmdstat_{command}", {}).get("calls", 0)


def users(runs, n):
    return [r.get("user_id") for r in runs(n)]


def test_a_session_is_asked_for_once(nginx, redis, runs):
    redis.set("sess:s1", '{"user":{"id":"carol","name":"Carol"}}')
    one = nginx(CONFIG, cache="zone=s:1m")
    before = asked(redis)

    for _ in range(3):
        one.post(json=CHAT, headers=COOKIE)

    assert users(runs, 3) == ["carol"] * 3
    assert all(r.json("user_props") == {"id": "carol", "name": "Carol"}
               for r in runs(3))
    assert asked(redis) - before == 1
    assert lookups(one)["hit"] == 1 and lookups(one)["cached"] == 2


def test_workers_share_it_and_a_reload_keeps_it(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, cache="zone=s:1m", workers=2)
    before = asked(redis)

    for _ in range(6):
        one.post(json=CHAT, headers=COOKIE)
    one.reload()
    one.post(json=CHAT, headers=COOKIE)

    assert users(runs, 7) == ["carol"] * 7
    assert asked(redis) - before == 1


def test_absence_is_remembered_too(nginx, redis, runs):
    one = nginx(CONFIG, cache="zone=s:1m negative=1h")
    before = asked(redis)

    one.post(json=CHAT, headers=COOKIE)
    redis.set("sess:s1", '{"user_id":"carol"}')
    one.post(json=CHAT, headers=COOKIE)

    assert users(runs, 2) == [None, None]
    assert asked(redis) - before == 1


def test_a_login_is_seen_when_the_absence_expires(nginx, redis, runs):
    one = nginx(CONFIG, cache="zone=s:1m negative=50ms")
    runs.more = True
    one.post(json=CHAT, headers=COOKIE)
    redis.set("sess:s1", '{"user_id":"carol"}')

    def seen():
        one.post(json=CHAT, headers=COOKIE)
        return any(r.get("user_id") == "carol" for r in runs.entries())

    wait_for(seen)


def test_a_logout_is_seen_when_valid_is_over(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, cache="zone=s:1m valid=50ms",
                extra="lunary_require_user verified;")
    assert one.post(json=CHAT, headers=COOKIE).status == 200
    redis.delete("sess:s1")

    wait_for(lambda: one.post(json=CHAT, headers=COOKIE).status == 401)


def test_an_answer_never_outlives_its_key(nginx, redis):
    one = nginx(CONFIG, cache="zone=s:1m valid=1h",
                extra="lunary_require_user verified;")
    redis.set("sess:s1", '{"user_id":"carol"}', px=2000)
    assert one.post(json=CHAT, headers=COOKIE).status == 200

    wait_for(lambda: one.post(json=CHAT, headers=COOKIE).status == 401)


def test_hashes_are_remembered_with_their_props(nginx, redis, runs):
    redis.hset("sess:s1", mapping={"user_id": "carol", "name": "Carol"})
    one = nginx(CONFIG, cache="zone=s:1m")

    one.post(json=CHAT, headers=COOKIE)
    one.post(json=CHAT, headers=COOKIE)

    assert [r.json("user_props")["name"] for r in runs(2)] == ["Carol"] * 2
    assert lookups(one)["cached"] == 1


def test_how_a_session_is_read_is_part_of_what_is_remembered(nginx, redis,
                                                             runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, cache="zone=s:1m")

    one.post(json=CHAT, headers=COOKIE)
    one.post("/string/v1/chat/completions", json=CHAT, headers=COOKIE)

    assert users(runs, 2) == ["carol", '{"user_id":"carol"}']


def test_requests_at_once_share_one_look_up(nginx, redis, runs, redis_server):
    store = redis_server()
    store.client.set("sess:s1", '{"user_id":"carol"}')
    config = CONFIG.replace("{{ lunary }}",
                            "{{ lunary }}\nlunary_redis auth {{ auth }} "
                            "timeout=20s;")
    one = nginx(config, cache="zone=s:1m", auth=store.url,
                options="redis=auth")
    one.post(json=CHAT, headers={"Cookie": "sid=other"})
    before = asked(store)
    store.pause()

    clients = [one.client() for _ in range(8)]
    for client in clients:
        body = json.dumps(CHAT).encode()
        client.send(client.head("POST", "/v1/chat/completions", COOKIE, body)
                    + body)
    wait_for(lambda: one.log().count("script var: \"s1\"") == 8)
    clients[0].reset()               # who asked first is gone
    store.resume()

    assert [c.read("POST").status for c in clients[1:]] == [200] * 7
    for client in clients:
        client.close()
    assert asked(store) - before == 1
    runs.more = True
    wait_for(lambda: [r.get("user_id") for r in runs.entries()].count("carol")
             == 7)


def test_a_failure_is_never_remembered(nginx, redis, runs, redis_server):
    store = redis_server()
    store.client.set("sess:s1", '{"user_id":"carol"}')
    config = CONFIG.replace("{{ lunary }}",
                            "{{ lunary }}\nlunary_redis auth {{ auth }} "
                            "timeout=50ms;")
    one = nginx(config, cache="zone=s:1m negative=1h", auth=store.url,
                options="redis=auth", extra="lunary_require_user verified;")
    store.pause()
    assert one.post(json=CHAT, headers=COOKIE).status == 503
    store.resume()

    wait_for(lambda: one.post(json=CHAT, headers=COOKIE).status == 200)


def test_a_full_zone_forgets_what_was_used_least(nginx, redis, runs):
    one = nginx(CONFIG, cache="zone=s:32k negative=1h")
    runs.more = True

    with one.client() as c:
        for n in range(400):
            c.request("POST", "/v1/chat/completions", json=CHAT,
                      headers={"Cookie": f"sid=n{n}"})
            c.request("POST", "/v1/chat/completions", json=CHAT,
                      headers={"Cookie": "sid=often"})
    counts = lookups(one)

    assert counts["miss"] == 401 and counts["cached"] == 399
    one.post(json=CHAT, headers={"Cookie": "sid=n0"})
    assert lookups(one)["miss"] == 402


def test_no_session_id_stands_in_the_zone(nginx, redis, runs):
    redis.set("sess:secret-session-id", '{"user_id":"carol"}')
    one = nginx(CONFIG, cache="zone=s:1m")

    for _ in range(2):
        one.post(json=CHAT, headers={"Cookie": "sid=secret-session-id"})
    runs(2)
    pid = one.workers()[0]
    with open(f"/proc/{pid}/maps") as maps, \
            open(f"/proc/{pid}/mem", "rb") as mem:
        for line in maps:
            if "/dev/zero" in line or "SYSV" in line:
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                mem.seek(start)
                assert b"secret-session-id" not in mem.read(end - start)


@pytest.mark.parametrize("cache", [
    "valid=1s", "zone=s", "zone=s:1k", "zone=s:x", "zone=s:1m valid=x",
    "zone=s:1m nonsense", "off zone=s:1m"])
def test_nonsense_is_refused(conf_test, cache):
    accepted, words = conf_test(CONFIG, cache=cache)

    assert not accepted and "lunary_session_cache" in words


def test_it_may_be_switched_off_below(nginx, redis, runs):
    redis.set("sess:s1", '{"user_id":"carol"}')
    one = nginx(CONFIG, cache="zone=s:1m", extra="lunary_session_cache off;")
    before = asked(redis)

    one.post(json=CHAT, headers=COOKIE)
    one.post(json=CHAT, headers=COOKIE)

    runs(2)
    assert asked(redis) - before == 2


def test_many_requests_of_many_sessions_get_their_own_user(nginx, redis,
                                                           runs):
    for n in range(20):
        redis.set(f"sess:s{n}", json.dumps({"user_id": f"u{n}"}))
    one = nginx(CONFIG, cache="zone=s:1m", workers=2)

    def call(n):
        with one.client() as c:
            for _ in range(5):
                c.request("POST", "/v1/chat/completions",
                          json={**CHAT, "thread_id": f"t{n}"},
                          headers={"Cookie": f"sid=s{n}"})

    threads = [threading.Thread(target=call, args=(n,)) for n in range(20)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

    for run in runs(100):
        assert run["user_id"] == "u" + run["thread_id"][1:]
