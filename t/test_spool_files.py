"""The spool's directory and files: what is there, what may be wrong with
them, and what the log then says.  nginx serves on in every case."""

import concurrent.futures
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
import types

import pytest

from harness import SANITIZED, VALGRIND
from harness.outbox import (CONFIG, append, balanced, entries,  # noqa: F401
                            once, outbox, outbox_module, put_spool, spools,
                            stats, total, watermarks)
from harness.wait import wait_for


counted = pytest.mark.skipif(
    bool(SANITIZED or VALGRIND), reason="sanitizers have threads of their own")


@pytest.fixture
def left(outbox, redis_server):
    """An nginx that was killed with 20 records in its spool, and its Redis,
    which is up again: (nginx, redis, ids, path of the spool)."""
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis)
    ids = append(nginx, "a", 20, 500)
    nginx.kill()
    redis.start()
    [name] = spools(nginx)
    return nginx, redis, ids, nginx.spool / name


def serves(nginx, redis, ids=()):
    once(redis, [*ids, *append(nginx, "new")])


def test_modes(outbox, redis):
    nginx = outbox(redis)
    assert stat.S_IMODE(nginx.spool.stat().st_mode) == 0o700
    [name] = spools(nginx)
    assert stat.S_IMODE((nginx.spool / name).stat().st_mode) == 0o600
    assert len(name) == 38


def test_the_default_directory_is_beside_nginxs_own(outbox, redis, folder):
    text = CONFIG.replace("lunary_spool {{ spool | default(dir + "
                          '"/spool size=4m") }};', "")
    assert text != CONFIG
    nginx = outbox(redis, config=text, start=False)
    nginx.allow("emerg")
    built = subprocess.run([nginx.command()[0], "-V"], capture_output=True,
                           text=True).stderr
    at = nginx.folder
    if "--http-proxy-temp-path=" in built:
        at = pathlib.Path(built.split("--http-proxy-temp-path=")[-1]
                          .split()[0]).parent
    existed = (at / "lunary").exists()
    accepted, said = nginx.test_config()
    if accepted:
        assert (at / "lunary").is_dir()
    else:                                   # not root: it may not make it
        assert "/lunary" in said
    if accepted and not existed:
        (at / "lunary").rmdir()


def test_the_blocks_are_there(outbox, redis):
    """A hole in the file would be a SIGBUS on a full disk."""
    nginx = outbox(redis)
    [name] = spools(nginx)
    st = (nginx.spool / name).stat()
    assert st.st_size == 4 << 20
    assert st.st_blocks * 512 >= st.st_size


def test_a_killed_workers_records_are_sent_by_the_next(left):
    nginx, redis, ids, path = left
    nginx.start()
    serves(nginx, redis, ids)
    wait_for(lambda: not path.exists())
    assert balanced(nginx)["runs_recovered_total"] == 20
    assert len(watermarks(redis)) == 1


def test_a_spool_for_another_stream_is_left_alone(left):
    nginx, redis, ids, path = left
    nginx.variables["stream"] = "other:runs"
    nginx.start()
    once(redis, append(nginx, "new"), stream="other:runs")
    nginx.wait_log("is for .* not for .* it is left alone")
    assert path.exists() and not redis.exists("lunary:runs")
    nginx.quit()
    nginx.variables["stream"] = "lunary:runs"
    nginx.start()
    once(redis, ids)


def test_a_spool_of_other_shards_goes_where_its_records_belong(left):
    nginx, redis, ids, path = left
    nginx.variables["stream"] = "lunary:runs shards=2"
    nginx.start()
    once(redis, ids)
    wait_for(lambda: not path.exists())


def test_a_truncated_spool_gives_what_is_left(left):
    nginx, redis, ids, path = left
    with open(path, "r+b") as f:
        f.truncate(8192 + 5000)             # of records of about 580 bytes
    nginx.start()
    nginx.wait_log("is damaged, its end is missing")
    wait_for(lambda: not path.exists())
    found = entries(redis)
    assert found == ids[:len(found)] and 7 <= len(found) <= 9
    serves(nginx, redis, found)


