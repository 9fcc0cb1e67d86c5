//! The demo, but for the controller: the simulated world, the story's driver, what is printed, and the account at the end.
//!
//! The controller is the real one. Whoever starts it gives it what [`Demo::configuration`] says, and hands on what it
//! decides as [`Seen`]; [`Demo::run`] prints that together with the story.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    dialer::{SimAmi, SimCampaign, SimCampaignState, SimDialer, SimDialerSettings},
    narrate::{Narrator, Style, WIDTH, wrap},
    pbx::{HepFeed, SimError, SimPbx, SimSettings, SimUser},
    story::{Pace, SHORTEST, Story, TRUNKS, demo_policy, demo_timing, demo_trunks},
};
use crate::{
    clock::{Clock, Timestamp},
    decision::{Event, Hold, Outcome, Record},
};

/// What the controller decided or remembered, for the narrator.
#[derive(Debug, Clone)]
pub enum Seen {
    /// A decision.
    Event(Event),
    /// An outcome for history.
    Record(Record),
    /// A hold that knows its cause since then.
    Explained(Box<Hold>, Timestamp),
}

impl Seen {
    /// What there is to tell of a step.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Vec<Self> {
        let mut all: Vec<Self> = outcome.records.iter().cloned().map(Self::Record).collect();
        all.extend(outcome.events.iter().cloned().map(Self::Event));
        // One that begins or ends has an event of its own.
        let diagnosed = outcome.events.iter().find(|event| event.kind == "trunk.diagnosis");
        if let Some(event) = diagnosed {
            let explained = outcome.holds.iter().filter(|hold| hold.is_active() && hold.diagnosis.is_some());
            all.extend(explained.cloned().map(|hold| Self::Explained(Box::new(hold), event.at)));
        }
        all
    }
}

/// The campaigns: id, what people call it, the trunk it dials on.
const CAMPAIGNS: [(&str, &str, &str); 3] =
    [("7", "Renewals", TRUNKS[0]), ("8", "Surveys", TRUNKS[1]), ("9", "Reminders", TRUNKS[2])];
/// The PBX's id.
pub const PBX: &str = "pbx1";
/// The dialer's id.
pub const DIALER: &str = "crm";
const CALLS_PER_SECOND: f64 = 4.0;
/// Where the commands look for a controller when nobody says.
const USUAL_API: &str = "http://127.0.0.1:8480";
/// What to do once the story is over. Every line is one to copy.
const FAREWELL: &str = r#"
Next, your own Asterisk. It is asked and listened to; with mode = "observe" nothing is paused.

1. An AMI user in /etc/asterisk/manager.conf, then: asterisk -rx "manager reload"

   [trunkwarden]
   secret = CHANGE-ME
   read = system
   write = system,command
   writetimeout = 5000

2. In trunkwarden.toml

   [control]
   mode = "observe"
   [[pbx]]
   id = "pbx1"
   [pbx.ami]
   address = "127.0.0.1:5038"
   username = "trunkwarden"
   secret = "CHANGE-ME"

3. trunkwarden check    says what is missing, and the lines to add
   trunkwarden run      starts it; then: trunkwarden trunks

Campaigns, webhooks, the gate, and what to do at night: docs/operations.md
"#;

/// The simulated world of the demo.
#[derive(Debug)]
pub struct Demo {
    pbx: SimPbx,
    dialer: SimDialer,
    secrets: Secrets,
    /// Where its SIP messages are told; nowhere without a free port.
    hep: Option<SocketAddr>,
    lasting: Duration,
    pace: Pace,
}

/// Made up for one run.
#[derive(Debug)]
struct Secrets {
    ami: String,
    webhook: String,
}

/// What the demo comes to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// By trunk.
    pub trunks: BTreeMap<String, TrunkSummary>,
}

/// What one trunk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrunkSummary {
    /// Holds begun.
    pub holds: u64,
    /// Campaigns paused because of it.
    pub pauses: u64,
    /// Campaigns resumed.
    pub resumes: u64,
    /// Calls originated on it.
    pub calls: u64,
    /// Of those, how many were burned.
    pub burned: u64,
    /// Calls that were not made, and would have been burned.
    pub spared: u64,
}

