"""lunary-worker while what it depends on fails: no good entry is lost, and
none is given up for what is not its fault."""

import json
import signal

import pytest

from harness.wait import wait_for
from harness.worker import Worker, event, once, run, uuid7
from ingest_standin.server import Ingest


@pytest.fixture
def lunary(folder):
    server = Ingest().start()
    (folder / "key").write_text("key\n")
    yield server
    server.stop()


@pytest.fixture
def start(folder):
    """start(url, *args): a worker that is gone after the test."""
    made = []

    def go(url, *args):
        made.append(Worker(folder, url, *args).start())
        return made[-1]

    yield go
    for w in made:
        w.kill()


def flags(lunary, folder, *args):
    return ["relay", "--api", lunary.url, "--project", f"*={folder}/key",
            "--linger", "20ms", *args]


def add(redis, *entries, stream="lunary:runs"):
    return [redis.client.xadd(stream, e) for e in entries]


def pending(redis, group="relay"):
    """Entries that are read and not acknowledged."""
    return redis.client.xpending("lunary:runs", group)["pending"]


def counted(redis, group="relay"):
    """How often each pending entry counts as delivered."""
    return [x["times_delivered"] for x in redis.client.xpending_range(
        "lunary:runs", group, "-", "+", 100)]


def dead(redis):
    return [f for _, f in redis.client.xrange("lunary:runs:dead")]


# -- an outage is no entry's fault

def test_an_outage_counts_as_no_delivery_for_once(redis, lunary, folder):
    """cron tries again and again."""
    add(redis, run(), run())
    lunary.kill()
    for _ in range(2):
        done = once(redis.unix_url, *flags(lunary, folder, "--once"),
                    check=False)
        assert done.returncode == 4
        assert counted(redis) == [0, 0]


def test_an_outage_counts_as_no_delivery_for_a_restart(redis, lunary, folder,
                                                       start):
    add(redis, run(), run())
    lunary.fail(10 ** 4, 503)
    for _ in range(2):
        w = start(redis.unix_url, *flags(lunary, folder))
        w.says("answered 503")
        assert w.term() == 0
        assert counted(redis) == [0, 0]


def test_an_outage_of_a_collector_counts_as_no_delivery(redis, lunary,
                                                        start):
    add(redis, run(), run())
    w = start(redis.unix_url, "export", "--endpoint", lunary.url)
    w.says("answered 404")
    assert w.term() == 0
    assert counted(redis, "export") == [0, 0]


def test_a_bad_configuration_drops_no_batch(redis, lunary, folder, start):
    """SIGHUP in an outage, with a file that is wrong: the old one stays, and
    what was being sent goes on at once."""
    conf = folder / "c.conf"
    conf.write_text(f"[relay]\napi {lunary.url}\nproject *={folder}/key\n")
    one = run()
    add(redis, one)
    lunary.fail(10 ** 4, 503)
    w = start(redis.unix_url, "relay", "--config", conf, "--claim-after",
              "1h")
    w.says("answered 503")
    conf.write_text("[relay]\nnonsense yes\n")
    w.hup()
    w.says("the old one stays")
    lunary.failures.clear()
    wait_for(lambda: list(lunary.runs) == [one["run_id"]], 20)
    wait_for(lambda: pending(redis) == 0)


# -- a 200 that is not Lunary's

@pytest.mark.parametrize("body", [b"<html>maintenance</html>", b"",
                                  b'{"ok":true}', b'{"results":{}}',
                                  b'{"results":[]}'])
def test_a_200_of_somebody_else_kills_no_entry(redis, lunary, folder, start,
                                               body):
    """Also one whose id is none of Lunary's."""
    entries = [run(), run(run_id="no-uuid", status=201)]
    add(redis, *entries)
    lunary.instead = body
    w = start(redis.unix_url, *flags(lunary, folder))
    wait_for(lambda: len(lunary.requests) >= 5, 30)
    assert dead(redis) == [] and pending(redis) == 2
    lunary.instead = None
    wait_for(lambda: len(lunary.runs) == 2, 40)
    wait_for(lambda: pending(redis) == 0)
    assert dead(redis) == [] and "answer" in w.said