def test_a_spool_without_a_head_is_left_alone(left):
    nginx, redis, ids, path = left
    before = b"\xaa" * 8192 + path.read_bytes()[8192:]
    path.write_bytes(before)
    nginx.start()
    nginx.wait_log("has no readable head: it is left alone; move it away")
    serves(nginx, redis)
    assert path.read_bytes() == before


def test_a_tiny_file_is_left_alone(left):
    nginx, redis, ids, path = left
    path.write_bytes(b"")
    nginx.start()
    nginx.wait_log("has no readable head")
    serves(nginx, redis)
    assert path.exists()


def test_a_spool_of_a_newer_version_is_kept(left):
    nginx, redis, ids, path = left
    data = bytearray(path.read_bytes())
    data[8] = data[4096 + 8] = 2
    path.write_bytes(data)
    nginx.start()
    nginx.wait_log("was written by a newer version of this module: it is kept")
    serves(nginx, redis)
    assert path.read_bytes() == data


def test_noise_among_the_records_costs_only_what_it_hit(left):
    nginx, redis, ids, path = left
    data = bytearray(path.read_bytes())
    at = data.index(b"a-7\r\n")
    data[at + 50:at + 60] = random.randbytes(10)
    path.write_bytes(data)
    nginx.start()
    nginx.wait_log("is damaged: 1 records of it cannot be read")
    serves(nginx, redis, [i for i in ids if i != "a-7"])


def test_a_file_of_noise_is_left_alone(left):
    nginx, redis, ids, path = left
    noise = path.with_name("0" * 32 + ".spool")
    noise.write_bytes(random.randbytes(1 << 20))
    noise.chmod(0o600)
    nginx.start()
    nginx.wait_log("has no readable head")
    serves(nginx, redis, ids)
    assert noise.exists()


def test_a_copy_is_left_alone(left):
    """Or each would be sent."""
    nginx, redis, ids, path = left
    copy = path.with_name("ab" * 16 + ".spool")
    shutil.copy(path, copy)
    copy.chmod(0o600)
    nginx.start()
    nginx.wait_log(f"spool .*{copy.name}. was .{path.name}. when it was")
    serves(nginx, redis, ids)
    wait_for(lambda: not path.exists())
    assert copy.exists()


def test_files_that_cannot_be_used_do_not_stop_adoption(outbox, redis):
    nginx = outbox(redis)
    nginx.allow("newer version|300 shards")
    target = f"127.0.0.1:{redis.port}/0 lunary:runs"
    bad = [put_spool(nginx, f"{i:032x}", target, shards=300)
           for i in range(70)]
    wait_for(lambda: len(re.findall("newer version|has 300 shards",
                                    nginx.log())) >= 64)
    good = put_spool(nginx, "f" * 32, target)
    wait_for(lambda: not good.exists())
    assert all(p.exists() for p in bad)


def test_each_file_that_cannot_be_used_is_told_of_once(outbox, redis):
    """Also two whose inodes differ by a multiple of something."""
    nginx = outbox(redis)
    nginx.allow("readable head")
    scratch = nginx.folder / "scratch"
    scratch.mkdir()
    seen = {}
    for i in range(3000):
        p = scratch / f"{i:032x}.spool"
        p.write_bytes(b"x" * 8192)
        p.chmod(0o600)
        k = p.stat().st_ino % 256
        if k in seen:
            break
        seen[k] = p
    for q in (p, seen[k]):
        q.rename(nginx.spool / q.name)
    log = nginx.log
    wait_for(lambda: log().count("has no readable head") >= 2)
    scans = put_spool(nginx, "f" * 32, f"127.0.0.1:{redis.port}/0 lunary:runs")
    wait_for(lambda: not scans.exists())    # the directory was read again
    scans = put_spool(nginx, "e" * 32, f"127.0.0.1:{redis.port}/0 lunary:runs")
    wait_for(lambda: not scans.exists())
    assert log().count("has no readable head") == 2


