//! A trunk that is registered, and what may be wrong with it all the same.

use super::{
    super::{
        address,
        attempt::Attempt,
        tell,
        verdict::{Cause, Fault},
    },
    calls,
    finding::{Finding, More},
    mend,
    scene::{self, Scene},
    told,
};
use Cause::{BindingLost, BindingRefused, ExpiryTooShort, NatContact, ProviderUnavailable};

/// Asterisk refreshes ten seconds early (`res_pjsip_outbound_registration.c`, `REREGISTER_BUFFER_TIME`): so much or less
/// makes it register without end.
const TOO_SHORT: u32 = 10;

/// What is wrong with a registered trunk; `None` if nothing is.
pub(super) fn registered<'a>(scene: &Scene<'a>, attempt: Option<&Attempt<'a>>) -> Option<Finding<'a>> {
    let mut found: Vec<Finding<'a>> = Vec::new();
    if let Some(attempt) = attempt {
        found.extend(too_short(scene, attempt));
        found.extend(lost(scene, attempt));
    }
    found.extend(told::registered(scene));
    // A call that fails outranks a sign that calls may fail.
    found.extend(calls::calls(scene));
    if let Some(attempt) = attempt {
        found.extend(private_contact(scene, attempt));
    }
    found.extend(calls::media(scene));
    let mut found = found.into_iter();
    let first = found.next()?;
    Some(found.fold(first, |first, other| {
        let sure = other.confidence().min(first.confidence());
        first.or(other.cause(), sure)
    }))
}

/// 200, and nothing granted.
pub(super) fn nothing_granted<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Finding<'a> {
    let answer = attempt.answer().map(tell::answer).unwrap_or_default();
    let summary = format!(
        "{} answers {answer} to {} and grants 0 seconds: it refuses the binding, and Asterisk does not try again",
        scene.registrar(),
        scene.account(),
    );
    let ranked = [(BindingRefused, 0.95), (ProviderUnavailable, 0.03)];
    Finding::new(&ranked, Fault::Provider, summary, mend::binding(scene))
}

fn too_short<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Option<Finding<'a>> {
    let seconds = scene::granted(attempt).filter(|&seconds| seconds <= TOO_SHORT)?;
    let summary = format!(
        "{} grants {} {seconds} s, and Asterisk refreshes 10 s early: it registers without end",
        scene.registrar(),
        scene.account(),
    );
    Some(Finding::new(&[(ExpiryTooShort, 0.97)], Fault::Provider, summary, mend::expiry(scene)))
}

/// Our Contact is not in the answer's list.
fn lost<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Option<Finding<'a>> {
    let leg = attempt.last()?;
    let answer = leg.answered()?;
    let theirs = answer.contacts();
    let ours = leg.asked()?.contacts();
    let own = ours.first()?;
    // An answer without Contacts leaves them out; it does not say that there are none.
    if theirs.is_empty() || theirs.iter().any(|there| ours.iter().any(|here| scene::same_contact(here, there))) {
        return None;
    }
    let own_uri = own.uri.as_ref()?;
    let others: Vec<String> = theirs.iter().take(3).map(|contact| tell::uri(&contact.text)).collect();
    let told = format!(
        "{} accepts {} and lists {} instead of our Contact {}",
        scene.registrar(),
        scene.account(),
        others.join(" and "),
        tell::uri(&own.text),
    );
    let changed = theirs.iter().filter_map(|contact| contact.uri.as_ref()).find(|uri| {
        let line = own_uri.parameter("line");
        uri.user == own_uri.user || (line.is_some() && line == uri.parameter("line"))
    });
    let received = answer.via().and_then(|via| via.received);
    let found = match changed {
        // The registrar wrote down the address it sees: it knows of NAT, and its calls may well arrive.
        Some(uri) if received.as_deref().is_some_and(|seen| seen == uri.host) => {
            let summary = format!("{told}: the Contact was rewritten to the address it sees us at");
            let ranked = [(BindingLost, 0.5), (NatContact, 0.4)];
            Finding::new(&ranked, Fault::Network, summary, mend::alg(scene))
        }
        Some(_) => {
            let summary = format!("{told}: something on the way, such as a SIP ALG, rewrote it");
            Finding::new(&[(BindingLost, 0.8), (NatContact, 0.15)], Fault::Network, summary, mend::alg(scene))
        }
        None => {
            let summary = format!("{told}: another device holds the account's binding");
            Finding::new(&[(BindingLost, 0.85)], Fault::Provider, summary, mend::alg(scene))
        }
    };
    Some(found)
}

/// A private address in the Contact, or a public one that is not ours.
fn private_contact<'a>(scene: &Scene<'a>, attempt: &Attempt<'a>) -> Option<Finding<'a>> {
    let leg = attempt.last()?;
    let contacts = leg.asked()?.contacts();
    let contact = contacts.first()?.uri.as_ref()?;
    let ip = address::literal(&contact.host)?;
    let registrar = scene.registrar_ip();
    let registrar_public = registrar.is_some_and(|ip| !address::is_private(ip));
    let via = leg.answered()?.via();
    let received = via.as_ref().and_then(|via| via.received.as_deref()).and_then(address::literal);
    let seen_public = received.filter(|ip| !address::is_private(*ip));
    let settings = transport_settings(scene);
    if address::is_private(ip) {
        if !registrar_public && seen_public.is_none() {
            return None;
        }
        let (sure, seen) = match (seen_public, received) {
            (Some(public), _) => (0.9, format!(", and the registrar sees us as {public}")),
            // The registrar is reached without NAT: private network, public numbers.
            (None, Some(same)) if same == ip => (0.65, String::new()),
            (None, _) => (0.8, String::new()),
        };
        let summary = format!(
            "{} is registered at {} with the private address {ip} in its Contact{seen}: calls to it may not arrive",
            scene.account(),
            scene.registrar(),
        );
        let fix = mend::external(scene, seen_public);
        return Some(
            Finding::new(&[(NatContact, sure)], Fault::Configuration, summary, fix)
                .settings(settings)
                .more(scene.registration.is_none().then_some(More::Configuration)),
        );
    }
    let public = seen_public.filter(|seen| *seen != ip && seen.is_ipv4() == ip.is_ipv4())?;
    let summary = format!(
        "{} is registered at {} with {ip} in its Contact, and the registrar sees it come from {public}: the external address is out of date, or another way out is used",
        scene.account(),
        scene.registrar(),
    );
    let fix = mend::external(scene, Some(public));
    Some(Finding::new(&[(NatContact, 0.7)], Fault::Configuration, summary, fix).settings(settings))
}

/// What the transport says of NAT.
fn transport_settings(scene: &Scene<'_>) -> Vec<String> {
    let Some((name, transport)) = scene.transport() else { return Vec::new() };
    let Some(transport) = transport else { return Vec::new() };
    let set = |value: &Option<String>| {
        value.as_deref().filter(|own| !own.is_empty()).map_or("not set".to_owned(), tell::value)
    };
    vec![format!(
        "[{}] external_signaling_address is {}, external_media_address is {}, local_net={}{}",
        tell::value(name),
        set(&transport.external_signaling_address),
        set(&transport.external_media_address),
        tell::value(&transport.local_net.join(",")),
        Scene::place(transport.place.as_ref()),
    )]
}
