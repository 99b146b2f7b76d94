"""Who takes part? Writes every configuration, starts every server once, and names each road through each sidecar.

The sidecars share core 1 (one is under load at a time, the others sleep); load, applications and issuer share core 0.
"""

import dataclasses
import os
import pathlib
import shutil
import sys

import keys
from contestants import LOAD_CORE, PROXY_CORE
from failure import Failure
from pods import APPLICATION, Pod
from process import Process, Servers

ISSUER = "http://issuer.shop:7000"


@dataclasses.dataclass(frozen=True)
class Sidecar:
    """A proxy in its pod, as a user of its own."""

    name: str
    process: Process
    pod: Pod
    forward_port: int


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One road through one sidecar."""

    sidecar: Sidecar
    road: str
    does: str

    @property
    def name(self):
        return self.sidecar.name

    @property
    def process(self):
        return self.sidecar.process


class Stage(Servers):
    """All servers of the measurement, while they run."""

    def __init__(self, here, folder, installed, net):
        super().__init__()
        self.here, self.folder, self.installed, self.net = here, folder, installed, net
        # Each sidecar's user finds its own below; what is not for it is closed.
        folder.chmod(0o711)
        self.issuer = keys.Issuer(folder, ISSUER)
        self.token = self.issuer.token()
        self.outbound_token = self.issuer.token(sub="orders", client_id="orders", aud="https://stock.shop", scope="stock:read")
        self.secret_file = folder / "client-secret"
        self.secret_file.write_text("a-secret-of-the-comparison-0123456789")
        keys.certificate(folder, "stock", "stock.shop")
        for file in folder.iterdir():
            file.chmod(0o600)

    def start(self):
        world, (ours, theirs) = self.net.world, self.net.pods
        token_file = self.folder / "outbound-token"
        token_file.write_text(self.outbound_token)
        serve = [sys.executable, self.here / "compare.d" / "token_server.py", 7000, self.secret_file, token_file]
        self.run("issuer", LOAD_CORE, world.argv(0, *serve, world.address), 7000)
        streams = [sys.executable, self.here / "interception.d" / "streams.py", "serve", world.address, 9000]
        self.run("streams", LOAD_CORE, world.argv(0, *streams), 9000)
        for name, pod in [("stock", world), ("orders-1", ours), ("orders-2", theirs)]:
            text = self.filled("nginx/interception.conf", run=self.folder, name=name)
            conf = self.folder / f"{name}.conf"
            conf.write_text(text)
            self.run(name, LOAD_CORE, pod.argv(0, self.installed.nginx, "-c", conf), 8080)
        self.countersign = self.start_countersign(ours)
        self.envoy = self.start_envoy(theirs)

    def start_countersign(self, pod):
        home = self.home("countersign", 16016, self.installed.countersign, "policies/interception.yaml")
        self.redirect(pod)
        argv = [home / "bin", "run", "--transparent", "--policies", home, "--workers", 1]
        argv += ["--namespace", "shop", "--workload", "orders", "--label", "app=orders"]
        process = self.run("Countersign", PROXY_CORE, pod.argv(16016, *argv), 16006)
        done = pod.run(APPLICATION, home / "bin", "wait", "--timeout", 20)
        if done.returncode != 0:
            raise Failure(f"Countersign is not ready: {done.stderr.strip()}; its log: {process.log.read_text()[-2000:]}")
        return Sidecar("Countersign", process, pod, 16001)

    def start_envoy(self, pod):
        home = self.home("envoy", 1337, self.installed.envoy, "envoy/interception.yaml")
        self.redirect(pod, "--uid", 1337, "--gid", 1337, "--outbound-port", 15001, "--inbound-port", 15006, "--health-port", 15021)
        argv = [home / "bin", "-c", home / "interception.yaml", "--concurrency", 1, "--log-level", "warn"]
        argv += ["--disable-hot-restart", "--use-dynamic-base-id"]
        return Sidecar("Envoy", self.run("Envoy", PROXY_CORE, pod.argv(1337, *argv), 15006), pod, 15002)

    def contestants(self):
        roads = [
            ("redirect", "cached token", "credential_injector, original_dst"),
            ("forward", "cached token", "credential_injector, a cluster by DNS"),
            ("originate", "cached token, TLS to the destination", "the same"),
            ("inbound", "cached verdict, a rule", "jwt_authn with its cache, rbac"),
            ("opened", "cached token", "credential_injector, original_dst"),
            ("up", "no rule names it", "tcp_proxy, original_dst"),
            ("down", "no rule names it", "tcp_proxy, original_dst"),
        ]
        return [
            contestant
            for road, ours, theirs in roads
            for contestant in (Contestant(self.countersign, road, ours), Contestant(self.envoy, road, theirs))
        ]

    def redirect(self, pod, *flags):
        """The same program for both: what differs is whose connections are left alone, and where the others go."""
        done = pod.run(0, self.installed.countersign.resolve(), "init", *flags)
        if done.returncode != 0:
            raise Failure(f"countersign-proxy init: {done.stderr.strip()}")

    def home(self, name, user, program, template):
        """A folder of the sidecar's user alone: the program, its configuration and what this names."""
        home = self.folder / name
        home.mkdir()
        shutil.copy(program, home / "bin")
        for file in (self.issuer.jwks_file, self.secret_file, self.folder / "stock-ca.pem"):
            shutil.copy(file, home)
        text = self.filled(template, home=home, issuer=ISSUER, token_endpoint=f"{ISSUER}/token")
        (home / pathlib.Path(template).name).write_text(text)
        for path in [home, *home.iterdir()]:
            os.chown(path, user, user)
        home.chmod(0o711)
        (home / "bin").chmod(0o755)
        return home

    def filled(self, template, **values):
        text = (self.here / template).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        return text

    def run(self, name, core, argv, port):
        def listens(process):
            return any(port == listens for listens in ports(process.child.pid))

        return self.serve(name, core, argv, self.folder / f"{name}.log", listens, f"listen on port {port}")


def ports(pid):
    """Where somebody listens in the network namespace of this process (proc_pid_net(5))."""
    for family in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                yield int(fields[1].rpartition(":")[2], 16)
