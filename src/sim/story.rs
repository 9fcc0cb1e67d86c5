//! The demo's scenario as data: what happens to the providers and the network, when, and what a narrator says of it.
//!
//! Times are written for 40 s and stretched or pressed together by one factor ([`Pace`]), which also goes into the health
//! policy and Asterisk's timers: so the same things happen in the same order however long the demo may take.

use std::time::Duration;

use super::{
    pbx::{EndpointSettings, SimPbx, SimTrunk, Start, Timing},
    provider::{self, Behaviour},
    registration::RegistrationSettings,
};
use crate::health::{FlapPolicy, HealthPolicy};

/// How fast the story goes: 1 is 40 s, 0.5 is 20 s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace(f64);

/// The shortest demo: below it, Asterisk's whole-second timers would not keep up with the story.
pub const SHORTEST: Duration = Duration::from_secs(20);
/// The demo as it is written.
pub const USUAL: Duration = Duration::from_secs(40);

impl Pace {
    /// The pace for a demo of this length. What is left of a longer one passes in peace.
    #[must_use]
    pub fn lasting(whole: Duration) -> Self {
        Self(whole.clamp(SHORTEST, USUAL).as_secs_f64() / USUAL.as_secs_f64())
    }

    /// A time of the story, at this pace.
    #[must_use]
    pub fn of(self, seconds: f64) -> Duration {
        Duration::from_millis(
            Duration::from_secs_f64(seconds.max(0.0) * self.0).as_millis().try_into().unwrap_or(u64::MAX),
        )
    }
}

/// The health policy of the demo: DESIGN's rules with seconds for minutes.
#[must_use]
pub fn demo_policy(pace: Pace) -> HealthPolicy {
    HealthPolicy {
        recovery: pace.of(4.0),
        // At any pace: the break is short, but the link waits for up to 1.3 s before it tries again, and a question that
        // shows a quiet PBX to be there is asked every third of this.
        unknown_after: Duration::from_secs(6),
        refresh_grace: pace.of(3.0),
        flap: FlapPolicy { half_life: pace.of(5.0), max_suppress: pace.of(30.0), ..FlapPolicy::default() },
        ..HealthPolicy::default()
    }
}

/// The demo's trunks.
pub const TRUNKS: [&str; 3] = ["north", "south", "west"];

/// The demo's trunks, registered, with quick timers: a refresh every 6 s, a retry after 1 s. More often would look like the
/// endless refreshes of a grant that is too short, and be diagnosed as that.
#[must_use]
pub fn demo_trunks() -> Vec<SimTrunk> {
    let second = Duration::from_secs(1);
    let trunk = |name: &str| SimTrunk {
        name: name.to_owned(),
        registration: Some(RegistrationSettings {
            expiration: Duration::from_secs(16),
            retry_interval: second,
            forbidden_retry_interval: second,
            fatal_retry_interval: second,
            max_retries: 10_000,
            max_random_initial_delay: second,
            ..RegistrationSettings::named(name)
        }),
        endpoint: Some(EndpointSettings::named(name)),
        behaviour: Behaviour::Ok,
        start: Start::Registered,
    };
    TRUNKS.map(trunk).to_vec()
}

/// The demo's timers: an unanswered REGISTER is given up after 4 s instead of 32 s (`timer_b`), sent four times by then.
#[must_use]
pub fn demo_timing(pace: Pace) -> Timing {
    let pace = provider::Pace { timer_b: pace.of(4.0), timer_t1: pace.of(0.5), ..provider::Pace::default() };
    Timing { pace, call_length: Duration::from_millis(800), ..Timing::default() }
}

/// What is done to the simulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A provider changes its behaviour, and the registration's next attempt is due at once, as a refresh would be.
    Turn(&'static str, Behaviour),
    /// A provider changes its behaviour; it shows when Asterisk tries next.
    Change(&'static str, Behaviour),
    /// The network to the PBX breaks.
    Cut,
    /// It is mended.
    Mend,
}

impl Act {
    /// Does it.
    pub fn apply(self, pbx: &SimPbx) {
        match self {
            Self::Turn(trunk, behaviour) => {
                pbx.set_behaviour(trunk, behaviour);
                pbx.attempt_now(trunk);
            }
            Self::Change(trunk, behaviour) => {
                pbx.set_behaviour(trunk, behaviour);
            }
            Self::Cut => pbx.cut(),
            Self::Mend => pbx.mend(),
        }
    }
}

/// A step of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// When, since the story began.
    pub at: Duration,
    /// What the narrator says; nothing for a step that repeats the one before.
    pub say: &'static str,
    /// What happens.
    pub act: Option<Act>,
}

/// A scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// Its steps, in order.
    pub steps: Vec<Step>,
    /// When all of it has had its effect.
    pub end: Duration,
}

