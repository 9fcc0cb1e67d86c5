//! Which ways out an `Originate` takes.
//!
//! Separate from the verdict: what is found here is the same whatever the gate says.
//!
//! Sources: `main/manager.c` (`action_originate`), `main/pbx.c` (`ast_pbx_outgoing_exten_predial`), `apps/app_dial.c`
//! (`dial_exec_full`, `retrydial_exec`), `apps/app_page.c`. No variable is replaced in `Channel` or `Data` (seen on 22).

use std::borrow::Cow;

use super::{
    closed,
    settings::{DialRule, Unguarded},
};
use crate::wire::{
    ami::request::Request,
    dial::{self, Leg, Place},
    exten,
};

/// `Channel` is copied into a buffer of 256 bytes, and what is cut off is not dialed.
const CHANNEL_LIMIT: usize = 255;

/// What Asterisk keeps of `Exten` and of `Context` (`AST_MAX_EXTENSION`, `AST_MAX_CONTEXT`, less the NUL).
const PLACE_LIMIT: usize = 79;

/// An `Originate`'s headers, of those the first of each name, as Asterisk has it.
#[derive(Debug)]
pub(super) struct Originate<'a> {
    channel: Cow<'a, str>,
    application: Cow<'a, str>,
    data: Cow<'a, str>,
    exten: Cow<'a, str>,
    context: Cow<'a, str>,
    predial: Cow<'a, str>,
}

/// A place that is not in the dialplan's rules, or where a rule leads.
#[derive(Debug)]
pub(super) enum Way<'a, 'b> {
    /// A leg on an endpoint of SIP or IAX.
    Direct(&'b Leg<'a>),
    /// A rule says where it leads.
    Rule(&'b DialRule),
    /// `Local/…` and no rule for it.
    Unresolved(&'b Leg<'a>),
}

/// Why an `Originate` cannot be read as Asterisk would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable(pub(super) &'static str);

impl<'a> Originate<'a> {
    pub(super) fn read(request: &'a Request) -> Result<Self, Unreadable> {
        let [channel, exten, context] = [request.header("Channel"), request.header("Exten"), request.header("Context")];
        let length = |name| request.values(name).next().map_or(0, <[u8]>::len);
        if length("Channel") > CHANNEL_LIMIT {
            return Err(Unreadable("Channel is longer than the 255 bytes Asterisk reads of it"));
        }
        if length("Exten") > PLACE_LIMIT || length("Context") > PLACE_LIMIT {
            return Err(Unreadable("Exten and Context have at most 79 bytes"));
        }
        let [application, data] = [request.header("Application"), request.header("Data")];
        Ok(Self { channel, application, data, exten, context, predial: request.header("PreDialGoSub") })
    }

    /// What is closed in it, and the word that opens it.
    pub(super) fn closed(
        &self,
        request: &Request,
        rules: &[DialRule],
        open: impl Fn(Unguarded) -> bool,
    ) -> Option<closed::Closed> {
        let application = self.application.trim();
        if !open(Unguarded::Application) {
            let what = if closed::is_application(application) {
                Some(format!("Originate with the application {application}"))
            } else if closed::jumps(application, &self.data) {
                Some(format!("Originate with {application} into the dialplan"))
            } else if !self.predial.is_empty() && self.predial_rule(rules).is_none() {
                // Two parts are an extension in the channel's own context, which nobody knows here.
                Some("Originate with PreDialGoSub where no rule leads".to_owned())
            } else {
                None
            };
            if let Some(what) = what {
                return Some(closed::Closed { what, by: Unguarded::Application });
            }
        }
        if open(Unguarded::Setvar) {
            return None;
        }
        let name = closed::variable(request)?;
        Some(closed::Closed { what: format!("Originate with the variable {name}"), by: Unguarded::Setvar })
    }

    /// Each way out, in order. `Exten` and `Context` count where a rule knows them; without one they are the usual agent's
    /// leg. Where `Application` is given Asterisk does not look at them.
    pub(super) fn ways(&self, rules: &[DialRule], mut each: impl FnMut(Way<'_, '_>)) {
        if let Some(leg) = Leg::read(&self.channel) {
            way(&leg, rules, &mut each);
        }
        let application = self.application.trim();
        if application.is_empty() {
            let place = Place { exten: &self.exten, context: &self.context };
            if let Some(rule) = rule(place, rules) {
                each(Way::Rule(rule));
            }
        } else if let Some(destinations) = destinations(application, &self.data) {
            for leg in dial::legs(destinations) {
                way(&leg, rules, &mut each);
            }
        }
        if let Some(rule) = self.predial_rule(rules) {
            each(Way::Rule(rule));
        }
    }

    /// Whether Asterisk refuses it to whoever has not the class `system`.
    pub(super) fn is_blacklisted(&self) -> bool {
        !self.application.is_empty() && closed::is_blacklisted(&self.application, &self.data)
    }

    /// Where `PreDialGoSub: context,exten,priority` leads.
    fn predial_rule<'r>(&self, rules: &'r [DialRule]) -> Option<&'r DialRule> {
        let mut parts = self.predial.split(',');
        let (context, exten, _priority) = (parts.next()?, parts.next()?, parts.next()?);
        rule(Place { exten, context }, rules)
    }
}

/// Where an application's data has its legs: `Dial(legs,…)`, `Page(legs,…)`, `RetryDial(announcement,sleep,retries,legs,…)`.
fn destinations<'a>(application: &str, data: &'a str) -> Option<&'a str> {
    let is = |name: &str| application.eq_ignore_ascii_case(name);
    if is("Dial") || is("Page") {
        dial::arguments(data, usize::MAX).next()
    } else if is("RetryDial") {
        // Asterisk gives Dial the rest as it is; without the numbers the legs come earlier, so all of it is searched.
        let first = dial::arguments(data, 4).last()?;
        dial::arguments(first, usize::MAX).next()
    } else {
        None
    }
}

fn way<'a, 'b>(leg: &'b Leg<'a>, rules: &'b [DialRule], each: &mut impl FnMut(Way<'a, 'b>)) {
    match leg.technology() {
        dial::Technology::Pjsip | dial::Technology::Sip | dial::Technology::Iax2 => each(Way::Direct(leg)),
        dial::Technology::Local => match leg.place().and_then(|place| rule(place, rules)) {
            Some(rule) => each(Way::Rule(rule)),
            None => each(Way::Unresolved(leg)),
        },
        dial::Technology::Other => {}
    }
}

/// The first rule for a place, in the order of the configuration.
fn rule<'a>(place: Place<'_>, rules: &'a [DialRule]) -> Option<&'a DialRule> {
    rules.iter().find(|rule| {
        rule.context == place.context && rule.exten.as_ref().is_none_or(|pattern| exten::matches(pattern, place.exten))
    })
}
