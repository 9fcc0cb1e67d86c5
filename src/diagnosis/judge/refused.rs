//! An attempt that got an answer, and not the one that was hoped for.

use super::{
    super::{
        attempt::{Attempt, Leg},
        tell,
        verdict::{Cause, Fault},
    },
    finding::{Finding, More},
    logged, mend,
    scene::{self, Before, Scene},
};
use crate::wire::{
    pjsip::{Auth, Kind},
    sip::{
        Algorithm, Challenge, Credentials, SipMessage,
        digest::{Match, Secret},
    },
};
use Cause::{
    AccountForbidden, AddressForbidden, AlgorithmNotEnabled, NoCredentialsConfigured, NoResponse,
    OutboundProxyRequired, ProviderUnavailable, RealmMismatch, WrongAuthUsername, WrongPassword,
};

/// A final answer.
pub(super) fn refused<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, status: u16) -> Finding<'a> {
    let Some(answer) = attempt.answer() else { return odd(scene, attempt, status) };
    let with_credentials = attempt.with_credentials().is_some();
    let hint = Hint::of(answer);
    let temporary = answer.retry_after();
    match status {
        401 | 407 => credentials_refused(scene, attempt, answer, hint),
        403 if temporary.is_none() && with_credentials => forbidden(scene, attempt, answer, hint),
        403 if temporary.is_none() => forbidden_at_once(scene, attempt, answer, hint),
        404 | 410 | 480 | 604 if temporary.is_none() => not_found(scene, attempt, answer, status, hint),
        402 => {
            let summary = format!("{} refuses {} with {}", scene.registrar(), scene.account(), tell::answer(answer));
            Finding::new(&[(AccountForbidden, 0.9)], Fault::Provider, summary, mend::account(scene))
        }
        301 | 302 | 305 => redirected(scene, answer, status),
        405 | 501 => no_registrar(scene, answer),
        423 => too_brief(scene, answer),
        408 | 429 | 500..=599 | 600..=699 => unavailable(scene, answer, status),
        // Any other code with Retry-After says the same: not now (Asterisk obeys it of any code).
        _ if temporary.is_some() => unavailable(scene, answer, status),
        _ => odd(scene, attempt, status),
    }
}

/// 401 to credentials.
fn credentials_refused<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, answer: &SipMessage, hint: Hint) -> Finding<'a> {
    let Some(sent) = scene::credentials(attempt) else { return odd(scene, attempt, 401) };
    let realm = tell::value(sent.realm.as_deref().unwrap_or_default());
    let user = user_of(&sent, scene);
    if answer.challenges().iter().any(|challenge| challenge.stale) {
        let summary = format!(
            "{} calls the nonce stale that it gave moments before (stale=true), and Asterisk ends an attempt at the second {}; user \"{user}\", realm \"{realm}\": this does not say that the password is wrong",
            scene.registrar(),
            tell::answer(answer),
        );
        return Finding::new(
            &[(ProviderUnavailable, 0.7), (WrongPassword, 0.15)],
            Fault::Provider,
            summary,
            mend::stale(scene),
        );
    }
    let told = format!(
        "{} answers the credentials of user \"{user}\" for realm \"{realm}\" with {} and a new challenge",
        scene.registrar(),
        tell::answer(answer),
    );
    let proof = Proof::of(scene, attempt, &sent);
    match &proof {
        Proof::OtherUser { section, configured } => {
            let summary = format!(
                "{told}; but [{}] says username \"{}\" now: the configuration was changed and not loaded",
                tell::value(section),
                tell::value(configured),
            );
            return Finding::new(
                &[(WrongAuthUsername, 0.6), (WrongPassword, 0.25)],
                Fault::Pbx,
                summary,
                mend::reload(scene),
            )
            .settings(proof.settings(scene));
        }
        Proof::NotThisSecret { section } if scene.registration.is_none() => {
            let summary = format!(
                "{told}; the digest sent is not made of the password in [{}], so Asterisk has another one",
                tell::value(section),
            );
            let ranked = [(WrongPassword, 0.9), (WrongAuthUsername, 0.05)];
            return Finding::new(&ranked, Fault::Configuration, summary, mend::password(scene))
                .settings(proof.settings(scene));
        }
        Proof::NotThisSecret { section } => {
            let summary = format!(
                "{told}; the digest sent is not made of the secret that [{}] has now: the configuration was changed and not loaded",
                tell::value(section),
            );
            return Finding::new(
                &[(WrongPassword, 0.75), (WrongAuthUsername, 0.15)],
                Fault::Pbx,
                summary,
                mend::reload(scene),
            )
            .settings(proof.settings(scene));
        }
        Proof::HashOfAnotherRealm { section } => {
            let summary = format!(
                "{told}; [{}] has a stored hash besides its password, and for this realm the two differ: the hash was made for another realm or user",
                tell::value(section),
            );
            let fix = mend::hash(scene, section, &realm, &user);
            return Finding::new(&[(RealmMismatch, 0.9), (WrongPassword, 0.1)], Fault::Configuration, summary, fix)
                .settings(proof.settings(scene));
        }
        Proof::Hash { section } if scene.before(attempt) != Before::Same => {
            let summary = format!(
                "{told}; [{}] holds a stored hash (md5_cred or password_digest), which is good for one user and one realm only, and fails silently for any other",
                tell::value(section),
            );
            let fix = mend::hash(scene, section, &realm, &user);
            let ranked = [(RealmMismatch, 0.6), (WrongPassword, 0.25), (WrongAuthUsername, 0.1)];
            return Finding::new(&ranked, Fault::Configuration, summary, fix).settings(proof.settings(scene));
        }
        Proof::Hash { .. } | Proof::AsConfigured { .. } | Proof::None => {}
    }
    let checked = matches!(proof, Proof::AsConfigured { .. });
    let (ranked, fault, why) = who_is_wrong(scene, attempt, &sent, hint, checked);
    let mut summary = told;
    if let Proof::AsConfigured { section } = &proof {
        summary.push_str(&format!("; the digest is the right one for the password in [{}]", tell::value(section)));
    }
    summary.push_str(&why);
    let fix = match ranked.first() {
        Some((WrongAuthUsername, _)) => mend::auth_username(scene),
        Some((AccountForbidden, _)) => mend::account(scene),
        Some(_) | None => mend::password(scene),
    };
    let found = Finding::new(&ranked, fault, summary, fix).settings(proof.settings(scene));
    if scene.registration.is_none() { found.more([More::Configuration]) } else { found }
}