def test_a_drained_spool_that_cannot_be_removed(outbox, redis_server):
    redis = redis_server()
    redis.stop()
    nginx = outbox(redis)
    nginx.allow("exited on signal|cannot be removed")
    ids = append(nginx, "a", 5)
    dead = nginx.workers()[0]
    os.kill(dead, signal.SIGKILL)
    nginx.wait_log("took over the spool", 10)
    if subprocess.run(["chattr", "+a", nginx.spool],
                      capture_output=True).returncode:
        pytest.skip("no chattr +a here")
    try:
        redis.start()
        once(redis, ids, 20)
        nginx.wait_log("the drained spool .* cannot be removed")
        for i in range(3):                  # the directory is read again
            path = put_spool_in_place(nginx, f"{i + 10:032x}", redis)
            nginx.wait_log(f"took over the spool .*{path.name}")
        assert len(re.findall("took over the spool", nginx.log())) == 4
    finally:
        subprocess.run(["chattr", "-a", nginx.spool], check=True)


def put_spool_in_place(nginx, id, redis):
    """Where nothing can be renamed: half of it may be seen."""
    target = f"127.0.0.1:{redis.port}/0 lunary:runs"
    other = types.SimpleNamespace(spool=nginx.folder)
    made = put_spool(other, id, target)
    path = nginx.spool / made.name
    os.link(made, path)
    return path


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to chown")
def test_a_spool_of_another_user_is_left_alone(left):
    nginx, redis, ids, path = left
    os.chown(path, 65534, 65534)
    nginx.start()
    nginx.wait_log("is not a file of this worker's user with mode 0600")
    serves(nginx, redis)
    assert path.exists()


def test_a_link_is_not_followed(left):
    nginx, redis, ids, path = left
    aside = nginx.folder / "aside"
    path.rename(aside)
    path.symlink_to(aside)
    nginx.start()
    nginx.wait_log("is not a file of this worker's user")
    serves(nginx, redis)
    assert aside.exists()


def test_an_unfinished_file_is_cleared_away(left):
    nginx, redis, ids, path = left
    old = path.with_name("1" * 32 + ".tmp")
    new = path.with_name("2" * 32 + ".tmp")
    for p in (old, new):
        p.write_bytes(b"x" * 100)
    os.utime(old, (1, 1))
    nginx.start()
    serves(nginx, redis, ids)
    wait_for(lambda: not old.exists())
    assert new.exists()


@counted
def test_an_unfinished_file_alone_is_cleared_away(outbox, redis):
    nginx = outbox(redis)
    old = nginx.spool / ("1" * 32 + ".tmp")
    old.write_bytes(b"x" * 100)
    assert threads(nginx) == [1]
    os.utime(old, (1, 1))
    wait_for(lambda: not old.exists())
    assert threads(nginx) == [2]


def threads(nginx):
    return sorted(len(os.listdir(f"/proc/{pid}/task"))
                  for pid in nginx.workers())


@counted
def test_no_thread_before_there_is_something_to_take_over(outbox, redis):
    nginx = outbox(redis, workers=2)
    nginx.allow("exited on signal")
    ids = append(nginx, "a", 20)
    once(redis, ids)
    assert threads(nginx) == [1, 1]
    dead = nginx.workers()[0]
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: dead not in nginx.workers()
             and len(nginx.workers()) == 2)
    wait_for(lambda: len(spools(nginx)) == 2)
    assert threads(nginx) in ([1, 2], [2, 2])
    once(redis, ids + append(nginx, "b", 20))


@counted
@pytest.mark.parametrize("sync", ["1s", "always"])
def test_a_thread_where_there_is_something_to_sync(outbox, redis, sync):
    nginx = outbox(redis, spool=f"spool sync={sync}")
    once(redis, append(nginx, "a", 20))
    assert threads(nginx) == [2]


def test_a_directory_that_is_none(outbox, redis, folder):
    (folder / "file").write_text("")
    nginx = outbox(redis, spool=f"{folder}/file", start=False)
    nginx.allow("emerg")
    accepted, said = nginx.test_config()
    if accepted:                            # nginx does not mind what it is
        nginx.start()
        nginx.wait_log("the spool directory .* cannot be opened: make it")
        serves(nginx, redis)


