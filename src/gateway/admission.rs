//! May this action pass? A pure function of the action, the user and the gate.

use std::fmt::Write as _;

use super::{
    closed,
    originate::{Originate, Unreadable, Way},
    settings::{DialRule, GatewayUser, LocalPolicy, Unguarded},
};
use crate::{
    decision::{Gate, GateState},
    ids::{PbxId, TrunkId},
    wire::{
        ami::{Classes, request::Request},
        dial::{Leg, MOST_READINGS},
    },
};

/// The longest refusal, in bytes: a line of AMI has room for 1024, a person's patience for less.
const LONGEST: usize = 300;

/// The most of a client's own words that is repeated to it, in bytes.
const QUOTED: usize = 80;

/// By what actions are judged, apart from the gate.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The PBX behind the gateway.
    pub pbx: &'a PbxId,
    /// Who asks.
    pub user: &'a GatewayUser,
    /// What becomes of `Local/…` that no rule resolves.
    pub local: LocalPolicy,
    /// Where the dialplan leads: of several that fit a place the first counts.
    pub dialplan: &'a [DialRule],
    /// CLI aliases of the PBX (`cli show aliases`), by alias: a command may hide behind one.
    pub aliases: &'a [(String, String)],
}

/// What is to become of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It dials nothing: it passes.
    Pass,
    /// It is an `Originate`, on these trunks (none, where it goes to a phone), which allow; their limits are to be asked.
    /// Each is named once, in the order in which the call names them.
    Dial(Vec<TrunkId>),
    /// It is answered with an error.
    Refuse(Refusal),
}

/// Why an action does not pass. The text is one line of at most 300 bytes, and what a client wrote is escaped in it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// A trunk holds. The words are part of the contract: `trunk pbx1/airtel is held (down since …: 403 account_forbidden)`.
    #[error("{}", bounded(&format!("trunk {trunk} is held ({})", held(.state.as_deref()))))]
    Held {
        /// The trunk.
        trunk: TrunkId,
        /// What the gate says; `None` for one nobody has said anything about.
        state: Option<Box<GateState>>,
    },
    /// The trunks of the PBX are not known yet, so the name that is dialed may be one's.
    #[error("{}", bounded(&format!("the trunks of {pbx} are not listed yet, {} may be one", quoted(dialed))))]
    NotListed {
        /// The PBX.
        pbx: PbxId,
        /// The name that is dialed.
        dialed: String,
    },
    /// The user's `trunks` do not name it.
    #[error("{}", bounded(&format!("trunk {trunk} is not among those this user may dial on")))]
    TrunkNotAllowed {
        /// The trunk.
        trunk: TrunkId,
    },
    /// `Local/…` that no rule resolves, while a trunk holds that it may lead to.
    #[error("{}", bounded(&unresolved(channel, .held.as_deref())))]
    LocalUnresolved {
        /// What is dialed.
        channel: String,
        /// A trunk that holds; `None`: the trunks are not listed yet.
        held: Option<Box<(TrunkId, GateState)>>,
    },
    /// A way to dial that cannot be judged.
    #[error("{} is closed, as it can dial past the gate; unguarded = [\"{}\"] opens it for a user", quoted(what), by.as_str())]
    Closed {
        /// What was asked for.
        what: String,
        /// The word that opens it.
        by: Unguarded,
    },
    /// Asterisk refuses it to whoever has not the class `system`, in these words.
    #[error("Originate Access Forbidden: app or data blacklisted")]
    Blacklisted,
    /// Asterisk would read something else in it than it says.
    #[error("{what}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
    },
}

impl Refusal {
    /// The trunks it is about: at most one.
    #[must_use]
    pub fn trunks(&self) -> &[TrunkId] {
        match self {
            Self::Held { trunk, .. } | Self::TrunkNotAllowed { trunk } => std::slice::from_ref(trunk),
            Self::LocalUnresolved { held, .. } => held.as_deref().map_or(&[], |(trunk, _)| std::slice::from_ref(trunk)),
            Self::NotListed { .. } | Self::Closed { .. } | Self::Blacklisted | Self::Malformed { .. } => &[],
        }
    }

