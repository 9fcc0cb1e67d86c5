//! One outbound registration as Asterisk drives it: attempts, refreshes, retries, giving up. Pure; time is data.
//!
//! Source: Asterisk `res/res_pjsip_outbound_registration.c`, as far as AMI can see it: each finished attempt is one
//! `Registry` event with one of three words. There is one timer per registration and at most one attempt in flight; an
//! attempt that falls due while another is in flight is dropped without a trace, as Asterisk drops it.

use std::time::Duration;

use super::{
    provider::{Answer, Behaviour, Pace, Request},
    sip::Conversation,
};

/// Asterisk refreshes this long before a grant ends, at once if it is shorter
/// (`REREGISTER_BUFFER_TIME`).
const REFRESH_EARLY: Duration = Duration::from_secs(10);

/// A `type=registration` section and the auth it names. The defaults are Asterisk's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationSettings {
    /// The section's name.
    pub name: String,
    /// `client_uri`.
    pub client_uri: String,
    /// `server_uri`.
    pub server_uri: String,
    /// `contact_user`.
    pub contact_user: String,
    /// `endpoint=`, with `line=yes`; empty for none.
    pub endpoint: String,
    /// `outbound_auth`: the auth section's name; empty for none.
    pub outbound_auth: String,
    /// The auth's user name.
    pub username: String,
    /// The auth's password, made up: Asterisk prints it in clear, and so does the simulation.
    pub password: String,
    /// `expiration`.
    pub expiration: Duration,
    /// `retry_interval`.
    pub retry_interval: Duration,
    /// `forbidden_retry_interval`.
    pub forbidden_retry_interval: Duration,
    /// `fatal_retry_interval`.
    pub fatal_retry_interval: Duration,
    /// `max_retries`.
    pub max_retries: u32,
    /// `max_random_initial_delay`.
    pub max_random_initial_delay: Duration,
    /// `auth_rejection_permanent`.
    pub auth_rejection_permanent: bool,
}

impl RegistrationSettings {
    /// The registration `name` at a made-up provider, with Asterisk's defaults, linked to the endpoint of the same name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            client_uri: format!("sip:{name}@sip.{name}.example"),
            server_uri: format!("sip:sip.{name}.example"),
            contact_user: name.to_owned(),
            endpoint: name.to_owned(),
            outbound_auth: name.to_owned(),
            username: name.to_owned(),
            password: format!("made-up-{name}"),
            expiration: Duration::from_secs(3600),
            retry_interval: Duration::from_secs(60),
            forbidden_retry_interval: Duration::ZERO,
            fatal_retry_interval: Duration::ZERO,
            max_retries: 10,
            max_random_initial_delay: Duration::from_secs(10),
            auth_rejection_permanent: true,
        }
    }
}

/// The states behind Asterisk's three words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not tried yet, un-registered, or granted nothing.
    Unregistered,
    /// Bound.
    Registered,
    /// Refused; it will be tried again.
    RejectedTemporary,
    /// Refused for good.
    RejectedPermanent,
}

impl Status {
    /// The word of AMI and CLI: temporary and permanent rejection look the same.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unregistered => "Unregistered",
            Self::Registered => "Registered",
            Self::RejectedTemporary | Self::RejectedPermanent => "Rejected",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flight {
    answer: Answer,
    ends: Duration,
}

/// A registration's state object. Times are durations since the PBX's epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    status: Status,
    retries: u32,
    timer: Option<Duration>,
    scheduled: Option<Duration>,
    flight: Option<Flight>,
    /// The request that went out last and when, until somebody asks.
    sent: Option<(Request, Duration)>,
    /// Its messages, where somebody listens.
    conversation: Option<Box<Conversation>>,
}

impl Client {
    /// A new one: the first REGISTER goes out at `first`.
    #[must_use]
    pub const fn new(first: Duration) -> Self {
        Self::at(Status::Unregistered, first)
    }

    /// One that is registered already, and refreshes at `next`.
    #[must_use]
    pub const fn registered(next: Duration) -> Self {
        Self::at(Status::Registered, next)
    }

    const fn at(status: Status, next: Duration) -> Self {
        let (timer, scheduled) = (Some(next), Some(next));
        Self { status, retries: 0, timer, scheduled, flight: None, sent: None, conversation: None }
    }

    /// How it is.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Whether an attempt is unanswered.
    #[must_use]
    pub const fn in_flight(&self) -> bool {
        self.flight.is_some()
    }

