"""The connection to Redis: as Redis is deployed, and as it misbehaves.

Look-ups (/get) and delivery (/append) use one connection each."""

import os
import re
import socket
import subprocess
import threading
import time

import pytest

from harness import SANITIZED
from harness.outbox import (Proxy, append, balanced, once,  # noqa: F401
                            outbox, outbox_module, stats)
from harness.wait import free_port, wait_for


def get(nginx, key):
    answer = nginx.get(f"/get?get={key}")
    return answer.status, answer.body.decode()


def names(redis):
    return [c["name"] for c in redis.client.client_list()]


@pytest.fixture(scope="module")
def certs(tmp_path_factory):
    """A CA, a server's certificate for localhost and 127.0.0.1, a client's,
    and one of another CA."""
    folder = tmp_path_factory.mktemp("certs")

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=folder, check=True,
                       capture_output=True)

    def ca(name):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                "-subj", f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.pem")

    def signed(name, by, san):
        openssl("req", "-newkey", "ec", "-pkeyopt",
                "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
                f"/CN={name}", "-keyout", f"{name}.key",
                "-out", f"{name}.csr")
        (folder / "ext").write_text(f"subjectAltName={san}\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem",
                "-CAkey", f"{by}.key", "-CAcreateserial", "-days", "2",
                "-extfile", "ext", "-out", f"{name}.pem")

    ca("ca")
    ca("otherca")
    signed("server", "ca", "DNS:localhost,IP:127.0.0.1")
    signed("elsewhere", "ca", "DNS:redis.example,IP:127.0.0.9")
    signed("client", "ca", "DNS:client")
    return folder


def tls(redis_server, certs, name="server", **more):
    port = free_port()
    redis = redis_server(tls_port=port, tls_cert_file=certs / f"{name}.pem",
                         tls_key_file=certs / f"{name}.key",
                         tls_ca_cert_file=certs / "ca.pem",
                         tls_auth_clients="no", **more)
    redis.tls_url = f"rediss://localhost:{port}/0"
    redis.tls_ip_url = f"rediss://127.0.0.1:{port}/0"
    return redis


# as deployed

def test_a_unix_socket_with_a_database(outbox, redis):
    nginx = outbox(f"{redis.unix_url}?db=5")
    append(nginx, "a", 3)
    wait_for(lambda: stats(nginx)["runs_sent_total"] == 3)
    assert redis.client.execute_command("INFO", "keyspace")["db5"]["keys"] == 2
    redis.client.execute_command("FLUSHALL")


def test_a_database_by_number(outbox, redis_server):
    redis = redis_server()
    nginx = outbox(f"redis://127.0.0.1:{redis.port}/3")
    append(nginx, "a", 3)
    wait_for(lambda: stats(nginx)["runs_sent_total"] == 3)
    assert "db3" in redis.client.execute_command("INFO", "keyspace")


def test_the_connections_have_names(outbox, redis):
    nginx = outbox(redis)
    once(redis, append(nginx))
    get(nginx, "nothing")
    pid = nginx.workers()[0]
    assert f"nginx-lunary-outbox-{pid}" in names(redis)
    assert f"nginx-lunary-lookup-{pid}" in names(redis)


def test_a_password(outbox, redis_server):
    redis = redis_server(requirepass="p@ss:word/1")
    nginx = outbox(f"redis://:p%40ss%3Aword%2F1@127.0.0.1:{redis.port}")
    once(redis, append(nginx))
    assert "word" not in nginx.log()


def test_a_password_in_a_file(outbox, redis_server, folder):
    redis = redis_server(requirepass="secret")
    path = folder / "password"
    path.write_text("secret\n")
    path.chmod(0o600)
    nginx = outbox(redis, params=f"password_file={path}")
    once(redis, append(nginx))