    /// The trunk whose hold saved this call from being burned. A `Local/…` that may have led elsewhere counts for none.
    #[must_use]
    pub const fn counted(&self) -> Option<&TrunkId> {
        match self {
            Self::Held { trunk, .. } => Some(trunk),
            Self::NotListed { .. }
            | Self::TrunkNotAllowed { .. }
            | Self::LocalUnresolved { .. }
            | Self::Closed { .. }
            | Self::Blacklisted
            | Self::Malformed { .. } => None,
        }
    }
}

impl From<Unreadable> for Refusal {
    fn from(Unreadable(what): Unreadable) -> Self {
        Self::Malformed { what }
    }
}

impl From<closed::Closed> for Refusal {
    fn from(closed::Closed { what, by }: closed::Closed) -> Self {
        Self::Closed { what, by }
    }
}

/// Why a trunk is held.
fn held(state: Option<&GateState>) -> String {
    state.map_or_else(|| "nothing is known of it yet".to_owned(), GateState::in_short)
}

fn unresolved(channel: &str, held: Option<&(TrunkId, GateState)>) -> String {
    let why = match held {
        Some((trunk, _)) => format!("trunk {trunk} is held"),
        None => "the trunks are not listed yet".to_owned(),
    };
    format!("{} may lead to any trunk, and {why}; a dialplan rule can say where it leads", quoted(channel))
}

/// What a client wrote, for a line of an answer.
fn quoted(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() + c.len_utf8() > QUOTED {
            shown.push('…');
            break;
        }
        shown.extend(c.escape_debug());
    }
    shown
}

/// One line, not too long.
fn bounded(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LONGEST));
    for c in text.chars() {
        if line.len() + c.len_utf8() > LONGEST - '…'.len_utf8() - 1 {
            let close = if text.ends_with(')') { ")" } else { "" };
            let _written = write!(line, "…{close}");
            break;
        }
        line.push(if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c });
    }
    line
}

/// Judges an action. Whether the user's classes allow it was asked before.
#[must_use]
pub fn admit(request: &Request, rules: &Rules<'_>, gate: &Gate) -> Verdict {
    judge(request, rules, gate).unwrap_or_else(Verdict::Refuse)
}

fn judge(request: &Request, rules: &Rules<'_>, gate: &Gate) -> Result<Verdict, Refusal> {
    if request.lines().any(|line| memchr::memchr(0, line).is_some()) {
        // To Asterisk the line ends there, and what follows is nothing or something else.
        return Err(Refusal::Malformed { what: "a NUL is in the message" });
    }
    let open = |way| rules.user.unguarded.contains(&way);
    let action = request.values("Action").find(|value| !value.is_empty()).unwrap_or_default();
    if !action.eq_ignore_ascii_case(b"Originate") {
        if action.eq_ignore_ascii_case(b"QueueAdd") && !open(Unguarded::Application) {
            queued(request, rules, gate)?;
        }
        return match closed::action(action, request, rules.aliases) {
            Some(closed) if !open(closed.by) => Err(closed.into()),
            Some(_) | None => Ok(Verdict::Pass),
        };
    }
    let originate = Originate::read(request)?;
    if !rules.user.write.contains(Classes::SYSTEM) && originate.is_blacklisted() {
        return Err(Refusal::Blacklisted);
    }
    if let Some(closed) = originate.closed(request, rules.dialplan, open) {
        return Err(closed.into());
    }
    let mut judged = Judged { rules, gate, trunks: Vec::new(), refusal: None };
    originate.ways(rules.dialplan, |way| {
        if judged.refusal.is_none() {
            judged.refusal = judged.way(&way).err();
        }
    });
    judged.refusal.map_or(Ok(Verdict::Dial(judged.trunks)), Err)
}

/// A queue dials its members whenever somebody waits in it: a trunk among them would be dialed past the gate.
fn queued(request: &Request, rules: &Rules<'_>, gate: &Gate) -> Result<(), Refusal> {
    let interface = request.header("Interface");
    let Some(leg) = Leg::read(&interface).filter(Leg::is_direct) else { return Ok(()) };
    match leg.readings().names.iter().find_map(|name| gate.trunk_named(rules.pbx, name)) {
        Some(trunk) => Err(Refusal::Closed { what: format!("QueueAdd of trunk {trunk}"), by: Unguarded::Application }),
        None => Ok(()),
    }
}

