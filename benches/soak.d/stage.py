"""What runs? An authorization server, the control plane, two sidecars and an application, with fault proxies between all of them.

    callers ── caller ──▶ sidecar of checkout ── sidecars, sidecars_h2 ──▶ sidecar of orders ── application ──▶ application
    callers ─────────────────────────────── TLS, tokens of their own ─────────▶
                               both sidecars ── issuer ──▶ oidc-provider;   sidecar of orders ── control ──▶ control plane
"""

import hashlib
import json
import os
import pathlib
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.request

import keys
import policies
import schedule
from failure import Failure
from process import Servers, wait_until

HERE = pathlib.Path(__file__).resolve().parent
SERVERS = HERE.parent.parent / "tests" / "servers"
PORTS = "inbound outbound caller sidecars sidecars_h2 application issuer control behind_application behind_issuer behind_control "
PORTS += "admin_checkout admin_orders admin_control"
# Tokens of the authorization server live so long, in seconds.
TTL = 30
CERTIFICATES = 6


class Stage(Servers):
    """All processes of a soak, while they run."""

    def __init__(self, folder, programs, seed):
        super().__init__()
        self.folder, self.programs, self.seed = folder, programs, seed
        self.measured = {}
        self.ports = free_ports(PORTS.split())
        self.corp = f"http://127.0.0.1:{self.ports['behind_issuer']}"
        self.secret = secrets.token_hex(16)
        self.policies, self.secrets = self.made("policies"), self.made("secrets")
        self.pairs = {name: [] for name in ("server", "client")}
        self.seen, self.events = folder / "seen.log", folder / "events.log"
        self.events.touch()

    def start(self):
        self.certify()
        self.partner = partner_issuer(self.made("partner-first"))
        shutil.copy(self.partner.jwks_file, self.secrets / "partner.jwks")
        put(self.policies / "client-secret", self.secret)
        self.publish(policies.version(0, self.ports, self.corp))
        self.start_servers()
        self.start_proxies(time.monotonic() + 3600, 0)
        self.start_sidecars()

    def start_servers(self):
        ports = self.ports
        clients = [{"id": one, "secret": self.secret, "scope": "orders:read"} for one in ("checkout", "storefront", "reports")]
        given = {"port": ports["behind_issuer"], "ttl": TTL, "clients": clients, "resources": {"https://orders.shop": "orders:read"}}
        self.run("oidc-provider", ["node", SERVERS / "oidc-provider.mjs", json.dumps(given)], "behind_issuer")
        self.run("application", ["node", HERE / "application.mjs", ports["behind_application"], self.seen], "behind_application")
        join = put(self.folder / "orders.token", secrets.token_hex(32))
        digest = hashlib.sha256(join.read_bytes()).hexdigest()
        entry = f"workloads:\n- {{ tokenSha256: {digest}, namespace: shop, name: orders, labels: {{ app: orders }} }}\n"
        argv = [self.programs / "countersign-control", "serve", "--policies", self.policies, "--state-dir", self.folder / "control-state"]
        argv += ["--join-tokens", put(self.folder / "join.yaml", entry)]
        argv += ["--listen", f"127.0.0.1:{ports['behind_control']}", "--admin", f"127.0.0.1:{ports['admin_control']}"]
        self.measured["control plane"] = self.run("control plane", argv, "behind_control")

    def start_sidecars(self):
        at = lambda name: f"127.0.0.1:{self.ports[name]}"
        proxy = [self.programs / "countersign-proxy", "run", "--access-log", "denied"]
        argv = [*proxy, "--policies", self.policies, "--namespace", "shop", "--workload", "checkout", "--label", "app=checkout"]
        argv += ["--outbound", at("outbound"), "--admin", at("admin_checkout"), "--state-dir", self.made("checkout-state")]
        self.measured["sidecar of checkout"] = self.run("sidecar of checkout", argv, "outbound")
        argv = [*proxy, "--control", f"https://localhost:{self.ports['control']}", "--control-ca", self.folder / "control-state" / "ca.pem"]
        argv += ["--join-token", self.folder / "orders.token", "--secrets-dir", self.secrets, "--state-dir", self.made("orders-state")]
        argv += ["--inbound", f"{at('inbound')}={at('application')}", "--admin", at("admin_orders")]
        self.measured["sidecar of orders"] = self.run("sidecar of orders", argv, "inbound")
        for name in ("admin_checkout", "admin_orders"):
            wait_until(f"{name} should be ready", 20, lambda: self.is_ready(name))

    def start_proxies(self, start, seconds):
        """The fault proxies, with faults for so long from then on."""
        p = self.ports
        link = lambda to, kinds: {"to": to, "kinds": kinds}
        links = {
            "caller": link(p["outbound"], schedule.FAITHFUL),
            "sidecars": link(p["inbound"], schedule.KINDS),
            "sidecars_h2": link(p["inbound"], schedule.KINDS),
            "application": link(p["behind_application"], schedule.PLAIN),
            "issuer": link(p["behind_issuer"], schedule.PLAIN),
            "control": link(p["behind_control"], schedule.KINDS),
        }
        for name, one in links.items():
            one |= {"listen": p[name], "shared": name == "sidecars_h2", "sparse": name in ("issuer", "control")}
        plan = {"seed": self.seed, "seconds": seconds, "start": start, "events": str(self.events), "links": links}
        self.faults = self.run("fault proxies", [sys.executable, HERE / "fault_proxy.py", json.dumps(plan)], "control")

    def begin_faults(self, start, seconds):
        """Others in the place of the harmless ones; connections through those end."""
        self.faults.stop()
        self.start_proxies(start, seconds)

    def is_ready(self, admin):
        for process in self.processes:
            process.check_running()
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{self.ports[admin]}/readyz", timeout=2).status == 200
        except OSError:
            return False

    def metrics(self, admin):
        """What a sidecar counts, {series: value}."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[admin]}/metrics", timeout=10) as answer:
            lines = [line.rpartition(" ") for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {series: float(value) for series, _, value in lines}

    def check_running(self):
        for process in (*self.measured.values(), self.faults):
            process.check_running()

    def publish(self, documents):
        for name, text in documents.items():
            put(self.policies / name, text)

    def certify(self):
        """A CA, and pairs of both kinds to go through."""
        self.ca = self.folder / "ca.pem"
        names = {"server": "DNS:orders.example", "client": "URI:spiffe://soak.example/checkout"}
        make = ["req", "-x509", "-days", 1, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        keys.openssl(*make, "-keyout", self.folder / "ca.key", "-out", self.ca, "-subj", "/CN=CA of the soak")
        signed = ["-CA", self.ca, "-CAkey", self.folder / "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"]
        for kind, name in names.items():
            for number in range(CERTIFICATES):
                key, certificate = self.folder / f"{kind}-{number}.key", self.folder / f"{kind}-{number}.crt"
                subject = ["-subj", f"/CN={kind} {number}", "-addext", f"subjectAltName={name}"]
                keys.openssl(*make, "-keyout", key, "-out", certificate, *subject, *signed)
                self.pairs[kind].append((key, certificate))
        for folder, kind in ((self.secrets, "server"), (self.policies, "client")):
            shutil.copy(self.ca, folder / "ca.crt")
            for end, source in zip(("key", "crt"), self.pairs[kind][0]):
                put(folder / f"{kind}.{end}", source.read_text())

    def certificate(self, kind, number):
        """The one that is in use after so many changes, in DER."""
        return ssl.PEM_cert_to_DER_cert(self.pairs[kind][number % CERTIFICATES][1].read_text())

    def run(self, name, argv, port):
        log = self.folder / f"{name.replace(' ', '-')}.log"
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))

        def listening(_):
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.ports[port])) == 0

        return self.serve(name, cpus, argv, log, listening, f"listen on port {self.ports[port]}")

    def made(self, name):
        (self.folder / name).mkdir(mode=0o700)
        return self.folder / name


def partner_issuer(folder):
    return keys.Issuer(folder, "https://partner.example")


def put(path, text):
    """As an editor or a ConfigMap does it: the new file takes the place of the old one at once."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.chmod(0o600)
    beside.rename(path)
    return path


