//! The commands that ask.

use anyhow::Context as _;
use serde_json::Value;

use super::{
    Common, FAILED, Failure, Format, OK,
    client::{Answer, Client},
    print,
    table::{Style, harmless},
};
use crate::{
    api::{
        Items, availability::Availability, campaigns::Campaign, gate::GateAnswer, history, holds::Hold,
        outbox::OutboxItem, trunks::Trunk,
    },
    clock::Timestamp,
    health::Health,
    ids::{PbxId, TrunkId},
};

/// What the API answered, as it was.
pub(super) fn print_json(answer: &Answer) -> Result<u8, Failure> {
    print(&format!("{}\n", answer.text.trim_end()))?;
    Ok(OK)
}

fn print_table(style: &Style, header: &[&str], rows: Vec<Vec<String>>, none: &str) -> Result<u8, Failure> {
    if rows.is_empty() {
        print(&format!("{none}\n"))?;
    } else {
        print(&style.table(header, rows, &["HEALTH", "GATE", "REGISTRATION", "STATE"]))?;
    }
    Ok(OK)
}

/// A gate's reason where the health stands beside it: it often begins with that word, which need not be said twice.
fn beside(reason: &str, health: Health) -> String {
    let rest = reason.strip_prefix(health.as_str()).and_then(|rest| rest.strip_prefix(": "));
    rest.unwrap_or(reason).to_owned()
}

/// `trunks`
pub(super) async fn trunks(
    client: &Client,
    common: &Common,
    style: &Style,
    pbx: Option<PbxId>,
    health: Option<String>,
) -> Result<u8, Failure> {
    let mut query = Vec::new();
    query.extend(pbx.as_ref().map(|pbx| ("pbx", pbx.as_str())));
    query.extend(health.as_deref().map(|health| ("health", health)));
    let answer = client.get(&["trunks"], &query).await?;
    if common.json {
        return print_json(&answer);
    }
    let trunks = answer.read::<Items<Trunk>>()?.items;
    let refused = |trunk: &Trunk| trunk.hold.as_ref().map_or(0, |hold| hold.refused_calls);
    // Without a gateway nothing is ever refused, and the reason needs the room.
    let any_refused = trunks.iter().any(|trunk| refused(trunk) > 0);
    let rows = trunks.into_iter().map(|trunk| {
        let calls = refused(&trunk);
        let mut row = vec![
            trunk.id.to_string(),
            trunk.health.to_string(),
            style.time(trunk.since),
            style.age(trunk.since),
            if trunk.gate.allow { "allow" } else { "hold" }.to_owned(),
            trunk.registration.state,
            style.reason(&beside(&trunk.gate.reason, trunk.health)),
        ];
        if any_refused {
            row.insert(5, if calls > 0 { calls.to_string() } else { String::new() });
        }
        row
    });
    let mut header = vec!["TRUNK", "HEALTH", "SINCE", "AGE", "GATE", "REGISTRATION", "REASON"];
    if any_refused {
        header.insert(5, "REFUSED");
    }
    let none = if query.is_empty() {
        "no trunks: no PBX has listed any yet; `trunkwarden check` says why"
    } else {
        "no such trunks; without --pbx and --health all are listed"
    };
    print_table(style, &header, rows.collect(), none)
}

/// What `history` asks.
#[derive(Debug)]
pub(super) struct HistoryAsked {
    pub(super) trunk: TrunkId,
    pub(super) since: String,
    pub(super) until: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) limit: usize,
    pub(super) format: Format,
}

/// The API's own largest page.
const PAGE: usize = 1000;

/// `history`
pub(super) async fn history(client: &Client, style: &Style, asked: HistoryAsked) -> Result<u8, Failure> {
    let since = style.instant(&asked.since)?;
    let until = asked.until.as_deref().map(|until| style.instant(until)).transpose()?;
    let (pbx, name) = (asked.trunk.pbx_str(), asked.trunk.name());
    let path = ["trunks", pbx, name, "history"];
    let mut entries = Vec::new();
    let mut cursor: Option<String> = None;
    let mut left = asked.limit.max(1);
    let mut first = true;
    loop {
        let limit = left.min(PAGE).to_string();
        let mut query = vec![("since", since.as_str()), ("limit", limit.as_str())];
        query.extend(until.as_deref().map(|until| ("until", until)));
        query.extend(asked.kind.as_deref().map(|kind| ("kind", kind)));
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let (count, next) = if asked.format == Format::Csv {
            let answer = client.get_csv(&path, &query).await?;
            let (header, rows) = answer.text.split_once("\r\n").context("the controller's CSV has no header")?;
            if first {
                print(&format!("{header}\r\n"))?;
            }
            print(rows)?;
            (left.min(PAGE), answer.next)
        } else {
            let page: history::Page = client.get(&path, &query).await?.read()?;
            let count = page.items.len();
            entries.extend(page.items);
            (count, page.next)
        };
        first = false;
        left = left.saturating_sub(count);
        cursor = next;
        if cursor.is_none() || left == 0 || count == 0 {
            break;
        }
    }
    match asked.format {
        Format::Csv => {}
        Format::Json => {
            let page = history::Page { items: entries, next: cursor.clone() };
            print(&format!("{}\n", serde_json::to_string(&page)?))?;
        }
        Format::Table => {
            print_history(style, entries, &asked.since)?;
        }
    }
    if cursor.is_some() && asked.format != Format::Json {
        eprintln!("there is more: these are the newest {}; narrow --since and --until, or raise --limit", asked.limit);
    }
    Ok(OK)
}