struct Judged<'a> {
    rules: &'a Rules<'a>,
    gate: &'a Gate,
    trunks: Vec<TrunkId>,
    refusal: Option<Refusal>,
}

impl Judged<'_> {
    fn way(&mut self, way: &Way<'_, '_>) -> Result<(), Refusal> {
        match way {
            Way::Direct(leg) => self.direct(leg),
            Way::Rule(rule) => self.rule(rule),
            Way::Unresolved(leg) => self.unresolved(leg),
        }
    }

    fn direct(&mut self, leg: &Leg<'_>) -> Result<(), Refusal> {
        let readings = leg.readings();
        if readings.too_many {
            return Err(Refusal::Malformed { what: TOO_MANY });
        }
        let mut found = false;
        for name in &readings.names {
            if let Some(trunk) = self.gate.trunk_named(self.rules.pbx, name) {
                found = true;
                self.may(&trunk)?;
                self.allows(&trunk)?;
                self.take(trunk);
            }
        }
        if !found && !self.gate.is_listed(self.rules.pbx) && !self.gate.is_observing() {
            let dialed = readings.names.last().map_or_else(String::new, ToString::to_string);
            return Err(Refusal::NotListed { pbx: self.rules.pbx.clone(), dialed });
        }
        Ok(())
    }

    fn rule(&mut self, rule: &DialRule) -> Result<(), Refusal> {
        rule.trunks.iter().try_for_each(|trunk| self.may(trunk))?;
        let mut refused = None;
        for trunk in &rule.trunks {
            match self.allows(trunk) {
                Ok(()) => self.take(trunk.clone()),
                Err(refusal) if !rule.hold_when_all => return Err(refusal),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        // The dialplan tries one after the other: one that allows is enough.
        let one_allows = rule.trunks.iter().any(|trunk| self.trunks.contains(trunk));
        refused.filter(|_| !one_allows).map_or(Ok(()), Err)
    }

    fn unresolved(&self, leg: &Leg<'_>) -> Result<(), Refusal> {
        match self.rules.local {
            LocalPolicy::Allow => return Ok(()),
            LocalPolicy::HoldWhenAnyHeld if self.gate.is_observing() => return Ok(()),
            LocalPolicy::HoldWhenAnyHeld => {}
        }
        let held = self.gate.any_held(self.rules.pbx).map(Box::new);
        if held.is_some() || !self.gate.is_listed(self.rules.pbx) {
            return Err(Refusal::LocalUnresolved { channel: leg.to_string(), held });
        }
        Ok(())
    }

    fn may(&self, trunk: &TrunkId) -> Result<(), Refusal> {
        match &self.rules.user.trunks {
            Some(trunks) if !trunks.contains(trunk) => Err(Refusal::TrunkNotAllowed { trunk: trunk.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    fn allows(&self, trunk: &TrunkId) -> Result<(), Refusal> {
        let state = self.gate.state(trunk);
        if state.as_ref().is_some_and(|state| state.allow) || self.gate.is_observing() {
            return Ok(());
        }
        Err(Refusal::Held { trunk: trunk.clone(), state: state.map(Box::new) })
    }

    fn take(&mut self, trunk: TrunkId) {
        if !self.trunks.contains(&trunk) {
            self.trunks.push(trunk);
        }
    }
}

const TOO_MANY: &str = "the dial string can be read in more ways than are searched for trunks";
const _: () = assert!(MOST_READINGS > 16, "people's own dial strings have under ten");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{
        clock::Timestamp, decision::GateTx, diagnosis::Cause, gateway::settings::GatewayUser, health::Health,
        ids::EndpointName, wire::ami::Classes,
    };

    struct Scene {
        tx: GateTx,
        gate: Gate,
        pbx: PbxId,
        user: GatewayUser,
        local: LocalPolicy,
        dialplan: Vec<DialRule>,
    }

    fn trunk(name: &str) -> TrunkId {
        TrunkId::try_from(format!("pbx1/{name}").as_str()).unwrap()
    }

    fn state(allow: bool) -> GateState {
        GateState {
            allow,
            reason: if allow { String::new() } else { "down: 403".to_owned() },
            since: "2026-11-23T02:13:00.25Z".parse::<Timestamp>().unwrap(),
            health: if allow { Health::Stable } else { Health::Down },
            until: None,
            released: None,
            cause: (!allow).then_some(Cause::AccountForbidden),
        }
    }

    /// `airtel` is held, `jio` (dialed as `jio-out`) allows.
    fn scene() -> Scene {
        let (tx, gate) = Gate::new();
        let pbx = PbxId::try_from("pbx1").unwrap();
        let (airtel, jio) = (trunk("airtel"), trunk("jio"));
        let endpoints = [EndpointName::try_from("jio-out").unwrap()];
        tx.name([(&airtel, &[][..]), (&jio, &endpoints[..])].into_iter());
        tx.listed(&pbx);
        tx.close(1, &[(airtel, state(false))].into());
        tx.open(1, &[(jio, state(true))].into());
        let user = GatewayUser {
            name: "crm".to_owned(),
            secret: "x".into(),
            allow: Vec::new(),
            read: Classes::default(),
            write: Classes::ALL,
            write_all: false,
            actions: None,
            trunks: None,
            unguarded: BTreeSet::new(),
        };
        Scene { tx, gate, pbx, user, local: LocalPolicy::default(), dialplan: Vec::new() }
    }

    impl Scene {
        fn judge(&self, lines: &[&str]) -> Verdict {
            let mut request = Request::default();
            lines.iter().for_each(|line| request.push(line.as_bytes()));
            let (pbx, user, local) = (&self.pbx, &self.user, self.local);
            admit(&request, &Rules { pbx, user, local, dialplan: &self.dialplan, aliases: &[] }, &self.gate)
        }

        fn channel(&self, channel: &str) -> Verdict {
            self.judge(&["Action: Originate", &format!("Channel: {channel}")])
        }

        fn refusal(&self, lines: &[&str]) -> Refusal {
            match self.judge(lines) {
                Verdict::Refuse(refusal) => refusal,
                other @ (Verdict::Pass | Verdict::Dial(_)) => panic!("{other:?}"),
            }
        }

        fn rule(mut self, context: &str, exten: Option<&str>, trunks: &[&str], hold_when_all: bool) -> Self {
            let trunks = trunks.iter().copied().map(trunk).collect();
            self.dialplan.push(DialRule {
                context: context.to_owned(),
                exten: exten.map(str::to_owned),
                trunks,
                hold_when_all,
            });
            self
        }
    }

    fn is_held(verdict: &Verdict, name: &str) -> bool {
        matches!(verdict, Verdict::Refuse(refusal @ Refusal::Held { trunk: held, .. })
            if *held == trunk(name) && refusal.counted() == Some(held))
    }

    #[test]
    fn a_held_trunk_is_refused_in_the_words_of_the_contract() {
        let refusal = scene().refusal(&["Action: Originate", "Channel: PJSIP/9711761156@airtel"]);
        assert_eq!(
            refusal.to_string(),
            "trunk pbx1/airtel is held (down since 2026-11-23T02:13:00Z: 403: account_forbidden)"
        );
    }

    #[test]
    fn all_forms_of_the_dialer_are_read_with_one_slash_and_with_two() {
        let scene = scene();
        for protocol in ["PJSIP/", "PJSIP//"] {
            for (name, second, held) in
                [("airtel", "jio-out", true), ("jio-out", "airtel", true), ("jio-out", "jio", false)]
            {
                let channel = format!("channel: {protocol}9711761156@{name}");
                let data = format!("data: {protocol}9811@{second},60");
                let direct = |lines: &[&str]| scene.judge(&[&["action: Originate", &channel], lines].concat());
                let agent = direct(&["context: from-internal", "exten: 204", "priority: 1", "async: true"]);
                let mobile = direct(&["application: Dial", &data]);
                let stasis = direct(&["application: Stasis", "data: app,dialAutomateCall-ch-1,ORG, ,1,Outbound"]);
                let is = |verdict: &Verdict, held: bool| {
                    if held { is_held(verdict, "airtel") } else { *verdict == Verdict::Dial(vec![trunk("jio")]) }
                };
                assert!(is(&mobile, held), "{channel} {data}: {mobile:?}");
                assert!(
                    is(&agent, name == "airtel") && is(&stasis, name == "airtel"),
                    "{channel}: {agent:?} {stasis:?}"
                );
            }
        }
    }

    #[test]
    fn no_form_of_a_dial_string_hides_a_held_trunk() {
        let scene = scene();
        for channel in [
            "PJSIP/airtel",
            "pjsip/1@AIRTEL",
            "PJSIP/1@airtel/sip:x@198.51.100.7",
            "PJSIP/airtel/sip:1@198.51.100.7",
            "PJSIP/1@airtel/anything@x",
            "PJSIP/1@air\\tel",
            "PJSIP/1@\"airtel\"",
            "PJSIP/jio/airtel",
            "SIP/airtel/1",
            "SIP/1:pw@airtel:5060",
            "IAX2/u:p@airtel/1@ctx",
        ] {
            let verdict = scene.channel(channel);
            assert!(is_held(&verdict, "airtel"), "{channel}: {verdict:?}");
        }
        for data in [
            "PJSIP/1@airtel",
            "PJSIP/100&PJSIP/1@airtel,30,tT",
            "Local/x@y&SIP/airtel/1",
            "\"PJSIP/1,2@airtel\",30",
            "PJSIP/(1,2)@airtel",
        ] {
            let lines = ["Action: Originate", "Channel: PJSIP/100", "Application: dial", &format!("Data: {data}")];
            let mut open = scene.judge(&lines);
            if data.starts_with("Local") {
                open = Scene { local: LocalPolicy::Allow, ..self::scene() }.judge(&lines);
            }
            assert!(is_held(&open, "airtel"), "{data}: {open:?}");
        }
        let retry =
            ["Action: Originate", "Channel: PJSIP/100", "Application: RetryDial", "Data: a,1,2,PJSIP/1@airtel,30"];
        assert!(is_held(&scene.judge(&retry), "airtel"));
        let page = ["Action: Originate", "Channel: PJSIP/100", "Application: Page", "Data: PJSIP/1@airtel,d"];
        assert!(is_held(&scene.judge(&page), "airtel"));
    }

    #[test]
    fn phones_pass_on_no_trunk_and_each_trunk_is_named_once() {
        let scene = scene();
        assert_eq!(scene.channel("PJSIP/100"), Verdict::Dial(Vec::new()));
        assert_eq!(scene.channel("DAHDI/g1/100"), Verdict::Dial(Vec::new()));
        assert_eq!(scene.judge(&["Action: Originate"]), Verdict::Dial(Vec::new()));
        let twice =
            ["Action: Originate", "Channel: PJSIP/1@jio", "Application: Dial", "Data: PJSIP/2@jio&PJSIP/3@jio-out"];
        assert_eq!(scene.judge(&twice), Verdict::Dial(vec![trunk("jio")]));
        assert_eq!(scene.judge(&["Action: Ping"]), Verdict::Pass);
        assert_eq!(scene.judge(&["Action: Originate ", "Channel: PJSIP/1@airtel"]), Verdict::Pass);
        assert_eq!(scene.judge(&["Action :Originate", "Channel: PJSIP/1@airtel"]), Verdict::Pass);
        assert!(is_held(&scene.judge(&["action:", "ACTION:\toriginate", "channel:PJSIP/1@airtel"]), "airtel"));
    }

    #[test]
    fn before_the_first_list_no_name_passes_and_a_trunk_without_an_answer_holds() {
        let scene = scene();
        scene.tx.shut();
        let refusal = scene.refusal(&["Action: Originate", "Channel: PJSIP/100"]);
        assert!(matches!(&refusal, Refusal::NotListed { .. }), "{refusal:?}");
        assert!(matches!(scene.channel("PJSIP/1@jio"), Verdict::Refuse(Refusal::Held { state: None, .. })));
        assert!(matches!(scene.channel("Local/1@x"), Verdict::Refuse(Refusal::LocalUnresolved { held: None, .. })));
        assert_eq!(scene.channel("DAHDI/1"), Verdict::Dial(Vec::new()));
        scene.tx.observing(true);
        assert_eq!(scene.channel("PJSIP/100"), Verdict::Dial(Vec::new()));
        assert_eq!(scene.channel("PJSIP/1@jio"), Verdict::Dial(vec![trunk("jio")]));
        assert_eq!(scene.channel("Local/1@x"), Verdict::Dial(Vec::new()));
    }

    #[test]
    fn a_local_channel_follows_its_rule_and_else_the_policy() {
        let ruled = scene().rule("out", Some("_0X."), &["airtel"], false).rule("out", None, &["jio"], false);
        assert!(is_held(&ruled.channel("Local/0971@out/n"), "airtel"));
        assert_eq!(ruled.channel("Local/971@out"), Verdict::Dial(vec![trunk("jio")]));
        let refusal = ruled.refusal(&["Action: Originate", "Channel: Local/0971@other"]);
        assert!(matches!(&refusal, Refusal::LocalUnresolved { held: Some(held), .. } if held.0 == trunk("airtel")));
        assert_eq!((refusal.counted(), refusal.trunks()), (None, &[trunk("airtel")][..]));
        assert!(matches!(ruled.channel("Local/09\\71@out"), Verdict::Refuse(Refusal::LocalUnresolved { .. })));
        ruled.tx.open(2, &[(trunk("airtel"), state(true))].into());
        assert_eq!(ruled.channel("Local/0971@other"), Verdict::Dial(Vec::new()));
        let allowed = Scene { local: LocalPolicy::Allow, ..scene() };
        assert_eq!(allowed.channel("Local/0971@other"), Verdict::Dial(Vec::new()));
    }

    #[test]
    fn a_rule_of_alternatives_holds_only_when_all_of_them_do() {
        let one = scene().rule("out", None, &["airtel", "jio"], true);
        assert_eq!(one.channel("Local/1@out"), Verdict::Dial(vec![trunk("jio")]));
        one.tx.close(2, &[(trunk("jio"), state(false))].into());
        assert!(is_held(&one.channel("Local/1@out"), "airtel"));
        let any = scene().rule("out", None, &["jio", "airtel"], false);
        assert!(is_held(&any.channel("Local/1@out"), "airtel"));
        assert_eq!(scene().rule("out", None, &[], true).channel("Local/1@out"), Verdict::Dial(Vec::new()));
    }

    #[test]
    fn the_place_an_originate_goes_to_counts_where_a_rule_knows_it_and_no_application_comes_first() {
        let scene = scene().rule("out", Some("_0X."), &["airtel"], false);
        let to = |lines: &[&str]| scene.judge(&[&["Action: Originate", "Channel: PJSIP/100"], lines].concat());
        assert!(is_held(&to(&["Exten: 0971", "Context: out", "Priority: 1"]), "airtel"));
        assert!(is_held(&to(&["PreDialGoSub: out,0971,1"]), "airtel"));
        for lines in [&["Exten: 0971", "Context: in"][..], &["Exten: 0971", "Context: out", "Application: Wait"]] {
            assert_eq!(to(lines), Verdict::Dial(Vec::new()), "{lines:?}");
        }
    }

    #[test]
    fn who_lacks_system_gets_no_more_of_originate_than_asterisk_would_give() {
        let mut scene = scene();
        scene.user.write = Classes::ORIGINATE;
        let lines = ["Action: Originate", "Channel: PJSIP/100", "Application: Playback", "Data: ${SHELL(x)}"];
        assert_eq!(scene.refusal(&lines), Refusal::Blacklisted);
        scene.user.write = Classes::SYSTEM;
        assert!(!matches!(scene.judge(&lines), Verdict::Refuse(Refusal::Blacklisted)));
    }

    #[test]
    fn no_trunk_becomes_a_queues_member_and_phones_do() {
        let scene = scene();
        for name in ["airtel", "jio-out"] {
            let refusal = scene.refusal(&["Action: QueueAdd", &format!("Interface: PJSIP/9711@{name}"), "Queue: q"]);
            assert!(matches!(refusal, Refusal::Closed { by: Unguarded::Application, .. }), "{refusal}");
        }
        for interface in ["PJSIP/100", "Local/100@from-queue/n"] {
            assert_eq!(scene.judge(&["Action: QueueAdd", &format!("Interface: {interface}")]), Verdict::Pass);
        }
    }

    #[test]
    fn a_user_dials_on_their_own_trunks_only() {
        let mut scene = scene();
        scene.user.trunks = Some([trunk("airtel")].into());
        assert!(matches!(scene.channel("PJSIP/1@jio"), Verdict::Refuse(Refusal::TrunkNotAllowed { trunk: named })
            if named == trunk("jio")));
        assert_eq!(scene.channel("PJSIP/100"), Verdict::Dial(Vec::new()));
    }

    #[test]
    fn closed_ways_name_the_word_that_opens_them() {
        let mut scene = scene();
        for (by, lines) in [
            (
                Unguarded::Command,
                &["Action: Command", "Command: channel originate PJSIP/1@airtel application Wait"][..],
            ),
            (Unguarded::Redirect, &["Action: Redirect", "Channel: x", "Exten: 1"]),
            (Unguarded::Agi, &["Action: AGI", "Channel: x", "Command: EXEC Dial PJSIP/1@airtel"]),
            (Unguarded::Setvar, &["Action: Setvar", "Channel: x", "Variable: BLINDTRANSFER", "Value: 1"]),
            (Unguarded::Setvar, &["Action: Originate", "Channel: PJSIP/100", "Variable: a=b,__BLINDTRANSFER=1"]),
            (
                Unguarded::Application,
                &["Action: Originate", "Channel: PJSIP/100", "Application: exec", "Data: Dial(x)"],
            ),
        ] {
            scene.user.unguarded.clear();
            let refusal = scene.refusal(lines);
            assert!(matches!(refusal, Refusal::Closed { by: named, .. } if named == by), "{refusal:?}");
            assert!(refusal.to_string().contains(&format!("unguarded = [\"{}\"]", by.as_str())), "{refusal}");
            scene.user.unguarded.insert(by);
            assert!(!matches!(scene.judge(lines), Verdict::Refuse(_)), "{lines:?}");
        }
    }

    #[test]
    fn what_asterisk_would_cut_or_end_early_is_refused() {
        let scene = scene();
        let long = format!("PJSIP/{}@airtel", "1".repeat(250));
        for lines in [
            &["Action: Originate", &format!("Channel: {long}")][..],
            &["Action: Originate", &format!("Exten: {}", "1".repeat(80))],
            &["Action: Originate", &format!("Channel: PJSIP/{}", "a@b/".repeat(60))],
            &["Action: Ping\0"],
            &["Action: Ping", "x\0y"],
        ] {
            assert!(matches!(scene.judge(lines), Verdict::Refuse(Refusal::Malformed { .. })), "{lines:?}");
        }
    }

    #[test]
    fn a_refusal_is_one_line_of_at_most_300_bytes_whatever_is_in_it() {
        let loud = GateState { reason: "no\r\nInjected: x \u{7}".repeat(50), ..state(false) };
        let state = Some(Box::new(loud.clone()));
        let odd = "\r\nResponse: Success\u{1b}[2Jé".repeat(40);
        for refusal in [
            Refusal::Held { trunk: trunk("airtel"), state },
            Refusal::NotListed { pbx: PbxId::try_from("p".repeat(400)).unwrap(), dialed: odd.clone() },
            Refusal::LocalUnresolved { channel: odd.clone(), held: Some(Box::new((trunk(&"t".repeat(300)), loud))) },
            Refusal::Closed { what: odd, by: Unguarded::Application },
        ] {
            let text = refusal.to_string();
            assert!(text.len() <= 300 && !text.chars().any(char::is_control), "{} {text:?}", text.len());
        }
    }
}
