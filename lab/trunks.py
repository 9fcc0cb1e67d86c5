"""The trunks of the PBX, and the accounts of the provider, as PJSIP configuration.

A trunk is a small table of fields (see `render`); each becomes one file of the PBX, so that adding, changing and removing one while Asterisk
runs is writing or deleting a file and a reload.
"""

import hashlib

import registrar
from asterisk import sections

# Quick enough for a test to see the next attempt, slow enough to tell two attempts apart.
QUICK = {
    "retry_interval": 5, "forbidden_retry_interval": 20, "fatal_retry_interval": 20, "max_retries": 10000,
    "auth_rejection_permanent": "no", "expiration": 60, "max_random_initial_delay": 1,
}
FIELDS = {
    "name": None,           # the endpoint, and what everything else is called after
    "account": None,        # the provider's name for us; default: `name`
    "username": None,       # the digest's user name; default: `account`
    "password": None,       # default: what the registrar expects of `account`
    "realm": None,          # default: any
    "algorithms": None,     # supported_algorithms_uac; default: Asterisk's (MD5)
    "outbound_auth": True,  # does the registration name its auth section? A text: it names that one
    "hashed": None,         # md5_cred | password_digest: the auth section has this instead of the password …
    "hashed_realm": registrar.REALM,  # … made for this realm
    "server": "registrar",  # registrar | proxy | registrar_tls | registrar_untrusted | registrar_misnamed | provider | closed | HOST[:PORT]
    "outbound_proxy": None, # proxy | HOST[:PORT]
    "transport": "udp",     # udp | tcp | tls | the name of a transport over UDP
    "endpoint": True,       # is there an endpoint (and an AOR)?
    "registration": True,   # the registration object's name; True: `name`; False: none
    "link": True,           # does the registration name its endpoint? (endpoint= and line=yes: Asterisk refuses one without the other)
    "of": None,             # the endpoint of a second registration: no endpoint is made, `of` is named
    "contact_user": None,   # default: `account`
    "qualify": 0,           # seconds between OPTIONS
    "quick": True,          # QUICK, or Asterisk's defaults
    "settings": {},         # more lines for the registration
}


def render(ports, **given):
    """The PJSIP configuration of one trunk. Raises ValueError for a field it does not know."""
    unknown = set(given) - set(FIELDS)
    if unknown or not given.get("name"):
        raise ValueError(f"a trunk has a name and no {', '.join(sorted(unknown)) or 'other fields'}; fields: {', '.join(FIELDS)}")
    trunk = FIELDS | given
    name = trunk["name"]
    account = trunk["account"] or name
    place = lambda word: f"127.0.0.1:{ports[word]}" if word in ports and word != "provider" else word
    server = f"127.0.0.1:{ports['provider']['sip']}" if trunk["server"] == "provider" else place(trunk["server"])
    suffix = f"\\;transport={trunk['transport']}" if trunk["transport"] in ("tcp", "tls") else ""
    username, password = trunk["username"] or account, trunk["password"] or f"pw-{account}"
    auth = {"type": "auth", "auth_type": "userpass", "username": username, "password": password}
    if trunk["hashed"]:
        made = hashlib.md5(f"{username}:{trunk['hashed_realm']}:{password}".encode()).hexdigest()
        auth = {"type": "auth", "username": username, **{
            "md5_cred": {"auth_type": "md5", "md5_cred": made},
            "password_digest": {"auth_type": "digest", "password_digest": f"MD5:{made}"}}[trunk["hashed"]]}
    parts = [(f"{name}-auth", auth | {"realm": trunk["realm"], "supported_algorithms_uac": trunk["algorithms"]})]
    proxy = f"sip:{place(trunk['outbound_proxy'])}\\;lr" if trunk["outbound_proxy"] else None
    registers_with = {True: f"{name}-auth", False: None}.get(trunk["outbound_auth"], trunk["outbound_auth"])
    endpoint = trunk["of"]
    if trunk["endpoint"] and endpoint is None:
        endpoint = name
        parts += [
            (name, {"type": "endpoint", "transport": trunk["transport"], "context": "default", "disallow": "all", "allow": "ulaw",
                    "aors": name, "outbound_auth": f"{name}-auth", "from_user": account,
                    "outbound_proxy": proxy}),
            (name, {"type": "aor", "contact": f"sip:{account}@{server}{suffix}", "qualify_frequency": trunk["qualify"] or None})]
    if trunk["registration"]:
        linked = trunk["link"] and endpoint
        parts.append((name if trunk["registration"] is True else trunk["registration"], {
            "type": "registration", "transport": trunk["transport"], "outbound_auth": registers_with, "outbound_proxy": proxy,
            "server_uri": f"sip:{server}{suffix}", "client_uri": f"sip:{account}@{server}",
            "contact_user": trunk["contact_user"] or account, "endpoint": endpoint if linked else None,
            "line": "yes" if linked else None,
            **(QUICK if trunk["quick"] else {}), **trunk["settings"]}))
    return sections(*parts)