fn print_history(style: &Style, entries: Vec<history::Entry>, since: &str) -> Result<u8, Failure> {
    let rows = entries.into_iter().map(|entry| {
        let detail = detail(style, &entry.detail, entry.from.as_deref(), entry.at);
        vec![
            style.time(entry.at),
            entry.kind.as_str().to_owned(),
            entry.from.unwrap_or_default(),
            entry.to,
            entry.count.to_string(),
            if entry.last_at == entry.first_at { String::new() } else { style.time(entry.last_at) },
            detail,
        ]
    });
    let header = ["AT", "KIND", "FROM", "TO", "COUNT", "LAST", "DETAIL"];
    print_table(style, &header, rows.collect(), &format!("nothing happened since {since}; --since looks further back"))
}

/// `{"subject":"reg","code":403}` as `reg code=403`: first what it is about, then why as it sounded at `at`, and how long
/// what ended had lasted; then the rest, but for what an entry has anyhow. `--json` has all of it.
fn detail(style: &Style, detail: &Value, from: Option<&str>, at: Timestamp) -> String {
    let Value::Object(map) = detail else {
        return if detail.is_null() { String::new() } else { detail.to_string() };
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    // A diagnosis: its evidence is shown by `diagnose`.
    if let (Some(summary), Some(fault), Some(sure)) =
        (text("summary"), text("fault"), map.get("confidence").and_then(Value::as_f64))
    {
        return format!("{:.0} %, fault {fault}: {summary}", sure * 100.0);
    }
    let lasted = |what: Option<&str>, key: &str| {
        let seconds = map.get(key).and_then(Value::as_f64)?;
        what.map(|what| format!("({what} for {})", span(seconds)))
    };
    let by = text("by");
    // Whose series a hold belongs to says less than who did it.
    let subject = match &by {
        Some(by) => Some(format!("by {by}")),
        None => text("subject"),
    };
    let reason = text("reason").map(|reason| style.reason_at(&reason, at));
    let mut parts: Vec<String> = Vec::new();
    match (subject, reason) {
        (Some(subject), Some(reason)) => parts.push(format!("{subject}: {reason}")),
        (subject, reason) => parts.extend(subject.or(reason)),
    }
    parts.extend(lasted(from, "after_seconds").or_else(|| lasted(Some("held"), "held_seconds")));
    let calls = |key: &str| map.get(key).and_then(Value::as_u64).filter(|&calls| calls > 0);
    let unheld = calls("refused_without_hold");
    match (calls("refused_calls"), unheld) {
        (Some(calls), Some(unheld)) => parts.push(format!("{calls} calls refused ({unheld} without a hold)")),
        (Some(calls), None) => parts.push(format!("{calls} calls refused")),
        (None, Some(unheld)) => parts.push(format!("{unheld} more calls refused before")),
        (None, None) => {}
    }
    let told = ["subject", "by", "reason", "after_seconds", "held_seconds", "refused_calls", "refused_without_hold"];
    for (key, value) in map {
        let plain = match value.as_f64().filter(|_| value.is_f64()) {
            Some(number) => format!("{number:.1}"),
            None => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        };
        let usual = key == "source" && plain == "event";
        if !told.contains(&key.as_str()) && !value.is_null() && !usual {
            parts.push(format!("{key}={plain}"));
        }
    }
    parts.join(" ")
}

/// `availability`
pub(super) async fn availability(
    client: &Client,
    common: &Common,
    style: &Style,
    trunk: &TrunkId,
    since: &str,
    until: Option<&str>,
) -> Result<u8, Failure> {
    let from = style.instant(since)?;
    let to = until.map(|until| style.instant(until)).transpose()?;
    let mut query = vec![("since", from.as_str())];
    query.extend(to.as_deref().map(|to| ("until", to)));
    let answer = client.get(&["trunks", trunk.pbx_str(), trunk.name(), "availability"], &query).await?;
    if common.json {
        return print_json(&answer);
    }
    let found: Availability = answer.read()?;
    let percent =
        |ratio: Option<f64>| ratio.map_or_else(|| "nothing was seen".to_owned(), |r| format!("{:.3} %", r * 100.0));
    let maybe = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), span);
    let mut rows = vec![
        vec!["trunk".to_owned(), trunk.to_string()],
        vec!["span".to_owned(), format!("{since} to {}", until.unwrap_or("now"))],
        vec!["available".to_owned(), percent(found.ratio)],
        vec!["registered".to_owned(), span(found.registered_seconds)],
        vec!["down".to_owned(), span(found.down_seconds)],
        vec!["not observed".to_owned(), span(found.unknown_seconds)],
        vec!["outages".to_owned(), found.outages.to_string()],
        vec!["longest outage".to_owned(), span(found.longest_outage_seconds)],
        vec!["mean outage (MTTR)".to_owned(), maybe(found.mttr_seconds)],
        vec!["mean time between (MTBF)".to_owned(), maybe(found.mtbf_seconds)],
    ];
    for (fault, seconds) in &found.by_fault {
        rows.push(vec![format!("fault of {fault}"), span(*seconds)]);
    }
    rows.push(vec!["calls refused".to_owned(), found.calls_refused.to_string()]);
    rows.push(vec!["calls failed".to_owned(), found.calls_failed.to_string()]);
    let width = rows.iter().map(|row| row[0].chars().count()).max().unwrap_or_default() + 2;
    let lines = rows.iter().map(|row| format!("{:width$}{}\n", row[0], harmless(&row[1])));
    print(&lines.collect::<String>())?;
    Ok(OK)
}