def mounted(folder, options):
    if os.getuid() != 0:
        pytest.skip("needs root to mount a tmpfs")
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs",
                           str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no tmpfs here: {done.stderr.strip()}")


@pytest.fixture
def tmpfs(folder):
    made = []

    def mount(options):
        at = folder / f"mnt{len(made)}"
        mounted(at, options)
        made.append(at)
        return at

    yield mount
    for at in made:
        subprocess.run(["umount", "-l", str(at)], check=True)


def test_a_full_disk(outbox, redis, tmpfs):
    disk = tmpfs("size=1m")
    nginx = outbox(redis, spool=f"{disk}/spool size=4m")
    nginx.wait_log(r"no spool could be made in .*posix_fallocate\(\) failed.*"
                   r"No space left|no spool could be made .*28:")
    serves(nginx, redis)
    assert list((disk / "spool").iterdir()) == []


def test_a_disk_full_of_dead_spools_is_drained(outbox, redis_server, tmpfs):
    """By a worker that finds no room for one of its own."""
    redis = redis_server()
    redis.stop()
    disk = tmpfs("size=6m")
    nginx = outbox(redis, spool=f"{disk}/spool size=4m", shutdown="1s")
    nginx.allow("exited on signal")
    [dead] = (disk / "spool").iterdir()
    ids = append(nginx, "a", 20)
    os.kill(nginx.workers()[0], signal.SIGKILL)
    nginx.wait_log("no spool could be made", 10)
    redis.start()
    once(redis, ids, 20)
    wait_for(lambda: not dead.exists())
    nginx.wait_log("sent and removed, .* reload, and it has a spool")
    ids += append(nginx, "b", 5)
    once(redis, ids)
    nginx.reload()
    wait_for(lambda: [p.stat().st_size for p in (disk / "spool").iterdir()]
             == [4 << 20])
    once(redis, ids + append(nginx, "c", 5))
    assert total(balanced(nginx)["runs_total"]) == 30


def test_a_read_only_disk(outbox, redis, tmpfs):
    disk = tmpfs("size=16m")
    (disk / "spool").mkdir(mode=0o700)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    nginx = outbox(redis, spool=f"{disk}/spool size=4m")
    nginx.wait_log("no spool could be made .*30: Read-only")
    serves(nginx, redis)


def test_a_tmpfs(outbox, redis, tmpfs):
    disk = tmpfs("size=16m")
    nginx = outbox(redis, workers=2, spool=f"{disk}/spool size=4m sync=always")
    nginx.allow("exited on signal")
    ids = append(nginx, "a", 3000)
    for pid in nginx.workers():
        os.kill(pid, 9)
    wait_for(lambda: len(nginx.workers()) == 2)
    serves(nginx, redis, ids)


# sync=

@pytest.mark.parametrize("sync", ["off", "1s", "always"])
def test_every_kind_of_sync_delivers(outbox, redis, sync):
    nginx = outbox(redis, spool="{}/spool size=4m sync=" + sync, start=False)
    nginx.variables["spool"] = f"{nginx.folder}/spool size=4m sync={sync}"
    nginx.start()
    ids = []
    for i in range(30):
        ids += append(nginx, f"a{i}", 20)
    once(redis, ids)
    balanced(nginx)


SHIM = r"""
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* waits for a file, and fails where its first letter is f */

int
fdatasync(int fd)
{
    char  c = 0;
    int   gate;

    while ((gate = open(getenv("TEST_GATE"), O_RDONLY)) == -1
           || read(gate, &c, 1) != 1)
    {
        if (gate != -1) {
            close(gate);
        }

        usleep(1000);
    }

    close(gate);

    if (c == 'f') {
        errno = EIO;
        return -1;
    }

    return fsync(fd);
}
"""


def gate(nginx, folder):
    """Its disk waits for nginx.gate(words)."""
    if SANITIZED:
        pytest.skip("a preloaded library beside a sanitizer's")
    source = folder / "shim.c"
    source.write_text(SHIM)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "shim.so",
                    source], check=True)
    environment = nginx.environment()
    nginx.environment = lambda: environment | {
        "LD_PRELOAD": f"{folder}/shim.so", "TEST_GATE": f"{folder}/gate"}
    nginx.variables["main"] = "env TEST_GATE;"
    nginx.gate = lambda words: (folder / "gate").write_text(words)