/// Ranks password against user name. Neither is ever certain: a registrar does not say which it is.
fn who_is_wrong(
    scene: &Scene<'_>,
    attempt: &Attempt<'_>,
    sent: &Credentials,
    hint: Hint,
    checked: bool,
) -> (Vec<(Cause, f64)>, Fault, String) {
    let own = own_fault(scene.before(attempt), checked);
    let user = user_of(sent, scene);
    let account = scene.wanted.as_ref().map(|wanted| wanted.who.user.clone()).unwrap_or_default();
    let realm = sent.realm.as_deref().unwrap_or_default();
    let before = scene.before(attempt);
    if before != Before::Same
        && let Some(others) = scene.neighbours.realm_of_others(scene.registrar_address(), &account, realm)
    {
        let why = format!(
            "; it asks its other users for realm \"{}\" and only this one for \"{}\", as registrars do for a user they do not know",
            tell::value(others),
            tell::value(realm),
        );
        return (vec![(WrongAuthUsername, 0.75), (WrongPassword, 0.15)], own, why);
    }
    match hint {
        Hint::User if before != Before::Same => {
            return (
                vec![(WrongAuthUsername, 0.75), (WrongPassword, 0.15)],
                own,
                "; its text says that it does not know the user".to_owned(),
            );
        }
        Hint::Password => {
            return (
                vec![(WrongPassword, 0.85), (WrongAuthUsername, 0.1)],
                own,
                "; its text says that the password is wrong".to_owned(),
            );
        }
        Hint::Account => {
            let ranked = vec![(AccountForbidden, 0.65), (WrongPassword, 0.25)];
            return (ranked, Fault::Provider, "; its text speaks of the account".to_owned());
        }
        Hint::User | Hint::Address | Hint::Proxy | Hint::None => {}
    }
    match before {
        Before::Same => {
            let why = "; the same user has registered before in this realm, so the name is right, and the password or the account was changed over there".to_owned();
            return (vec![(WrongPassword, 0.65), (AccountForbidden, 0.2), (WrongAuthUsername, 0.05)], own, why);
        }
        Before::OtherSecret => {
            let why = "; it registered before the secret was changed here".to_owned();
            return (vec![(WrongPassword, 0.85), (WrongAuthUsername, 0.1)], Fault::Configuration, why);
        }
        Before::Some => {
            let why = "; it was registered before".to_owned();
            return (vec![(WrongPassword, 0.65), (WrongAuthUsername, 0.15), (AccountForbidden, 0.1)], own, why);
        }
        Before::Unknown => {}
    }
    let contact_user = scene.registration.and_then(|own| own.contact_user.as_deref());
    let same = user == account || contact_user == Some(user.as_str());
    if same && is_number(&user) {
        let why = "; the user name is the number itself, and many providers give an authentication name of its own"
            .to_owned();
        (vec![(WrongAuthUsername, 0.5), (WrongPassword, 0.4)], own, why)
    } else if same {
        (vec![(WrongPassword, if checked { 0.65 } else { 0.6 }), (WrongAuthUsername, 0.3)], own, String::new())
    } else {
        (vec![(WrongPassword, if checked { 0.75 } else { 0.7 }), (WrongAuthUsername, 0.2)], own, String::new())
    }
}

