"""A PBX behind a router, and a provider on the far side of it, in network namespaces of the lab's own.

    pbx 10.20.30.2 --- 10.20.30.1 router 203.0.113.2 --- 203.0.113.1 far, with 198.51.100.7 … .11

The router translates addresses (MASQUERADE), and its firewall treats the far addresses differently: see FIREWALL. The far ones are documentation
addresses (RFC 5737); none of the three networks has a way to any other, so nothing leaves the machine.

A namespace lives as long as a process in it: each is held by a `sleep` that the kernel ends with the supervisor, so no end of a lab leaves one
behind. They have no names; `nsenter --net=/proc/PID/ns/net COMMAND` runs something in one.

Assumes: Linux, root, `ip` (iproute2), `iptables`, and `nsenter` and `unshare` (util-linux).
"""

import ctypes
import os
import subprocess
import threading
import time

import root as roots

PBX, ROUTER_INSIDE, INSIDE = "10.20.30.2", "10.20.30.1", "10.20.30.0/24"
ROUTER_OUTSIDE, FAR = "203.0.113.2", "203.0.113.1"
OPEN, DROPS_REQUESTS, DROPS_REPLIES, REJECTS, NOBODY = (f"198.51.100.{last}" for last in (7, 8, 9, 10, 11))

# What the router does with SIP to a far address, as rules of its FORWARD chain.
FIREWALL = {
    "open": [],
    "drop-requests": ["-d {address} -p udp --dport 5060 -j DROP"],
    "drop-replies": ["-s {address} -p udp --sport 5060 -j DROP"],
    "reject": ["-d {address} -p udp --dport 5060 -j REJECT --reject-with icmp-port-unreachable"],
}


def die_with_parent():
    """In a child, before exec: the kernel ends it when the lab's process ends, however that happens."""
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL: see prctl(2)


def enter(path):
    """The calling thread (a child before exec, too) is in the namespace from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path) as handle:
        if libc.setns(handle.fileno(), 0x40000000):  # CLONE_NEWNET, see setns(2)
            raise OSError(ctypes.get_errno(), f"setns {path}")


class Namespace:
    """One network of its own."""

    def __init__(self):
        ours = os.readlink("/proc/self/ns/net")
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        self.path = f"/proc/{self.holder.pid}/ns/net"
        while os.readlink(self.path) == ours:
            if self.holder.poll() is not None:
                raise roots.Missing("no network namespace can be made here")
            time.sleep(0.002)

    def run(self, commands):
        """Shell commands in it. Raises RuntimeError at the first that fails."""
        done = subprocess.run(["nsenter", f"--net={self.path}", "sh", "-e"], input=commands, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"in a namespace: {done.stderr.strip()}\n{commands}")

    def inside(self, function, *arguments):
        """What the function gives when it is run in the namespace; a socket made there stays there."""
        result = []

        def work():
            try:
                enter(self.path)
                result.append((function(*arguments), None))
            except OSError as error:
                result.append((None, error))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        value, error = result[0]
        if error:
            raise error
        return value

    def close(self):
        self.holder.kill()
        self.holder.wait()


class Network:
    """The three namespaces, joined."""

    def __init__(self):
        roots.need("ip", "iptables", "nsenter", "unshare")
        self.pbx, self.router, self.far = Namespace(), Namespace(), Namespace()
        self.router.run(f"""
            ip link add inside type veth peer name eth0 netns {self.pbx.holder.pid}
            ip link add outside type veth peer name eth0 netns {self.far.holder.pid}
            ip addr add {ROUTER_INSIDE}/24 dev inside
            ip addr add {ROUTER_OUTSIDE}/24 dev outside
            ip link set lo up; ip link set inside up; ip link set outside up
            ip route add default via {FAR}
            echo 1 >/proc/sys/net/ipv4/ip_forward
            iptables -w -t nat -A POSTROUTING -o outside -j MASQUERADE""")
        self.pbx.run(f"""
            ip addr add {PBX}/24 dev eth0
            ip link set lo up; ip link set eth0 up
            ip route add default via {ROUTER_INSIDE}""")
        addresses = "; ".join(f"ip addr add {address}/32 dev lo" for address in (OPEN, DROPS_REQUESTS, DROPS_REPLIES, REJECTS, NOBODY))
        self.far.run(f"""
            ip addr add {FAR}/24 dev eth0; {addresses}
            ip link set lo up; ip link set eth0 up""")
        self.rules = {}
        for address, how in ((DROPS_REQUESTS, "drop-requests"), (DROPS_REPLIES, "drop-replies"), (REJECTS, "reject")):
            self.firewall(address, how)

    def firewall(self, address, how):
        """From now on the router treats SIP to that address so (a word of FIREWALL)."""
        if how not in FIREWALL:
            raise ValueError(f"no such treatment: {how}; there are {', '.join(FIREWALL)}")
        wanted = [rule.format(address=address) for rule in FIREWALL[how]]
        old = [f"iptables -w -D FORWARD {rule}" for rule in self.rules.get(address, [])]
        self.router.run("\n".join(old + [f"iptables -w -A FORWARD {rule}" for rule in wanted]))
        self.rules[address] = wanted

    def close(self):
        for namespace in (self.pbx, self.router, self.far):
            namespace.close()
