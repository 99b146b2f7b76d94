"""Who takes part? Writes every configuration, starts every server once, and names each road through each proxy.

The proxies share core 1 (one is under load at a time, the others sleep); the load and the application share core 0.
"""

import dataclasses
import shutil
import socket
import sys

import keys
from failure import Failure
from process import Process, Servers

PROXY_CORE = 1
LOAD_CORE = 0


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One road through one proxy."""

    name: str
    road: str  # plain, inbound or outbound
    process: Process
    port: int
    does: str
    verifies_scopes: bool = False


class Stage(Servers):
    """All servers of a comparison, while they run."""

    def __init__(self, here, folder, installed):
        super().__init__()
        self.here = here
        self.folder = folder
        self.installed = installed
        self.ports = free_ports(
            "backend_port plain_backend_port issuer_port "
            "envoy_plain envoy_inbound envoy_outbound haproxy_tcp haproxy_inbound haproxy_outbound nginx_plain "
            "countersign_plain countersign_inbound countersign_outbound countersign_admin".split()
        )
        url = f"http://127.0.0.1:{self.ports['issuer_port']}"
        self.issuer = keys.Issuer(folder, url)
        self.token = self.issuer.token()
        self.outbound_token = self.issuer.token(
            sub="orders", client_id="orders", aud="https://stock.shop", scope="stock:read"
        )
        self.secret_file = self.file("client-secret", "a-secret-of-the-comparison-0123456789")
        self.values = {
            **self.ports,
            "run": folder,
            "issuer": url,
            "token_endpoint": f"{url}/token",
            "token": self.outbound_token,
            "jwks_file": self.issuer.jwks_file,
            "public_key": self.issuer.public_file,
            "secret_file": self.secret_file,
        }

    def start(self):
        run, ports = self.run, self.ports
        token_file = self.file("outbound-token", self.outbound_token)
        serve = [sys.executable, self.here / "compare.d" / "token_server.py"]
        run("token server", LOAD_CORE, [*serve, ports["issuer_port"], self.secret_file, token_file], "issuer_port")
        backend = self.configuration("nginx/backend.conf")
        self.backend = run("application", LOAD_CORE, [self.installed.nginx, "-c", backend], "backend_port")

        envoy = self.configuration("envoy/sidecar.yaml", prefix="envoy_")
        argv = [self.installed.envoy, "-c", envoy, "--concurrency", 1, "--log-level", "warn"]
        self.envoy = run("Envoy", PROXY_CORE, [*argv, "--disable-hot-restart", "--use-dynamic-base-id"], "envoy_inbound")
        haproxy = self.configuration("haproxy/sidecar.cfg", prefix="haproxy_")
        self.haproxy = run("HAProxy", PROXY_CORE, [self.installed.haproxy, "-db", "-f", haproxy], "haproxy_inbound")
        nginx = self.configuration("nginx/plain.conf", prefix="nginx_")
        self.nginx = run("nginx", PROXY_CORE, [self.installed.nginx, "-c", nginx], "nginx_plain")
        self.countersign = self.installed.countersign and self.start_countersign()

    def start_countersign(self):
        ports = self.ports
        policies = self.folder / "policies"
        policies.mkdir()
        for file in (self.issuer.jwks_file, self.secret_file):
            shutil.copy(file, policies)
        self.configuration("policies/sidecar.yaml", to=policies / "sidecar.yaml")
        argv = [self.installed.countersign, "run", "--policies", policies]
        argv += ["--namespace", "shop", "--workload", "orders", "--label", "app=orders"]
        argv += ["--inbound", f"127.0.0.1:{ports['countersign_inbound']}=127.0.0.1:{ports['backend_port']}"]
        argv += ["--inbound", f"127.0.0.1:{ports['countersign_plain']}=127.0.0.1:{ports['plain_backend_port']}"]
        argv += ["--outbound", f"127.0.0.1:{ports['countersign_outbound']}"]
        argv += ["--admin", f"127.0.0.1:{ports['countersign_admin']}"]
        # The access log stays at its default, which writes what was denied.
        argv += ["--workers", 1]
        return self.run("Countersign", PROXY_CORE, argv, "countersign_inbound")

    def contestants(self):
        envoy, haproxy, nginx, ports = self.envoy, self.haproxy, self.nginx, self.ports
        ours, has_ours = self.countersign, self.countersign is not None
        return [
            *one(has_ours, "Countersign", "plain", ours, ports["countersign_plain"], "a public rule"),
            *one(True, "Envoy", "plain", envoy, ports["envoy_plain"], "router alone"),
            *one(True, "nginx", "plain", nginx, ports["nginx_plain"], "proxy_pass"),
            *one(True, "HAProxy TCP", "plain", haproxy, ports["haproxy_tcp"], "bytes passed on, no HTTP"),
            *one(has_ours, "Countersign", "inbound", ours, ports["countersign_inbound"], "cached verdict, 20 rules", True),
            *one(True, "Envoy", "inbound", envoy, ports["envoy_inbound"], "jwt_authn with its cache, rbac of 20 rules", True),
            *one(True, "HAProxy", "inbound", haproxy, ports["haproxy_inbound"], "jwt_verify each time, no rules"),
            *one(has_ours, "Countersign", "outbound", ours, ports["countersign_outbound"], "cached token"),
            *one(True, "Envoy", "outbound", envoy, ports["envoy_outbound"], "credential_injector, cached token"),
            *one(True, "HAProxy", "outbound", haproxy, ports["haproxy_outbound"], "a static header"),
        ]

    def run(self, name, core, argv, port):
        number, log = self.ports[port], self.folder / f"{name.replace(' ', '-')}.log"

        def listens(_):
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", number)) == 0

        return self.serve(name, core, argv, log, listens, f"listen on port {number}")

    def configuration(self, template, prefix="", to=None):
        """The template with its @names@ filled in; a proxy's own ports are given without its prefix."""
        own = {f"{key.removeprefix(prefix)}_port": value for key, value in self.values.items() if prefix and key.startswith(prefix)}
        text = (self.here / template).read_text()
        for key, value in {**self.values, **own}.items():
            text = text.replace(f"@{key}@", str(value))
        lines = [line for line in text.splitlines() if "@" in line.replace('"@type"', "") and not line.lstrip().startswith("#")]
        if lines:
            raise Failure(f"{template}: a name that benches/compare does not fill in: {lines[0].strip()}")
        return self.file(to or template.replace("/", "-"), text)

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        # Secrets among them.
        path.chmod(0o600)
        return path


def one(present, name, *more):
    """A contestant, or none where its proxy takes no part."""
    return [Contestant(name, *more)] if present else []


def free_ports(names):
    """A free loopback port for each name; all are held until all are known, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: probe.getsockname()[1] for name, probe in zip(names, held)}
    for probe in held:
        probe.close()
    return ports