/// Credentials that were good are not ours to mend; the provider changed them.
fn own_fault(before: Before, checked: bool) -> Fault {
    match before {
        Before::Same if checked => Fault::Provider,
        Before::Same | Before::Some => Fault::Unknown,
        Before::OtherSecret | Before::Unknown => Fault::Configuration,
    }
}

/// What the configuration proves of the credentials that were sent.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// Asterisk sent what is configured.
    AsConfigured { section: String },
    /// It sent another user than is configured.
    OtherUser { section: String, configured: String },
    /// It sent the digest of another secret than is configured.
    NotThisSecret { section: String },
    /// It sent what is configured, and that is a hash bound to one realm.
    Hash { section: String },
    /// As `Hash`, and the password beside it proves it to be of another realm or user.
    HashOfAnotherRealm { section: String },
    /// The configuration is not known, or proves nothing.
    None,
}

impl Proof {
    fn of(scene: &Scene<'_>, attempt: &Attempt<'_>, sent: &Credentials) -> Self {
        let mut auths: Vec<(&str, &Auth)> =
            scene.auths().into_iter().filter_map(|(name, auth)| Some((name, auth?))).collect();
        // Of a registration that is not configured here a secret may be known all the same, by its user.
        if scene.registration.is_none() {
            let all = scene.case.objects.into_iter().flat_map(|objects| &objects.auths);
            let own = all.filter(|(_, auth)| auth.username.is_some() && auth.username == sent.username);
            auths.extend(own.map(|(name, auth)| (name.as_str(), auth)));
        }
        let Some(message) = attempt.with_credentials().and_then(Leg::asked) else { return Self::None };
        let Some(realm) = sent.realm.as_deref() else { return Self::None };
        // A hashed user name tells nothing by itself.
        let named = |auth: &Auth| sent.userhash || auth.username.as_deref() == sent.username.as_deref();
        let answering: Vec<&(&str, &Auth)> = auths.iter().filter(|(_, auth)| auth.answers(realm)).collect();
        let Some((section, auth)) = answering.iter().find(|(_, auth)| named(auth)) else {
            // Only where every auth is known, and each names its user, is another user news.
            let all_known = scene.auths().iter().all(|(_, auth)| auth.is_some_and(|auth| auth.username.is_some()));
            return match answering.first() {
                Some((section, auth)) if all_known && sent.username.is_some() => Self::OtherUser {
                    section: (*section).to_owned(),
                    configured: auth.username.clone().unwrap_or_default(),
                },
                Some(_) | None => Self::None,
            };
        };
        let section = (*section).to_owned();
        let username = auth.username.as_deref().unwrap_or_default();
        let check = |secret: &Secret| sent.made_of(secret, username, "REGISTER", message.body());
        let mut by_hash = None;
        let mut by_password = None;
        for secret in &auth.secrets {
            match secret {
                Secret::Password(_) => by_password = Some(check(secret)),
                // A list of hashes has one per algorithm; only the one that was used can tell.
                Secret::Ha1(..) => match (by_hash, check(secret)) {
                    (Some(Match::Yes | Match::No), Match::Unknown) => {}
                    (_, found) => by_hash = Some(found),
                },
            }
        }
        match (by_hash, by_password) {
            (Some(Match::Yes), Some(Match::No)) => Self::HashOfAnotherRealm { section },
            (Some(Match::Yes), _) => Self::Hash { section },
            (_, Some(Match::Yes)) => Self::AsConfigured { section },
            (Some(Match::No), None | Some(Match::No)) | (None, Some(Match::No)) => Self::NotThisSecret { section },
            (Some(Match::No), Some(Match::Unknown))
            | (Some(Match::Unknown), _)
            | (None, None | Some(Match::Unknown)) => Self::None,
        }
    }

    /// The lines that bear it out, without the secret.
    fn settings(&self, scene: &Scene<'_>) -> Vec<String> {
        let section = match self {
            Self::None => return Vec::new(),
            Self::AsConfigured { section }
            | Self::OtherUser { section, .. }
            | Self::NotThisSecret { section }
            | Self::Hash { section }
            | Self::HashOfAnotherRealm { section } => section,
        };
        let auth = scene.case.objects.and_then(|objects| objects.auths.get(section));
        let place = Scene::place(auth.and_then(|auth| auth.place.as_ref()));
        let username = auth.and_then(|auth| auth.username.as_deref()).unwrap_or_default();
        let what = match self {
            Self::AsConfigured { .. } => "its password gives the digest that was sent",
            Self::OtherUser { .. } => "another user was sent",
            Self::NotThisSecret { .. } => "its secret gives another digest than was sent",
            Self::Hash { .. } => "its stored hash gives the digest that was sent",
            Self::HashOfAnotherRealm { .. } => "its stored hash gives the digest that was sent, its password another",
            Self::None => "",
        };
        vec![format!("[{}] username={}: {what}{place}", tell::value(section), tell::value(username))]
    }
}

