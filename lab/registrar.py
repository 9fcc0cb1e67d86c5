"""A SIP registrar on loopback whose behaviour is switched per account while it runs.

A real provider cannot be told to answer 403 now and 200 in ten seconds; this one can. It speaks just enough SIP: REGISTER (really checking
digests, MD5 and SHA-256, RFC 7616 with RFC 3261 section 22) and OPTIONS, over UDP, TCP and TLS, and on a second port as the proxy that some
providers want to be spoken to through. Everything else is answered 501, and it never sends a request of its own. It keeps count of what it
received, so that a test can ask the other side what happened.

Assumes: well-formed messages from pjproject, one message per datagram. Alone: `python3 lab/registrar.py PORT`, commands on standard input.
"""

import asyncio
import dataclasses
import hashlib
import json
import re
import secrets
import socket
import sys

REALM = "registrar.lab.example"
HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}
REASONS = {
    200: "OK", 305: "Use Proxy", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 423: "Interval Too Brief", 480: "Temporarily Unavailable",
    500: "Server Internal Error", 501: "Not Implemented", 503: "Service Unavailable",
    600: "Busy Everywhere",
}
COMPACT = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length"}

# What an account may be told to do; `Registrar._decide` is the table of answers.
BEHAVIOURS = (
    "ok", "loop401", "403-after-credentials", "403-at-once", "404", "503-retry-after", "silent", "stale-nonce", "sha256-only",
    "short-grant", "contact-rewritten", "expires-0", "423", "500", "600", "wants-proxy", "goes-silent",
)


@dataclasses.dataclass
class Account:
    """One account: how it behaves (settable) and what it has seen (reset by `forget`)."""

    name: str
    behaviour: str = "ok"
    auth_username: str = ""  # the digest's user name, where it is not the account's: the DID of the trunk is often another
    password: str = ""
    grant: int = 3600        # seconds: the most that `ok` and its kin grant
    short_grant: int = 12    # seconds granted by `short-grant`; 10 or less sends Asterisk into an endless loop of REGISTERs
    retry_after: int = 5     # seconds, in the header of `503-retry-after`
    min_expires: int = 7200  # seconds, asked for by `423`
    refusal: int = 305       # what `wants-proxy` answers to who comes without; 0 is silence
    delay_ms: int = 0        # so late is every answer
    options: int = 200       # the code that OPTIONS gets; 0 is silence

    registers: int = 0       # REGISTER requests, retransmissions not counted
    retransmissions: int = 0
    with_credentials: int = 0
    good_credentials: int = 0
    unregisters: int = 0     # REGISTER requests that ask for Expires 0
    options_seen: int = 0
    last_code: int = 0       # 0: nothing answered yet, or silence
    last_username: str = ""
    last_contact: str = ""
    registered: bool = False

    SETTABLE = ("behaviour", "auth_username", "password", "grant", "short_grant", "retry_after", "min_expires", "refusal", "delay_ms",
                "options")


@dataclasses.dataclass
class Request:
    method: str
    uri: str
    headers: list  # (lower-case name, value), in order

    def first(self, name, default=""):
        return next((value for key, value in self.headers if key == name), default)

    def all(self, name):
        return [value for key, value in self.headers if key == name]

    def expires(self):
        in_contact = re.search(r";\s*expires=(\d+)", self.first("contact"))
        return int(in_contact.group(1) if in_contact else self.first("expires", "3600") or 3600)