/// Seconds as people say them, whole ones: `29d 23h 59m 54s`.
fn span(seconds: f64) -> String {
    let whole = std::time::Duration::try_from_secs_f64(seconds.round()).unwrap_or_default().as_secs();
    let parts = [(whole / 86_400, 'd'), (whole / 3600 % 24, 'h'), (whole / 60 % 60, 'm'), (whole % 60, 's')];
    let said: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, unit)| format!("{count}{unit}")).collect();
    if said.is_empty() { "0s".to_owned() } else { said.join(" ") }
}

/// What `gate` asks.
#[derive(Debug)]
pub(super) struct GateAsked {
    pub(super) trunk: Option<TrunkId>,
    pub(super) pbx: Option<PbxId>,
    pub(super) channel: Option<String>,
    pub(super) campaign: Option<String>,
}

/// `gate`
pub(super) async fn gate(client: &Client, common: &Common, style: &Style, asked: GateAsked) -> Result<u8, Failure> {
    let mut query = Vec::new();
    query.extend(asked.trunk.as_ref().map(|trunk| ("trunk", trunk.as_str())));
    query.extend(asked.pbx.as_ref().map(|pbx| ("pbx", pbx.as_str())));
    query.extend(asked.channel.as_deref().map(|channel| ("channel", channel)));
    query.extend(asked.campaign.as_deref().map(|campaign| ("campaign", campaign)));
    let answer = client.get(&["gate"], &query).await?;
    let said: GateAnswer = answer.read()?;
    if common.json {
        print_json(&answer)?;
    } else {
        let word = style.word(if said.allow { "allow" } else { "hold" });
        let trunk = if said.trunk.is_empty() { asked.channel.unwrap_or_default() } else { said.trunk };
        print(&format!(
            "{word} {} ({}): {}\n",
            harmless(&trunk),
            said.health,
            harmless(&style.reason(&beside(&said.reason, said.health)))
        ))?;
    }
    Ok(if said.allow { OK } else { FAILED })
}

/// `holds`
pub(super) async fn holds(client: &Client, common: &Common, style: &Style, all: bool) -> Result<u8, Failure> {
    let query: &[_] = if all { &[("limit", "1000")] } else { &[("active", "true"), ("limit", "1000")] };
    let answer = client.get(&["holds"], query).await?;
    if common.json {
        return print_json(&answer);
    }
    let holds = answer.read::<Items<Hold>>()?.items;
    let rows = holds.into_iter().map(|hold| {
        let mut row = vec![
            hold.trunk.to_string(),
            style.time(hold.since),
            style.age(hold.since),
            style.maybe_time(hold.until),
            hold.by.to_string(),
            hold.campaigns.len().to_string(),
            hold.refused_calls.to_string(),
            hold.id.to_string(),
            style.reason_at(&hold.reason, hold.since),
        ];
        if all {
            row.insert(4, style.maybe_time(hold.released_at));
        }
        row
    });
    let mut header = vec!["TRUNK", "SINCE", "AGE", "UNTIL", "BY", "CAMPAIGNS", "REFUSED", "ID", "REASON"];
    if all {
        header.insert(4, "RELEASED");
    }
    print_table(style, &header, rows.collect(), "nothing is held")
}