/// A challenge that Asterisk did not answer.
pub(super) fn unanswered<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Finding<'a> {
    let Some(answer) = attempt.answer() else { return odd(scene, attempt, 401) };
    let challenges = answer.challenges();
    let told = format!("{} challenges with {}, and Asterisk sends nothing more", scene.registrar(), asked_for(answer));
    if challenges.is_empty() {
        let summary = format!("{}, without a challenge that could be answered", refuses(scene, answer));
        return Finding::unknown(0.5, &[(ProviderUnavailable, 0.4)], Fault::Provider, summary, mend::ask(scene));
    }
    let by_log = attempt
        .last()
        .and_then(|leg| leg.answer)
        .and_then(|seen| logged::unanswered(scene, seen.at, &challenges, &told));
    match (by_configuration(scene, &challenges, &told), by_log) {
        // What the file says now need not be what Asterisk has loaded; what it logged is.
        (Some(configured), Some(log)) if configured.cause() == Cause::Unknown => return log,
        (Some(configured), Some(log)) => return configured.with_lines_of(log),
        (Some(configured), None) => return configured,
        (None, Some(log)) => return log,
        (None, None) => {}
    }
    // Without the configuration. What was answered before, and is not now, has changed over there.
    let answered_before = scene.earlier(attempt).filter_map(scene::credentials).last();
    let realms: Vec<&str> = challenges.iter().filter_map(|one| one.realm.as_deref()).collect();
    let only_enabled_elsewhere = challenges.iter().all(|one| one.algorithm != Algorithm::Md5);
    if let Some(before) = answered_before {
        let realm = before.realm.as_deref().unwrap_or_default();
        if !realms.contains(&realm) {
            let summary = format!("{told}; before, it was realm \"{}\", and that was answered", tell::value(realm));
            let ranked = [(RealmMismatch, 0.85), (AlgorithmNotEnabled, 0.05)];
            return Finding::new(
                &ranked,
                Fault::Configuration,
                summary,
                mend::realm(scene, None, realms.first().copied()),
            )
            .more([More::Configuration]);
        }
        if challenges.iter().all(|one| one.algorithm != before.algorithm) {
            let summary =
                format!("{told}; before, it was {}, and that was answered", tell::algorithm(&before.algorithm));
            let ranked = [(AlgorithmNotEnabled, 0.85), (RealmMismatch, 0.05)];
            return Finding::new(&ranked, Fault::Configuration, summary, mend::algorithm(scene, None, &challenges))
                .more([More::Configuration]);
        }
        let summary =
            format!("{told}, though it answered such a challenge before: the configuration was changed since");
        let ranked = [(NoCredentialsConfigured, 0.4), (RealmMismatch, 0.4)];
        return Finding::new(&ranked, Fault::Configuration, summary, mend::credentials(scene))
            .more([More::Configuration]);
    }
    if only_enabled_elsewhere {
        let summary = format!("{told}; Asterisk answers MD5 only unless told otherwise");
        let ranked = [(AlgorithmNotEnabled, 0.75), (RealmMismatch, 0.12), (NoCredentialsConfigured, 0.1)];
        return Finding::new(&ranked, Fault::Configuration, summary, mend::algorithm(scene, None, &challenges))
            .more([More::Configuration]);
    }
    let summary = format!("{told}: no auth section answers this realm, or none is named");
    let ranked = [(RealmMismatch, 0.5), (NoCredentialsConfigured, 0.35)];
    Finding::new(&ranked, Fault::Configuration, summary, mend::realm(scene, None, realms.first().copied()))
        .more([More::Configuration])
}