impl Story {
    /// The demo's: one trunk's account is suspended and restored, one's provider is overloaded now and then, one falls
    /// silent, and the PBX is lost for a moment, which must hold nothing.
    #[must_use]
    pub fn demo(pace: Pace) -> Self {
        const SUSPENDED: Behaviour = Behaviour::reject(403);
        const OVERLOADED: Behaviour = Behaviour::Reject { code: 503, retry_after: Some(Duration::from_secs(1)) };
        const OK: Behaviour = Behaviour::Ok;
        let steps = [
            (0.0, "three trunks are registered and three campaigns are dialing", None),
            (
                3.0,
                "north's provider suspends the account: the next refresh is answered with 403",
                Some(Act::Turn("north", SUSPENDED)),
            ),
            (8.0, "north's account is restored", Some(Act::Change("north", OK))),
            (
                11.0,
                "south's provider is overloaded: 503 and registered again, three times",
                Some(Act::Turn("south", OVERLOADED)),
            ),
            (12.2, "", Some(Act::Turn("south", OK))),
            (13.4, "", Some(Act::Turn("south", OVERLOADED))),
            (14.6, "", Some(Act::Turn("south", OK))),
            (15.8, "", Some(Act::Turn("south", OVERLOADED))),
            (17.0, "south is registered again, and stays so; can it be trusted?", Some(Act::Turn("south", OK))),
            (18.2, "a firewall drops what goes to west: no answer at all", Some(Act::Turn("west", Behaviour::Silent))),
            (22.8, "the firewall is opened again; it shows when Asterisk tries next", Some(Act::Change("west", OK))),
            (32.0, "the network to the PBX breaks for a moment", Some(Act::Cut)),
            (33.0, "the network is back; so short a gap holds nothing, but history shows it", Some(Act::Mend)),
        ];
        let steps = steps.into_iter().map(|(at, say, act)| Step { at: pace.of(at), say, act }).collect();
        Self { steps, end: pace.of(37.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_loss_of_the_flapping_trunk_suppresses_it_at_any_pace() {
        for seconds in [20, 30, 40, 3600] {
            let pace = Pace::lasting(Duration::from_secs(seconds));
            let policy = demo_policy(pace).flap;
            let losses: Vec<f64> = Story::demo(pace)
                .steps
                .iter()
                .filter(|step| matches!(step.act, Some(Act::Turn("south", Behaviour::Reject { code: 503, .. }))))
                .map(|step| step.at.as_secs_f64())
                .collect();
            let penalty = |at: f64| -> f64 {
                let decayed = |loss: &f64| policy.penalty * 0.5_f64.powf((at - loss) / policy.half_life.as_secs_f64());
                losses.iter().filter(|loss| **loss <= at).map(decayed).sum()
            };
            assert!(penalty(losses[1]) < policy.suppress, "two losses do not");
            assert!(penalty(losses[2]) > policy.suppress * 1.05, "three do, with a margin");
            // Let go before the network breaks, after the plain recovery would have ended.
            let registered = pace.of(17.0).as_secs_f64();
            let recovered = registered + demo_policy(pace).recovery.as_secs_f64();
            assert!(penalty(recovered) > policy.reuse && penalty(pace.of(30.0).as_secs_f64()) < policy.reuse);
        }
    }

    #[test]
    fn steps_are_in_order_and_end_in_time() {
        for seconds in [1, 20, 40, 300] {
            let whole = Duration::from_secs(seconds).max(SHORTEST);
            let story = Story::demo(Pace::lasting(whole));
            assert!(story.steps.is_sorted_by_key(|step| step.at));
            assert!(story.end <= whole, "{:?}", story.end);
        }
    }

    #[test]
    fn the_network_breaks_for_less_than_the_policy_waits() {
        for whole in [SHORTEST, USUAL] {
            let pace = Pace::lasting(whole);
            let at = |act: Act| Story::demo(pace).steps.iter().find(|step| step.act == Some(act)).unwrap().at;
            // A client that doubles its wait from half a second is back by twice the break.
            assert!((at(Act::Mend) - at(Act::Cut)) * 3 < demo_policy(pace).unknown_after);
        }
    }

    /// What the trunks' registrations go through, as `second trunk state`, sampled every 50 ms.
    async fn played(whole: Duration) -> Vec<String> {
        use tokio_util::{sync::CancellationToken, task::TaskTracker};

        use crate::sim::SimSettings;

        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let pace = Pace::lasting(whole);
        let settings = SimSettings { trunks: demo_trunks(), timing: demo_timing(pace), ..SimSettings::default() };
        let pbx = SimPbx::start(settings, &tracker, stop.clone()).await.unwrap();
        let (mut before, mut seen) = (pbx.registrations(), Vec::new());
        assert!(before.iter().all(|(_, state)| *state == Some("Registered")));
        let story = Story::demo(pace);
        let mut steps = story.steps.into_iter().peekable();
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < story.end {
            while let Some(step) = steps.next_if(|step| step.at <= begun.elapsed()) {
                if let Some(act) = step.act {
                    act.apply(&pbx);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = pbx.registrations();
            for ((name, state), (_, was)) in now.iter().zip(&before) {
                if state != was {
                    seen.push(format!("{:.0} {name} {}", begun.elapsed().as_secs_f64(), state.unwrap()));
                }
            }
            before = now;
        }
        stop.cancel();
        tracker.close();
        tracker.wait().await;
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn the_trunks_do_what_the_narrator_says() {
        let usual = played(USUAL).await;
        let expected = "3 north Rejected, 8 north Registered, 11 south Rejected, 12 south Registered, 13 south Rejected, 15 \
                        south Registered, 16 south Rejected, 17 south Registered, 22 west Rejected, 23 west Registered";
        assert_eq!(usual.join(", "), expected);
        let order = |seen: &[String]| -> Vec<String> {
            seen.iter().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
        };
        assert_eq!(order(&played(SHORTEST).await), order(&usual), "the same story when it is pressed together");
    }
}