/// `campaigns`
pub(super) async fn campaigns(client: &Client, common: &Common, style: &Style) -> Result<u8, Failure> {
    let answer = client.get(&["campaigns"], &[]).await?;
    if common.json {
        return print_json(&answer);
    }
    let rows = answer.read::<Items<Campaign>>()?.items.into_iter().map(|campaign| {
        vec![
            format!("{}/{}", campaign.dialer, campaign.id),
            campaign.name.unwrap_or_default(),
            campaign.state.as_str().to_owned(),
            style.time(campaign.since),
            campaign.intent.unwrap_or_default(),
            campaign.hold.map(String::from).unwrap_or_default(),
            campaign.trunks.iter().map(TrunkId::as_str).collect::<Vec<_>>().join(" "),
        ]
    });
    let header = ["CAMPAIGN", "NAME", "STATE", "SINCE", "INTENT", "HOLD", "TRUNKS"];
    let none = "no campaigns: configure [[campaign]], or let the dialer PUT /api/v1/campaigns/DIALER/ID";
    print_table(style, &header, rows.collect(), none)
}

/// `outbox`
pub(super) async fn outbox(
    client: &Client,
    common: &Common,
    style: &Style,
    state: Option<String>,
) -> Result<u8, Failure> {
    let query: Vec<_> = state.as_deref().map(|state| ("state", state)).into_iter().collect();
    let answer = client.get(&["outbox"], &query).await?;
    if common.json {
        return print_json(&answer);
    }
    let rows = answer.read::<Items<OutboxItem>>()?.items.into_iter().map(|item| {
        vec![
            style.maybe_time(minted_at(item.id.as_str())),
            item.id.to_string(),
            item.kind.as_str().to_owned(),
            item.dialer,
            item.campaign.map(String::from).unwrap_or_default(),
            item.state.as_str().to_owned(),
            item.attempts.to_string(),
            style.maybe_time(item.next_at),
            item.last_error.unwrap_or_default(),
        ]
    });
    let header = ["AT", "ID", "TYPE", "TO", "CAMPAIGN", "STATE", "ATTEMPTS", "NEXT", "LAST ERROR"];
    print_table(style, &header, rows.collect(), "the outbox is empty")
}

/// When an id was made: it ends with a ULID, whose first part is a time.
fn minted_at(id: &str) -> Option<Timestamp> {
    let ulid: ulid::Ulid = id.rsplit('_').next()?.parse().ok()?;
    Timestamp::from_millisecond(ulid.timestamp_ms().try_into().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_detail_begins_with_its_subject() {
        let at = "2026-08-01T12:00:00.5Z".parse().unwrap();
        let style = Style::new(true, false, at);
        let detail = |value| detail(&style, &value, Some("stable"), at);
        assert_eq!(
            detail(json!({"code": 403, "subject": "airtel-reg", "text": "Forbidden", "source": "event", "x": null})),
            "airtel-reg code=403 text=Forbidden"
        );
        assert_eq!(detail(json!({"subject": "airtel-reg", "source": "list"})), "airtel-reg source=list");
        assert_eq!(detail(json!({"subject": "sip:a", "rtt_ms": 0.492_999})), "sip:a rtt_ms=0.5");
        assert_eq!(detail(json!(null)), "");
        assert_eq!(detail(json!("why")), "\"why\"");
        let reason = "airtel-reg rejected since 2026-08-01T11:57:00Z";
        assert_eq!(
            detail(json!({"reason": reason, "after_seconds": 61.7})),
            "airtel-reg rejected for 3m (stable for 1m 2s)"
        );
        assert_eq!(
            detail(json!({"subject": "policy", "by": "policy", "reason": reason, "until": null, "id": "hold_1"})),
            "by policy: airtel-reg rejected for 3m id=hold_1"
        );
        assert_eq!(
            detail(json!({"reason": "down", "refused_calls": 12, "refused_without_hold": 3})),
            "down 12 calls refused (3 without a hold)"
        );
        assert_eq!(detail(json!({"reason": "down", "refused_calls": 0, "refused_without_hold": 0})), "down");
        assert_eq!(detail(json!({"reason": "down", "refused_without_hold": 2})), "down 2 more calls refused before");
    }

    #[test]
    fn a_messages_id_tells_when_it_was_made() {
        assert_eq!(minted_at("msg_01M82KJC12002E5DT0DRQE22QQ"), Some("2026-11-22T21:46:03.682Z".parse().unwrap()));
        assert_eq!(minted_at("msg_other"), None);
    }

    #[test]
    fn spans_are_whole_seconds() {
        assert_eq!(span(0.4), "0s");
        assert_eq!(span(3661.2), "1h 1m 1s");
        assert_eq!(span(f64::NAN), "0s");
        assert_eq!(span(2_591_994.0), "29d 23h 59m 54s");
    }
}
