"""The folder that Asterisk runs from: built once per machine, then taken from the cache.

A root is an unpacked Debian system with Asterisk in it, made by mmdebstrap and entered by chroot; nothing is mounted into it. Its name in the
cache says what is in it: suite, architecture, package version, and the number of this recipe. Two builders on one machine wait for each other
on a lock; a half-built folder is never taken for a whole one, because it gets its name only when it is finished.

Assumes: Debian as the host, root, and a Debian mirror that the machine's own apt already uses.
"""

import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys

# A new number where the package list or `furnish` changes: older roots are then left alone and a new one is built.
RECIPE = 1
PACKAGES = "asterisk,asterisk-modules,openssl,iproute2,procps"
HOST_TOOLS = {"mmdebstrap": "mmdebstrap", "chroot": "coreutils"}
# What a running lab uses for networks of its own and for captures.
RUN_TOOLS = {"ip": "iproute2", "iptables": "iptables", "nsenter": "util-linux", "unshare": "util-linux", "tcpdump": "tcpdump"}
# What the lab's own authority signs: file name and the names the certificate is good for. `misnamed` is for clients that check names.
CERTIFICATES = {"server": "IP:127.0.0.1,DNS:localhost", "misnamed": "DNS:elsewhere.lab.example"}


class Missing(Exception):
    """Something the lab needs is not here; the text says what, and how to get it."""


def cache_dir():
    """Outside the repository, so that a fresh clone finds what an older one built."""
    named = os.environ.get("TRUNKWARDEN_LAB_CACHE")
    if named:
        return pathlib.Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(base) / "trunkwarden-lab"


@contextlib.contextmanager
def locked(name):
    """One process of this machine at a time holds the lock `name`; the kernel frees it when the holder dies."""
    folder = cache_dir()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{name}.lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"lab: waiting for another process that holds {handle.name}", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def find(suite):
    """The newest finished root of this suite and recipe in the cache, or None."""
    found = sorted(cache_dir().glob(f"root-{suite}-*-r{RECIPE}"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def version(root):
    """The Asterisk package's version, from the root's own package list."""
    asked = subprocess.run(
        ["dpkg-query", "--admindir", str(root / "var/lib/dpkg"), "-W", "-f", "${Version}_${Architecture}", "asterisk"],
        check=True, capture_output=True, text=True)
    return asked.stdout.strip()


def obstacle(suite):
    """Why no instance can be started or built here, or None where nothing stands in the way."""
    if os.geteuid() != 0:
        return "not root: chroot and mmdebstrap need it"
    if find(suite):
        return None
    if not os.path.exists("/etc/debian_version") or not shutil.which("apt-get"):
        return "not a Debian machine, and no root in the cache"
    return None


def install(packages):
    """apt-get, without questions; the package index is fetched only if the first try fails."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    for attempt in (command, ["apt-get", "update"], command):
        done = subprocess.run(attempt, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode == 0 and attempt is command:
            return
    raise Missing(f"`{' '.join(command)}` failed:\n{done.stderr[-2000:]}")


def need(*tools):
    """Sees to it that these programs are here. Raises Missing where they cannot be had."""
    if any(not shutil.which(tool) for tool in tools):
        with locked("apt"):
            wanted = sorted({RUN_TOOLS[tool] for tool in tools if not shutil.which(tool)})
            if wanted:
                install(wanted)


def mirror():
    """The machine's own Debian mirror: the base address of the first index apt knows for this release."""
    release = dict(line.rstrip().split("=", 1) for line in open("/etc/os-release") if "=" in line)
    codename = release.get("VERSION_CODENAME", "").strip('"')
    for selector in ([f"Codename: {codename}"], []):
        asked = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", *selector],
                               capture_output=True, text=True)
        addresses = [line for line in asked.stdout.split() if "security" not in line]
        if addresses:
            return addresses[0]
    raise Missing("apt knows no package index here: run `apt-get update`")


def ensure(suite):
    """The root of this suite, built if the cache has none. Blocks while another process builds it.

    Raises Missing where it can neither be found nor built.
    """
    blocked = obstacle(suite)
    if blocked:
        raise Missing(blocked)
    found = find(suite)
    if found:
        return found
    with locked(f"build-{suite}"):
        return find(suite) or build(suite)


def build(suite):
    """mmdebstrap into a nameless folder, which is renamed when it is whole."""
    wanted = [package for tool, package in HOST_TOOLS.items() if not shutil.which(tool)]
    if wanted:
        install(wanted)
    unfinished = cache_dir() / f"building-{suite}"
    shutil.rmtree(unfinished, ignore_errors=True)
    log = cache_dir() / f"build-{suite}.log"
    print(f"lab: building the {suite} root once for this machine (about a minute); log in {log}", file=sys.stderr)
    command = [
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={PACKAGES}",
        # A mirror's index of an unreleased or archived suite may be past its date.
        '--aptopt=Acquire::Check-Valid-Until "false"', '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        suite, str(unfinished), f"deb {mirror()} {suite} main",
    ]
    with open(log, "w") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        raise Missing(f"mmdebstrap failed ({done.returncode}); the end of {log}:\n{log.read_text()[-2000:]}")
    furnish(unfinished)
    name = f"root-{suite}-{version(unfinished).replace(':', '.')}-r{RECIPE}"
    finished = cache_dir() / name
    unfinished.rename(finished)
    return finished


def furnish(root):
    """What the packages do not bring: names resolve on this machine or nowhere, and an authority with its certificates."""
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (root / "srv/tls").mkdir()

    def openssl(*words):
        done = subprocess.run(["chroot", str(root), "sh", "-c", 'cd /srv/tls && exec openssl "$@"', "openssl", *words],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Missing(f"openssl {' '.join(words)}: {done.stderr[-1000:]}")

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    for authority in ("ca", "other-ca"):  # the second one signs nothing: for clients that must refuse
        openssl("req", "-x509", *new_key, "-days", "3650", "-subj", f"/CN=Trunkwarden lab {authority}", "-keyout", f"{authority}.key",
                "-out", f"{authority}.pem", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    for name, alternatives in CERTIFICATES.items():
        (root / f"srv/tls/{name}.ext").write_text(
            f"subjectAltName={alternatives}\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n")
        openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3650",
                "-extfile", f"{name}.ext", "-out", f"{name}.pem")