def test_a_user_with_no_more_rights_than_documented(outbox, redis_server):
    redis = redis_server()
    redis.client.execute_command(
        "ACL", "SETUSER", "nginx", "on", ">secret", "~lunary:*",
        "+evalsha", "+eval", "+get", "+set", "+del", "+xadd", "+xlen",
        "+xtrim", "+xrange", "+xpending", "+xinfo|groups", "+memory|usage",
        "+info", "+client|setname", "+watch", "+multi", "+exec")
    nginx = outbox(f"redis://nginx:secret@127.0.0.1:{redis.port}",
                   stream="lunary:runs maxlen=10")
    append(nginx, "a", 50)
    s = balanced(nginx)
    assert s["runs_sent_total"] == 50
    assert "does not take" not in nginx.log()
    log = redis.client.execute_command("ACL", "LOG")
    assert not log, log


def test_a_wrong_password_is_told_once(outbox, redis_server):
    redis = redis_server(requirepass="right")
    nginx = outbox(f"redis://:wrong@127.0.0.1:{redis.port}")
    append(nginx)
    nginx.wait_log(r'logging in was refused: "WRONGPASS')
    assert stats(nginx)["redis_connected"] == 0
    assert "wrong@" not in nginx.log() and ":wrong" not in nginx.log()


def test_no_password_where_one_is_needed(outbox, redis_server):
    redis = redis_server(requirepass="right")
    nginx = outbox(redis)
    nginx.wait_log(r'logging in was refused: "NOAUTH')


def test_a_redis_that_loads_its_data(outbox, redis_server):
    redis = redis_server(appendonly="yes", appendfsync="no")
    pipe = redis.client.pipeline(transaction=False)
    for i in range(2000):
        pipe.set(f"k{i}", "x" * 100)
    pipe.execute()
    redis.stop()
    redis.config["key-load-delay"] = "1000"         # 2 s in all
    redis.config["loading-process-events-interval-bytes"] = "1024"
    with_loading = threading.Thread(target=redis.start)
    nginx = outbox(redis, start=False)
    nginx.variables["redis"] = redis.url
    with_loading.start()
    nginx.start()
    ids = append(nginx, "a", 3)
    with_loading.join()
    once(redis, ids, 20)


# TLS

def test_tls_by_name(outbox, redis_server, certs):
    redis = tls(redis_server, certs)
    nginx = outbox(redis.tls_url, params=f"ca={certs}/ca.pem")
    once(redis, append(nginx, "a", 200, 3000))
    redis.set("k", "v" * 100000)
    assert get(nginx, "k") == (200, "v" * 100000)


def test_tls_by_address(outbox, redis_server, certs):
    redis = tls(redis_server, certs)
    nginx = outbox(redis.tls_ip_url, params=f"ca={certs}/ca.pem")
    once(redis, append(nginx))


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
def test_the_last_byte_of_an_answer_comes_late(outbox, redis_server, certs,
                                               scheme):
    """Of a TLS record OpenSSL holds what is there, and it is in the socket no
    longer: who waits for a number of bytes there waits for too many."""
    redis = tls(redis_server, certs)
    port = redis.tls_ip_url.split(":")[-1].split("/")[0]
    with Proxy(int(port) if scheme == "rediss" else redis.port,
               late=0.02) as proxy:
        nginx = outbox(f"{scheme}://127.0.0.1:{proxy.port}/0",
                       params="send_timeout=10m"
                       + (f" ca={certs}/ca.pem" if scheme == "rediss" else ""))
        ids = append(nginx, "first", 100)
        once(redis, ids)
        connected = redis.client.info("stats")["total_connections_received"]
        for i in range(4):
            ids += append(nginx, f"a{i}", 100)
            wait_for(lambda: stats(nginx)["runs_sent_total"] == len(ids), 40)
        once(redis, ids)
        info = redis.client.info()
        # the proxy hangs up where nothing is said for half a minute
        assert info["total_connections_received"] == connected
        assert redis.client.info("commandstats")["cmdstat_exec"]["calls"] >= 2


CONGESTION = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* sockets have TEST_CONGESTION, and what they have when they are connected is
 * told */

static char  names[1024][16];

