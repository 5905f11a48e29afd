"""What lunary-worker says of its configuration, and of whom it cannot reach."""

import socket

import pytest

from harness.wait import wait_for
from harness.worker import once, run
from ingest_standin.server import Ingest


@pytest.fixture
def lunary(folder):
    server = Ingest().start()
    (folder / "key").write_text("key\n")
    yield server
    server.stop()


@pytest.fixture
def closed():
    """The address of a port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{s.getsockname()[1]}"


def add(redis, *entries):
    return [redis.client.xadd("lunary:runs", e) for e in entries]


def refused(*args, url=None):
    """What a wrong configuration is told, in one line."""
    done = once(url, *args, check=False)
    assert done.returncode == 2, (done.returncode, done.stderr)
    (line,) = done.stderr.splitlines()
    assert line.startswith("lunary-worker: ")
    return line


# -- the configuration

@pytest.mark.parametrize("option, args", [
    ("--project", ["relay", "--project", "a={file}"]),
    ("--config", ["ledger", "--config", "{file}"]),
    ("--password-file", ["ledger", "--password-file", "{file}"]),
    ("--prices", ["ledger", "--prices", "{file}"]),
    ("--lunary-key-file", ["forget", "default", "ann", "--lunary-key-file",
                           "{file}"])])
def test_a_file_that_cannot_be_read_is_told_with_its_option(option, args,
                                                            folder):
    path = folder / "none"
    said = refused(*[a.format(file=path) for a in args])
    assert f"{option}: {path}: No such file" in said


@pytest.mark.parametrize("yes", [[], ["--yes"]])
@pytest.mark.parametrize("content", [None, "", "\n"])
def test_forget_wants_its_key_before_it_deletes(redis, folder, yes, content):
    add(redis, run(user_id="ann"))
    if content is not None:
        (folder / "private").write_text(content)
    said = refused("forget", "default", "ann", *yes, "--lunary-key-file",
                   folder / "private", url=redis.unix_url)
    assert "--lunary-key-file" in said and "forget again" not in said
    assert redis.client.xlen("lunary:runs") == 1


@pytest.mark.parametrize("line", ["[relax]", "[relay", "[]", "[relay] # x",
                                  "[Relay]"])
def test_an_unknown_section_is_an_error(folder, line):
    """Also for a command that is not meant."""
    (folder / "w.conf").write_text(f"# x\n{line}\nbatch 3\n")
    said = refused("ledger", "--once", "--config", folder / "w.conf")
    assert f'w.conf:2: unknown section "{line}"' in said


def test_every_commands_section_is_known(redis, folder):
    (folder / "w.conf").write_text("".join(
        f"[{c}]\n" for c in ("relay", "ledger", "export", "tail", "users",
                             "show", "forget", "price")))
    once(redis.unix_url, "ledger", "--once", "--config", folder / "w.conf")


def test_what_is_wrong_in_a_file_is_told_as_the_workers(folder):
    (folder / "w.conf").write_text("batch x\n")
    assert "w.conf:1:" in refused("ledger", "--config", folder / "w.conf")
    (folder / "w.conf").write_text("nonsense 1\n")
    assert "w.conf:1:" in refused("ledger", "--config", folder / "w.conf")


URLS = [("", "is empty"), ("lunary.ai", "http://"), ("ftp://x", "http://"),
        ("//x", "http://"), ("http://", "no host"), ("http:///v1", "no host"),
        ("http://:80", "no host"), ("http://u:s3c@", "no host"),
        ("https://x?y", "?"), ("https://x#y", "#"), ("https://x y", "blank"),
        ("https://x:y", "port"), ("http://u:1/s3c@x", "%2F"),
        ("https://" + "x" * 1000, "too long")]


@pytest.mark.parametrize("url, why", URLS, ids=[u[:20] for u, _ in URLS])
@pytest.mark.parametrize("command", ["relay", "forget", "export"])
def test_a_url_that_is_none_is_refused_at_the_start(folder, command, url,
                                                    why):
    (folder / "key").write_text("key")
    option = "--endpoint" if command == "export" else "--api"
    said = refused(command, *{
        "relay": ["--once", "--project", f"*={folder}/key"],
        "export": ["--once"], "forget": ["default", "ann"]}[command],
        option, url)
    assert f"{option}: " in said and why in said and "s3c" not in said


# -- addresses

def test_a_redis_that_is_away_is_told_with_its_address(closed, folder):
    done = once(f"redis://me:s3cret@{closed}/1", "ledger", "--once",
                check=False)
    assert done.returncode == 3
    assert f"Redis at {closed}: Connection refused" in done.stderr
    assert "s3cret" not in done.stderr
    path = f"{folder}/none.sock"
    done = once(f"unix:{path}", "ledger", "--once", check=False)
    assert f"Redis at {path}: No such file" in done.stderr


def test_a_lunary_that_is_away_is_told_with_its_address(redis, folder, lunary,
                                                        closed):
    add(redis, run(user_id="ann"))
    done = once(redis.unix_url, "relay", "--once", "--project",
                f"*={folder}/key", "--api", f"http://me:s3cret@{closed}/base",
                check=False)
    assert done.returncode == 4
    assert f" at {closed}: Couldn't connect" in done.stderr
    assert "s3cret" not in done.stderr and "given up after 5" in done.stderr


def test_export_once_says_that_it_gave_up(redis, closed):
    add(redis, run())
    done = once(redis.unix_url, "export", "--once", "--endpoint",
                f"http://{closed}", check=False)
    assert done.returncode == 4
    assert f" at {closed}: Couldn't connect" in done.stderr
    assert "given up after 5 tries" in done.stderr


# -- members of the group

def test_once_that_fails_leaves_one_name_in_the_group(redis, lunary, folder):
    """That which has the entries: the next takes them, and its place."""
    add(redis, run(), run())
    lunary.fail(10 ** 4, 403)

    def members():
        return {c["name"]: c for c in
                redis.client.xinfo_consumers("lunary:runs", "relay")}

    def go(code):
        done = once(redis.unix_url, "relay", "--once", "--api", lunary.url,
                    "--project", f"*={folder}/key", "--claim-after", "300ms",
                    check=False)
        assert done.returncode == code, done.stderr

    seen = set()
    for _ in range(3):
        go(4)
        (one,) = members().values()
        assert one["pending"] == 2 and one["name"] not in seen
        seen.add(one["name"])
        wait_for(lambda: all(c["idle"] > 400 for c in members().values()))
    lunary.failures.clear()
    go(0)
    assert len(lunary.runs) == 2 and members() == {}
