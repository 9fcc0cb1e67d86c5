"""One running lab: two Asterisks, the registrar, and the socket they are driven by.

The supervisor owns everything it starts. It ends when told (`down`), when its lifetime is over, or when its standard input closes if it was
asked to watch that; and the kernel ends the Asterisks if the supervisor itself is killed. So nothing outlives a test, however the test ends.

The control socket speaks one JSON object per line each way, on loopback: `{"do": "set", "account": "ok", "behaviour": "404"}` is answered
`{"ok": true, "result": …}` or `{"ok": false, "error": "…"}`. The verbs are the methods `do_…` of Lab.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading

import asterisk
import network
import registrar
import root as roots
import trunks

# What a lab starts with: trunks.py has them; with `nat` comes the network of network.py.
SETS = ("everyday", "causes", "nat", "bare")
# Who answers at the registrar's ports for TLS, as names of certificates; the PBX trusts what `ca` signed.
TLS = {"registrar_tls": "server", "registrar_untrusted": "other-ca", "registrar_misnamed": "misnamed"}
# Blocks of ports below Linux's ephemeral range (32768 and up), so that no client socket sits on one by chance.
FIRST_PORT, LAST_PORT, BLOCK = 20000, 32400, 200


def ports_of(base):
    instance = lambda offset, rtp: {"sip": base + offset, "sip_tls": base + offset + 1, "ami": base + offset + 2, "ami_tls": base + offset + 3,
                                    "http": base + offset + 4, "rtp": base + rtp}
    return {"control": base, "registrar": base + 1, "closed": base + 2, "proxy": base + 3,
            "registrar_tls": base + 4, "registrar_untrusted": base + 5, "registrar_misnamed": base + 6, "pbx": instance(10, 40), "provider": instance(20, 120)}


def _flat(value):
    return [port for inner in value.values() for port in _flat(inner)] if isinstance(value, dict) else [value]


@contextlib.contextmanager
def reserved_ports(wanted):
    """A block of ports that no other lab of this machine has, and that nobody listens on. Held while the context lasts."""
    folder = roots.cache_dir() / "ports"
    folder.mkdir(parents=True, exist_ok=True)
    for base in [wanted] if wanted else range(FIRST_PORT, LAST_PORT, BLOCK):
        with open(folder / str(base), "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(_free(port) for port in _flat(ports_of(base))):
                yield base
                return
    raise roots.Missing(f"no free block of {BLOCK} ports" + (f" at {wanted}" if wanted else ""))


def sweep(root):
    """Removes the folders of labs that were killed before they could: those whose ports nobody holds any more."""
    for folder in (root / "srv").glob("lab-*-*"):
        with open(roots.cache_dir() / "ports" / folder.name.split("-")[1], "w") as lock:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _free(port):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:  # a port whose last connection is only waiting out its time is free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


class Lab:
    """The parts of one lab, and what may be done to them."""

    def __init__(self, root, base, state, trunk_set, pbx_later):
        self.starts = {"pbx": not pbx_later, "provider": trunk_set != "nat"}
        self.root, self.state, self.set = root, state, trunk_set
        self.ports = ports_of(base)
        self.registrar = registrar.Registrar()
        self.registrar.proxy = f"sip:127.0.0.1:{self.ports['proxy']};lr"
        self.instances = {
            "pbx": asterisk.Instance(root, f"lab-{base}-pbx", self.ports["pbx"]),
            "provider": asterisk.Instance(root, f"lab-{base}-provider", self.ports["provider"], certificate="misnamed")}
        self.network = None
        self.listeners = []
        self.captures = []
        self.over = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------------------------------------------
    async def up(self):
        if self.set == "nat":
            self._move_behind_nat()
        for instance in self.instances.values():
            instance.prepare()
        pbx, provider = self.instances["pbx"], self.instances["provider"]
        if self.set == "everyday":
            for name, fields in trunks.accounts():
                self.registrar.set(name, **fields)
            for trunk in trunks.initial():
                self.do_trunk(**trunk)
            pbx.put("pjsip_wizard.d/wizard.conf", trunks.wizard(self.ports))
            provider.put("pjsip.d/accounts.conf", trunks.provider_accounts(self.set))
        elif self.set in ("causes", "nat"):
            for trunk, account in trunks.causes() if self.set == "causes" else trunks.behind_nat():
                if account is not None:
                    self.registrar.set(trunk["name"], **account)
                self.do_trunk(**trunk)
        # The registrar first: what the PBX sends in its first second must find it listening.
        if self.set == "causes":
            pbx.put("pjsip.d/tls.conf", trunks.tls_transport(self.ports))
            provider.put("pjsip.d/accounts.conf", trunks.provider_accounts(self.set))
            await self._listen(self.ports["proxy"], proxied=True)
            for place, certificate in TLS.items():
                await self._listen(self.ports[place], tls=self._tls(certificate))
        if self.set == "nat":
            pbx.put("pjsip.d/external.conf", trunks.external_transport(network.PBX, network.ROUTER_OUTSIDE, network.INSIDE))
            make = lambda *words: self.network.far.inside(registrar.bound, *words)
            for address in (network.OPEN, network.DROPS_REQUESTS, network.DROPS_REPLIES, network.REJECTS):
                await self._listen(5060, address=address, make=make)
            for name in ("ami", "ami_tls", "http"):  # so that their addresses are good outside as well
                await self.do_forward(self.ports["pbx"][name], self.ports["pbx"][name])
        else:
            await self._listen(self.ports["registrar"])
        self.listeners.append(await asyncio.start_server(self._converse, "127.0.0.1", self.ports["control"], limit=2**22))
        await asyncio.gather(*(instance.start() for name, instance in self.instances.items() if self.starts[name]))

    def _move_behind_nat(self):
        """The PBX is in a network of its own, with the usual SIP port; there is no provider Asterisk then."""
        self.network = network.Network()
        self.ports["pbx"]["sip"] = 5060
        pbx = self.instances["pbx"]
        pbx.sip_address, pbx.namespace = network.PBX, self.network.pbx

    async def _listen(self, port, **how):
        self.listeners += await registrar.serve(self.registrar, port, **how)

    def _tls(self, certificate):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.root / f"srv/tls/{certificate}.pem", self.root / f"srv/tls/{certificate}.key")
        return context

    async def down(self):
        for listener in self.listeners:
            listener.close()
        await self.do_end_captures()
        for name, instance in self.instances.items():
            await instance.kill()
            instance.remove(self.state / f"{name}.log")
        if self.network:
            self.network.close()

    def describe(self):
        """What a client needs to know: `lab.json`."""
        loopback = lambda port: f"127.0.0.1:{port}"
        return {
            "control": loopback(self.ports["control"]), "registrar": loopback(self.ports["registrar"]), "root": str(self.root),
            "ca_file": str(self.root / "srv/tls/ca.pem"), "other_ca_file": str(self.root / "srv/tls/other-ca.pem"),
            "ami_users": {user: asterisk.secret_of(user) for user in asterisk.AMI_USERS},
            "instances": {name: {
                "sip": f"{instance.sip_address}:{instance.ports['sip']}", "ami": loopback(instance.ports["ami"]),
                "ami_tls": loopback(instance.ports["ami_tls"]), "http": loopback(instance.ports["http"]),
                "etc": str(instance.outside / "etc"), "log": str(instance.outside / "log/full")}
                for name, instance in self.instances.items()},
            "namespace": self.network.pbx.path if self.network else None}

    # -- conversation -------------------------------------------------------------------------------------------------------------
    async def _converse(self, reader, writer):
        try:
            while line := await reader.readline():
                try:
                    request = json.loads(line)
                    verb = getattr(self, f"do_{request.pop('do').replace('-', '_')}", None)
                    if verb is None:
                        raise ValueError("no such verb")
                    result = verb(**request)
                    answer = {"ok": True, "result": await result if asyncio.iscoroutine(result) else result}
                except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OSError) as error:
                    answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.close()

    def _instance(self, name):
        if name not in self.instances:
            raise ValueError(f"no such instance: {name}; there are {', '.join(self.instances)}")
        return self.instances[name]

    def do_status(self):
        return {name: {"running": one.running, "frozen": one.frozen, "pid": one.process.pid if one.running else None}
                for name, one in self.instances.items()}

    def do_down(self):
        self.over.set()

    # the registrar
    def do_set(self, account, **fields):
        self.registrar.set(account, **fields)

    def do_account(self, account):
        return self.registrar.report(account)

    def do_accounts(self):
        return {name: self.registrar.report(name) for name in self.registrar.accounts}

    # an Asterisk
    async def do_start(self, instance):
        await self._instance(instance).start()

    async def do_stop(self, instance):
        await self._instance(instance).stop()

    async def do_kill(self, instance):
        await self._instance(instance).kill()

    async def do_restart(self, instance):
        await self._instance(instance).stop()
        await self._instance(instance).start()

    def do_freeze(self, instance):
        self._instance(instance).freeze()

    def do_thaw(self, instance):
        self._instance(instance).thaw()

    async def do_cli(self, instance, command):
        return await self._instance(instance).cli(command)

    async def do_reload(self, instance="pbx"):
        return await self._instance(instance).cli("module reload res_pjsip.so")

    # what is heard of it
    async def do_hep(self, port, capture_id, password, instance="pbx"):
        """Its SIP goes to that port of (its own) loopback as HEP, from now on, and after a restart too."""
        one = self._instance(instance)
        one.put("hep.conf", asterisk.sections(("general", {
            "enabled": "yes", "capture_address": f"127.0.0.1:{port}", "capture_id": capture_id, "capture_password": password or None,
            "uuid_type": "call-id"})))
        if not one.running:
            return
        said = [await one.cli(f"module {verb} {module}") for verb, module in (
            ("unload", "res_hep_rtcp.so"), ("unload", "res_hep_pjsip.so"), ("unload", "res_hep.so"),
            ("load", "res_hep.so"), ("load", "res_hep_pjsip.so"))]
        loaded = await one.cli("module show like res_hep_pjsip")
        if "Running" not in loaded or "Not Running" in loaded:
            raise RuntimeError(f"HEP is not running: {said} {loaded}")

    async def do_logger(self, instance="pbx"):
        """Its SIP goes to a log file that is named, from now on, and after a restart too."""
        one = self._instance(instance)
        one.put("logger.conf", asterisk.logger(sip="notice,warning,error,verbose"))
        one.put("pjsip.d/logger.conf", "[global](+)\ndebug = yes\n")
        if one.running:
            await one.cli("logger reload")
            said = await one.cli("pjsip set logger on")
            if "enabled" not in said:
                raise RuntimeError(f"the SIP logger is not on: {said}")
        return str(one.outside / "log/sip")

    async def do_capture(self):
        """SIP, name look-ups, and what ICMP says of them go to a capture file that is named: of loopback, or of all the PBX's network."""
        roots.need("tcpdump")
        file = self.state / f"capture-{len(self.captures)}.pcap"
        command = ["tcpdump", "-n", "-U", "-Z", "root", "-w", str(file)]
        if self.network:
            command += ["-i", "any", "port 5060 or port 5062 or port 53 or icmp"]
        else:
            # ICMP has the ports of what it is about behind two headers (IP, ICMP, IP); other labs share this loopback.
            sip = sorted({53, *range(self.ports["registrar"], self.ports["registrar_misnamed"] + 1),
                          *(self.ports[name][port] for name in ("pbx", "provider") for port in ("sip", "sip_tls"))})
            about = " or ".join(f"icmp[{place}:2] = {port}" for port in sip for place in (28, 30))
            command += ["-i", "lo", " or ".join(f"port {port}" for port in sip) + f" or (icmp and ({about}))"]

        def before_exec():
            network.die_with_parent()
            if self.network:
                network.enter(self.network.pbx.path)

        capture = await asyncio.create_subprocess_exec(*command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                                       stderr=subprocess.PIPE, preexec_fn=before_exec)
        said = b""
        while b"listening on" not in said:
            line = await asyncio.wait_for(capture.stderr.readline(), 10)
            if not line:
                raise RuntimeError(f"tcpdump: {said.decode()}")
            said += line
        self.captures.append(capture)
        return str(file)

    async def do_end_captures(self):
        """Ends all captures; their files are whole then."""
        for capture in self.captures:
            if capture.returncode is None:
                capture.send_signal(signal.SIGINT)
                await capture.communicate()

    # its network
    def do_firewall(self, address, how):
        if not self.network:
            raise ValueError("this lab has no firewall")
        self.network.firewall(address, how)

    async def do_forward(self, port, outside=0):
        """Makes a loopback port of the PBX's network one of ours; gives its address."""
        if not self.network:
            raise ValueError("this lab has no network of its own")

        def connected():
            one = socket.create_connection(("127.0.0.1", port), timeout=5)
            one.setblocking(False)
            return one

        async def pass_on(reader, writer):
            try:
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            except ConnectionError:
                pass
            finally:
                writer.close()

        async def forward(reader, writer):
            try:
                far = await asyncio.open_connection(sock=self.network.pbx.inside(connected))
            except OSError:
                writer.close()
                return
            await asyncio.gather(pass_on(reader, far[1]), pass_on(far[0], writer))

        server = await asyncio.start_server(forward, "127.0.0.1", outside)
        self.listeners.append(server)
        return "%s:%d" % server.sockets[0].getsockname()[:2]

    # its files
    def do_put(self, instance, file, text):
        self._instance(instance).put(file, text)

    def do_drop(self, instance, file):
        self._instance(instance).drop(file)

    def do_trunk(self, **trunk):
        """Writes a trunk of the PBX; a reload makes it real. The account must be made with `set`, if it is the registrar's."""
        self.instances["pbx"].put(f"pjsip.d/{trunk.get('name')}.conf", trunks.render(self.ports, **trunk))

    def do_drop_trunk(self, name):
        self.instances["pbx"].drop(f"pjsip.d/{name}.conf")

    async def do_ami_user(self, name, read, write, instance="pbx", secret=None):
        """Makes or changes an AMI user. Sessions that are logged in keep the rights they had."""
        self._instance(instance).put(f"manager.d/{name}.conf", asterisk.ami_user(name, read, write, secret))
        await self._instance(instance).cli("manager reload")