/// Why Asterisk did not answer, by its configuration.
fn by_configuration<'a>(scene: &Scene<'a>, challenges: &[Challenge], told: &str) -> Option<Finding<'a>> {
    let registration = scene.registration?;
    let name = tell::value(scene.name.unwrap_or_default());
    let place = Scene::place(registration.place.as_ref());
    let auths = scene.auths();
    if auths.is_empty() {
        let summary = format!("{told}: [{name}] names no outbound_auth");
        return Some(
            Finding::new(&[(NoCredentialsConfigured, 0.97)], Fault::Configuration, summary, mend::credentials(scene))
                .settings([format!("[{name}] outbound_auth is not set{place}")]),
        );
    }
    let known: Vec<(&str, &Auth)> = auths.iter().filter_map(|&(section, auth)| Some((section, auth?))).collect();
    if known.is_empty() {
        let first = auths.first().map_or("", |&(section, _)| section);
        let all = scene.case.objects.is_some_and(|objects| objects.is_missing(Kind::Auth, first));
        let missing = tell::value(first);
        let summary = format!("{told}: [{name}] names outbound_auth \"{missing}\", and there is no such auth section");
        let sure = if all { 0.95 } else { 0.6 };
        let alternatives = if all { 0.03 } else { 0.2 };
        let ranked = [(NoCredentialsConfigured, sure), (RealmMismatch, alternatives)];
        return Some(
            Finding::new(&ranked, Fault::Configuration, summary, mend::credentials(scene))
                .settings([format!("[{name}] outbound_auth={missing}{place}: no such auth section")]),
        );
    }
    let asked_realm = challenges.iter().find_map(|one| one.realm.as_deref()).unwrap_or_default();
    let answers = |auth: &Auth| challenges.iter().any(|one| auth.answers(one.realm.as_deref().unwrap_or_default()));
    let settings: Vec<String> = known.iter().map(|(section, auth)| setting_of(section, auth)).collect();
    let fitting: Vec<&(&str, &Auth)> = known.iter().filter(|(_, auth)| answers(auth)).collect();
    let Some((section, auth)) = fitting.first() else {
        let (section, auth) = known.first()?;
        let summary = format!(
            "{told}: [{}] is made for realm \"{}\" only",
            tell::value(section),
            tell::value(auth.realm.as_deref().unwrap_or_default()),
        );
        let fix = mend::realm(scene, Some(section), Some(asked_realm));
        return Some(Finding::new(&[(RealmMismatch, 0.97)], Fault::Configuration, summary, fix).settings(settings));
    };
    let enabled = |auth: &Auth, challenge: &Challenge| is_enabled(auth, &challenge.algorithm);
    let answerable = fitting.iter().any(|(_, auth)| {
        challenges.iter().any(|one| auth.answers(one.realm.as_deref().unwrap_or_default()) && enabled(auth, one))
    });
    if !answerable {
        let own = if auth.supported_algorithms_uac.is_empty() {
            "MD5 (the default)".to_owned()
        } else {
            tell::value(&auth.supported_algorithms_uac.join(","))
        };
        let summary = format!("{told}: [{}] answers {own} only", tell::value(section));
        let fix = mend::algorithm(scene, Some(section), challenges);
        let digest = challenges.iter().any(|one| one.scheme.eq_ignore_ascii_case("digest"));
        // The global default may have been changed; an unset option says MD5 all the same.
        let sure = if digest { 0.95 } else { 0.6 };
        return Some(
            Finding::new(&[(AlgorithmNotEnabled, sure)], Fault::Configuration, summary, fix).settings(settings),
        );
    }
    if fitting.iter().all(|(_, auth)| auth.secrets.is_empty() && auth.password().is_none()) {
        let summary = format!("{told}: [{}] has no password that could be read", tell::value(section));
        let ranked = [(NoCredentialsConfigured, 0.5), (RealmMismatch, 0.2), (AlgorithmNotEnabled, 0.1)];
        return Some(Finding::new(&ranked, Fault::Configuration, summary, mend::password(scene)).settings(settings));
    }
    let summary = format!(
        "{told}, though [{}] as it is now would answer: it was changed and not loaded, or the digest module is missing",
        tell::value(section),
    );
    let perhaps = [(RealmMismatch, 0.3), (NoCredentialsConfigured, 0.3), (AlgorithmNotEnabled, 0.2)];
    Some(Finding::unknown(0.5, &perhaps, Fault::Pbx, summary, mend::reload(scene)).settings(settings))
}

/// An auth section's line, without its secret.
fn setting_of(section: &str, auth: &Auth) -> String {
    let realm = match auth.realm.as_deref() {
        None | Some("") => "realm is not set (any)".to_owned(),
        Some(realm) => format!("realm={}", tell::value(realm)),
    };
    let algorithms = if auth.supported_algorithms_uac.is_empty() {
        String::new()
    } else {
        format!(", supported_algorithms_uac={}", tell::value(&auth.supported_algorithms_uac.join(",")))
    };
    format!("[{}] {realm}{algorithms}{}", tell::value(section), Scene::place(auth.place.as_ref()))
}

/// Whether an auth section answers an algorithm (`supported_algorithms_uac`, by default MD5).
fn is_enabled(auth: &Auth, algorithm: &Algorithm) -> bool {
    let name = match algorithm {
        Algorithm::Md5 => "MD5",
        Algorithm::Sha256 => "SHA-256",
        Algorithm::Sha512256 => "SHA-512-256",
        // Asterisk has none of these (`res_pjsip/config_auth.c`).
        Algorithm::Md5Sess | Algorithm::Sha256Sess | Algorithm::Sha512256Sess | Algorithm::Other(_) => return false,
    };
    if auth.supported_algorithms_uac.is_empty() {
        return name == "MD5";
    }
    auth.supported_algorithms_uac.iter().any(|own| own.trim().eq_ignore_ascii_case(name))
}

