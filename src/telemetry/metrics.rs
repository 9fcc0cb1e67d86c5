//! Metrics: what is counted where it happens, and the text a Prometheus server reads.
//!
//! Rooms count through the `metrics` facade by name (the rooms' table lets none of them see this one); here are the names
//! they may use, what each means, and the registry behind the facade. The registry is our own: it is these few lines, and
//! the usual exporter would bring second versions of crates we have.
//!
//! What the board knows (health, gates, holds) is not counted here but read from the board when somebody asks, so that
//! nothing is said of a trunk that is gone: `api/metrics.rs`.
//!
//! There is one registry in a process, since the facade has one: controllers that tests start side by side share it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

/// The most series kept; what would be one more is not counted. Labels may come from what a dialer sends, and that must
/// not fill the memory.
pub const MOST_SERIES: usize = 50_000;

/// Originates of dialers, by trunk (empty: none) and outcome: `passed`, `refused` (the trunk holds), `limited` (over a
/// limit), `away` (Asterisk is).
pub const GATEWAY_ORIGINATES: &str = "trunkwarden_gateway_originates_total";
/// Actions of dialers other than `Originate`, by outcome.
pub const GATEWAY_ACTIONS: &str = "trunkwarden_gateway_actions_total";
/// Dialers that are logged in.
pub const GATEWAY_CLIENTS: &str = "trunkwarden_gateway_clients";
/// Whether Asterisk was reached when it was last tried: 1 or 0.
pub const GATEWAY_UPSTREAM_UP: &str = "trunkwarden_gateway_upstream_up";
/// Dialers that were cut because they read too slowly.
pub const GATEWAY_CLIENTS_CUT: &str = "trunkwarden_gateway_clients_cut_total";
/// Events that did not reach a dialer.
pub const GATEWAY_EVENTS_LOST: &str = "trunkwarden_gateway_events_lost_total";

/// Every name that is counted, what it is, its unit, and what it means.
pub const DESCRIBED: [(&str, Kind, Unit, &str); 6] = [
    (
        GATEWAY_ORIGINATES,
        Kind::Counter,
        Unit::Count,
        "Originate actions through the gateway by trunk and outcome: passed, refused (held), limited, away.",
    ),
    (GATEWAY_ACTIONS, Kind::Counter, Unit::Count, "Other actions through the gateway by outcome."),
    (GATEWAY_CLIENTS, Kind::Gauge, Unit::Count, "Dialers logged in at the gateway now."),
    (GATEWAY_UPSTREAM_UP, Kind::Gauge, Unit::Count, "Whether the gateway reached Asterisk when it last tried: 1 or 0."),
    (GATEWAY_CLIENTS_CUT, Kind::Counter, Unit::Count, "Dialers that the gateway cut because they read too slowly."),
    (GATEWAY_EVENTS_LOST, Kind::Counter, Unit::Count, "Events that the gateway could not deliver to a dialer."),
];

/// What a name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It is what it is now.
    Gauge,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

static REGISTRY: OnceLock<Arc<Registry>> = OnceLock::new();

/// Begins to count, once for the process; calls after the first change nothing.
pub fn install() {
    registry();
}

/// What was counted, as Prometheus reads it (text format 0.0.4).
#[must_use]
pub fn render() -> String {
    registry().render()
}

fn registry() -> &'static Registry {
    REGISTRY.get_or_init(|| {
        let registry = Arc::new(Registry::default());
        if metrics::set_global_recorder(Arc::clone(&registry)).is_err() {
            tracing::warn!("something else counts in this process already: /metrics shows what the board knows only");
        }
        for (name, kind, unit, help) in DESCRIBED {
            match kind {
                Kind::Counter => metrics::describe_counter!(name, unit, help),
                Kind::Gauge => metrics::describe_gauge!(name, unit, help),
            }
        }
        registry
    })
}

/// Series by name and labels.
#[derive(Debug, Default)]
struct Registry(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    counters: HashMap<Key, Arc<AtomicU64>>,
    /// The bits of a floating-point number.
    gauges: HashMap<Key, Arc<AtomicU64>>,
    help: BTreeMap<String, String>,
}

impl Known {
    fn is_full(&self) -> bool {
        self.counters.len() + self.gauges.len() >= MOST_SERIES
    }
}

impl Registry {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn describe(&self, name: &KeyName, help: &SharedString) {
        self.known().help.insert(name.as_str().to_owned(), help.to_string());
    }

    fn render(&self) -> String {
        let known = self.known();
        let counters = known.counters.iter().map(|(key, count)| {
            let count = count.load(Ordering::Acquire).to_string();
            (key, Kind::Counter, count)
        });
        let gauges = known.gauges.iter().map(|(key, bits)| {
            let value = f64::from_bits(bits.load(Ordering::Acquire)).to_string();
            (key, Kind::Gauge, value)
        });
        let mut families: BTreeMap<&str, (Kind, Vec<String>)> = BTreeMap::new();
        for (key, kind, value) in counters.chain(gauges) {
            let mut line = key.name().to_owned();
            for (place, label) in key.labels().enumerate() {
                let opening = if place == 0 { '{' } else { ',' };
                let _infallible = write!(line, "{opening}{}=\"{}\"", label.key(), escaped(label.value()));
            }
            if key.labels().len() > 0 {
                line.push('}');
            }
            let _infallible = write!(line, " {value}");
            families.entry(key.name()).or_insert((kind, Vec::new())).1.push(line);
        }
        let mut text = String::new();
        for (name, (kind, mut lines)) in families {
            if let Some(help) = known.help.get(name) {
                let _infallible = writeln!(text, "# HELP {name} {help}");
            }
            let _infallible = writeln!(text, "# TYPE {name} {}", kind.as_str());
            lines.sort();
            for line in lines {
                text.push_str(&line);
                text.push('\n');
            }
        }
        text
    }
}