def parse(text):
    """A request from its text, or None for anything else (a response, a keep-alive)."""
    head = text.split("\r\n\r\n", 1)[0].split("\r\n")
    start = head[0].split(" ")
    if len(start) != 3 or start[2] != "SIP/2.0":
        return None
    headers = []
    for line in head[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name = name.strip().lower()
            headers.append((COMPACT.get(name, name), value.strip()))
    return Request(start[0], start[1], headers)


def user_of(text):
    found = re.search(r"sips?:([^@;>:]+)@", text)
    return found.group(1) if found else ""


def parameters(text):
    """`k="v", k=v` of a digest header."""
    return {key.lower(): quoted or plain for key, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', text)}


class Registrar:
    """The accounts and the answers; knows nothing of sockets."""

    def __init__(self):
        self.accounts = {}
        self.answered = {}  # (Call-ID, CSeq) -> the answer, for retransmissions over UDP
        self.nonces = {}    # nonce -> account it was given to
        self.proxy = None   # where the proxy listens, as `305 Use Proxy` says it

    # -- what a test says ---------------------------------------------------------------------------------------------------------
    def set(self, name, **changes):
        """Makes the account if it is new. Raises ValueError for an unknown field or behaviour."""
        unknown = set(changes) - set(Account.SETTABLE)
        if unknown:
            raise ValueError(f"no such field: {', '.join(sorted(unknown))}")
        if changes.get("behaviour", "ok") not in BEHAVIOURS:
            raise ValueError(f"no such behaviour: {changes['behaviour']}; there are {', '.join(BEHAVIOURS)}")
        account = self.accounts.setdefault(name, Account(name, password=f"pw-{name}"))
        for field, value in changes.items():
            setattr(account, field, type(getattr(account, field))(value))
        return account

    def report(self, name):
        if name not in self.accounts:
            raise ValueError(f"no such account: {name}")
        return dataclasses.asdict(self.accounts[name])

    # -- what the wire says -------------------------------------------------------------------------------------------------------
    def receive(self, text, source, proxied=False):
        """The answer to one message as text, or None where there is none, and by how many seconds it is late.

        `proxied`: it came to the proxy's port.
        """
        request = parse(text)
        if request is None or request.method == "ACK":
            return None, 0
        if request.method == "OPTIONS":
            return self._options(request, source), 0
        if request.method != "REGISTER":
            return self._reply(request, source, 501), 0
        account = self.accounts.get(user_of(request.first("to")))
        return self._once(request, source, account, proxied), account.delay_ms / 1000 if account else 0

    def _once(self, request, source, account, proxied):
        """As `_register`; the same answer again for a retransmission."""
        key = (request.first("call-id"), request.first("cseq"))
        again = key in self.answered
        if again and account:
            account.retransmissions += 1
        if self.answered.get(key):
            return self.answered[key]
        answer = self._register(request, source, account, again, proxied)  # after silence a retransmission may find a livelier registrar
        if len(self.answered) > 2000:
            self.answered.clear()
        self.answered[key] = answer
        return answer

    def _options(self, request, source):
        account = self.accounts.get(user_of(request.uri))
        code = 200
        if account:
            account.options_seen += 1
            code = account.options
        return self._reply(request, source, code) if code else None

    def _register(self, request, source, account, again, proxied):
        if account is None:
            return self._reply(request, source, 404)
        if not again:
            account.registers += 1
            account.unregisters += request.expires() == 0
        account.last_contact = request.first("contact")
        good = self._check(account, request)
        code, headers = self._decide(account, request, good, proxied)
        account.last_code = code
        if code == 200:
            account.registered = "Expires: 0" not in headers
        return self._reply(request, source, code, headers) if code else None

    def _check(self, account, request):
        """True: right digest. False: wrong digest. None: no credentials, or for a nonce that is not (any longer) ours."""
        header = request.first("authorization")
        if not header:
            return None
        account.with_credentials += 1
        given = parameters(header)
        account.last_username = given.get("username", "")
        algorithm = given.get("algorithm", "MD5").upper()
        if self.nonces.get(given.get("nonce")) != account.name:
            return None
        username = account.auth_username or account.name
        if algorithm not in HASHES or given.get("realm") != REALM or given.get("username") != username:
            return False
        digest = lambda text: HASHES[algorithm](text.encode()).hexdigest()
        secret = digest(f"{username}:{REALM}:{account.password}")
        asked = digest(f"REGISTER:{given.get('uri', '')}")
        middle = f"{given['nc']}:{given['cnonce']}:{given['qop']}:" if "qop" in given else ""
        right = digest(f"{secret}:{given['nonce']}:{middle}{asked}") == given.get("response")
        account.good_credentials += right
        return right

    def _decide(self, account, request, good, proxied):
        """Code and headers, by the account's behaviour. Code 0 is silence."""
        behaviour = account.behaviour
        if behaviour == "silent" or (behaviour == "goes-silent" and account.registered):
            return 0, []
        if behaviour == "wants-proxy" and not proxied:
            return account.refusal, [f"Contact: <{self.proxy}>"] if account.refusal == 305 else []
        if behaviour == "403-at-once":
            return 403, []
        if behaviour == "404":
            return 404, []
        if behaviour in ("500", "600"):
            return int(behaviour), []
        if behaviour == "503-retry-after":
            return 503, [f"Retry-After: {account.retry_after}"]
        if good is None or good is False or behaviour == "loop401":
            return 401, [self._challenge(account)]
        if behaviour == "stale-nonce":
            return 401, [self._challenge(account, stale=True)]
        if behaviour == "403-after-credentials":
            return 403, []
        wanted = request.expires()
        if behaviour == "423" and 0 < wanted < account.min_expires:
            return 423, [f"Min-Expires: {account.min_expires}"]
        contact = request.first("contact")
        if wanted == 0 or contact == "*":
            return 200, ["Expires: 0"]
        address = re.sub(r";\s*expires=\d+", "", contact)
        if behaviour == "expires-0":
            return 200, [f"Contact: {address};expires=0", "Expires: 0"]
        most = {"short-grant": account.short_grant, "423": account.min_expires}.get(behaviour, account.grant)
        granted = min(wanted, most)
        if behaviour == "contact-rewritten":
            address = f"<sip:{account.name}@198.51.100.7:1024>"  # RFC 5737: an address that is nobody's
        return 200, [f"Contact: {address};expires={granted}", f"Expires: {granted}"]

    def _challenge(self, account, stale=False):
        nonce = secrets.token_hex(16)
        if len(self.nonces) > 5000:
            self.nonces.clear()
        self.nonces[nonce] = account.name
        algorithm = "SHA-256" if account.behaviour == "sha256-only" else "MD5"
        return (f'WWW-Authenticate: Digest realm="{REALM}", nonce="{nonce}", algorithm={algorithm}, qop="auth"'
                + (", stale=true" if stale else ""))

    def _reply(self, request, source, code, headers=()):
        host, port = source[:2]
        via = request.all("via")
        if via:
            via[0] = re.sub(r";rport(?![=\w])", f";rport={port};received={host}", via[0])
        to = request.first("to")
        if ";tag=" not in to:
            to += f";tag={secrets.token_hex(4)}"
        lines = [f"SIP/2.0 {code} {REASONS.get(code, 'Answer')}", *(f"Via: {value}" for value in via), f"From: {request.first('from')}",
                 f"To: {to}", f"Call-ID: {request.first('call-id')}", f"CSeq: {request.first('cseq')}", *headers, "Content-Length: 0"]
        return "\r\n".join(lines) + "\r\n\r\n"


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, registrar, proxied):
        self.registrar, self.proxied = registrar, proxied

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, source):
        answer, delay = self.registrar.receive(data.decode("utf-8", "replace"), source, self.proxied)
        if answer:
            asyncio.get_running_loop().call_later(delay, self.transport.sendto, answer.encode(), source)