def free_ports(names):
    """A free loopback port for each name; all are held until all are known, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: probe.getsockname()[1] for name, probe in zip(names, held)}
    for probe in held:
        probe.close()
    return ports


def put_in_place(root, folder):
    """The programs in this folder, built first if none is given; and what tests/run installs."""
    if folder is None:
        command(["cargo", "build", "--profile", "demo", "--workspace", "--bins", "--locked"], cwd=root)
        folder = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "demo"
    for name in ("countersign-proxy", "countersign-control"):
        if not (folder / name).is_file():
            raise Failure(f"{folder / name} is not there; leave --bin out to build it")
    missing = [name for name in ("node", "npm", "openssl", "taskset") if not shutil.which(name)]
    if missing:
        raise Failure(f"missing: {' '.join(missing)}; tests/run installs them")
    if not (SERVERS / "node_modules" / "oidc-provider").is_dir():
        command(["npm", "ci", "--prefix", SERVERS, "--ignore-scripts", "--no-audit", "--no-fund"])
    return folder.resolve()


def command(argv, **more):
    print("running  ", " ".join(map(str, argv)), file=sys.stderr)
    if subprocess.run(argv, stdout=sys.stderr, **more).returncode != 0:
        raise Failure(f"{' '.join(map(str, argv))} failed")