impl Recorder for Registry {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, &help);
    }

    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, help: SharedString) {
        self.describe(&key, &help);
    }

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        let mut known = self.known();
        match known.counters.get(key) {
            Some(count) => Counter::from_arc(Arc::clone(count)),
            None if known.is_full() => Counter::noop(),
            None => Counter::from_arc(Arc::clone(known.counters.entry(key.clone()).or_default())),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        let mut known = self.known();
        match known.gauges.get(key) {
            Some(bits) => Gauge::from_arc(Arc::clone(bits)),
            None if known.is_full() => Gauge::noop(),
            None => Gauge::from_arc(Arc::clone(known.gauges.entry(key.clone()).or_default())),
        }
    }

    /// Nothing is measured in distributions yet.
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// A label's value, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    fn with_local(registry: &Registry, count: impl FnOnce()) -> String {
        metrics::with_local_recorder(registry, count);
        registry.render()
    }

    #[test]
    fn counters_add_up_and_gauges_say_what_is_now() {
        let text = with_local(&Registry::default(), || {
            metrics::describe_counter!("calls_total", "Calls.");
            metrics::counter!("calls_total", "trunk" => "pbx1/b").increment(2);
            metrics::counter!("calls_total", "trunk" => "pbx1/a", "outcome" => "refused").increment(1);
            metrics::counter!("calls_total", "trunk" => "pbx1/b").increment(3);
            metrics::gauge!("clients").increment(2.0);
            metrics::gauge!("clients").decrement(1.0);
        });
        assert_eq!(
            text,
            "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
             calls_total{trunk=\"pbx1/a\",outcome=\"refused\"} 1\ncalls_total{trunk=\"pbx1/b\"} 5\n\
             # TYPE clients gauge\nclients 1\n"
        );
    }

    #[test]
    fn a_label_cannot_begin_a_line_or_end_itself() {
        let text = with_local(&Registry::default(), || {
            metrics::counter!("x_total", "trunk" => "a\"} 9\nforged 1\\").increment(1);
        });
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(r#"x_total{trunk="a\"} 9\nforged 1\\"} 1"#), "{text}");
    }

    #[test]
    fn labels_that_never_end_do_not_fill_the_memory() {
        let text = with_local(&Registry::default(), || {
            for number in 0..MOST_SERIES + 10 {
                metrics::counter!("x_total", "name" => number.to_string()).increment(1);
            }
            metrics::counter!("x_total", "name" => "0").increment(1);
        });
        assert_eq!(text.lines().count(), MOST_SERIES + 1);
        assert!(text.contains("x_total{name=\"0\"} 2\n"), "what is known is counted on");
    }

    #[test]
    fn it_is_installed_once_however_often_it_is_asked_for() {
        install();
        install();
        metrics::counter!(GATEWAY_CLIENTS_CUT).increment(1);
        let text = render();
        assert!(text.contains(&format!("# TYPE {GATEWAY_CLIENTS_CUT} counter\n{GATEWAY_CLIENTS_CUT} ")), "{text}");
        assert!(text.contains(&format!("# HELP {GATEWAY_CLIENTS_CUT} Dialers")), "{text}");
    }

    /// The names in the rooms' own code, which cannot see the constants.
    fn names_in(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, found);
            } else if path.extension().is_some_and(|ext| ext == "rs") && !path.ends_with("telemetry/metrics.rs") {
                let text = fs::read_to_string(&path).unwrap();
                for rest in text.split("\"trunkwarden_").skip(1) {
                    let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                    if rest[name.len()..].starts_with('"') {
                        found.insert(format!("trunkwarden_{name}"));
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_that_is_counted_is_described_and_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut used = BTreeSet::new();
        names_in(&root.join("src"), &mut used);
        let of_the_board: BTreeSet<String> = crate::api::metrics::NAMES.map(str::to_owned).into();
        let described: BTreeSet<String> = DESCRIBED.map(|(name, ..)| name.to_owned()).into();
        let unknown: Vec<_> =
            used.iter().filter(|&name| !described.contains(name) && !of_the_board.contains(name)).collect();
        assert!(unknown.is_empty(), "counted, but not in telemetry's list: {unknown:?}");
        assert!(of_the_board.is_subset(&used), "the search finds what is there");
        let manual = fs::read_to_string(root.join("docs/operations.md")).unwrap();
        let untold: Vec<_> =
            described.union(&of_the_board).filter(|name| !manual.contains(&format!("`{name}"))).collect();
        assert!(untold.is_empty(), "not in docs/operations.md: {untold:?}");
    }
}