impl Demo {
    /// Starts the simulated PBX and dialer for a demo of about `lasting`, 20 s at least.
    ///
    /// # Errors
    /// [`SimError`] when loopback cannot be listened on.
    pub async fn start(lasting: Duration, tracker: &TaskTracker, stop: CancellationToken) -> Result<Self, SimError> {
        let lasting = lasting.max(SHORTEST);
        let pace = Pace::lasting(lasting);
        let secret = rand::random::<u64>();
        // Base64 of digits and lower-case letters of a multiple of four is valid as it stands.
        let secrets =
            Secrets { ami: format!("demo-{secret:016x}"), webhook: format!("whsec_{secret:016x}{secret:016x}") };
        let hep = free_port();
        let feed = |to| HepFeed { password: Some(secrets.ami.clone().into()), ..HepFeed::new(to) };
        let settings = SimSettings {
            hep: hep.map(feed),
            users: vec![SimUser::all("trunkwarden", &secrets.ami), SimUser::all("dialer", &secrets.ami)],
            trunks: demo_trunks(),
            timing: demo_timing(pace),
            ..SimSettings::default()
        };
        let pbx = SimPbx::start(settings, tracker, stop.clone()).await?;
        let campaign = |(id, name, trunk): (&str, &str, &str)| SimCampaign {
            id: id.to_owned(),
            name: name.to_owned(),
            endpoints: vec![trunk.to_owned()],
            calls_per_second: CALLS_PER_SECOND,
            state: SimCampaignState::Running,
        };
        let truth = pbx.clone();
        let settings = SimDialerSettings {
            id: DIALER.to_owned(),
            secret: secrets.webhook.clone(),
            campaigns: CAMPAIGNS.map(campaign).to_vec(),
            ami: Some(SimAmi { address: pbx.address(), username: "dialer".to_owned(), secret: secrets.ami.clone() }),
            judge: Some(Arc::new(move |endpoint| truth.would_connect(endpoint))),
            ..SimDialerSettings::default()
        };
        let dialer = SimDialer::start(settings, tracker, stop).await?;
        Ok(Self { pbx, dialer, secrets, hep, lasting, pace })
    }

    /// Where its SIP messages are told, if they are.
    #[must_use]
    pub const fn hep(&self) -> Option<SocketAddr> {
        self.hep
    }

    /// Nobody listens to its SIP messages after all.
    pub const fn forget_feed(&mut self) {
        self.hep = None;
    }

    /// The controller's configuration for it, as TOML.
    #[must_use]
    pub fn configuration(&self, store_url: &str, api: SocketAddr) -> String {
        use std::fmt::Write as _;

        let policy = demo_policy(self.pace);
        let time = |duration: Duration| humantime::format_duration(duration).to_string();
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let flap = &policy.flap;
        let mut text = format!(
            "[store]\nurl = {store}\n[api]\nlisten = \"{api}\"\n[[pbx]]\nid = \"{PBX}\"\nreconcile = \"{reconcile}\"\n\
             [pbx.ami]\naddress = \"{ami}\"\nusername = \"trunkwarden\"\nsecret = {secret}\n\
             [health]\nrecovery = \"{recovery}\"\nunknown_after = \"{unknown}\"\nrefresh_grace = \"{grace}\"\n\
             flap = {{ penalty = {penalty:?}, suppress = {suppress:?}, reuse = {reuse:?}, half_life = \"{half}\", \
             max_suppress = \"{most}\" }}\n\
             [[dialer]]\nid = \"{DIALER}\"\nkind = \"webhook\"\nurl = \"{url}\"\nsecret = \"{webhook}\"\n\
             pause_after = \"0s\"\n",
            store = quoted(store_url),
            reconcile = time(self.pace.of(4.0)),
            ami = self.pbx.address(),
            secret = quoted(&self.secrets.ami),
            recovery = time(policy.recovery),
            unknown = time(policy.unknown_after),
            grace = time(policy.refresh_grace),
            penalty = flap.penalty,
            suppress = flap.suppress,
            reuse = flap.reuse,
            half = time(flap.half_life),
            most = time(flap.max_suppress),
            url = self.dialer.url(),
            webhook = self.secrets.webhook,
        );
        if let Some(hep) = self.hep {
            // Writing to a String does not fail.
            let _ = write!(text, "[hep]\nlisten = \"{hep}\"\npassword = {}\n", quoted(&self.secrets.ami));
        }
        for (id, _, trunk) in CAMPAIGNS {
            // Writing to a String does not fail.
            let _ = write!(text, "[[campaign]]\ndialer = \"{DIALER}\"\nid = \"{id}\"\ntrunks = [\"{PBX}/{trunk}\"]\n");
        }
        text
    }

    /// The simulated PBX.
    #[must_use]
    pub const fn pbx(&self) -> &SimPbx {
        &self.pbx
    }

    /// The simulated dialer.
    #[must_use]
    pub const fn dialer(&self) -> &SimDialer {
        &self.dialer
    }

