"""One Asterisk of the lab: its configuration files, its process, its console.

Several instances share one root; each has its own folder `/srv/NAME` inside it for everything that Asterisk writes, and listens on loopback
only. What a test may change while it runs are files: `pjsip.d/TRUNK.conf` (one per trunk) and `manager.d/USER.conf` (one per AMI user), each
included by the main file and read again by a reload.
"""

import asyncio
import os
import shutil
import signal
import subprocess

import network

# Modules that only slow the start or fill the log on a machine without their hardware, database or broker.
NOLOAD = """
    chan_unistim chan_skinny chan_mgcp chan_ooh323 chan_motif chan_dahdi chan_console chan_alsa chan_oss chan_phone
    res_xmpp res_config_ldap res_config_pgsql res_config_odbc res_odbc res_snmp res_corosync res_fax res_fax_spandsp res_calendar
    res_calendar_caldav res_calendar_exchange res_calendar_icalendar res_calendar_ews func_odbc res_odbc_transaction res_clialiases
    res_phoneprov res_pjsip_phoneprov_provider res_stun_monitor res_speech_aeap
    pbx_dundi pbx_ael pbx_lua app_voicemail app_voicemail_imap app_voicemail_odbc app_minivm app_festival app_followme app_alarmreceiver
    cdr_beanstalkd cel_beanstalkd cdr_pgsql cel_pgsql cdr_odbc cel_odbc cdr_radius cel_radius cdr_tds cel_tds cdr_adaptive_odbc
    cdr_sqlite3_custom cel_sqlite3_custom cdr_csv cdr_custom cel_custom
""".split()

# AMI users: read classes, write classes. `trunkwarden` is what the operations guide asks for; `weak` can only ask; `dialer` originates.
AMI_USERS = {
    "trunkwarden": ("system,call,security", "system,call,reporting,command,user"),
    "weak": ("", "reporting"),
    "dialer": ("system,call,agent,user,originate", "system,call,agent,user,originate,reporting"),
}


def secret_of(user):
    return f"secret-{user}"


def sections(*parts):
    """Configuration text from (name, {key: value}) pairs; a list value repeats its key."""
    lines = []
    for name, keys in parts:
        lines.append(f"[{name}]")
        for key, value in keys.items():
            lines += [f"{key} = {one}" for one in (value if isinstance(value, list) else [value]) if one is not None]
        lines.append("")
    return "\n".join(lines) + "\n"


def configuration(folder, ports, certificate, sip_address):
    """The files of a new instance, by name below its etc folder.

    `folder` is its path as seen inside the root; `certificate` is one of root.CERTIFICATES.
    """
    loopback = lambda port: f"127.0.0.1:{port}"
    transport = {"type": "transport", "bind": f"{sip_address}:{ports['sip']}"}
    return {
        "asterisk.conf": sections(
            ("directories", {f"ast{kind}dir": f"{folder}/{place}" for kind, place in {
                "etc": "etc", "db": "db", "run": "run", "log": "log", "spool": "spool", "key": "keys", "agi": "agi", "cache": "cache"}.items()}),
            ("options", {"hideconnect": "yes", "entityid": "02:00:00:%02x:%02x:00" % divmod(ports["sip"], 256)})),
        "modules.conf": sections(("modules", {"autoload": "yes", "noload": [f"{module}.so" for module in NOLOAD]})),
        "logger.conf": logger(),
        "manager.conf": sections(("general", {
            "enabled": "yes", "bindaddr": "127.0.0.1", "port": ports["ami"], "webenabled": "no",
            "tlsenable": "yes", "tlsbindaddr": loopback(ports["ami_tls"]),
            "tlscertfile": f"/srv/tls/{certificate}.pem", "tlsprivatekey": f"/srv/tls/{certificate}.key"})) + '#include "manager.d/*.conf"\n',
        **{f"manager.d/{user}.conf": ami_user(user, *rights) for user, rights in AMI_USERS.items()},
        "http.conf": sections(("general", {"enabled": "yes", "bindaddr": "127.0.0.1", "bindport": ports["http"]})),
        "ari.conf": sections(("general", {"enabled": "yes"}),
                             ("trunkwarden", {"type": "user", "read_only": "no", "password": secret_of("trunkwarden")})),
        "rtp.conf": sections(("general", {"rtpstart": ports["rtp"], "rtpend": ports["rtp"] + 59})),
        "extensions.conf": sections(("default", {}), ("outbound", {"exten": "_X.,1,Hangup()"}),
                                    ("answering", {"exten": ["_X.,1,Answer()", "_X.,n,Wait(600)"]})),
        "pjsip.conf": sections(("global", {"type": "global", "user_agent": "lab"}),
                               ("udp", transport | {"protocol": "udp"}), ("tcp", transport | {"protocol": "tcp"}))
                      + '#include "pjsip.d/*.conf"\n',
        "pjsip_wizard.conf": '#include "pjsip_wizard.d/*.conf"\n',
        "pjsip.d/none.conf": "; Asterisk complains of an include that matches nothing\n",
        "pjsip_wizard.d/none.conf": "; as above\n",
    }