@pytest.fixture
def gated(outbox, redis, folder):
    nginx = outbox(redis, start=False)
    nginx.variables["spool"] = f"{nginx.folder}/spool size=4m sync=always"
    gate(nginx, folder)
    return nginx


def test_sync_always_sends_only_what_is_synced(gated, redis):
    nginx = gated.start()
    ids = append(nginx, "a", 10)            # the request does not wait
    append(nginx, "b", 1)
    time.sleep(0.5)                         # nothing may happen
    assert entries(redis) == []
    nginx.gate("sync")
    once(redis, ids + ["b-0"])


INGEST = """
{{ globals }}
{{ main }}
http {
    {{ http }}
    lunary_redis {{ redis }};
    lunary_spool {{ dir }}/spool size=4m sync=always;
    server {
        listen {{ listen }};
        location / { lunary_ingest key_file={{ keys }}; }
    }
}
"""


def test_an_ingest_is_answered_once_it_is_synced(nginx, redis, folder):
    (folder / "keys").write_text("the-key app\n")
    nginx = nginx(INGEST, start=False, keys=folder / "keys")
    gate(nginx, folder)
    nginx.start()

    def ingest(timeout):
        with socket.create_connection(("127.0.0.1", nginx.port)) as s:
            body = json.dumps({"events": {
                "type": "agent", "event": "start", "runId": "r" * 36,
                "timestamp": 1700000000000}}).encode()
            s.settimeout(timeout)
            s.sendall(b"POST /v1/runs/ingest HTTP/1.1\r\nHost: x\r\n"
                      b"Connection: close\r\nAuthorization: Bearer the-key\r\n"
                      b"Content-Type: application/json\r\n"
                      b"Content-Length: %d\r\n\r\n" % len(body) + body)
            return s.recv(10000)

    with pytest.raises(TimeoutError):
        ingest(0.5)                         # and that client leaves
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answer = pool.submit(ingest, 10)
        time.sleep(0.3)
        assert not answer.done() and redis.xlen("lunary:runs") == 0
        nginx.gate("sync")
        assert b'"success":true' in answer.result()
    wait_for(lambda: redis.xlen("lunary:runs") == 2)


def test_a_disk_that_fails_is_told_and_delivery_goes_on(gated, redis):
    nginx = gated.start()
    nginx.gate("fail")
    ids = append(nginx, "a", 10)
    nginx.wait_log("syncing the spool .* failed: its records would not "
                   "survive a power failure")
    once(redis, ids)
    nginx.gate("sync")


@pytest.mark.parametrize("size, words", [
    ("{dir}/spool size=100k", "at least 256k"),
    ("{dir}/spool size=lots", "invalid"),
    ("{dir}/spool sync=often", 'invalid parameter "sync=often"'),
    ("{dir}/spool colour=red", 'invalid parameter "colour=red"'),
    ("off sync=always", "nothing to sync"),
])
def test_what_the_directive_refuses(outbox, redis, size, words):
    nginx = outbox(redis, start=False)
    nginx.variables["spool"] = size.format(dir=nginx.folder)
    nginx.allow("emerg")
    accepted, said = nginx.test_config()
    assert not accepted and words in said


@pytest.mark.parametrize("stream, words", [
    ("lunary:runs maxlen=-1", "maxlen=-1"),
    ("lunary:runs maxbytes=1k", "maxbytes=1k"),
    ("lunary:runs shards=0", "shards=0"),
    ("lunary:runs shards=1000", "shards=1000"),
    ("lunary:runs flush=later", "flush=later"),
    ("x" * 200, "1 to 120 characters"),
])
def test_what_the_stream_refuses(outbox, redis, stream, words):
    nginx = outbox(redis, stream=stream, start=False)
    nginx.allow("emerg")
    accepted, said = nginx.test_config()
    assert not accepted and words in said