    /// Plays the story and prints it, with what `seen` brings, until its time is over or `stop`; then prints the account.
    /// `api` is told as where to look meanwhile. To be called once the controller has listed the PBX.
    ///
    /// # Errors
    /// That of `out`, a closed pipe for one.
    pub async fn run(
        &self,
        mut seen: mpsc::Receiver<Seen>,
        api: &str,
        style: Style,
        clock: &dyn Clock,
        out: &mut (dyn Write + Send),
        stop: &CancellationToken,
    ) -> io::Result<Summary> {
        let mut narrator = Narrator::new(clock.now(), style);
        let mut summary = Summary::default();
        for trunk in TRUNKS {
            summary.trunks.insert(format!("{PBX}/{trunk}"), TrunkSummary::default());
        }
        self.opening(api, out)?;
        let mut explained = BTreeMap::new();
        let story = Story::demo(self.pace);
        let begun = Instant::now();
        let mut steps = story.steps.iter();
        let mut next = steps.next();
        loop {
            let due = begun + next.map_or(self.lasting, |step| step.at);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(due) => {
                    let Some(step) = next else { break };
                    if !step.say.is_empty() {
                        writeln!(out, "\n{}", narrator.say(clock.now(), step.say))?;
                    }
                    if let Some(act) = step.act {
                        act.apply(&self.pbx);
                    }
                    next = steps.next();
                }
                Some(seen) = seen.recv() => {
                    let line = match &seen {
                        Seen::Event(event) => {
                            summary.count(event);
                            narrator.event(event)
                        }
                        Seen::Record(record) => narrator.record(record),
                        Seen::Explained(hold, at) => {
                            let cause = hold.diagnosis.as_ref().map(|brief| brief.cause);
                            let before = explained.insert(hold.id.clone(), cause);
                            (before != Some(cause)).then(|| narrator.explained(hold, *at))
                        }
                    };
                    if let Some(line) = line {
                        writeln!(out, "{line}")?;
                    }
                }
            }
            out.flush()?;
        }
        for trunk in TRUNKS {
            let calls = self.dialer.calls_on(trunk);
            let entry = summary.trunks.entry(format!("{PBX}/{trunk}")).or_default();
            (entry.calls, entry.burned, entry.spared) = (calls.attempted, self.pbx.calls(trunk).failed, calls.spared);
        }
        summary.print(out)?;
        self.campaigns(out)?;
        farewell(out)?;
        out.flush()?;
        Ok(summary)
    }

    /// How the campaigns are at the end, as the dialer has them: a resume that was only sent does not count.
    fn campaigns(&self, out: &mut (dyn Write + Send)) -> io::Result<()> {
        let stopped: Vec<&str> = (CAMPAIGNS.iter())
            .map(|(id, ..)| *id)
            .filter(|id| self.dialer.state(id) != Some(SimCampaignState::Running))
            .collect();
        if stopped.is_empty() {
            writeln!(out, "All {} campaigns are dialing at the end.", CAMPAIGNS.len())
        } else {
            writeln!(out, "Not dialing at the end: campaign {}.", stopped.join(", "))
        }
    }

    fn opening(&self, api: &str, out: &mut (dyn Write + Send)) -> io::Result<()> {
        writeln!(out, "Trunkwarden demo: all on this machine, with a simulated PBX, its providers, and a dialer.")?;
        writeln!(out, "  PBX      {PBX}, real AMI on {}", self.pbx.address())?;
        match self.hep {
            Some(hep) => writeln!(out, "           and its SIP messages as HEP to {hep}, as res_hep_pjsip sends them")?,
            None => writeln!(out, "           without its SIP messages: no port is free for HEP")?,
        }
        for (id, name, trunk) in CAMPAIGNS {
            writeln!(out, "  campaign {id} \"{name}\" dials {CALLS_PER_SECOND} calls a second on {PBX}/{trunk}")?;
        }
        let base = api.trim_end_matches("/api/v1/trunks").trim_end_matches('/');
        let asking = if base == USUAL_API { String::new() } else { format!("--api {base} ") };
        writeln!(out, "  look     in another terminal: trunkwarden {asking}trunks")?;
        writeln!(out, "           likewise: holds, campaigns, outbox, history {PBX}/{0}, gate {PBX}/{0}", TRUNKS[0])?;
        let policy = demo_policy(self.pace);
        let text = format!(
            "Quick rules for the demo: well for {} after a failure before calls go out again (usually 30 s); a third loss \
             soon after two others suppresses a trunk until its penalty has decayed.",
            humantime::format_duration(policy.recovery)
        );
        writeln!(out, "  rules    {}", wrap(&text, WIDTH - 11, 11))?;
        out.flush()
    }
}

