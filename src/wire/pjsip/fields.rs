//! One option of one object: what it sets, and how its value is read.
//!
//! Separate from the readers because AMI, the console and a file name the same options (`client_uri`; AMI writes
//! `ClientUri`) and only differ in how they list and repeat them. What an option that is left out means is not said
//! here.

use super::{
    super::sip::digest::{Algorithm, Secret},
    Aor, Auth, Endpoint, Identify, Kind, Objects, Registration, Transport,
};

/// What became of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is set.
    Yes,
    /// It is not kept here.
    Ignored,
    /// Its value cannot be read, and is not set.
    Unreadable(Wanted),
}

/// What a value should have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Asterisk itself takes anything else for "no".
    YesOrNo,
    Number,
    /// `md5_cred`: 32 hexadecimal digits.
    Md5,
    /// `password_digest`.
    Digest,
}

impl Wanted {
    /// To say what a value is not.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::YesOrNo => "yes or no",
            Self::Number => "a whole number",
            Self::Md5 => "32 hexadecimal digits",
            Self::Digest => "ALGORITHM:HEX, with as many hexadecimal digits as the algorithm gives",
        }
    }
}

/// Sets an option of an object, which is made if it is not there. Options that list what a key may repeat (`local_net`,
/// `match`, `contact`, `password_digest`) are added to, others replaced. An empty value unsets.
pub(super) fn set(objects: &mut Objects, kind: Kind, name: &str, option: &str, value: &str) -> Taken {
    let value = value.trim_matches(|c: char| c <= ' ');
    match kind {
        Kind::Registration => registration(objects.registrations.entry(name.to_owned()).or_default(), option, value),
        Kind::Auth => auth(objects.auths.entry(name.to_owned()).or_default(), option, value),
        Kind::Endpoint => endpoint(objects.endpoints.entry(name.to_owned()).or_default(), option, value),
        Kind::Aor => aor(objects.aors.entry(name.to_owned()).or_default(), option, value),
        Kind::Identify => identify(objects.identifies.entry(name.to_owned()).or_default(), option, value),
        Kind::Transport => transport(objects.transports.entry(name.to_owned()).or_default(), option, value),
    }
}

fn registration(it: &mut Registration, option: &str, value: &str) -> Taken {
    match option {
        "client_uri" => it.client_uri = value.to_owned(),
        "server_uri" => it.server_uri = value.to_owned(),
        "contact_user" => it.contact_user = text(value),
        "transport" => it.transport = text(value),
        "outbound_proxy" => it.outbound_proxy = text(value),
        "outbound_auth" => it.outbound_auth = list(value),
        "endpoint" => it.endpoint = text(value),
        "line" => return boolean(&mut it.line, value),
        "expiration" => return number(&mut it.expiration, value),
        "retry_interval" => return number(&mut it.retry_interval, value),
        "forbidden_retry_interval" => return number(&mut it.forbidden_retry_interval, value),
        "fatal_retry_interval" => return number(&mut it.fatal_retry_interval, value),
        "max_retries" => return number(&mut it.max_retries, value),
        "auth_rejection_permanent" => return boolean(&mut it.auth_rejection_permanent, value),
        _ => return Taken::Ignored,
    }
    Taken::Yes
}

fn auth(it: &mut Auth, option: &str, value: &str) -> Taken {
    match option {
        "auth_type" => it.auth_type = text(value),
        "username" => it.username = text(value),
        "realm" => it.realm = text(value),
        "supported_algorithms_uac" => it.supported_algorithms_uac = list(value),
        "password" => {
            it.secrets.retain(|secret| !matches!(secret, Secret::Password(_)));
            if !value.is_empty() {
                it.secrets.push(Secret::Password(value.into()));
            }
        }
        "md5_cred" if value.is_empty() => {}
        "md5_cred" => match ha1(Algorithm::Md5, value) {
            Some(secret) => keep_hash(it, secret),
            None => return Taken::Unreadable(Wanted::Md5),
        },
        "password_digest" => {
            for part in value.split(',').map(str::trim).filter(|part| !part.is_empty()) {
                match part.split_once(':').and_then(|(name, hash)| ha1(algorithm(name), hash.trim())) {
                    Some(secret) => keep_hash(it, secret),
                    None => return Taken::Unreadable(Wanted::Digest),
                }
            }
        }
        _ => return Taken::Ignored,
    }
    Taken::Yes
}

fn endpoint(it: &mut Endpoint, option: &str, value: &str) -> Taken {
    match option {
        "transport" => it.transport = text(value),
        "aors" => it.aors = list(value),
        "auth" => it.auth = list(value),
        "outbound_auth" => it.outbound_auth = list(value),
        "outbound_proxy" => it.outbound_proxy = text(value),
        "from_user" => it.from_user = text(value),
        "from_domain" => it.from_domain = text(value),
        "identify_by" => it.identify_by = text(value),
        "media_address" => it.media_address = text(value),
        "rewrite_contact" => return boolean(&mut it.rewrite_contact, value),
        "force_rport" => return boolean(&mut it.force_rport, value),
        "rtp_symmetric" => return boolean(&mut it.rtp_symmetric, value),
        "direct_media" => return boolean(&mut it.direct_media, value),
        _ => return Taken::Ignored,
    }
    Taken::Yes
}

