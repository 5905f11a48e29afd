"""A private redis-server in a scratch folder, that can be killed."""

import os
import signal
import subprocess

import redis

from .wait import free_port, wait_for


class RedisServer:
    """Keyword arguments are redis.conf's directives (appendonly="yes")."""

    def __init__(self, folder, **config):
        self.folder = folder
        self.socket = f"{folder}/redis.sock"
        self.config = config
        self.port = None
        self.process = None

    def start(self):
        os.makedirs(self.folder, exist_ok=True)
        while True:
            self.port = self.port or free_port()
            args = ["redis-server", "--port", str(self.port),
                    "--bind", "127.0.0.1", "--unixsocket", self.socket,
                    "--dir", str(self.folder), "--save", "",
                    "--daemonize", "no"]
            for name, value in self.config.items():
                args += ["--" + name.replace("_", "-"), *str(value).split()]
            with open(f"{self.folder}/redis.log", "ab") as log:
                self.process = subprocess.Popen(
                    args, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
            self.client = redis.Redis(unix_socket_path=self.socket,
                                      decode_responses=True,
                                      password=self.config.get("requirepass"))

            def up():
                if self.process.poll() is not None:
                    return "dead"
                try:
                    return self.client.ping() and "up"
                except redis.exceptions.AuthenticationError:
                    return "up"
                except (redis.exceptions.ConnectionError, OSError):
                    return None
                except redis.exceptions.ResponseError:
                    return None

            if wait_for(up, what="redis-server") == "up":
                return self
            # somebody else took the port: another one, if ours to choose
            self.process.wait()
            if "in use" not in self.log():
                raise AssertionError(self.log())
            self.port = None

    def log(self):
        with open(f"{self.folder}/redis.log") as f:
            return f.read()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self):
        return f"unix:{self.socket}"

    def pause(self):
        """Stops it (SIGSTOP): connections stay, nothing answers."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        """kill -9"""
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def mend_log(self):
        """redis-check-aof --fix: a write that kill -9 broke off within a
        transaction is taken out as a whole.  Redis 7.0 itself cuts it to whole
        commands, and runs these with the next transaction when it starts
        again."""
        subprocess.run(
            ["redis-check-aof", "--fix",
             f"{self.folder}/appendonlydir/appendonly.aof.manifest"],
            input="y\n", text=True, check=True, stdout=subprocess.DEVNULL)

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait()

    def restart(self):
        """Starts it again on the same port and socket."""
        self.stop()
        return self.start()

    # what tests say most often; everything else is redis.client's
    def __getattr__(self, name):
        if name == "client":
            raise AttributeError(name)
        return getattr(self.client, name)