/// 403 to credentials.
fn forbidden<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, answer: &SipMessage, hint: Hint) -> Finding<'a> {
    let user = scene::credentials(attempt).map(|sent| user_of(&sent, scene)).unwrap_or_default();
    let told =
        format!("{} answers the credentials of user \"{user}\" with {}", scene.registrar(), tell::answer(answer));
    let before = scene.before(attempt);
    let (ranked, fault, why): (Vec<(Cause, f64)>, Fault, &str) = match (hint, before) {
        (Hint::Password, _) => (
            vec![(WrongPassword, 0.75), (AccountForbidden, 0.15)],
            own_fault(before, false),
            "; its text says that the password is wrong",
        ),
        (Hint::User, Before::Unknown | Before::OtherSecret | Before::Some) => (
            vec![(WrongAuthUsername, 0.7), (AccountForbidden, 0.15), (WrongPassword, 0.1)],
            Fault::Configuration,
            "; its text says that it does not know the user",
        ),
        (Hint::Account, _) => {
            (vec![(AccountForbidden, 0.9), (WrongPassword, 0.05)], Fault::Provider, "; its text speaks of the account")
        }
        (Hint::Address, _) => (
            vec![(AddressForbidden, 0.7), (AccountForbidden, 0.2)],
            Fault::Provider,
            "; its text speaks of the address",
        ),
        (Hint::Proxy, _) => (
            vec![(OutboundProxyRequired, 0.7), (AccountForbidden, 0.2)],
            Fault::Configuration,
            "; its text speaks of a proxy",
        ),
        (Hint::User | Hint::None, Before::Same) => (
            vec![(AccountForbidden, 0.85), (WrongPassword, 0.1)],
            Fault::Provider,
            "; the same credentials have registered before, so the account itself was barred",
        ),
        (Hint::None, Before::OtherSecret) => (
            vec![(WrongPassword, 0.6), (AccountForbidden, 0.3)],
            Fault::Configuration,
            "; it registered before the secret was changed here, and some providers say 403 to a wrong password",
        ),
        (Hint::None, Before::Some) => {
            (vec![(AccountForbidden, 0.7), (WrongPassword, 0.2)], Fault::Provider, "; it was registered before")
        }
        (Hint::None, Before::Unknown) => (
            vec![(AccountForbidden, 0.6), (WrongPassword, 0.3), (WrongAuthUsername, 0.05)],
            Fault::Provider,
            "; the account is disabled, or this is the provider's word for a wrong password",
        ),
    };
    let fix = match ranked.first().map(|&(cause, _)| cause) {
        Some(WrongPassword) => mend::password(scene),
        Some(WrongAuthUsername) => mend::auth_username(scene),
        Some(AddressForbidden) => mend::address(scene, None),
        Some(OutboundProxyRequired) => mend::proxy(scene, None),
        Some(_) | None => mend::account(scene),
    };
    Finding::new(&ranked, fault, format!("{told}{why}"), fix)
}

/// 403 before any credentials.
fn forbidden_at_once<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, answer: &SipMessage, hint: Hint) -> Finding<'a> {
    let seen_as = answer.via().and_then(|via| via.received).map(|ip| tell::value(&ip));
    let from = seen_as.clone().map(|ip| format!(" (it sees us as {ip})")).unwrap_or_default();
    let told = format!(
        "{} answers the first REGISTER of {} with {}{from}",
        scene.registrar(),
        scene.account(),
        tell::answer(answer)
    );
    let challenged_before = scene.earlier(attempt).any(|one| one.with_credentials().is_some());
    let (ranked, fault, why): (Vec<(Cause, f64)>, Fault, &str) = match hint {
        Hint::Proxy => (
            vec![(OutboundProxyRequired, 0.75), (AddressForbidden, 0.15)],
            Fault::Configuration,
            "; its text speaks of a proxy",
        ),
        Hint::Account => (
            vec![(AccountForbidden, 0.75), (AddressForbidden, 0.2)],
            Fault::Provider,
            "; its text speaks of the account",
        ),
        Hint::User => (
            vec![(WrongAuthUsername, 0.6), (AddressForbidden, 0.2), (AccountForbidden, 0.15)],
            Fault::Configuration,
            "; its text says that it does not know the user",
        ),
        Hint::Address => (
            vec![(AddressForbidden, 0.9), (AccountForbidden, 0.05)],
            Fault::Provider,
            "; its text speaks of the address",
        ),
        Hint::Password | Hint::None if challenged_before => (
            vec![(AddressForbidden, 0.85), (AccountForbidden, 0.1)],
            Fault::Provider,
            ", without asking for credentials as it did before: the address has been barred since",
        ),
        Hint::Password | Hint::None => (
            vec![(AddressForbidden, 0.8), (AccountForbidden, 0.1), (OutboundProxyRequired, 0.05)],
            Fault::Provider,
            ", without asking for credentials: it does not let this address in",
        ),
    };
    let fix = match ranked.first().map(|&(cause, _)| cause) {
        Some(OutboundProxyRequired) => mend::proxy(scene, None),
        Some(AccountForbidden) => mend::account(scene),
        Some(WrongAuthUsername) => mend::auth_username(scene),
        Some(_) | None => mend::address(scene, seen_as.as_deref()),
    };
    Finding::new(&ranked, fault, format!("{told}{why}"), fix)
}

