//! Which channels are on which trunk now: what [`Limiter`] cannot know by itself.
//!
//! Separate from the sessions because it has a link to Asterisk of its own, which sees every call, whoever began it, and
//! because it runs only where calls are limited at all.
//!
//! The list (`CoreShowChannels`) is the truth at each start, loss and overflow, and once in a while; between, `Newchannel`,
//! `Rename` and `Hangup` carry it on, by `Uniqueid`, so that a `Hangup` frees exactly its own. Asterisk enters a channel
//! into its list, and takes it out, before it tells so (`main/stasis_channels.c`): events that were waiting while the list
//! was made can be applied after it, twice the same is once. In 22 a list was never behind the events told before it.
//!
//! Where channels change places (a masquerade: a pickup, a transfer) Asterisk 22 moves name and `Uniqueid` together and tells
//! no `Rename`, so a call stays itself; what older versions tell, and a rename by itself, is followed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, info_span, warn};

use super::limits::Limiter;
use crate::{
    clock::Clock,
    decision::Gate,
    ids::{PbxId, TrunkId},
    wire::ami::{
        action::Action,
        client::{AmiLink, AmiSettings, CallError, LinkEvent, LinkHandle, Transport, WatchedEvent},
        message::Message,
    },
};

/// More channels on trunks than this are not followed; the list holds no more either.
const MOST_CHANNELS: usize = 20_000;
/// How often the list is read though nothing was lost: it mends what events cannot tell, such as a trunk named meanwhile.
const RELIST: Duration = Duration::from_secs(60);
/// When to ask again for a list that was not given.
const RETRY: Duration = Duration::from_secs(5);
/// How long the count of a lost link is kept: then calls that ended unheard would block a trunk that is free.
const STALE: Duration = Duration::from_secs(60);

/// Counts live calls per trunk.
#[derive(Debug)]
pub struct Calls {
    pbx: PbxId,
    gate: Gate,
    limiter: Limiter,
    clock: Arc<dyn Clock>,
    channels: HashMap<String, TrunkId>,
    /// Channels on trunks that found no room in `channels`, since the last list.
    unfollowed: u64,
    /// The user may not list, which was said.
    unlisted: bool,
}

impl Calls {
    /// Counts the calls on the trunks of `pbx` for `limiter`, whenever its limits need it, until `stop`.
    ///
    /// `settings` are the gateway's own upstream; the events are chosen here. The user needs `read=call`, and
    /// `write=system` or `write=reporting` for the list.
    #[expect(clippy::too_many_arguments, reason = "the room's front door: each is another part of the program")]
    pub fn start(
        mut settings: AmiSettings,
        transport: Arc<dyn Transport>,
        gate: Gate,
        pbx: PbxId,
        limiter: Limiter,
        clock: Arc<dyn Clock>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) {
        settings.events = vec![WatchedEvent::Newchannel, WatchedEvent::Rename, WatchedEvent::Hangup];
        settings.filter = true;
        let span = info_span!("gateway.calls", pbx.id = %pbx);
        let calls = Self { pbx, gate, limiter, clock, channels: HashMap::new(), unfollowed: 0, unlisted: false };
        tracker.spawn(calls.run(settings, transport, tracker.clone(), stop).instrument(span));
    }

