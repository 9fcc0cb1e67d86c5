"""The trunks of the PBX, and the accounts of the provider, as PJSIP configuration.

A trunk is a small table of fields (see `render`); each becomes one file of the PBX, so that adding, changing and removing one while Asterisk
runs is writing or deleting a file and a reload.
"""

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
    "server": "registrar",  # registrar | provider | closed | HOST[:PORT]
    "transport": "udp",     # udp | tcp
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
    server = {"registrar": f"127.0.0.1:{ports['registrar']}", "provider": f"127.0.0.1:{ports['provider']['sip']}",
              "closed": f"127.0.0.1:{ports['closed']}"}.get(trunk["server"], trunk["server"])
    suffix = "" if trunk["transport"] == "udp" else f"\\;transport={trunk['transport']}"
    parts = [(f"{name}-auth", {
        "type": "auth", "auth_type": "userpass", "username": trunk["username"] or account,
        "password": trunk["password"] or f"pw-{account}", "realm": trunk["realm"], "supported_algorithms_uac": trunk["algorithms"]})]
    endpoint = trunk["of"]
    if trunk["endpoint"] and endpoint is None:
        endpoint = name
        parts += [
            (name, {"type": "endpoint", "transport": trunk["transport"], "context": "default", "disallow": "all", "allow": "ulaw",
                    "aors": name, "outbound_auth": f"{name}-auth", "from_user": account}),
            (name, {"type": "aor", "contact": f"sip:{account}@{server}{suffix}", "qualify_frequency": trunk["qualify"] or None})]
    if trunk["registration"]:
        linked = trunk["link"] and endpoint
        parts.append((name if trunk["registration"] is True else trunk["registration"], {
            "type": "registration", "transport": trunk["transport"], "outbound_auth": f"{name}-auth",
            "server_uri": f"sip:{server}{suffix}", "client_uri": f"sip:{account}@{server}",
            "contact_user": trunk["contact_user"] or account, "endpoint": endpoint if linked else None,
            "line": "yes" if linked else None,
            **(QUICK if trunk["quick"] else {}), **trunk["settings"]}))
    return sections(*parts)


def initial():
    """The trunks every lab starts with: one per behaviour of the registrar, and one per way of writing a trunk down."""
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


def provider_accounts():
    """The accounts that the provider Asterisk knows, as its PJSIP configuration. `prov-unknown-user` is not among them."""
    parts = []
    for name in ("prov-ok", "prov-wrong-password", "prov-realm"):
        parts += [
            (name, {"type": "endpoint", "transport": "udp", "context": "answering", "disallow": "all", "allow": "ulaw", "aors": name,
                    "auth": f"{name}-auth"}),
            (name, {"type": "aor", "max_contacts": 1, "remove_existing": "yes"}),
            (f"{name}-auth", {"type": "auth", "auth_type": "userpass", "username": name, "password": f"pw-{name}",
                              "realm": "provider.lab.example"})]
    return sections(*parts)