def logger(**files):
    """logger.conf: the log every instance has, and more by name."""
    return sections(("general", {"dateformat": "%F %T.%3q"}), ("logfiles", {"full": "notice,warning,error,verbose(3)", **files}))


def ami_user(name, read, write, secret=None):
    return sections((name, {"secret": secret or secret_of(name), "read": read or None, "write": write or None, "writetimeout": 5000,
                            "deny": "0.0.0.0/0.0.0.0", "permit": "127.0.0.1/255.255.255.255"}))


class Instance:
    """One Asterisk: `name` is unique in the root, `ports` is its own; `namespace`, if any, is the network it is in."""

    def __init__(self, root, name, ports, certificate="server", sip_address="127.0.0.1", namespace=None):
        self.sip_address, self.namespace = sip_address, namespace
        self.root, self.name, self.ports, self.certificate = root, name, ports, certificate
        self.inside = f"/srv/{name}"
        self.outside = root / "srv" / name
        self.process = None
        self.frozen = False

    def prepare(self):
        shutil.rmtree(self.outside, ignore_errors=True)
        for folder in ("etc", "db", "run", "log", "spool", "keys/keys", "agi", "cache"):
            (self.outside / folder).mkdir(parents=True)
        for file, text in configuration(self.inside, self.ports, self.certificate, self.sip_address).items():
            self.put(file, text)

    def put(self, file, text):
        """Writes a file below the instance's etc folder; an include that is being read never sees half of it."""
        path = self._below_etc(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(text)
        unfinished.rename(path)

    def drop(self, file):
        self._below_etc(file).unlink()

    def _below_etc(self, file):
        etc = self.outside / "etc"
        path = (etc / file).resolve()
        if etc.resolve() not in path.parents:
            raise ValueError(f"outside the instance's folder: {file}")
        return path

    @property
    def running(self):
        return self.process is not None and self.process.poll() is None

    async def start(self):
        """Starts it and waits until it is fully booted."""
        if self.running:
            raise ValueError(f"{self.name} is running")
        output = open(self.outside / "log" / "console", "ab")
        self.process = subprocess.Popen(
            ["chroot", str(self.root), "asterisk", "-f", "-C", f"{self.inside}/etc/asterisk.conf"], cwd="/", stdin=subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True, preexec_fn=self._before_exec,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"})
        output.close()
        self.frozen = False
        deadline = asyncio.get_running_loop().time() + 90
        while asyncio.get_running_loop().time() < deadline:
            if not self.running:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.log_end()}")
            if (self.outside / "run" / "asterisk.ctl").exists():
                code, text = await self._console("core waitfullybooted", 60)
                if code == 0 and "fully booted" in text:
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"{self.name} did not boot: {self.log_end()}")

    def _before_exec(self):
        network.die_with_parent()
        if self.namespace:
            network.enter(self.namespace.path)

    async def _console(self, command, timeout):
        console = await asyncio.create_subprocess_exec(
            "chroot", str(self.root), "asterisk", "-C", f"{self.inside}/etc/asterisk.conf", "-rx", command, cwd="/",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=network.die_with_parent)
        try:
            text, _ = await asyncio.wait_for(console.communicate(), timeout)
        except asyncio.TimeoutError:
            console.kill()
            await console.wait()
            raise RuntimeError(f"{self.name} did not answer `{command}` within {timeout} s") from None
        return console.returncode, text.decode("utf-8", "replace")

    async def cli(self, command):
        """What a console prints for one command."""
        if not self.running:
            raise ValueError(f"{self.name} is not running")
        return (await self._console(command, 20))[1]

    async def stop(self):
        """As an operator stops it (`core stop now`), and waits for its end."""
        if self.running:
            try:
                await self.cli("core stop now")
            except (RuntimeError, ValueError):
                self.process.terminate()
        await self._gone()

    async def kill(self):
        """As the kernel does when memory runs out: no word to anybody."""
        if self.process is not None:
            self.process.kill()
        await self._gone()

    async def _gone(self):
        if self.process is not None:
            try:
                await asyncio.to_thread(self.process.wait, 15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                await asyncio.to_thread(self.process.wait)
        (self.outside / "run" / "asterisk.ctl").unlink(missing_ok=True)
        self.frozen = False

    def freeze(self):
        """Stops its clock: connections stay open and nobody answers, as with a hung host."""
        self._signal(signal.SIGSTOP)
        self.frozen = True

    def thaw(self):
        self._signal(signal.SIGCONT)
        self.frozen = False

    def _signal(self, number):
        if not self.running:
            raise ValueError(f"{self.name} is not running")
        os.kill(self.process.pid, number)

    def log_end(self):
        text = ""
        for file in ("console", "full"):
            path = self.outside / "log" / file
            if path.exists():
                text += path.read_text(errors="replace")[-1500:]
        return text

    def remove(self, keep):
        """Takes the folder away; its log goes to `keep` first, if that is given."""
        log = self.outside / "log" / "full"
        if keep is not None and log.exists():
            shutil.copyfile(log, keep)
        shutil.rmtree(self.outside, ignore_errors=True)