    /// When it has something to do next.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        let flight = self.flight.map(|flight| flight.ends);
        match (flight, self.timer) {
            (Some(flight), Some(timer)) => Some(flight.min(timer)),
            (flight, timer) => flight.or(timer),
        }
    }

    /// The `(exp. Ns)` of the CLI: whole seconds to the next scheduled attempt, negative when it was due before.
    #[must_use]
    pub fn expires_in(&self, now: Duration) -> i64 {
        let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        // Asterisk compares whole seconds of two clocks.
        self.scheduled.map_or(0, |at| seconds(at) - seconds(now))
    }

    /// Does one thing that is due; the answer is the state to announce when an attempt ended. To be called until
    /// [`Client::due`] is in the future.
    pub fn advance(
        &mut self,
        now: Duration,
        settings: &RegistrationSettings,
        behaviour: Behaviour,
        pace: Pace,
    ) -> Option<Status> {
        if let Some(flight) = self.flight
            && flight.ends <= now
        {
            self.flight = None;
            self.take(flight.answer, now, settings);
            return Some(self.status);
        }
        if self.timer.is_some_and(|timer| timer <= now) {
            self.timer = None;
            self.send(Request::Register { expiration: settings.expiration }, now, behaviour, pace);
        }
        None
    }

    /// `PJSIPRegister`: an un-REGISTER now (unless an attempt is in flight), a REGISTER at `first`, retries from zero.
    pub fn register(&mut self, now: Duration, first: Duration, behaviour: Behaviour, pace: Pace) {
        self.send(Request::Unregister, now, behaviour, pace);
        self.retries = 0;
        self.schedule(first);
    }

    /// `PJSIPUnregister`: an un-REGISTER now, and no timer. If it fails for the moment, the retry is a REGISTER.
    pub fn unregister(&mut self, now: Duration, behaviour: Behaviour, pace: Pace) {
        self.timer = None;
        self.send(Request::Unregister, now, behaviour, pace);
    }

    /// A reload of the auth objects: what was refused for good tries again at `first`; the answer is whether it does.
    pub fn reloaded(&mut self, first: Duration) -> bool {
        let wakes = match self.status {
            Status::RejectedPermanent => true,
            Status::Unregistered | Status::Registered | Status::RejectedTemporary => false,
        };
        if wakes {
            self.retries = 0;
            self.schedule(first);
        }
        wakes
    }

    /// Makes the next attempt fall due now, as if its timer had run out. One in flight is forgotten, so that the attempt
    /// is judged by what holds now.
    pub fn attempt_now(&mut self, now: Duration) {
        self.flight = None;
        if let Some(conversation) = &mut self.conversation {
            conversation.break_off();
        }
        self.schedule(now);
    }

    /// The request that went out since last asked, and when.
    pub const fn take_sent(&mut self) -> Option<(Request, Duration)> {
        self.sent.take()
    }

    /// The messages it exchanges with its registrar, from the first one that anybody wants to see.
    pub fn conversation(&mut self, begin: impl FnOnce() -> Conversation) -> &mut Conversation {
        self.conversation.get_or_insert_with(|| Box::new(begin()))
    }

    /// Whether its messages are those of this exchange now.
    #[must_use]
    pub fn is_in(&self, exchange: u64) -> bool {
        self.conversation.as_ref().is_some_and(|conversation| conversation.is_in(exchange))
    }

    fn schedule(&mut self, at: Duration) {
        self.timer = Some(at);
        self.scheduled = Some(at);
    }

    fn send(&mut self, request: Request, now: Duration, behaviour: Behaviour, pace: Pace) {
        if self.flight.is_some() {
            return; // PJSIP_EBUSY, ignored
        }
        let (answer, after) = behaviour.answer(request, pace);
        self.flight = Some(Flight { answer, ends: now.saturating_add(after) });
        self.sent = Some((request, now));
    }

    fn take(&mut self, answer: Answer, now: Duration, settings: &RegistrationSettings) {
        match answer {
            Answer::Granted(Duration::ZERO) => {
                self.status = Status::Unregistered;
                self.retries = 0;
            }
            Answer::Granted(granted) => {
                self.status = Status::Registered;
                self.retries = 0;
                self.schedule(now.saturating_add(granted.saturating_sub(REFRESH_EARLY)));
            }
            Answer::Refused { code, retry_after } => match self.retry(code, retry_after, settings) {
                Some(wait) => {
                    self.status = Status::RejectedTemporary;
                    self.schedule(now.saturating_add(wait));
                }
                // The timer stays as it is: after a PJSIPRegister it still holds the REGISTER to come.
                None => self.status = Status::RejectedPermanent,
            },
        }
    }

    /// When to try again after `code`; `None` is never. `Retry-After` does not count as a retry.
    fn retry(&mut self, code: u16, retry_after: Option<Duration>, settings: &RegistrationSettings) -> Option<Duration> {
        if retry_after.is_some() {
            return retry_after;
        }
        let temporal = match code {
            408 | 500 | 502 | 503 | 504 | 600..=699 => true,
            401 | 407 => !settings.auth_rejection_permanent,
            _ => false,
        };
        let intervals = [
            (temporal, settings.retry_interval),
            (!temporal && code == 403, settings.forbidden_retry_interval),
            (!temporal, settings.fatal_retry_interval),
        ];
        let (_, wait) = intervals.into_iter().find(|(applies, wait)| *applies && !wait.is_zero())?;
        if self.retries >= settings.max_retries {
            return None;
        }
        self.retries += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const PACE: Pace = Pace { round_trip: Duration::ZERO, timer_b: s(32), timer_t1: Duration::from_millis(500) };

    fn settings() -> RegistrationSettings {
        RegistrationSettings::named("t")
    }

    /// The ends of attempts up to `until`, in seconds, with a behaviour that may change.
    fn run(
        client: &mut Client,
        settings: &RegistrationSettings,
        behaviour: impl Fn(u64) -> Behaviour,
        until: u64,
    ) -> Vec<(u64, &'static str)> {
        let mut seen = Vec::new();
        while let Some(due) = client.due().filter(|due| *due <= s(until)) {
            if let Some(status) = client.advance(due, settings, behaviour(due.as_secs()), PACE) {
                seen.push((due.as_secs(), status.as_str()));
            }
            assert!(seen.len() < 10_000, "no end");
        }
        seen
    }

    #[test]
    fn it_refreshes_ten_seconds_before_the_grant_ends() {
        let mut client = Client::new(s(1));
        let seen = run(&mut client, &settings(), |_| Behaviour::Grant(s(60)), 110);
        assert_eq!(seen, [(1, "Registered"), (51, "Registered"), (101, "Registered")]);
    }

    #[test]
    fn a_403_is_permanent_unless_an_interval_says_otherwise() {
        let mut client = Client::new(s(1));
        assert_eq!(run(&mut client, &settings(), |_| Behaviour::reject(403), 10_000), [(1, "Rejected")]);
        assert_eq!(client.status(), Status::RejectedPermanent);
        assert_eq!(client.expires_in(s(301)), -300);

        let mut client = Client::new(s(1));
        let patient = RegistrationSettings { forbidden_retry_interval: s(20), max_retries: 2, ..settings() };
        let seen = run(&mut client, &patient, |_| Behaviour::reject(403), 10_000);
        assert_eq!(seen, [(1, "Rejected"), (21, "Rejected"), (41, "Rejected")]);
    }

    #[test]
    fn fast_503s_stop_after_ten_minutes_with_the_defaults() {
        let mut client = Client::new(s(1));
        let seen = run(&mut client, &settings(), |_| Behaviour::reject(503), 10_000);
        assert_eq!((seen.len(), seen.last()), (11, Some(&(601, "Rejected"))));
        assert_eq!(client.status(), Status::RejectedPermanent);
    }

    #[test]
    fn retry_after_is_honoured_on_a_403_and_never_counts() {
        let mut client = Client::new(s(1));
        let provider = Behaviour::Reject { code: 403, retry_after: Some(s(9)) };
        assert_eq!(run(&mut client, &settings(), |_| provider, 900).len(), 100);
        assert_eq!(client.status(), Status::RejectedTemporary);
    }

    #[test]
    fn silence_is_rejected_after_timer_b_and_then_waits() {
        let quick = RegistrationSettings { max_retries: 2, retry_interval: s(3), ..settings() };
        let mut client = Client::new(s(0));
        let seen = run(&mut client, &quick, |_| Behaviour::Silent, 10_000);
        assert_eq!(seen, [(32, "Rejected"), (67, "Rejected"), (102, "Rejected")]);
    }

    #[test]
    fn an_unanswered_refresh_reads_as_overdue_long_before_the_event() {
        let mut client = Client::registered(s(50));
        assert_eq!(client.expires_in(s(45)), 5);
        client.advance(s(50), &settings(), Behaviour::Silent, PACE);
        assert_eq!((client.expires_in(s(55)), client.status(), client.in_flight()), (-5, Status::Registered, true));
    }

    #[test]
    fn a_grant_of_zero_is_never_tried_again_and_a_reload_does_not_wake_it() {
        let mut client = Client::new(s(1));
        let seen = run(&mut client, &settings(), |_| Behaviour::Grant(s(0)), 10_000);
        assert_eq!(seen, [(1, "Unregistered")]);
        assert!(!client.reloaded(s(2)));
    }

    #[test]
    fn a_reload_wakes_what_was_refused_for_good_without_an_unregister() {
        let mut client = Client::new(s(1));
        run(&mut client, &settings(), |_| Behaviour::reject(404), 100);
        assert!(client.reloaded(s(105)));
        assert_eq!(run(&mut client, &settings(), |_| Behaviour::reject(404), 1000), [(105, "Rejected")]);
    }

    #[test]
    fn pjsipregister_on_a_registered_one_is_seven_dark_seconds() {
        let mut client = Client::registered(s(3000));
        client.register(s(0), s(7), Behaviour::Ok, PACE);
        let seen = run(&mut client, &settings(), |_| Behaviour::Ok, 100);
        assert_eq!(seen, [(0, "Unregistered"), (7, "Registered")]);
    }

    #[test]
    fn pjsipregister_on_a_permanently_refused_one_is_refused_twice() {
        let mut client = Client::new(s(1));
        run(&mut client, &settings(), |_| Behaviour::reject(403), 50);
        client.register(s(100), s(105), Behaviour::reject(403), PACE);
        let seen = run(&mut client, &settings(), |_| Behaviour::reject(403), 1000);
        assert_eq!(seen, [(100, "Rejected"), (105, "Rejected")]);
    }

    #[test]
    fn pjsipregister_on_a_given_up_503_counts_the_unregister_as_a_try() {
        let quick = RegistrationSettings { max_retries: 2, retry_interval: s(3), ..settings() };
        let mut client = Client::new(s(0));
        run(&mut client, &quick, |_| Behaviour::reject(503), 50);
        client.register(s(100), s(107), Behaviour::reject(503), PACE);
        let seen = run(&mut client, &quick, |_| Behaviour::reject(503), 1000);
        assert_eq!(seen, [(100, "Rejected"), (103, "Rejected"), (106, "Rejected")]);
    }

    #[test]
    fn pjsipregister_to_a_silent_registrar_waits_for_timer_b_and_the_retry_interval() {
        let mut client = Client::registered(s(5000));
        client.register(s(0), s(4), Behaviour::Silent, PACE);
        let seen = run(&mut client, &settings(), |_| Behaviour::Silent, 130);
        assert_eq!(seen, [(32, "Rejected"), (124, "Rejected")]);
    }

    #[test]
    fn pjsipregister_during_an_unanswered_attempt_never_sends_its_unregister() {
        let mut client = Client::new(s(0));
        client.advance(s(0), &settings(), Behaviour::Silent, PACE);
        client.register(s(10), s(15), Behaviour::Ok, PACE);
        let seen = run(&mut client, &settings(), |_| Behaviour::Ok, 200);
        assert_eq!(seen, [(32, "Rejected"), (92, "Registered")]);
    }

    #[test]
    fn an_unregister_that_fails_for_the_moment_ends_registered_again() {
        let mut client = Client::registered(s(3000));
        client.unregister(s(0), Behaviour::reject(503), PACE);
        let seen =
            run(&mut client, &settings(), |now| if now == 0 { Behaviour::reject(503) } else { Behaviour::Ok }, 100);
        assert_eq!(seen, [(0, "Rejected"), (60, "Registered")]);

        let mut client = Client::registered(s(3000));
        client.unregister(s(0), Behaviour::Ok, PACE);
        assert_eq!(run(&mut client, &settings(), |_| Behaviour::Ok, 100_000), [(0, "Unregistered")]);
    }

    #[test]
    fn auth_rejections_are_temporary_only_when_told_so() {
        let mut client = Client::new(s(0));
        assert_eq!(run(&mut client, &settings(), |_| Behaviour::reject(401), 1000).len(), 1);
        let mut client = Client::new(s(0));
        let told = RegistrationSettings { auth_rejection_permanent: false, ..settings() };
        assert_eq!(run(&mut client, &told, |_| Behaviour::reject(401), 1000).len(), 11);
    }
}