def test_once_tells_that_it_is_not_lunary(redis, lunary, folder):
    add(redis, run())
    lunary.instead = b"<html>maintenance</html>"
    done = once(redis.unix_url, *flags(lunary, folder, "--once"), check=False)
    assert done.returncode == 4 and "--api" in done.stderr
    assert dead(redis) == [] and counted(redis) == [0]


# -- dead letters

def test_a_poison_entry_of_many_fields_is_buried(redis, lunary, folder):
    """With the first thousand: Lua's stack, which it goes through, is not
    for all."""
    many = {"kind": "run", "run_id": "bad"}
    many.update({f"f{i}": "x" for i in range(5000)})
    good = run()
    add(redis, many, good)
    once(redis.unix_url, *flags(lunary, folder, "--once"))
    (d,) = dead(redis)
    assert d["run_id"] == "bad" and d["f997"] == "x" and "f998" not in d
    assert d["dead_left_out"] == "4002"
    assert list(lunary.runs) == [good["run_id"]] and pending(redis) == 0


def test_an_entry_that_cannot_be_buried_stops_no_other(redis, lunary, folder,
                                                       start):
    redis.client.set("lunary:runs:dead", "x")
    (bad,) = add(redis, {"kind": "run", "run_id": "bad"})
    w = start(redis.unix_url, *flags(lunary, folder, "--claim-after",
                                     "200ms"))
    w.says("cannot be moved")
    for n in range(1, 4):
        add(redis, run())
        wait_for(lambda: len(lunary.runs) == n)
    wait_for(lambda: pending(redis) == 1)
    wait_for(lambda: counted(redis)[0] >= 3, 10, "claimed, and tried again")
    assert w.said.count("cannot be moved") == 1
    assert "WRONGTYPE" in w.said and "refused" not in w.said

    # put right
    redis.client.delete("lunary:runs:dead")
    wait_for(lambda: [d["dead_id"] for d in dead(redis)] == [bad], 10)
    wait_for(lambda: pending(redis) == 0)


def test_once_tells_that_one_could_not_be_buried(redis, lunary, folder):
    redis.client.set("lunary:runs:dead", "x")
    good = run()
    add(redis, {"kind": "run", "run_id": "bad"}, good)
    done = once(redis.unix_url, *flags(lunary, folder, "--once"), check=False)
    assert done.returncode == 1
    assert list(lunary.runs) == [good["run_id"]] and pending(redis) == 1


# -- Redis

def test_a_command_that_redis_does_not_know_tells_no_password(
        redis_server, lunary, folder, start):
    server = redis_server(requirepass="s3cret-word",
                          rename_command="AUTH xAUTH")
    (folder / "pw").write_text("s3cret-word\n")
    w = start(server.unix_url, *flags(lunary, folder, "--password-file",
                                      folder / "pw"))
    w.says(f"Redis at {server.socket} refused: ERR unknown command")
    assert "s3cret" not in w.said


def test_a_member_that_ended_with_entries_pending_is_removed(
        redis, lunary, folder, start):
    """When others have done them; one with a name of its own stays, and so
    does one that has any."""
    add(redis, run(), run())
    client = redis.client
    client.xgroup_create("lunary:runs", "relay", "0")
    client.xreadgroup("relay", "gone-123", {"lunary:runs": ">"}, count=1)
    client.xreadgroup("relay", "named", {"lunary:runs": ">"}, count=1)
    (held,) = add(redis, run())
    client.xreadgroup("relay", "busy-456", {"lunary:runs": ">"}, count=1)
    w = start(redis.unix_url, *flags(lunary, folder, "--claim-after", "2s",
                                     "--consumer", "me"))

    def members():
        # which asks like one that is at work
        client.xclaim("lunary:runs", "relay", "busy-456", 0, [held],
                      idle=0, justid=True)
        return {c["name"] for c in client.xinfo_consumers("lunary:runs",
                                                          "relay")}

    wait_for(lambda: members() == {"named", "busy-456", "me"}, 20)
    assert len(lunary.runs) == 2 and pending(redis) == 1
    assert w.term() == 0