def initial():
    """The set `everyday`, which a lab starts with if no other is named: one per behaviour of the registrar, and one per way of writing a trunk down."""
    starting = "loop401 403-after-credentials 403-at-once 404 503-retry-after silent stale-nonce sha256-only short-grant contact-rewritten " \
               "expires-0 423".split()
    plain = lambda name, **fields: {"name": name, **fields}
    return [
        plain("ok", qualify=5), *(plain(behaviour) for behaviour in starting),
        plain("sha256-able", algorithms="SHA-256,MD5"),
        # ways of writing it down
        plain("named", registration="named-out"),       # the registration has a name of its own
        plain("unlinked", link=False),                                  # joined by equal names
        plain("shared-auth", registration="shared-out", link=False),    # joined by one outbound_auth
        plain("alone", endpoint=False),                                  # no endpoint at all
        plain("double", registration="double-a"),                        # two registrations on one endpoint …
        plain("double-b", of="double"),
        plain("twin-1", account="twins", contact_user="one"),            # two with the same pair of URIs …
        plain("twin-2", account="twins", contact_user="two"),
        plain("unregistered", registration=False, qualify=5),            # reachability is all there is to know
        # where nobody answers
        plain("over-tcp", transport="tcp"), plain("closed-udp", server="closed"), plain("closed-tcp", server="closed", transport="tcp"),
        plain("no-dns", server="registrar.invalid"),
        # Asterisk's own intervals: it gives up
        plain("default-ok", quick=False), plain("default-loop401", quick=False), plain("default-403", quick=False),
        # a real Asterisk at the other end
        plain("prov-ok", server="provider"), plain("prov-wrong-password", server="provider", password="not-this"),
        plain("prov-unknown-user", server="provider"), plain("prov-realm", server="provider", realm="elsewhere.lab.example"),
    ]


def accounts():
    """The registrar's accounts at the start, as (name, fields)."""
    behaviour = {"sha256-able": "sha256-only", "default-loop401": "loop401", "default-403": "403-at-once", "twins": "ok"}

    for trunk in initial():
        name = trunk.get("account", trunk["name"])
        if trunk.get("server", "registrar") == "registrar":
            yield name, {"behaviour": behaviour.get(name, name if name in registrar.BEHAVIOURS else "ok")}
    yield "wizard", {"behaviour": "ok"}


def wizard(ports):
    """A trunk from pjsip_wizard.conf: its registration is called `wizard-reg-0`, and names no endpoint."""
    return sections(("wizard", {
        "type": "wizard", "sends_auth": "yes", "sends_registrations": "yes", "transport": "udp",
        "remote_hosts": f"127.0.0.1:{ports['registrar']}", "server_uri_pattern": "sip:${REMOTE_HOST}",
        "client_uri_pattern": "sip:wizard@${REMOTE_HOST}", "outbound_auth/username": "wizard", "outbound_auth/password": "pw-wizard",
        "endpoint/context": "default", "endpoint/allow": "ulaw", "registration/contact_user": "wizard",
        **{f"registration/{key}": value for key, value in QUICK.items()}}))


# The pjsip names of its endpoints are the accounts' names; `auth-…` is what they authenticate as, as where the DID is not the user name.
PROVIDER_ACCOUNTS = {
    "everyday": {"prov-ok": "prov-ok", "prov-wrong-password": "prov-wrong-password", "prov-realm": "prov-realm"},
    "causes": {name: f"auth-{name}" for name in ("good-prov", "prov-wrong-password", "prov-wrong-auth-username")},
}


def provider_accounts(of):
    """The accounts that the provider Asterisk knows, as its PJSIP configuration. `prov-unknown-user` is not among them."""
    parts = []
    for name, username in PROVIDER_ACCOUNTS[of].items():
        parts += [
            (name, {"type": "endpoint", "transport": "udp", "context": "answering", "disallow": "all", "allow": "ulaw", "aors": name,
                    "auth": f"{name}-auth"}),
            (name, {"type": "aor", "max_contacts": 1, "remove_existing": "yes"}),
            (f"{name}-auth", {"type": "auth", "auth_type": "userpass", "username": username, "password": f"pw-{name}",
                              "realm": "provider.lab.example"})]
    return sections(*parts)