/// 404, 410, 480, 604: no such user here, or none here at all.
fn not_found<'a>(
    scene: &Scene<'a>,
    attempt: &Attempt<'a>,
    answer: &SipMessage,
    status: u16,
    hint: Hint,
) -> Finding<'a> {
    let told = refuses(scene, answer);
    let domain = scene.wanted.as_ref().map(|wanted| wanted.who.host.as_str()).unwrap_or_default();
    let elsewhere = scene.neighbours.other_way_to(domain, scene.registrar_address());
    if let Some(proxy) = elsewhere {
        let summary = format!("{told}, while {proxy} takes registrations of {}", tell::value(domain));
        let ranked = [(OutboundProxyRequired, 0.7), (WrongAuthUsername, 0.2)];
        return Finding::new(&ranked, Fault::Configuration, summary, mend::proxy(scene, Some(&proxy.to_string())));
    }
    if hint == Hint::Proxy {
        let summary = format!("{told}; its text speaks of a proxy");
        let ranked = [(OutboundProxyRequired, 0.7), (WrongAuthUsername, 0.2)];
        return Finding::new(&ranked, Fault::Configuration, summary, mend::proxy(scene, None));
    }
    if matches!(scene.before(attempt), Before::Same | Before::Some) {
        let summary = format!("{told}, though it was registered before: the account was removed, or lost over there");
        let ranked = [(AccountForbidden, 0.6), (ProviderUnavailable, 0.25), (WrongAuthUsername, 0.05)];
        return Finding::new(&ranked, Fault::Provider, summary, mend::account(scene));
    }
    if attempt.with_credentials().is_some() {
        let summary = format!("{told}, after credentials: it does not know this user");
        let ranked = [(WrongAuthUsername, 0.6), (AccountForbidden, 0.2), (OutboundProxyRequired, 0.1)];
        return Finding::new(&ranked, Fault::Configuration, summary, mend::auth_username(scene));
    }
    if status == 480 {
        let summary = format!("{told}, before any credentials: no server behind it takes this registration");
        let ranked = [(OutboundProxyRequired, 0.5), (ProviderUnavailable, 0.35), (WrongAuthUsername, 0.1)];
        return Finding::new(&ranked, Fault::Configuration, summary, mend::proxy(scene, None)).more([More::Capture]);
    }
    let summary =
        format!("{told}, before any credentials: it knows no such user, or is not the host that registers him");
    let ranked = [(WrongAuthUsername, 0.5), (OutboundProxyRequired, 0.35), (AccountForbidden, 0.1)];
    Finding::new(&ranked, Fault::Configuration, summary, mend::auth_username(scene))
}

/// 3xx: it sends us elsewhere, and Asterisk does not follow with a REGISTER.
fn redirected<'a>(scene: &Scene<'a>, answer: &SipMessage, status: u16) -> Finding<'a> {
    let target = answer.contacts().first().map(|contact| tell::uri(&contact.text));
    let to = target.as_deref().map(|uri| format!(" to {uri}")).unwrap_or_default();
    let summary =
        format!("{}: it sends the registration elsewhere{to}, and Asterisk does not follow", refuses(scene, answer));
    let sure = if status == 305 { 0.9 } else { 0.65 };
    Finding::new(&[(OutboundProxyRequired, sure)], Fault::Configuration, summary, mend::proxy(scene, target.as_deref()))
}

/// 405, 501: whoever answers is no registrar.
fn no_registrar<'a>(scene: &Scene<'a>, answer: &SipMessage) -> Finding<'a> {
    let summary = format!("{}: whoever answers there does not take registrations", refuses(scene, answer));
    Finding::unknown(0.5, &[(OutboundProxyRequired, 0.4)], Fault::Configuration, summary, mend::server(scene))
}

/// 423, and nothing more: pjproject answers one by itself, unless its Min-Expires is no use.
fn too_brief<'a>(scene: &Scene<'a>, answer: &SipMessage) -> Finding<'a> {
    let least = answer.header("Min-Expires").and_then(|text| text.trim().parse::<u32>().ok());
    let told =
        least.map_or_else(|| "without a Min-Expires".to_owned(), |seconds| format!("with Min-Expires {seconds}"));
    let summary = format!("{} {told}, and Asterisk does not go on", refuses(scene, answer));
    Finding::unknown(0.6, &[(ProviderUnavailable, 0.2)], Fault::Configuration, summary, mend::expiration(scene, least))
}