fn aor(it: &mut Aor, option: &str, value: &str) -> Taken {
    match option {
        "contact" => it.contacts.extend(list(value)),
        "qualify_frequency" => return number(&mut it.qualify_frequency, value),
        _ => return Taken::Ignored,
    }
    Taken::Yes
}

fn identify(it: &mut Identify, option: &str, value: &str) -> Taken {
    match option {
        "endpoint" => it.endpoint = text(value),
        "match" => it.matches.extend(list(value)),
        "match_header" => it.match_header = text(value),
        _ => return Taken::Ignored,
    }
    Taken::Yes
}

fn transport(it: &mut Transport, option: &str, value: &str) -> Taken {
    match option {
        "protocol" => it.protocol = text(value).map(|word| word.to_ascii_lowercase()),
        "bind" => it.bind = text(value),
        "local_net" => it.local_net.extend(list(value)),
        "external_signaling_address" => it.external_signaling_address = text(value),
        "external_signaling_port" => {
            let taken = number(&mut it.external_signaling_port, value);
            // Asterisk's word for "none".
            it.external_signaling_port = it.external_signaling_port.filter(|port| *port != 0);
            return taken;
        }
        "external_media_address" => it.external_media_address = text(value),
        "verify_server" => return boolean(&mut it.verify_server, value),
        "ca_list_file" | "ca_list_path" => it.has_ca_list = Some(it.has_ca_list == Some(true) || !value.is_empty()),
        _ => return Taken::Ignored,
    }
    Taken::Yes
}

/// Adds a hash, and keeps hashes before the password, as Asterisk looks for them. AMI tells one of MD5 twice.
fn keep_hash(auth: &mut Auth, secret: Secret) {
    let known = |old: &Secret| match (old, &secret) {
        (Secret::Ha1(old, _), Secret::Ha1(new, _)) => old == new,
        (Secret::Password(_), _) | (_, Secret::Password(_)) => false,
    };
    let hashes = auth.secrets.iter().take_while(|secret| matches!(secret, Secret::Ha1(..))).count();
    match auth.secrets.iter().position(known) {
        Some(at) => auth.secrets[at] = secret,
        None => auth.secrets.insert(hashes, secret),
    }
}

fn ha1(algorithm: Algorithm, hash: &str) -> Option<Secret> {
    let digits = match algorithm {
        Algorithm::Md5 | Algorithm::Md5Sess => Some(32),
        Algorithm::Sha256 | Algorithm::Sha256Sess | Algorithm::Sha512256 | Algorithm::Sha512256Sess => Some(64),
        Algorithm::Other(_) => None,
    };
    let is_hash = hash.bytes().all(|byte| byte.is_ascii_hexdigit()) && digits.is_none_or(|digits| hash.len() == digits);
    (is_hash && !hash.is_empty()).then(|| Secret::Ha1(algorithm, hash.to_ascii_lowercase().into()))
}

/// The algorithms of `password_digest` and `supported_algorithms_uac` (`res/res_pjsip/config_auth.c`).
fn algorithm(name: &str) -> Algorithm {
    let name = name.trim();
    [("MD5", Algorithm::Md5), ("SHA-256", Algorithm::Sha256), ("SHA-512-256", Algorithm::Sha512256)]
        .into_iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map_or_else(|| Algorithm::Other(name.to_owned()), |(_, algorithm)| algorithm)
}

fn text(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `main/utils.c`, `ast_true` and `ast_false`.
pub(super) fn yes_or_no(value: &str) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| value.eq_ignore_ascii_case(word));
    if is(&["yes", "true", "y", "t", "1", "on"]) {
        Some(true)
    } else if is(&["no", "false", "n", "f", "0", "off"]) {
        Some(false)
    } else {
        None
    }
}

fn boolean(slot: &mut Option<bool>, value: &str) -> Taken {
    *slot = yes_or_no(value);
    if slot.is_some() { Taken::Yes } else { Taken::Unreadable(Wanted::YesOrNo) }
}

/// Some versions print whole seconds with a fraction of zeros.
fn number<T: std::str::FromStr>(slot: &mut Option<T>, value: &str) -> Taken {
    let whole = match value.split_once('.') {
        Some((whole, zeros)) if zeros.bytes().all(|byte| byte == b'0') => whole,
        Some(_) | None => value,
    };
    *slot = whole.parse().ok();
    if slot.is_some() { Taken::Yes } else { Taken::Unreadable(Wanted::Number) }
}