int
getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    if (level == IPPROTO_TCP && name == TCP_CONGESTION) {
        strncpy(value, getenv("TEST_CONGESTION"), *len);
        return 0;
    }

    return ((int (*)(int, int, int, void *, socklen_t *))
            dlsym(RTLD_NEXT, "getsockopt"))(fd, level, name, value, len);
}

int
setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    if (level == IPPROTO_TCP && name == TCP_CONGESTION) {
        memcpy(names[fd], value, len);
    }

    return ((int (*)(int, int, int, const void *, socklen_t))
            dlsym(RTLD_NEXT, "setsockopt"))(fd, level, name, value, len);
}

int
connect(int fd, const struct sockaddr *sa, socklen_t len)
{
    fprintf(stderr, "connect to %d as %s\n",
            ntohs(((const struct sockaddr_in *) sa)->sin_port),
            names[fd][0] ? names[fd] : "is");

    names[fd][0] = 0;

    return ((int (*)(int, const struct sockaddr *, socklen_t))
            dlsym(RTLD_NEXT, "connect"))(fd, sa, len);
}
"""


@pytest.mark.parametrize("host, system, how", [
    ("127.0.0.1", "bbr", "reno"), ("127.1.2.3", "bbr2", "reno"),
    ("0.0.0.0", "bbr", "reno"), ("[::1]", "bbr", "reno"),
    ("127.0.0.1", "cubic", "is"), ("[::1]", "cubic", "is"),
])
def test_nothing_is_paced_over_loopback(outbox, redis_server, folder, host,
                                        system, how):
    """What BBR has once begun stays paced, so it is set before connect()."""
    if SANITIZED:
        pytest.skip("a preloaded library beside a sanitizer's")
    if host == "[::1]":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no ::1")
    redis = redis_server(**{
        "[::1]": {"bind": "127.0.0.1 ::1"},
        "127.1.2.3": {"bind": "127.1.2.3"}}.get(host, {}))

    (folder / "shim.c").write_text(CONGESTION)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "shim.so",
                    folder / "shim.c", "-ldl"], check=True)
    nginx = outbox(f"redis://{host}:{redis.port}", start=False)
    environment = nginx.environment()
    nginx.environment = lambda: environment | {
        "LD_PRELOAD": f"{folder}/shim.so", "TEST_CONGESTION": system}
    nginx.variables["main"] = "env TEST_CONGESTION;"
    nginx.start()

    once(redis, append(nginx, "a", 10))
    assert get(nginx, "none")[0] == 404
    said = re.findall(f"connect to {redis.port} as (.*)",
                      nginx.log() + nginx.stderr())
    assert said == [how, how]


@pytest.mark.parametrize("name, ca, why", [
    ("server", "otherca", "certificate"),
    ("elsewhere", "ca", "ost ?name mismatch"),
])
def test_tls_that_cannot_be_verified(outbox, redis_server, certs, name, ca,
                                     why):
    redis = tls(redis_server, certs, name)
    nginx = outbox(redis.tls_url, params=f"ca={certs}/{ca}.pem")
    append(nginx)
    nginx.wait_log(f"the certificate could not be verified.*{why}")
    assert stats(nginx)["runs_spooled"] == 1
    assert not redis.exists("lunary:runs")


def test_tls_with_another_address(outbox, redis_server, certs):
    redis = tls(redis_server, certs, "elsewhere")
    nginx = outbox(redis.tls_ip_url, params=f"ca={certs}/ca.pem")
    nginx.wait_log("the certificate could not be verified.*IP address")


def test_tls_unverified_on_request(outbox, redis_server, certs):
    redis = tls(redis_server, certs, "elsewhere")
    nginx = outbox(redis.tls_url, params="verify=off")
    once(redis, append(nginx))


def test_tls_with_a_client_certificate(outbox, redis_server, certs):
    redis = tls(redis_server, certs)
    redis.config_set("tls-auth-clients", "yes")
    nginx = outbox(redis.tls_url, params=f"ca={certs}/ca.pem "
                   f"cert={certs}/client.pem key={certs}/client.key")
    once(redis, append(nginx))


def test_tls_survives_a_restart(outbox, redis_server, certs):
    redis = tls(redis_server, certs, appendonly="yes")
    nginx = outbox(redis.tls_url, params=f"ca={certs}/ca.pem")
    ids = append(nginx, "a", 100, 2000)
    once(redis, ids)
    redis.kill()
    ids += append(nginx, "b", 100, 2000)
    redis.start()
    once(redis, ids)


# look-ups

def test_a_look_up(outbox, redis):
    redis.set("k", "value")
    nginx = outbox(redis)
    assert get(nginx, "k") == (200, "value")
    assert get(nginx, "other")[0] == 404


def test_many_look_ups_share_one_connection(outbox, redis):
    for i in range(50):
        redis.set(f"k{i}", f"v{i}")
    nginx = outbox(redis)
    found = {}

    def ask(i):
        found[i] = get(nginx, f"k{i}")

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(50)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {i: (200, f"v{i}") for i in range(50)}
    assert sum("lookup" in n for n in names(redis)) == 1


def test_a_look_up_that_takes_too_long(outbox, redis_server):
    redis = redis_server()
    redis.set("k", "v")
    nginx = outbox(redis, params="timeout=500ms")
    wait_for(lambda: get(nginx, "k") == (200, "v"))
    redis.pause()
    began = time.monotonic()
    assert get(nginx, "k")[0] == 503
    assert 0.45 < time.monotonic() - began < 10
    redis.resume()
    wait_for(lambda: get(nginx, "k") == (200, "v"))


def test_a_look_up_waits_no_longer_for_a_connection(outbox):
    """Nor for one that is never made."""
    silent = Stranger()
    try:
        nginx = outbox(silent, params="timeout=200ms connect_timeout=30s")
        began = time.monotonic()
        assert get(nginx, "k")[0] == 503
        assert time.monotonic() - began < 20
    finally:
        silent.close()


def test_look_ups_after_a_restart(outbox, redis_server):
    redis = redis_server()
    nginx = outbox(redis)
    redis.set("k", "1")
    assert get(nginx, "k") == (200, "1")
    redis.kill()
    assert get(nginx, "k")[0] == 503
    redis.start()
    redis.set("k", "2")
    wait_for(lambda: get(nginx, "k") == (200, "2"))


def test_a_client_that_does_not_wait(outbox, redis_server):
    """The reply belongs to a request that is gone: it must go nowhere."""
    redis = redis_server()
    redis.set("k", "v")
    nginx = outbox(redis, params="timeout=5s")
    assert get(nginx, "k") == (200, "v")
    redis.pause()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", nginx.port)) as s:
            s.sendall(b"GET /get?get=k HTTP/1.1\r\nHost: x\r\n\r\n")
    redis.resume()
    wait_for(lambda: get(nginx, "k") == (200, "v"))


# what answers is no Redis, or none that behaves

class Stranger:
    """Accepts; says `words` on each connection, after it heard something
    where `after` is set."""

    def __init__(self, words=b"", after=True):
        self.words, self.after = words, after
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.open = []
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            self.open.append(c)
            try:
                if self.after:
                    c.recv(10000)
                if self.words:
                    c.sendall(self.words)
            except OSError:
                pass

    def close(self):
        self.listener.close()
        for c in self.open:
            c.close()


@pytest.mark.parametrize("words, after, why", [
    (b"", True, r"connecting failed \(110"),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "does not speak RESP"),
    (b"-ERR max number of clients reached\r\n", False,
     '"ERR max number of clients'),
    (b"+OK\r\n+OK\r\n", True, "an unexpected reply"),
    (b"$-5\r\n", True, "RESP|unexpected|refused"),
    (b"*2147483647\r\n", True, "RESP|no memory|connecting failed"),
    (b"\x00\xff" * 5000, True, "does not speak RESP"),
], ids=["silent", "http", "full", "talkative", "negative", "endless", "noise"])
def test_a_stranger(outbox, words, after, why):
    stranger = Stranger(words, after)
    try:
        nginx = outbox(stranger, params="connect_timeout=200ms")
        ids = append(nginx, "a", 10)
        assert len(ids) == 10
        nginx.wait_log(why)
        wait_for(lambda: stranger.accepted >= 3)
        assert stats(nginx)["runs_spooled"] == 10
        append(nginx, "b", 10)
    finally:
        stranger.close()


def test_a_name_is_resolved_again(outbox, redis_server, folder):
    """By nginx's resolver, once the connection is lost."""
    dns = Dns("127.0.0.1")
    redis = redis_server()
    try:
        nginx = outbox(f"redis://localhost:{redis.port}/0",
                       more=f"resolver 127.0.0.1:{dns.port} valid=1s;")
        once(redis, append(nginx, "a"))
        assert dns.asked == []
        redis.client.client_kill_filter(_type="normal", skipme=True)
        once(redis, ["a-0"] + append(nginx, "b"))
        wait_for(lambda: b"localhost" in dns.asked)
    finally:
        dns.close()


