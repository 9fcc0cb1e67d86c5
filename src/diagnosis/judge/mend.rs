//! The fixes: what to do, in words, and what to write where.
//!
//! A fix names the section and its place where the configuration is known, and otherwise says which section is meant.
//! Values that only the operator has are in capitals. No fix contains a secret, or asks to paste one anywhere but into
//! `pjsip.conf`.

use std::net::IpAddr;

use super::{
    super::{tell, verdict::Fix},
    scene::Scene,
};
use crate::wire::{
    pjsip::Place,
    sip::{Algorithm, Challenge},
};

const RELOAD: &str = "; then: module reload res_pjsip.so";

fn fix(text: impl Into<String>, config: impl Into<String>) -> Fix {
    Fix { text: text.into(), config: config.into() }
}

fn head(name: &str, place: Option<&Place>) -> String {
    let place = place.map(|place| format!("          ; {} line {}", tell::value(&place.file), place.line));
    format!("[{}]{}\n", tell::value(name), place.unwrap_or_default())
}

/// The head of the registration's section.
fn registration(scene: &Scene<'_>) -> String {
    match (scene.name, scene.registration) {
        (Some(name), own) => head(name, own.and_then(|own| own.place.as_ref())),
        (None, _) => format!("[REGISTRATION]          ; type=registration, client_uri={}\n", scene.account()),
    }
}

/// The head of the auth section that the registration names.
fn auth(scene: &Scene<'_>, section: Option<&str>) -> String {
    let all = scene.auths();
    let found = all.iter().find(|(name, _)| section.is_none_or(|wanted| wanted == *name));
    match found {
        Some((name, own)) => head(name, own.and_then(|own| own.place.as_ref())),
        None => match section {
            Some(name) => head(name, None),
            None => "[AUTH]          ; type=auth, the one that the registration's outbound_auth names\n".to_owned(),
        },
    }
}

/// The transport that the registration uses.
fn transport(scene: &Scene<'_>) -> String {
    match scene.transport() {
        Some((name, own)) => head(name, own.and_then(|own| own.place.as_ref())),
        None => "[TRANSPORT]          ; type=transport, the one that the registration uses\n".to_owned(),
    }
}

fn endpoint(scene: &Scene<'_>) -> (String, String) {
    match scene.endpoint() {
        Some((name, own)) => (head(name, own.place.as_ref()), tell::value(name)),
        None => {
            let name = scene.registration.and_then(|own| own.endpoint.as_deref()).unwrap_or("ENDPOINT");
            (head(name, None), tell::value(name))
        }
    }
}

pub(super) fn password(scene: &Scene<'_>) -> Fix {
    fix(
        "Correct the password, or have the provider reset it. If the provider names an authentication user of its own, set that as username.",
        format!("{}password=PASSWORD\n;username=AUTH_USERNAME   ; often not the number\n{RELOAD}", auth(scene, None)),
    )
}

pub(super) fn auth_username(scene: &Scene<'_>) -> Fix {
    fix(
        "Set the authentication user that the provider gives, which often is not the number; check that client_uri names the account as the provider does. If both are right, it is the password.",
        format!("{}username=AUTH_USERNAME   ; often not the number\n{RELOAD}", auth(scene, None)),
    )
}

pub(super) fn realm(scene: &Scene<'_>, section: Option<&str>, asked: Option<&str>) -> Fix {
    let asked = asked.filter(|asked| !asked.is_empty()).map(tell::setting);
    let or = asked.map(|asked| format!("          ; any realm; or: realm={asked}")).unwrap_or_default();
    fix(
        "Drop the realm from the auth section, so that it answers any, or set the one that the registrar asks for.",
        format!("{}realm={or}\n{RELOAD}", auth(scene, section)),
    )
}

pub(super) fn hash(scene: &Scene<'_>, section: &str, realm: &str, user: &str) -> Fix {
    fix(
        format!(
            "Make the hash anew for user \"{user}\" and realm \"{realm}\", or use a plain password: a hash made for another realm fails without a word."
        ),
        format!(
            "{};md5_cred=MD5(\"{}:{}:PASSWORD\")   ; or drop it and set\nauth_type=digest\npassword=PASSWORD\n{RELOAD}",
            auth(scene, Some(section)),
            tell::setting(user),
            tell::setting(realm),
        ),
    )
}