/// A port of loopback that is free for UDP and TCP, as HEP is listened for on both, while another is left to send from.
fn free_port() -> Option<SocketAddr> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    (0..16).find_map(|_| {
        let listens = TcpListener::bind(any).ok()?;
        let address = listens.local_addr().ok()?;
        let (_hears, _sends) = (UdpSocket::bind(address).ok()?, UdpSocket::bind(any).ok()?);
        Some(address)
    })
}

fn farewell(out: &mut (dyn Write + Send)) -> io::Result<()> {
    out.write_all(FAREWELL.as_bytes())
}

impl Summary {
    fn count(&mut self, event: &Event) {
        let by_key = |key: &str| event.data[key].as_str().map(str::to_owned);
        let first = || event.data["trunks"][0].as_str().map(str::to_owned);
        let Some(trunk) = by_key("trunk").or_else(first) else { return };
        let Some(entry) = self.trunks.get_mut(&trunk) else { return };
        match event.kind.as_str() {
            "hold.begun" => entry.holds += 1,
            "campaign.pause" => entry.pauses += 1,
            "campaign.resume" => entry.resumes += 1,
            _ => {}
        }
    }

    fn print(&self, out: &mut (dyn Write + Send)) -> io::Result<()> {
        let title = ["trunk", "holds", "pauses", "resumes", "calls", "burned", "not burned"];
        writeln!(out)?;
        let [trunk, rest @ ..] = title;
        write!(out, "{trunk:<14}")?;
        for word in rest {
            write!(out, "{word:>11}")?;
        }
        writeln!(out)?;
        let (mut burned, mut spared) = (0, 0);
        for (name, t) in &self.trunks {
            write!(out, "{name:<14}")?;
            for figure in [t.holds, t.pauses, t.resumes, t.calls, t.burned, t.spared] {
                write!(out, "{figure:>11}")?;
            }
            writeln!(out)?;
            burned += t.burned;
            spared += t.spared;
        }
        writeln!(out)?;
        writeln!(out, "{spared} calls not burned: their campaign was paused while the trunk was dead.")?;
        writeln!(out, "{burned} were burned before the PBX noticed, or before the dialer did as it was told.")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn the_world_starts_and_its_configuration_is_toml() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let demo = Demo::start(Duration::ZERO, &tracker, stop.clone()).await.unwrap();
        let text = demo.configuration("sqlite:/tmp/a \"b\".db", SocketAddr::from(([127, 0, 0, 1], 8480)));
        let table: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(table["pbx"][0]["ami"]["address"].as_str(), Some(demo.pbx().address().to_string().as_str()));
        assert_eq!(table["campaign"].as_array().unwrap().len(), 3);
        assert_eq!(table["health"]["recovery"].as_str(), Some("2s"));
        for duration in ["half_life", "max_suppress"] {
            assert!(humantime::parse_duration(table["health"]["flap"][duration].as_str().unwrap()).is_ok());
        }
        assert_eq!(demo.lasting, SHORTEST);
        let listen = demo.hep.map(|hep| hep.to_string());
        assert_eq!(table["hep"]["listen"].as_str(), listen.as_deref());
        let mut deaf = demo;
        deaf.forget_feed();
        let text = deaf.configuration("sqlite:x.db", SocketAddr::from(([127, 0, 0, 1], 8480)));
        assert!(!text.parse::<toml::Table>().unwrap().contains_key("hep"));
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn what_is_seen_is_printed_in_plain_lines_and_summed_up() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let demo = Demo::start(Duration::ZERO, &tracker, stop.clone()).await.unwrap();
        let (tell, seen) = mpsc::channel(8);
        let at = SystemClock.now();
        for kind in ["hold.begun", "gate"] {
            let data = json!({"trunk": "pbx1/north", "reason": "403", "by": "policy"});
            tell.send(Seen::Event(Event { kind: kind.to_owned(), at, data })).await.unwrap();
        }
        let data = json!({"dialer": "crm", "campaign": "7", "trunks": ["pbx1/north"], "reason": "403"});
        tell.send(Seen::Event(Event { kind: "campaign.pause".to_owned(), at, data })).await.unwrap();
        let mut out = Vec::new();
        let ended = stop.child_token();
        let run = demo.run(seen, "http://127.0.0.1:8480/", Style::default(), &SystemClock, &mut out, &ended);
        let all_taken = async {
            while tell.capacity() < tell.max_capacity() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            ended.cancel();
        };
        let (summary, ()) = tokio::join!(run, all_taken);
        let north = summary.unwrap().trunks["pbx1/north"];
        assert_eq!((north.holds, north.pauses, north.resumes), (1, 1, 0));
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("held, no call may go out: 403") && text.contains("calls not burned"), "{text}");
        assert!(
            text.contains("All 3 campaigns are dialing at the end") && text.contains("trunkwarden check"),
            "{text}"
        );
        assert!(text.is_ascii() && text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