/// The options Asterisk 22 knows of a kind of object whose options are few. A section with another is left out as a
/// whole (`res/res_sorcery_config.c`), which is how a typo makes an auth or a registration vanish.
///
/// Source: `pjsip show KIND NAME` of 22.10.1, and the older spellings `res_pjsip` still takes. Endpoints have more than
/// a hundred, which differ by version, so they are not listed.
pub(super) const fn known(kind: Kind) -> Option<&'static [&'static str]> {
    match kind {
        Kind::Registration => Some(&[
            "type",
            "auth_rejection_permanent",
            "client_uri",
            "contact_header_params",
            "contact_user",
            "endpoint",
            "expiration",
            "fatal_retry_interval",
            "forbidden_retry_interval",
            "line",
            "max_random_initial_delay",
            "max_retries",
            "outbound_auth",
            "outbound_proxy",
            "retry_interval",
            "security_mechanisms",
            "security_negotiation",
            "server_uri",
            "support_outbound",
            "support_path",
            "transport",
            "user_agent",
        ]),
        Kind::Auth => Some(&[
            "type",
            "auth_type",
            "md5_cred",
            "nonce_lifetime",
            "oauth_clientid",
            "oauth_secret",
            "password",
            "password_digest",
            "realm",
            "refresh_token",
            "supported_algorithms_uac",
            "supported_algorithms_uas",
            "username",
        ]),
        Kind::Aor => Some(&[
            "type",
            "authenticate_qualify",
            "contact",
            "default_expiration",
            "mailboxes",
            "max_contacts",
            "maximum_expiration",
            "minimum_expiration",
            "outbound_proxy",
            "qualify_2xx_only",
            "qualify_frequency",
            "qualify_timeout",
            "remove_existing",
            "remove_unavailable",
            "support_path",
            "voicemail_extension",
        ]),
        Kind::Identify => {
            Some(&["type", "endpoint", "match", "match_header", "match_request_uri", "srv_lookups", "transport"])
        }
        Kind::Transport => Some(&[
            "type",
            "allow_reload",
            "allow_wildcard_certs",
            "async_operations",
            "bind",
            "ca_list_file",
            "ca_list_path",
            "cert_file",
            "cipher",
            "cos",
            "domain",
            "external_media_address",
            "external_signaling_address",
            "external_signaling_port",
            "local_net",
            "method",
            "password",
            "priv_key_file",
            "protocol",
            "require_client_cert",
            "symmetric_transport",
            "tcp_keepalive_enable",
            "tcp_keepalive_idle_time",
            "tcp_keepalive_interval_time",
            "tcp_keepalive_probe_count",
            "tos",
            "verify_client",
            "verify_server",
            "websocket_write_timeout",
        ]),
        Kind::Endpoint => None,
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn booleans_are_read_in_all_of_asterisks_spellings() {
        for (yes, no) in [("yes", "no"), ("TRUE", "False"), ("y", "N"), ("t", "f"), ("1", "0"), ("On", "off")] {
            assert_eq!((yes_or_no(yes), yes_or_no(no)), (Some(true), Some(false)));
        }
        assert_eq!((yes_or_no("maybe"), yes_or_no("")), (None, None));
    }

    #[test]
    fn a_number_is_whole_and_one_that_is_none_is_not_set() {
        let mut slot = Some(7_u32);
        assert_eq!((number(&mut slot, "3.000000"), slot), (Taken::Yes, Some(3)));
        for odd in ["-1", "3.5", "soon", "", "4294967296"] {
            assert_eq!((number(&mut slot, odd), slot), (Taken::Unreadable(Wanted::Number), None), "{odd}");
        }
    }

    #[test]
    fn hashes_come_before_the_password_once_each_and_broken_ones_not_at_all() {
        let mut auth_object = Auth::default();
        let md5 = "00112233445566778899AABBCCDDEEFF";
        let sha = format!("{md5}{md5}");
        assert_eq!(auth(&mut auth_object, "password", "hush"), Taken::Yes);
        assert_eq!(auth(&mut auth_object, "md5_cred", md5), Taken::Yes);
        assert_eq!(auth(&mut auth_object, "password_digest", &format!("MD5:{md5},SHA-256:{sha}")), Taken::Yes);
        let forms: Vec<_> = auth_object
            .secrets
            .iter()
            .map(|secret| match secret {
                Secret::Password(_) => "password".to_owned(),
                Secret::Ha1(algorithm, hash) => format!("{algorithm:?} {}", hash.expose_secret()),
            })
            .collect();
        assert_eq!(
            forms,
            [format!("Md5 {}", md5.to_lowercase()), format!("Sha256 {}", sha.to_lowercase()), "password".to_owned()]
        );
        for odd in [md5, "MD5:", "MD5:xyz", "SHA-256:00112233445566778899aabbccddeeff"] {
            assert_eq!(auth(&mut auth_object, "password_digest", odd), Taken::Unreadable(Wanted::Digest), "{odd}");
        }
        assert_eq!(auth(&mut auth_object, "md5_cred", "hush"), Taken::Unreadable(Wanted::Md5));
        assert_eq!(auth_object.secrets.len(), 3);
        assert_eq!(auth_object.password().unwrap().expose_secret(), "hush");
        let shown = format!("{auth_object:?}").to_lowercase();
        assert!(!shown.contains("hush") && !shown.contains("00112233"), "{shown}");
    }
}