pub(super) fn algorithm(scene: &Scene<'_>, section: Option<&str>, challenges: &[Challenge]) -> Fix {
    let mut known: Vec<&str> = Vec::new();
    let mut unknown: Vec<String> = Vec::new();
    for challenge in challenges {
        match &challenge.algorithm {
            Algorithm::Md5 => {}
            Algorithm::Sha256 => known.push("SHA-256"),
            Algorithm::Sha512256 => known.push("SHA-512-256"),
            Algorithm::Md5Sess | Algorithm::Sha256Sess | Algorithm::Sha512256Sess | Algorithm::Other(_) => {
                unknown.push(tell::value(tell::algorithm(&challenge.algorithm)));
            }
        }
    }
    if known.is_empty() && !unknown.is_empty() {
        return fix(
            format!("Asterisk has no {}: ask the provider to offer MD5, SHA-256 or SHA-512-256.", unknown.join(", ")),
            "",
        );
    }
    known.push("MD5");
    known.dedup();
    fix(
        "Enable the digest algorithm on the auth section (Asterisk 20.12, 21.7, 22.2 and later), or ask the provider to offer MD5 as well.",
        format!("{}supported_algorithms_uac={}\n{RELOAD}", auth(scene, section), known.join(",")),
    )
}

pub(super) fn credentials(scene: &Scene<'_>) -> Fix {
    let configured = scene.auths();
    let missing = configured.iter().find(|(_, own)| own.is_none()).map(|(name, _)| *name);
    let nearest = missing.and_then(|missing| {
        let all = scene.case.objects?.auths.keys();
        all.map(|name| (strsim::damerau_levenshtein(missing, name), name))
            .filter(|(far, _)| *far <= 3)
            .min()
            .map(|(_, name)| name)
    });
    let name = nearest.map(|name| tell::value(name)).unwrap_or_else(|| {
        missing.map(tell::value).unwrap_or_else(|| format!("{}-auth", tell::value(scene.name.unwrap_or("TRUNK"))))
    });
    let section = if nearest.is_some() {
        String::new()
    } else {
        format!("\n[{name}]\ntype=auth\nauth_type=digest\nusername=AUTH_USERNAME\npassword=PASSWORD\n")
    };
    fix(
        "Name an auth section that exists in outbound_auth of the registration (the endpoint's own is for its calls only).",
        format!("{}outbound_auth={name}\n{section}{RELOAD}", registration(scene)),
    )
}

pub(super) fn reload(scene: &Scene<'_>) -> Fix {
    fix(
        "Load the configuration as it is now; if that does not help, see that the digest module is there.",
        format!(
            "; {}module reload res_pjsip.so\n; module show like res_pjsip_outbound_authenticator_digest",
            scene.name.map(|name| format!("for [{}]: ", tell::value(name))).unwrap_or_default()
        ),
    )
}

