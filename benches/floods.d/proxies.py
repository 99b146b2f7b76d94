"""Who is attacked? The application on core 0, and one proxy at a time on core 1, started anew for each flood."""

import contextlib
import resource
import socket
import sys

import keys
import parts
from contestants import LOAD_CORE, PROXY_CORE, free_ports
from failure import Failure
from process import Process, wait_until

NAMES = ("Countersign", "nginx", "HAProxy")
# What anybody may ask for, each by a rule of its own.
PATHS = (
    "carts catalogue customers exports imports invoices orders payments prices refunds "
    "reports shipments stock returns vouchers ratings reviews wishes brands stores"
).split()
# More than the kernel holds for a client that does not read; and little enough for a thousand at once.
BIG, MIDDLE = 1024 * 1024, 128 * 1024
# Open files of each process.
LEAST, ENOUGH = 14_000, 20_000


class Proxy:
    """One proxy while it runs, and where it listens."""

    def __init__(self, name, process, ports):
        self.name, self.process = name, process
        self.http1, self.http2, self.tls = (ports[one] for one in ("http1", "http2", "tls"))


class Stage:
    """The application, and how each proxy is started before it."""

    def __init__(self, here, folder, installed):
        self.here, self.folder, self.installed = here, folder, installed
        self.files = most_files()
        self.backend = free_ports(["backend_port", "http2_backend_port", "tls_backend_port"])
        keys.certificate(folder, "orders", "orders.shop")
        both = (folder / "orders.pem").read_text() + (folder / "orders-key.pem").read_text()
        self.write("orders-both.pem", both)
        (folder / "www" / "exports").mkdir(parents=True)
        for name, size in (("big", BIG), ("middle", MIDDLE)):
            (folder / "www" / "exports" / name).write_bytes(b"0123456789abcdef" * (size // 16))
        # nginx gives up root for a user who has to find these.
        for open_one in (folder, folder / "www", folder / "www" / "exports"):
            open_one.chmod(0o755)

    def __enter__(self):
        argv = [self.installed["nginx"], "-c", self.configuration("nginx/floods-backend.conf")]
        self.application = Process("application", LOAD_CORE, argv, self.folder / "application.log")
        try:
            wait_until("the application should listen", 20, lambda: listens(self.application, self.backend["backend_port"]))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.application.stop()

    @contextlib.contextmanager
    def proxy(self, name):
        """It runs inside of `with`."""
        ports = free_ports(["http1", "http2", "tls", "admin"])
        argv = {"Countersign": self.countersign, "nginx": self.nginx, "HAProxy": self.haproxy}[name](ports)
        process = Process(name, PROXY_CORE, argv, self.folder / f"{name}.log")
        try:
            for port in ("http1", "http2", "tls"):
                wait_until(f"{name} should listen on port {ports[port]}", 20, lambda: listens(process, ports[port]))
            yield Proxy(name, process, ports)
        finally:
            process.stop()

    def countersign(self, ports):
        policies = self.folder / "policies"
        policies.mkdir(exist_ok=True)
        for file in ("orders.pem", "orders-key.pem"):
            (policies / file).write_bytes((self.folder / file).read_bytes())
        self.configuration("policies/floods.yaml", to="policies/floods.yaml")
        argv = [self.installed["countersign"], "run", "--policies", policies]
        argv += ["--namespace", "shop", "--workload", "orders", "--label", "app=orders"]
        for port, backend in [("http1", "backend_port"), ("http2", "http2_backend_port"), ("tls", "tls_backend_port")]:
            argv += ["--inbound", f"127.0.0.1:{ports[port]}=127.0.0.1:{self.backend[backend]}"]
        return [*argv, "--admin", f"127.0.0.1:{ports['admin']}", "--workers", 1]

    def nginx(self, ports):
        return [self.installed["nginx"], "-c", self.configuration("nginx/floods.conf", ports)]

    def haproxy(self, ports):
        return [self.installed["haproxy"], "-db", "-f", self.configuration("haproxy/floods.cfg", ports)]

    def configuration(self, template, ports=(), to=None):
        """The template with its @names@ filled in."""
        rule = "  - {{ name: {0}, public: true, to: {{ methods: [GET, POST], paths: [\"/{0}/*\"] }} }}"
        values = {
            "run": self.folder,
            "files": self.files,
            "connections": self.files - 2_000,
            "either": "|".join(PATHS),
            "begins": " ".join(f"/{path}/" for path in PATHS),
            "rules": "\n".join(rule.format(path) for path in sorted(PATHS)),
            **self.backend,
            **dict(ports),
        }
        text = (self.here / template).read_text()
        for key, value in values.items():
            text = text.replace(f"@{key}@", str(value))
        left = [line for line in text.splitlines() if "@" in line and not line.lstrip().startswith("#")]
        if left:
            raise Failure(f"{template}: a name that benches/floods does not fill in: {left[0].strip()}")
        return self.write(to or template.replace("/", "-"), text)

    def write(self, name, text):
        path = self.folder / name
        path.write_text(text)
        # A key among them.
        path.chmod(0o600)
        return path


def listens(process, port):
    process.check_running()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def most_files():
    """Ten thousand connections need as many files, here and in each proxy."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # nginx sets aside memory for as many as it may have.
    files = ENOUGH if most == resource.RLIM_INFINITY else min(most, ENOUGH)
    if files < LEAST:
        raise Failure(f"{files} open files are too few: raise the hard limit (ulimit -Hn) to {LEAST} or more")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))
    return files


def put_in_place(here, options):
    """The programs that run, and the versions they claim."""
    found = parts.debian()
    proxy = options.proxy or parts.build(here.parent)
    if not proxy.is_file():
        raise Failure(f"{proxy} is not there; leave --proxy out to build it")
    versions = {
        "Countersign": parts.version([proxy, "--version"], r"(\d+\.\d+\.\d+\S*)"),
        "HAProxy": parts.version([found["haproxy"], "-v"], r"version (\S+)"),
        "nginx": parts.version([found["nginx"], "-v"], r"nginx/(\S+)"),
        "Python": ".".join(map(str, sys.version_info[:3])),
    }
    return {"nginx": found["nginx"], "haproxy": found["haproxy"], "countersign": proxy}, versions
