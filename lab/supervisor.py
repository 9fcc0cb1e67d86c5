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
import sys
import threading

import asterisk
import registrar
import root as roots
import trunks

# Blocks of ports below Linux's ephemeral range (32768 and up), so that no client socket sits on one by chance.
FIRST_PORT, LAST_PORT, BLOCK = 20000, 32400, 200


def ports_of(base):
    instance = lambda offset, rtp: {"sip": base + offset, "ami": base + offset + 2, "ami_tls": base + offset + 3,
                                    "http": base + offset + 4, "rtp": base + rtp}
    return {"control": base, "registrar": base + 1, "closed": base + 2, "pbx": instance(10, 40), "provider": instance(20, 120)}


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

    def __init__(self, root, base, state, with_trunks):
        self.root, self.state, self.with_trunks = root, state, with_trunks
        self.ports = ports_of(base)
        self.registrar = registrar.Registrar()
        self.instances = {
            "pbx": asterisk.Instance(root, f"lab-{base}-pbx", self.ports["pbx"]),
            "provider": asterisk.Instance(root, f"lab-{base}-provider", self.ports["provider"], certificate="misnamed")}
        self.over = asyncio.Event()

    # -- life ---------------------------------------------------------------------------------------------------------------------
    async def up(self):
        for instance in self.instances.values():
            instance.prepare()
        if self.with_trunks:
            for name, fields in trunks.accounts():
                self.registrar.set(name, **fields)
            for trunk in trunks.initial():
                self.do_trunk(**trunk)
            self.instances["pbx"].put("pjsip_wizard.d/wizard.conf", trunks.wizard(self.ports))
            self.instances["provider"].put("pjsip.d/accounts.conf", trunks.provider_accounts())
        # The registrar first: what the PBX sends in its first second must find it listening.
        self.listeners = await registrar.serve(self.registrar, self.ports["registrar"])
        self.listeners.append(await asyncio.start_server(self._converse, "127.0.0.1", self.ports["control"], limit=2**22))
        await asyncio.gather(*(instance.start() for instance in self.instances.values()))

    async def down(self):
        for listener in getattr(self, "listeners", []):
            listener.close()
        for name, instance in self.instances.items():
            await instance.kill()
            instance.remove(self.state / f"{name}.log")

    def describe(self):
        """What a client needs to know: `lab.json`."""
        loopback = lambda port: f"127.0.0.1:{port}"
        return {
            "control": loopback(self.ports["control"]), "registrar": loopback(self.ports["registrar"]), "root": str(self.root),
            "ca_file": str(self.root / "srv/tls/ca.pem"), "other_ca_file": str(self.root / "srv/tls/other-ca.pem"),
            "ami_users": {user: asterisk.secret_of(user) for user in asterisk.AMI_USERS},
            "instances": {name: {
                "sip": loopback(instance.ports["sip"]), "ami": loopback(instance.ports["ami"]),
                "ami_tls": loopback(instance.ports["ami_tls"]), "http": loopback(instance.ports["http"]),
                "etc": str(instance.outside / "etc"), "log": str(instance.outside / "log/full")}
                for name, instance in self.instances.items()}}

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


async def run(suite, state, base_port, minutes, with_trunks, until_eof):
    """Brings a lab up, says so on standard output, and keeps it until it is over."""
    root = await asyncio.to_thread(roots.ensure, suite)
    state.mkdir(parents=True, exist_ok=True)
    card = state / "lab.json"
    with reserved_ports(base_port) as base:
        sweep(root)
        lab = Lab(root, base, state, with_trunks)
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