    async fn run(
        mut self,
        settings: AmiSettings,
        transport: Arc<dyn Transport>,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) {
        loop {
            let counts = needed(&self.limiter, true);
            if stop.run_until_cancelled(counts).await.is_none() {
                return;
            }
            let link_stop = stop.child_token();
            let _ended = link_stop.clone().drop_guard();
            self.follow(settings.clone(), Arc::clone(&transport), &tracker, link_stop).await;
            self.forget();
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Follows one link until calls need not be counted any more, or it is stopped.
    async fn follow(
        &mut self,
        settings: AmiSettings,
        transport: Arc<dyn Transport>,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) {
        let (link, mut events) = AmiLink::start(settings, transport, Arc::clone(&self.clock), tracker, stop.clone());
        // When to look again, and whether for the list (connected), or to forget it (lost).
        let mut connected = false;
        let mut look: Option<Instant> = None;
        let limiter = self.limiter.clone();
        let idle = needed(&limiter, false);
        tokio::pin!(idle);
        loop {
            let due = async {
                match look {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = &mut idle => return,
                () = due => None,
                event = events.recv() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
            };
            match event {
                None if connected => look = Some(self.list(&link).await),
                None => {
                    warn!(after = ?STALE, "calls on trunks are not counted: no link to the PBX");
                    self.forget();
                    look = None;
                }
                Some(LinkEvent::Event { message, .. }) => self.told(&message),
                Some(LinkEvent::Ready { .. }) => {
                    connected = true;
                    look = Some(self.list(&link).await);
                }
                Some(LinkEvent::Overflow { lost }) => {
                    debug!(lost, "events lost: channels are listed again");
                    if connected {
                        look = Some(self.list(&link).await);
                    }
                }
                Some(LinkEvent::Lost { .. }) => {
                    connected = false;
                    // Calls may end unheard now: a list that is refused again must not leave them counted.
                    self.unlisted = false;
                    look = Some(Instant::now() + STALE);
                }
                Some(
                    LinkEvent::Connected { .. }
                    | LinkEvent::RightMissing { .. }
                    | LinkEvent::ConnectFailed { .. }
                    | LinkEvent::LoginRefused { .. },
                ) => {}
            }
        }
    }

    /// Reads the list; when to do so again.
    async fn list(&mut self, link: &LinkHandle) -> Instant {
        let asked = match Action::new("CoreShowChannels") {
            Ok(action) => link.call(&action).await,
            Err(error) => {
                warn!(%error, "channels cannot be listed");
                return Instant::now() + RELIST;
            }
        };
        match asked {
            Ok(reply) => {
                self.listed(&reply.items);
                self.unlisted = false;
                Instant::now() + RELIST
            }
            // Not for the user to ask, or too many: what events tell is all there is.
            Err(error @ (CallError::Refused(_) | CallError::TooLarge { .. })) => {
                if !self.unlisted {
                    warn!(%error, "channels cannot be listed (write=system or reporting): calls under way before now are not counted");
                    self.unlisted = true;
                    self.forget();
                }
                Instant::now() + RELIST
            }
            Err(error @ (CallError::NotSent(_) | CallError::OutcomeUnknown(_))) => {
                debug!(%error, "channels were not listed");
                Instant::now() + RETRY
            }
        }
    }

    fn listed(&mut self, items: &[Message]) {
        if self.unfollowed > 0 {
            warn!(channels = self.unfollowed, limit = MOST_CHANNELS, "more channels on trunks than are followed");
        }
        self.unfollowed = 0;
        self.channels.clear();
        let mut counts: BTreeMap<TrunkId, u32> = BTreeMap::new();
        for item in items.iter().filter(|item| item.is_event("CoreShowChannel")) {
            let (Some(id), Some(name)) = (item.get_filled("Uniqueid"), item.get_filled("Channel")) else { continue };
            let Some(trunk) = self.trunk_of(&name) else { continue };
            if self.enter(&id, &trunk) {
                *counts.entry(trunk).or_default() += 1;
            }
        }
        self.limiter.recount(counts, self.clock.now());
    }

    /// Applies an event.
    fn told(&mut self, message: &Message) {
        let Some(id) = message.get_filled("Uniqueid") else { return };
        if message.is_event("Newchannel") {
            let trunk = message.get_filled("Channel").and_then(|name| self.trunk_of(&name));
            if let Some(trunk) = trunk
                && self.enter(&id, &trunk)
            {
                self.limiter.began(&trunk, self.clock.now());
            }
        } else if message.is_event("Rename") {
            let trunk = message.get_filled("Newname").and_then(|name| self.trunk_of(&name));
            if self.channels.get(id.as_ref()) == trunk.as_ref() {
                return;
            }
            self.leave(&id);
            // It takes no pending place: a channel that changes its name is no new call.
            if let Some(trunk) = trunk
                && self.enter(&id, &trunk)
            {
                self.limiter.joined(&trunk);
            }
        } else if message.is_event("Hangup") {
            self.leave(&id);
        }
    }

    /// Whether the channel is followed from now on, and was not before.
    fn enter(&mut self, id: &str, trunk: &TrunkId) -> bool {
        if self.channels.contains_key(id) {
            return false;
        }
        if self.channels.len() >= MOST_CHANNELS {
            self.unfollowed += 1;
            return false;
        }
        self.channels.insert(id.to_owned(), trunk.clone());
        true
    }

    fn leave(&mut self, id: &str) {
        if let Some(trunk) = self.channels.remove(id) {
            self.limiter.ended(&trunk);
        }
    }

    fn forget(&mut self) {
        self.channels.clear();
        self.limiter.recount(BTreeMap::new(), self.clock.now());
    }

    fn trunk_of(&self, channel: &str) -> Option<TrunkId> {
        self.gate.trunk_named(&self.pbx, endpoint_of(channel)?)
    }
}

/// Returns once counting is needed, or once it is not.
async fn needed(limiter: &Limiter, wanted: bool) {
    let mut counting = limiter.counting();
    if counting.wait_for(|counts| *counts == wanted).await.is_err() {
        // Nobody can change it any more.
        std::future::pending().await
    }
}

/// The endpoint of a channel that may be a trunk's: `airtel-out` of `PJSIP/airtel-out-00000012`.
///
/// What a masquerade leaves behind (`…<ZOMBIE>`, `…<MASQ>`) and its stand-ins (`Surrogate/…`) are nobody's
/// (`main/channel.c`).
fn endpoint_of(channel: &str) -> Option<&str> {
    let (technology, rest) = channel.split_once('/')?;
    let dials = ["PJSIP", "SIP", "IAX2"].contains(&technology);
    let (endpoint, _) = rest.rsplit_once('-')?;
    (dials && !rest.ends_with('>') && !endpoint.is_empty()).then_some(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::ManualClock, decision::GateTx, gateway::settings::Limits};

    struct Scene {
        calls: Calls,
        _names: GateTx,
    }

    fn scene() -> Scene {
        let (names, gate) = Gate::new();
        for trunk in ["pbx1/airtel", "pbx1/air-tel-2"] {
            names.name([(&TrunkId::try_from(trunk).unwrap(), &[][..])].into_iter());
        }
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let pbx = PbxId::try_from("pbx1").unwrap();
        let limiter = Limiter::new(Limits::default());
        let calls = Calls { pbx, gate, limiter, clock, channels: HashMap::new(), unfollowed: 0, unlisted: false };
        Scene { calls, _names: names }
    }

    impl Scene {
        fn told(&mut self, text: &str) {
            self.calls.told(&Message::from_text(text));
        }

        fn live(&self, trunk: &str) -> u32 {
            self.calls.limiter.in_flight(&TrunkId::try_from(trunk).unwrap(), self.calls.clock.now()).0
        }
    }

    #[test]
    fn a_channel_is_its_endpoints_whatever_dashes_the_name_has() {
        for (channel, endpoint) in [
            ("PJSIP/airtel-00000012", Some("airtel")),
            ("PJSIP/air-tel-2-0000000a", Some("air-tel-2")),
            ("SIP/airtel-00000012", Some("airtel")),
            ("IAX2/peer-1234", Some("peer")),
            ("IAX2/192.0.2.7:4569-1234", Some("192.0.2.7:4569")),
            ("PJSIP/airtel-00000012<ZOMBIE>", None),
            ("PJSIP/airtel-00000012<MASQ>", None),
            ("Surrogate/PJSIP/airtel-00000012", None),
            ("Local/100@out-00000001;1", None),
            ("PJSIP/airtel", None),
            ("airtel-1", None),
            ("PJSIP/-1", None),
        ] {
            assert_eq!(endpoint_of(channel), endpoint, "{channel}");
        }
    }

    #[test]
    fn a_hangup_frees_its_own_channel_and_once_only() {
        let mut scene = scene();
        for _ in 0..2 {
            scene.told("Event: Newchannel\nChannel: PJSIP/airtel-00000001\nUniqueid: 1.1\n");
        }
        scene.told("Event: Newchannel\nChannel: PJSIP/airtel-00000002\nUniqueid: 1.2\n");
        scene.told("Event: Newchannel\nChannel: PJSIP/phone-00000003\nUniqueid: 1.3\n");
        assert_eq!(scene.live("pbx1/airtel"), 2, "told twice is once; a phone is no trunk");
        for id in ["1.1", "1.1", "1.3", "9.9"] {
            scene.told(&format!("Event: Hangup\nChannel: PJSIP/airtel-00000001\nUniqueid: {id}\n"));
        }
        assert_eq!(scene.live("pbx1/airtel"), 1);
    }

    #[test]
    fn a_masquerade_leaves_as_many_calls_as_there_are_living_channels() {
        let mut scene = scene();
        scene.told("Event: Newchannel\nChannel: PJSIP/airtel-00000001\nUniqueid: 1.1\n");
        scene.told("Event: Newchannel\nChannel: PJSIP/air-tel-2-00000002\nUniqueid: 1.2\n");
        for (id, old, new) in [
            ("1.2", "PJSIP/air-tel-2-00000002", "PJSIP/air-tel-2-00000002<MASQ>"),
            ("1.1", "PJSIP/airtel-00000001", "PJSIP/air-tel-2-00000002"),
            ("1.2", "PJSIP/air-tel-2-00000002<MASQ>", "PJSIP/airtel-00000001<ZOMBIE>"),
        ] {
            scene.told(&format!("Event: Rename\nChannel: {old}\nNewname: {new}\nUniqueid: {id}\n"));
        }
        assert_eq!((scene.live("pbx1/airtel"), scene.live("pbx1/air-tel-2")), (0, 1));
        scene.told("Event: Hangup\nChannel: PJSIP/airtel-00000001<ZOMBIE>\nUniqueid: 1.2\n");
        assert_eq!(scene.live("pbx1/air-tel-2"), 1);
        scene.told("Event: Hangup\nChannel: PJSIP/air-tel-2-00000002\nUniqueid: 1.1\n");
        assert_eq!(scene.live("pbx1/air-tel-2"), 0);
    }

    #[test]
    fn a_list_replaces_the_count_and_late_events_change_it_no_further_than_they_must() {
        let mut scene = scene();
        scene.told("Event: Newchannel\nChannel: PJSIP/airtel-00000001\nUniqueid: 1.1\n");
        let item = |id: &str, name: &str| {
            Message::from_text(&format!("Event: CoreShowChannel\nChannel: {name}\nUniqueid: {id}\n"))
        };
        scene.calls.listed(&[item("1.2", "PJSIP/airtel-00000002"), item("1.3", "PJSIP/air-tel-2-00000003")]);
        assert_eq!((scene.live("pbx1/airtel"), scene.live("pbx1/air-tel-2")), (1, 1));
        scene.told("Event: Newchannel\nChannel: PJSIP/airtel-00000002\nUniqueid: 1.2\n");
        scene.told("Event: Hangup\nChannel: PJSIP/airtel-00000001\nUniqueid: 1.1\n");
        assert_eq!(scene.live("pbx1/airtel"), 1, "both were in the list already");
    }

    #[test]
    fn no_more_channels_are_followed_than_there_is_room_for() {
        let mut scene = scene();
        for n in 0..MOST_CHANNELS + 3 {
            scene.told(&format!("Event: Newchannel\nChannel: PJSIP/airtel-{n:08x}\nUniqueid: 1.{n}\n"));
        }
        assert_eq!((scene.calls.channels.len(), scene.calls.unfollowed), (MOST_CHANNELS, 3));
    }
}