/// 5xx, 6xx, and whatever says when to come again.
fn unavailable<'a>(scene: &Scene<'a>, answer: &SipMessage, status: u16) -> Finding<'a> {
    let retry = answer.retry_after();
    let wait = retry.map(|seconds| format!(" and asks to come again in {seconds} s")).unwrap_or_default();
    let summary = format!("{}{wait}", refuses(scene, answer));
    let ranked: Vec<(Cause, f64)> = match (status, retry) {
        (503, Some(_)) => vec![(ProviderUnavailable, 0.95)],
        (503, None) => vec![(ProviderUnavailable, 0.9)],
        (500..=599, Some(_)) => vec![(ProviderUnavailable, 0.95)],
        (500 | 502 | 504, None) => vec![(ProviderUnavailable, 0.85)],
        (500..=599, None) => vec![(ProviderUnavailable, 0.7)],
        (408, _) => vec![(ProviderUnavailable, 0.75), (NoResponse, 0.1)],
        (429, _) => vec![(ProviderUnavailable, 0.7), (AddressForbidden, 0.2)],
        (603, None) => vec![(ProviderUnavailable, 0.5), (AccountForbidden, 0.4)],
        (600..=699, _) => vec![(ProviderUnavailable, 0.75), (AccountForbidden, 0.15)],
        // 403 or 404 with a Retry-After: not now, whatever the code says besides.
        (403, _) => vec![(ProviderUnavailable, 0.55), (AccountForbidden, 0.2), (AddressForbidden, 0.2)],
        (404 | 480, _) => vec![(ProviderUnavailable, 0.6), (WrongAuthUsername, 0.2)],
        (_, _) => vec![(ProviderUnavailable, 0.6)],
    };
    Finding::new(&ranked, Fault::Provider, summary, mend::wait(scene, retry))
}

/// A code that says nothing that we know of.
fn odd<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>, status: u16) -> Finding<'a> {
    let summary = match attempt.answer() {
        Some(answer) => format!("{}, which names no cause", refuses(scene, answer)),
        None => format!("{} refuses {} with {status}", scene.registrar(), scene.account()),
    };
    Finding::unknown(0.5, &[], Fault::Unknown, summary, mend::ask(scene))
}

fn refuses(scene: &Scene<'_>, answer: &SipMessage) -> String {
    format!("{} answers the REGISTER of {} with {}", scene.registrar(), scene.account(), tell::answer(answer))
}

/// `401, realm "asterisk", MD5`.
fn asked_for(answer: &SipMessage) -> String {
    let mut parts = vec![answer.status().unwrap_or_default().to_string()];
    for challenge in answer.challenges().iter().take(3) {
        let realm = tell::value(challenge.realm.as_deref().unwrap_or_default());
        let scheme = if challenge.scheme.eq_ignore_ascii_case("digest") {
            tell::value(tell::algorithm(&challenge.algorithm))
        } else {
            tell::value(&challenge.scheme)
        };
        parts.push(format!("realm \"{realm}\", {scheme}"));
    }
    parts.join(", ")
}

fn user_of(sent: &Credentials, scene: &Scene<'_>) -> String {
    if sent.userhash {
        // The message has its hash only; the configuration knows the name.
        let configured = scene.auths().into_iter().find_map(|(_, auth)| auth?.username.clone());
        return tell::value(&configured.unwrap_or_else(|| "(hashed)".to_owned()));
    }
    tell::value(sent.username.as_deref().unwrap_or_default())
}

/// A telephone number: digits, maybe with a plus, as long as numbers are.
fn is_number(user: &str) -> bool {
    let digits = user.strip_prefix('+').unwrap_or(user);
    (7..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// What the answer's own words say: reason phrase, Warning and Reason. Only plain words count; codes mean what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    Password,
    User,
    Account,
    Address,
    Proxy,
    None,
}

impl Hint {
    fn of(answer: &SipMessage) -> Self {
        let mut words = answer.reason().unwrap_or_default().to_ascii_lowercase();
        for name in ["Warning", "Reason", "X-Reason", "P-Reason"] {
            if let Some(text) = answer.header(name) {
                words.push(' ');
                words.push_str(&text.to_ascii_lowercase());
            }
        }
        let has = |any: &[&str]| any.iter().any(|word| words.contains(word));
        if has(&["outbound proxy", "use proxy", "wrong proxy", "via proxy", "through proxy", "use the proxy"]) {
            Self::Proxy
        } else if has(&[
            "password",
            "bad secret",
            "invalid credential",
            "wrong credential",
            "bad auth",
            "auth failed",
            "authentication failed",
            "authentication failure",
        ]) {
            Self::Password
        } else if has(&[
            "unknown user",
            "user unknown",
            "no such user",
            "user not found",
            "invalid user",
            "unknown account",
            "account not found",
            "no such account",
            "unknown subscriber",
            "subscriber not found",
            "does not exist",
        ]) {
            Self::User
        } else if has(&[
            "disabled",
            "suspended",
            "inactive",
            "deactivated",
            "account blocked",
            "user blocked",
            "barred",
            "credit",
            "balance",
            "unpaid",
            "payment",
            "expired account",
            "account expired",
            "terminated",
        ]) {
            Self::Account
        } else if has(&[
            "ip not",
            "ip address",
            "source ip",
            "address not",
            "not allowed from",
            "blacklist",
            "whitelist",
            "blocked ip",
            "ip blocked",
            "banned",
        ]) {
            Self::Address
        } else {
            Self::None
        }
    }
}