async def run(suite, state, base_port, minutes, trunk_set, pbx_later, until_eof):
    """Brings a lab up, says so on standard output, and keeps it until it is over."""
    root = await asyncio.to_thread(roots.ensure, suite)
    state.mkdir(parents=True, exist_ok=True)
    card = state / "lab.json"
    with reserved_ports(base_port) as base:
        sweep(root)
        lab = Lab(root, base, state, trunk_set, pbx_later)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lab.over.set)
        if until_eof:
            def watch():  # a thread, since an event loop cannot wait for every kind of file
                while os.read(0, 4096):
                    pass
                loop.call_soon_threadsafe(lab.over.set)
            threading.Thread(target=watch, daemon=True).start()
        try:
            starting = asyncio.create_task(lab.up())
            ending = asyncio.create_task(lab.over.wait())
            await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()
                await asyncio.wait({starting})
                return
            starting.result()
            description = lab.describe() | {"pid": os.getpid(), "state": str(state), "minutes": minutes}
            unfinished = card.with_name("lab.json.new")
            unfinished.write_text(json.dumps(description, indent=1) + "\n")
            unfinished.rename(card)
            print(json.dumps(description), flush=True)
            try:
                await asyncio.wait_for(ending, minutes * 60)
            except asyncio.TimeoutError:
                print(f"lab: its {minutes} minutes are over", file=sys.stderr)
        finally:
            await lab.down()
            card.unlink(missing_ok=True)  # last: whoever waits for the end of the lab waits for this
