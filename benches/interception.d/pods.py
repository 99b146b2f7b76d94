"""Where do the sidecars run? In network namespaces on a bridge that stands in one of its own, all of them gone at the end.

`world` is where the applications' requests go to and come from; each contestant has a pod of its own, so that both are
redirected by the same rules.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

from failure import Failure

PREFIX = "countersign-interception"
# Whose connections are redirected; neither sidecar's.
APPLICATION = 1000


class Pod:
    """One network namespace with one address."""

    def __init__(self, net, name, address):
        self.name = f"{net}-{name}"
        self.address = address
        self.etc = pathlib.Path("/etc/netns") / self.name

    def add(self, hosts):
        ip("netns", "add", self.name)
        self.ip("link set lo up")
        # Programs in the namespace see these in place of the machine's own (ip-netns(8)).
        self.etc.mkdir(parents=True)
        (self.etc / "hosts").write_text("".join(f"{address} {name}\n" for name, address in hosts.items()))
        (self.etc / "resolv.conf").write_text("")

    def remove(self):
        pids = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True).stdout.split()
        subprocess.run(["kill", "-9", *pids], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)
        shutil.rmtree(self.etc, ignore_errors=True)

    def ip(self, words):
        ip("-n", self.name, *words.split())

    def argv(self, user, *argv):
        """Runs a program here as this user, without capabilities unless it is root. No wrapper stays: the process is it."""
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
        return ["ip", "netns", "exec", self.name, *(become if user else []), *map(str, argv)]

    def run(self, user, *argv):
        return subprocess.run(self.argv(user, *argv), capture_output=True, text=True)


class Net:
    """The world and a pod for each contestant."""

    def __init__(self):
        net = f"{PREFIX}-{os.getpid()}"
        self.world = Pod(net, "world", "10.18.0.254")
        self.pods = [Pod(net, "countersign", "10.18.0.1"), Pod(net, "envoy", "10.18.0.2")]

    def __enter__(self):
        remove_stale()
        self.host = machine()
        try:
            self.build()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, kind, *_):
        self.remove()
        if kind is None and machine() != self.host:
            raise Failure("the machine's own network is not as it was; compare `nft list ruleset` and `ip link`")

    def build(self):
        world = self.world
        hosts = {"localhost": "127.0.0.1", "stock.shop": world.address, "issuer.shop": world.address}
        world.add(hosts)
        world.ip("link add br0 type bridge")
        world.ip(f"address add {world.address}/24 dev br0")
        world.ip("link set br0 up")
        for number, pod in enumerate(self.pods):
            pod.add(hosts)
            # Made where they belong: the machine's own namespace never sees them.
            world.ip(f"link add pod{number} type veth peer name eth0 netns {pod.name}")
            world.ip(f"link set pod{number} master br0 up")
            pod.ip(f"address add {pod.address}/24 dev eth0")
            pod.ip("link set eth0 up")
            # Thousands of connections each second must not end for want of ports.
            for setting, value in [("ip_local_port_range", "10240 65000"), ("tcp_tw_reuse", "1")]:
                pod.run(0, "sh", "-c", f"echo {value} > /proc/sys/net/ipv4/{setting}")

    def remove(self):
        for pod in [*self.pods, self.world]:
            pod.remove()


def demand():
    """What is needed beside what ./compare needs."""
    if os.geteuid() != 0:
        raise Failure("network namespaces need root")
    programs = {"ip": "iproute2", "nft": "nftables", "setpriv": "util-linux", "curl": "curl"}
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if missing:
        raise Failure(f"missing: {' '.join(missing)}; install them, e.g. apt-get install {' '.join(missing)}")


def remove_stale():
    """Removes what a run left that was killed."""
    for entry in pathlib.Path("/run/netns").glob(f"{PREFIX}-*-*"):
        maker, name = re.fullmatch(rf"{PREFIX}-(\d+)-(.+)", entry.name).groups()
        if not pathlib.Path("/proc", maker).exists():
            print(f"removing  {entry.name}, of a run that was killed", file=sys.stderr)
            Pod(f"{PREFIX}-{maker}", name, None).remove()


def machine():
    """What must not change."""
    commands = [["nft", "--stateless", "list", "ruleset"], ["ip", "-oneline", "link"], ["ip", "rule"], ["ip", "route"]]
    return [subprocess.run(command, capture_output=True, text=True).stdout for command in commands]


def ip(*argv):
    done = subprocess.run(["ip", *argv], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"ip {' '.join(argv)}: {done.stderr.strip()}")