# -- one trunk per cause ----------------------------------------------------------------------------------------------------------------
def causes():
    """The set `causes`, as (trunk, fields of its account at the registrar or None): named after what is wrong with it, `good-…` if nothing.

    User names are not the DID (`auth-…`), except where exactly that is wrong: else a wrong password could not be told from it.
    """
    def trunk(name, account=(), **fields):
        if fields.get("server", "registrar") == "provider":
            return {"name": name, "username": f"auth-{name}", **fields}, None
        if fields.get("server", "registrar").startswith(("registrar", "proxy")):
            return {"name": name, "username": f"auth-{name}", **fields}, {"auth_username": f"auth-{name}", **dict(account)}
        return {"name": name, **fields}, None

    does = lambda behaviour, **fields: {"behaviour": behaviour, **fields}
    wants_proxy = lambda code: does("wants-proxy", refusal=code)
    elsewhere = "elsewhere.lab.example"
    return [
        trunk("wrong-password", password="not-this"),
        trunk("wrong-auth-username", username="wrong-auth-username"),
        trunk("prov-wrong-password", server="provider", password="not-this"),
        trunk("prov-wrong-auth-username", server="provider", username="prov-wrong-auth-username"),
        trunk("prov-unknown-user", server="provider"),
        trunk("realm", realm=elsewhere),
        trunk("realm-md5-cred", hashed="md5_cred", hashed_realm=elsewhere),
        trunk("realm-digest", hashed="password_digest", hashed_realm=elsewhere),
        trunk("sha256-only", does("sha256-only")),
        trunk("no-auth", outbound_auth=False),
        trunk("auth-typo", outbound_auth="auth-typo-auht"),
        trunk("403-after-credentials", does("403-after-credentials")),
        trunk("403-at-once", does("403-at-once")),
        trunk("silent", does("silent")),
        trunk("closed-udp", server="closed"),
        trunk("closed-tcp", server="closed", transport="tcp"),
        trunk("no-dns", server="provider.invalid"),
        trunk("proxy-305", wants_proxy(305)),
        trunk("proxy-403", wants_proxy(403)),
        trunk("proxy-silent", wants_proxy(0)),
        trunk("contact-rewritten", does("contact-rewritten")),
        trunk("503-retry-after", does("503-retry-after")),
        trunk("500", does("500")),
        trunk("600", does("600")),
        # granted 20 s, so refreshed after 10: then nobody answers any more
        trunk("goes-silent", does("goes-silent", grant=20)),
        trunk("gave-up", does("503-retry-after", retry_after=0), settings={"max_retries": 1, "retry_interval": 2}),
        # Asterisk refreshes 10 s early, so at once; late answers keep it at two a second
        trunk("grants-10-seconds", does("short-grant", short_grant=10, delay_ms=250)),
        trunk("expires-0", does("expires-0")),
        trunk("tls-untrusted", server="registrar_untrusted", transport="tls"),
        trunk("tls-misnamed", server="registrar_misnamed", transport="tls"),
        trunk("tls-to-plain", server="registrar", transport="tls"),
        # nothing is wrong with these
        trunk("good"),
        trunk("good-prov", server="provider"),
        trunk("good-sha256", does("sha256-only"), algorithms="SHA-256,MD5"),
        trunk("good-md5-cred", hashed="md5_cred"),
        trunk("good-digest", hashed="password_digest"),
        trunk("good-tcp", transport="tcp"),
        trunk("good-tls", server="registrar_tls", transport="tls"),
        trunk("good-proxy", wants_proxy(305), outbound_proxy="proxy"),
        trunk("good-423", does("423")),
    ]


def tls_transport(ports):
    """The PBX's transport for TLS: it checks who answers."""
    return sections(("tls", {"type": "transport", "protocol": "tls", "bind": f"127.0.0.1:{ports['pbx']['sip_tls']}", "method": "tlsv1_2",
                             "ca_list_file": "/srv/tls/ca.pem", "verify_server": "yes"}))


# -- behind a router --------------------------------------------------------------------------------------------------------------------
def behind_nat():
    """The set `nat`, in the same form; the addresses are those of network.py."""
    at = lambda last, name, **fields: ({"name": name, "server": f"198.51.100.{last}", **fields}, {})
    return [
        at(7, "nat"),
        at(7, "good-nat", transport="udp-external"),
        at(8, "firewall-requests"),
        at(9, "firewall-replies"),
        at(10, "firewall-reject"),
        at(11, "closed-far"),
    ]


def external_transport(inside, outside, local):
    """A transport that says the router's address in Contact and Via."""
    return sections(("udp-external", {"type": "transport", "protocol": "udp", "bind": f"{inside}:5062", "local_net": local,
                                      "external_signaling_address": outside, "external_media_address": outside,
                                      "external_signaling_port": 5062}))