def bound(kind, address, port):
    one = socket.socket(socket.AF_INET, kind)
    if kind == socket.SOCK_STREAM:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind((address, port))
    one.setblocking(False)
    return one


async def serve(registrar, port, address="127.0.0.1", proxied=False, tls=None, make=bound):
    """Listens there on UDP and TCP, or with an ssl.SSLContext on TLS alone; returns what to close.

    `make` makes the sockets, as `bound` does, maybe in another network.
    """
    loop = asyncio.get_running_loop()

    async def stream(reader, writer):
        source = writer.get_extra_info("peername")
        try:
            first = await reader.readexactly(1)
            if first == b"\x16" and not tls:  # the beginning of TLS (RFC 8446 section 5.1), to a port without
                writer.write(b"SIP/2.0 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                return
            while True:
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "replace").lstrip("\r\n")
                first = b""
                request = parse(head) if head else None
                if request:
                    await reader.readexactly(int(request.first("content-length", "0") or 0))
                    answer, delay = registrar.receive(head, source, proxied)
                    if answer:
                        await asyncio.sleep(delay)
                        writer.write(answer.encode())
                        await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(stream, sock=make(socket.SOCK_STREAM, address, port), ssl=tls)
    if tls:
        return [server]
    transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(registrar, proxied), sock=make(socket.SOCK_DGRAM, address, port))
    return [transport, server]


async def _alone(port):
    registrar = Registrar()
    await serve(registrar, port)
    print(f"registrar on 127.0.0.1:{port}; lines like: ACCOUNT BEHAVIOUR [field=value …], or ACCOUNT alone for its counts", file=sys.stderr)
    while line := await asyncio.to_thread(sys.stdin.readline):
        name, *words = line.split() or [""]
        try:
            if words:
                fields = dict(word.split("=", 1) for word in words[1:])
                registrar.set(name, behaviour=words[0], **fields)
            print(json.dumps(registrar.report(name)), flush=True)
        except ValueError as error:
            print(json.dumps({"error": str(error)}), flush=True)


if __name__ == "__main__":
    asyncio.run(_alone(int(sys.argv[1])))