def test_a_resolver_that_is_dead_does_not_stop_it(outbox, redis_server):
    redis = redis_server()
    nginx = outbox(f"redis://localhost:{redis.port}/0",
                   more=f"resolver 127.0.0.1:{free_port()};"
                        " resolver_timeout 1s;")
    ids = append(nginx, "a")
    once(redis, ids)
    redis.client.client_kill_filter(_type="normal", skipme=True)
    once(redis, ids + append(nginx, "b"), 20)
    nginx.wait_log("could not be resolved")


class Dns:
    """Answers every A question with one address."""

    def __init__(self, address):
        self.address = address
        self.asked = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                q, peer = self.socket.recvfrom(512)
            except OSError:
                return
            name, i = [], 12
            while q[i]:
                name.append(q[i + 1:i + 1 + q[i]])
                i += 1 + q[i]
            self.asked.append(b".".join(name))
            a = q[i + 1:i + 3] == b"\0\1"
            answer = (b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4"
                      + socket.inet_aton(self.address)) if a else b""
            self.socket.sendto(q[:2] + b"\x81\x80\0\1\0" + bytes([a])
                               + b"\0\0\0\0" + q[12:i + 5] + answer, peer)

    def close(self):
        self.socket.close()


# the directive

@pytest.mark.parametrize("url, params, words", [
    ("http://127.0.0.1", "", 'cannot use a "http" URL'),
    ("redis-sentinel://h:1", "", 'cannot use a "redis-sentinel" URL'),
    ("redis://", "", "no host"),
    ("redis://127.0.0.1:99999", "", "invalid port"),
    ("redis://127.0.0.1/x", "", 'invalid database number "x"'),
    ("redis://no.such.host.invalid", "", "host not found"),
    ("redis://user@127.0.0.1", "", 'the user "user" but no password'),
    ("redis://127.0.0.1", "timeout=never", "invalid parameter"),
    ("redis://127.0.0.1", "timeout=0", "invalid parameter"),
    ("redis://127.0.0.1", "colour=red", "invalid parameter"),
    ("redis://127.0.0.1", "ca=/x", "need a rediss:// URL"),
    ("redis://127.0.0.1", "password_file=/none", "/none"),
    ("redis://:a@127.0.0.1", "password_file=/none", "and a password_file"),
    ("rediss://127.0.0.1", "verify=maybe", '"on" or "off"'),
    ("rediss://127.0.0.1", "cert=/x", "both or none"),
    ("rediss://127.0.0.1", "ca=/none.pem", "none.pem"),
    ("unix:/tmp/x?dbb=1", "", 'only ?db=NUMBER'),
])
def test_what_the_directive_refuses(outbox, url, params, words):
    nginx = outbox(url, params=params, start=False)
    nginx.allow("emerg")
    accepted, said = nginx.test_config()
    assert not accepted and words in said


def test_a_refusal_keeps_the_password_to_itself(outbox):
    nginx = outbox("redis://u:hush@127.0.0.1/x", params="", start=False)
    nginx.allow("emerg")
    accepted, said = nginx.test_config()
    assert not accepted and "hush" not in said