# -- forget

@pytest.fixture
def forget(redis, lunary, folder):
    """Relays three runs of ann; forget() deletes them, also in Lunary."""
    add(redis, *[run(user_id="ann") for _ in range(3)])
    once(redis.unix_url, *flags(lunary, folder, "--once"))
    assert len(lunary.runs) == 3
    (folder / "private").write_text("private\n")
    return lambda: once(
        redis.unix_url, "forget", "default", "ann", "--yes", "--api",
        lunary.url, "--lunary-key-file", folder / "private", check=False)


def test_forget_can_be_run_again_where_lunary_failed(redis, lunary, forget):
    """Redis alone knows which runs are the user's."""
    lunary.fail(10 ** 4, 403)
    done = forget()
    assert done.returncode == 4 and "run forget again" in done.stderr
    assert redis.client.xlen("lunary:runs") == 3
    lunary.failures.clear()
    assert forget().returncode == 0
    assert lunary.runs == {} and lunary.users == {}
    assert redis.client.xlen("lunary:runs") == 0


@pytest.mark.parametrize("status", [429, 500, 503])
def test_forget_asks_lunary_again(redis, lunary, forget, status):
    lunary.fail(2, status)
    assert forget().returncode == 0
    assert lunary.runs == {} and lunary.users == {}


def alike(lunary, n):
    """So many users whose ids have a part that is ann's, and are told before
    hers."""
    ann = lunary.users.pop(("key", "ann"))
    for k in range(n):
        lunary.users[("key", f"joanne-{k}")] = {"id": 1000 + k, "props": None}
    lunary.users[("key", "ann")] = ann


@pytest.mark.parametrize("users, page, pages", [(450, 500, 1), (900, 500, 2),
                                                (250, 100, 3)])
def test_forget_finds_the_user_behind_others_of_like_names(
        redis, lunary, forget, users, page, pages):
    """Lunary searches for a part, and answers a page at a time, maybe of
    fewer than asked for."""
    alike(lunary, users)
    lunary.page = page
    done = forget()
    assert done.returncode == 0 and "none of" not in done.stderr
    assert ("key", "ann") not in lunary.users and len(lunary.users) == users
    assert [q["page"] for q in lunary.asked] == [[str(n)]
                                                 for n in range(pages)]
    assert {q["limit"][0] for q in lunary.asked} == {"500"}


@pytest.mark.parametrize("users, told", [(450, False), (600, True)])
def test_forget_warns_where_pages_may_have_left_the_user_out(
        redis, lunary, forget, users, told):
    """Lunary orders users by cost alone: of those of the same cost one may be
    on no page."""
    alike(lunary, users)
    del lunary.users[("key", "ann")]
    done = forget()
    assert done.returncode == 0 and lunary.runs == {}
    assert ("none of 2 pages" in done.stderr) == told


@pytest.mark.parametrize("user", ["CORP\\ann", "\\", "50%\\_off", "a\\\\"])
def test_forget_finds_a_user_by_any_id(redis, lunary, folder, user):
    """Lunary searches with a pattern, in which some characters stand for
    others; and those that are only alike stay."""
    others = ["CORPxann", "CORPann", "corp\\ann", "x\\y", "50x\\yoff", "a\\",
              "b\\\\"]
    add(redis, *[run(user_id=u) for u in [*others, user]])
    once(redis.unix_url, *flags(lunary, folder, "--once"))
    (folder / "private").write_text("private\n")
    once(redis.unix_url, "forget", "default", user, "--yes", "--api",
         lunary.url, "--lunary-key-file", folder / "private")
    assert {u for _, u in lunary.users} == set(others) - {user}
    assert len(lunary.runs) == len(others)