pub(super) fn account(scene: &Scene<'_>) -> Fix {
    fix(
        "Ask the provider whether the account is suspended, out of credit or disabled. Do not retry in a loop: bans grow. If Asterisk shall come back by itself afterwards, give it a slow retry.",
        format!("{}forbidden_retry_interval=900\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn address(scene: &Scene<'_>, seen_as: Option<&str>) -> Fix {
    let ip = seen_as.map(|ip| format!(", {ip}")).unwrap_or_default();
    fix(
        format!(
            "Have the provider allow our public address{ip}, or lift its ban; register from the address it allows. Stop retrying meanwhile: bans grow."
        ),
        format!("{}forbidden_retry_interval=900\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn proxy(scene: &Scene<'_>, proxy: Option<&str>) -> Fix {
    let proxy = match proxy {
        Some(uri) if uri.starts_with("sip") => tell::setting(uri),
        Some(address) => format!("sip:{}", tell::setting(address)),
        None => "sip:PROXY".to_owned(),
    };
    fix(
        "Ask the provider for its outbound proxy, and send the registration (and the calls: the endpoint and its AOR) through it; or set server_uri to the host that registers.",
        format!("{}outbound_proxy={proxy}\\;lr\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn server(scene: &Scene<'_>) -> Fix {
    fix(
        "Check host, port and transport of server_uri with the provider.",
        format!("{}server_uri=sip:REGISTRAR\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn expiration(scene: &Scene<'_>, least: Option<u32>) -> Fix {
    let seconds = least.map_or_else(|| "SECONDS".to_owned(), |seconds| seconds.to_string());
    fix(
        "Ask for as long a time as the registrar demands.",
        format!("{}expiration={seconds}\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn wait(scene: &Scene<'_>, retry: Option<u32>) -> Fix {
    let when =
        retry.map(|seconds| format!(" Asterisk tries again after the {seconds} s it was told.")).unwrap_or_default();
    fix(
        format!("It is the provider's: wait, call them, or fail over to another trunk.{when}"),
        format!(
            "{}max_retries=10000          ; the default 10 gives up after ten minutes\nretry_interval=60\n{RELOAD}",
            registration(scene)
        ),
    )
}

pub(super) fn stale(scene: &Scene<'_>) -> Fix {
    fix(
        "Ask the provider why its nonces expire at once (several servers that do not share them, or clocks that differ). Meanwhile let Asterisk try again: by default the first such 401 stops it for good.",
        format!("{}auth_rejection_permanent=no\nretry_interval=60\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn ask(_scene: &Scene<'_>) -> Fix {
    fix("Ask the provider what this answer means; the exchange is in the evidence.", "")
}

pub(super) fn silence(scene: &Scene<'_>) -> Fix {
    let host = scene.registrar_address().map_or_else(|| "REGISTRAR".to_owned(), |address| address.ip().to_string());
    let port = scene.registrar_address().map_or(5060, |address| address.port());
    fix(
        "Check host, port and transport of server_uri; then the way there and back: firewall, NAT and its SIP helper, routing. If all of that is right, ask the provider whether it sees us.",
        format!(
            "ufw allow 5060/udp          ; and RTP: ufw allow 10000:20000/udp\nip route get {host}\nsngrep port {port}          ; or: tcpdump -n host {host}"
        ),
    )
}

pub(super) fn port(scene: &Scene<'_>) -> Fix {
    fix(
        "Set the port and the transport that the provider listens on; if they are right, its service is down.",
        format!(
            "{}server_uri=sip:HOST:PORT          ; and ;transport=tcp or tls, if the provider wants it\n{RELOAD}",
            registration(scene)
        ),
    )
}

pub(super) fn name(scene: &Scene<'_>) -> Fix {
    let host = scene.wanted.as_ref().map_or_else(|| "HOST".to_owned(), |wanted| tell::value(&wanted.who.registrar));
    fix(
        "Correct the host in server_uri, or the name service of this machine (/etc/resolv.conf).",
        format!("{}server_uri=sip:HOST\n{RELOAD}\n; dig {host}; dig _sip._udp.{host} SRV", registration(scene)),
    )
}

pub(super) fn tls(scene: &Scene<'_>, alert: Option<(bool, u8)>) -> Fix {
    let text = match alert {
        Some((true, 42 | 43 | 45 | 46 | 48)) => {
            "Asterisk does not trust the provider's certificate: give the transport the CA that signed it, and use the name of the certificate in server_uri."
        }
        Some((false, 42 | 43 | 45 | 46 | 48 | 116)) => {
            "The provider wants a certificate of ours, and does not accept this one: set cert_file and priv_key_file as it demands."
        }
        Some((_, 40 | 70 | 71)) => "The two share no TLS version or cipher: set method and cipher on the transport.",
        Some((_, 112)) => "The provider knows no such name: use the name of its certificate in server_uri.",
        Some(_) | None => {
            "Check that the provider speaks TLS on this port, and that the transport trusts its certificate."
        }
    };
    fix(
        text,
        format!(
            "{}method=tlsv1_2\nca_list_file=/etc/ssl/certs/ca-certificates.crt\nverify_server=yes\n; a transport changes at a restart: core restart when convenient",
            transport(scene)
        ),
    )
}

pub(super) fn external(scene: &Scene<'_>, public: Option<IpAddr>) -> Fix {
    let ip = public.map_or_else(|| "PUBLIC_ADDRESS".to_owned(), |ip| ip.to_string());
    fix(
        "Tell the transport that this registration uses its public address; local_net lists the networks that need none (without it even neighbours get the public one, and a registrar within it gets the private one).",
        format!(
            "{}external_signaling_address={ip}\nexternal_media_address={ip}\nlocal_net=LOCAL_NETWORK/24\n; a transport changes at a restart: core restart when convenient",
            transport(scene)
        ),
    )
}

pub(super) fn identify(scene: &Scene<'_>, peer: IpAddr) -> Fix {
    let (_, name) = endpoint(scene);
    let section = scene.name.map_or_else(|| name.clone(), tell::value);
    fix(
        "Let the provider's address be recognised as this trunk's endpoint; ask the provider for all addresses its calls come from.",
        format!("[{section}-identify]\ntype=identify\nendpoint={name}\nmatch={peer}\n{RELOAD}"),
    )
}

pub(super) fn inbound_auth(scene: &Scene<'_>) -> Fix {
    let (head, _) = endpoint(scene);
    fix(
        "A provider does not answer our challenges: the trunk's endpoint must not ask for a password; its identify section is what admits it.",
        format!("{head}auth=          ; outbound_auth stays\n{RELOAD}"),
    )
}

pub(super) fn calls(scene: &Scene<'_>, status: u16) -> Fix {
    let (head, _) = endpoint(scene);
    match status {
        401 | 407 => {
            let auth = scene.auths().first().map_or_else(|| "AUTH".to_owned(), |(name, _)| tell::value(name));
            fix(
                "Give the endpoint the credentials of the registration, and the account as its From user.",
                format!(
                    "{head}outbound_auth={auth}\nfrom_user={}\n{RELOAD}",
                    scene
                        .wanted
                        .as_ref()
                        .map_or_else(|| "ACCOUNT".to_owned(), |wanted| tell::setting(&wanted.who.user))
                ),
            )
        }
        503 => fix(
            "It is the provider's capacity or route: ask how many calls at once the account may have, or use another trunk.",
            "",
        ),
        _ => fix(
            "Ask the provider: credit, barred destinations, caller numbers that the account may show, calls at once.",
            format!("{head}from_user=ACCOUNT          ; and a caller number that the provider accepts\n{RELOAD}"),
        ),
    }
}

pub(super) fn binding(scene: &Scene<'_>) -> Fix {
    let name = scene.name.map_or_else(|| "REGISTRATION".to_owned(), tell::value);
    fix(
        "Ask the provider why it grants no time: too many devices on the account, or registration not allowed. Asterisk does not try again by itself; afterwards, once:",
        format!("pjsip send register {name}          ; or AMI: PJSIPRegister"),
    )
}

pub(super) fn expiry(scene: &Scene<'_>) -> Fix {
    fix(
        "Ask the provider to grant more than ten seconds, at least a minute; ask for more, in case it grants what is asked.",
        format!("{}expiration=3600\n{RELOAD}", registration(scene)),
    )
}

pub(super) fn alg(scene: &Scene<'_>) -> Fix {
    let (_, name) = endpoint(scene);
    fix(
        "Switch off the SIP ALG (SIP helper) of the router; register one device only per account; see at the provider which one holds the binding.",
        format!("; on a Linux router: modprobe -r nf_nat_sip nf_conntrack_sip\n; pjsip show endpoint {name}"),
    )
}

pub(super) fn overdue(scene: &Scene<'_>) -> Fix {
    fix(
        "Asterisk learns of a dead registrar only at its next refresh: shorten the time, and qualify the trunk's contact.",
        format!(
            "{}expiration=300\n[AOR]          ; type=aor of the trunk\nqualify_frequency=30\n{RELOAD}",
            registration(scene)
        ),
    )
}

pub(super) fn again(scene: &Scene<'_>) -> Fix {
    let name = scene.name.map_or_else(|| "REGISTRATION".to_owned(), tell::value);
    fix(
        "Once the cause is gone, register once; never in a loop.",
        format!(
            "pjsip send register {name}          ; or AMI: PJSIPRegister\n{}max_retries=10000          ; the default 10 gives up after ten minutes",
            registration(scene)
        ),
    )
}

pub(super) fn look(_scene: &Scene<'_>) -> Fix {
    fix("Look at the SIP exchange: with it the cause is named.", "")
}