@pytest.mark.parametrize("signo", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("method", ["get", "delete"])
def test_forget_stops_between_two_requests(redis, lunary, folder, forget,
                                           monkeypatch, start, signo, method):
    """And is to be run again: Redis has all that it takes."""
    answer = getattr(lunary, method)
    asked = []

    def stopped(h):
        asked.append(h.path)
        w.process.send_signal(signo)
        answer(h)

    monkeypatch.setattr(lunary, method, stopped)
    w = start(redis.unix_url, "forget", "default", "ann", "--yes", "--api",
              lunary.url, "--lunary-key-file", folder / "private")
    assert w.process.wait(30) == 4
    assert "stopped" in w.said and "run forget again" in w.said
    assert len(asked) == 1 and ("key", "ann") in lunary.users
    assert len(lunary.runs) == (2 if method == "delete" else 3)
    assert redis.client.xlen("lunary:runs") == 3
    monkeypatch.undo()
    assert forget().returncode == 0
    assert lunary.runs == {} and lunary.users == {}
    assert redis.client.xlen("lunary:runs") == 0


def test_forget_tells_that_lunary_does_not_page(redis, lunary, forget,
                                                monkeypatch):
    users = [{"id": n, "externalId": f"joanne-{n}"} for n in range(100)]
    monkeypatch.setattr(lunary, "get", lambda h: lunary.answer(h, 200, users))
    done = forget()
    assert done.returncode == 4 and "by hand" in done.stderr
    assert lunary.deleted == [] and redis.client.xlen("lunary:runs") == 3


# -- export

@pytest.mark.parametrize("rejected", ['"2"', "2"])
def test_a_partial_success_of_a_collector_is_told(redis, lunary, folder,
                                                  monkeypatch, rejected):
    """Once in a while, and without the collector's words."""
    def post(h):
        h.rfile.read(int(h.headers["Content-Length"]))
        lunary.answer(h, 200, b'{"partialSuccess":{"rejectedSpans":%s,'
                      b'"errorMessage":"TOP"}}' % rejected.encode())
    monkeypatch.setattr(lunary, "post", post)
    add(redis, *[run() for _ in range(6)])
    done = once(redis.unix_url, "export", "--once", "--batch", "3",
                "--endpoint", lunary.url, "--metrics", folder / "m")
    assert done.stderr.count("rejected 2 of 3 spans") == 1
    assert "TOP" not in done.stderr
    assert 'failures_total{' in (folder / "m").read_text()
    assert [line.split()[-1] for line in (folder / "m").read_text()
            .splitlines() if "failures_total" in line
            and line[0] != "#"] == ["2"]
    assert pending(redis, "export") == 0


# -- ledger

def test_an_event_that_is_in_the_stream_twice_counts_once(redis):
    """In one batch and in two, and as another event than those of its run
    before."""
    rid = uuid7(1763772000123)
    begin = event(event="start", type="llm", runId=rid, name="gpt-4o",
                  userId="bob")
    end = event(event="end", type="llm", runId=rid,
                tokensUsage={"prompt": 10, "completion": 5})
    error = event(event="error", type="llm", runId=rid)
    for entries in ((begin, begin), (begin, end, end), (end, error), (error,)):
        add(redis, *entries)
        once(redis.unix_url, "ledger", "--once")
    bob = redis.client.hgetall("lunary:user:default:bob")
    assert (bob["runs"], bob["input_tokens"], bob["output_tokens"],
            bob["errors"]) == ("1", "10", "5", "1")
    assert pending(redis, "ledger") == 0


def test_an_event_of_a_run_that_passed_nginx_is_not_that_run(redis):
    one = run(user_id="bob")
    add(redis, one, event(event="start", type="llm", runId=one["run_id"],
                          userId="bob"))
    once(redis.unix_url, "ledger", "--once")
    assert redis.hget("lunary:user:default:bob", "runs") == "2"
