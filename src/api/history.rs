//! `GET …/history`, as JSON or CSV, and `GET …/at`.
//!
//! # Paging
//! A page goes on after an entry (its `seq` and the order), not after a number of entries: so a page is as cheap at the
//! end as at the beginning, and entries that come in meanwhile shift nothing. The cursor is opaque, so that what it
//! stands for may change; one that was made up, or for the other order, is an error and not an empty page.

use std::fmt::Write as _;

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, Uri, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Code, Problem,
    extract::{ApiQuery, TrunkPath, instant, limit, words},
    trunks::{self, TrunkContact, TrunkGate},
};
use crate::{
    clock::Timestamp,
    decision::EntryKind,
    health::Health,
    ids::{PbxId, TrunkId},
    store::{self, HistoryQuery, Order},
};

/// A run of equal outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place; newer entries have greater ones.
    pub seq: i64,
    /// When the run began.
    pub at: Timestamp,
    /// Whose history it was asked from; a `pbx` entry stands in that of each of its trunks.
    pub trunk: TrunkId,
    /// Of which kind.
    pub kind: EntryKind,
    /// The outcome before.
    pub from: Option<String>,
    /// The outcome.
    pub to: String,
    /// How often in a row.
    pub count: u64,
    /// The first time.
    pub first_at: Timestamp,
    /// The last time.
    pub last_at: Timestamp,
    /// More; `subject` in it is the registration's name or the contact's URI.
    pub detail: serde_json::Value,
}

impl Entry {
    fn of(trunk: &TrunkId, entry: store::Entry) -> Self {
        Self {
            seq: entry.seq,
            at: entry.at,
            trunk: trunk.clone(),
            kind: entry.kind,
            from: entry.from,
            to: entry.to,
            count: entry.count,
            first_at: entry.first_at,
            last_at: entry.last_at,
            detail: with_subject(entry.detail, entry.subject),
        }
    }
}

fn with_subject(detail: serde_json::Value, subject: String) -> serde_json::Value {
    use serde_json::{Map, Value};
    if subject.is_empty() {
        return detail;
    }
    let mut map = match detail {
        Value::Object(map) => map,
        Value::Null => Map::new(),
        other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Map::from_iter([("value".to_owned(), other)])
        }
    };
    // A diagnosis says more of what it is about.
    map.entry("subject").or_insert(Value::String(subject));
    Value::Object(map)
}

/// A page of entries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page {
    /// The entries.
    pub items: Vec<Entry>,
    /// Pass it as `cursor` for the next page; `null` at the end.
    pub next: Option<String>,
}

/// `?since=&until=&kind=&order=&limit=&cursor=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    since: Option<String>,
    until: Option<String>,
    kind: Option<String>,
    order: Option<String>,
    limit: Option<u32>,
    cursor: Option<String>,
}

const fn order_word(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => "desc",
        Order::OldestFirst => "asc",
    }
}

impl Query {
    fn into_store(self, trunk: TrunkId, now: Timestamp) -> Result<HistoryQuery, Problem> {
        let since = self.since.map(|text| instant("since", &text, now)).transpose()?;
        let until = self.until.map(|text| instant("until", &text, now)).transpose()?;
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(Problem::new(Code::InvalidQuery, "since must be before until"));
        }
        let order = match &self.order {
            Some(text) => words("order", text, &[Order::NewestFirst, Order::OldestFirst], order_word)?.first().copied(),
            None => None,
        }
        .unwrap_or_default();
        let kinds = match &self.kind {
            Some(text) => words("kind", text, &EntryKind::ALL, EntryKind::as_str)?,
            None => Vec::new(),
        };
        let after = self.cursor.map(|text| cursor_read(&text, order)).transpose()?;
        Ok(HistoryQuery { trunk, since, until, kinds, order, limit: limit(self.limit)?, after })
    }
}

/// Version and order come first, so that a cursor of another day or another order is told from a valid one.
const CURSOR_VERSION: u8 = 1;

fn cursor_write(seq: i64, order: Order) -> String {
    let order = match order {
        Order::NewestFirst => 0_u8,
        Order::OldestFirst => 1,
    };
    let mut text = String::with_capacity(20);
    for byte in [CURSOR_VERSION, order].into_iter().chain(seq.to_be_bytes()) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn cursor_read(text: &str, order: Order) -> Result<i64, Problem> {
    let seq = (text.len() == 20)
        .then(|| text.get(4..).and_then(|seq| i64::from_str_radix(seq, 16).ok()))
        .flatten()
        .filter(|&seq| seq >= 0 && cursor_write(seq, order) == text);
    seq.ok_or_else(|| {
        Problem::new(Code::InvalidCursor, "pass `next` of the page before as it was, with the same order")
    })
}

/// `GET …/history`
pub(super) async fn page(
    State(state): State<ApiState>,
    TrunkPath(id): TrunkPath,
    uri: Uri,
    headers: HeaderMap,
    ApiQuery(query): ApiQuery<Query>,
) -> Result<Response, Problem> {
    let query = query.into_store(id.clone(), state.now())?;
    let found = state.store.history(&query).await?;
    if found.items.iter().all(|entry| entry.kind == EntryKind::Pbx) {
        known_or_remembered(&state, &id).await?;
    }
    let page = Page {
        items: found.items.into_iter().map(|entry| Entry::of(&id, entry)).collect(),
        next: found.next.map(|seq| cursor_write(seq, query.order)),
    };
    let link = page.next.as_deref().and_then(|cursor| next_link(&uri, cursor));
    let mut response = if wants_csv(&headers) {
        ([(header::CONTENT_TYPE, "text/csv; charset=utf-8; header=present")], csv(&page.items)).into_response()
    } else {
        Json(page).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if let Some(link) = link {
        headers.insert(header::LINK, link);
    }
    Ok(response)
}

/// The next page as RFC 8288 writes it, relative to this one: the only way a CSV page can tell.
fn next_link(uri: &Uri, cursor: &str) -> Option<HeaderValue> {
    let others =
        uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("cursor="));
    let query: Vec<_> = others.map(str::to_owned).chain([format!("cursor={cursor}")]).collect();
    HeaderValue::from_str(&format!("<?{}>; rel=\"next\"", query.join("&"))).ok()
}

/// Whether the client would rather have CSV: it must name `text/csv`, and not like JSON better.
fn wants_csv(headers: &HeaderMap) -> bool {
    let (mut csv, mut json) = (0.0_f32, 0.0_f32);
    for range in
        headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0_f32);
        if kind.eq_ignore_ascii_case("text/csv") {
            csv = csv.max(quality);
        } else if kind.eq_ignore_ascii_case("application/json") {
            json = json.max(quality);
        }
    }
    csv > 0.0 && csv >= json
}

/// The columns of a CSV page.
const COLUMNS: [&str; 10] = ["seq", "at", "trunk", "kind", "from", "to", "count", "first_at", "last_at", "detail"];

/// Entries as RFC 4180 CSV.
fn csv(items: &[Entry]) -> String {
    let mut text = COLUMNS.join(",");
    text.push_str("\r\n");
    for entry in items {
        let detail = if entry.detail.is_null() { String::new() } else { entry.detail.to_string() };
        let cells = [
            entry.seq.to_string(),
            entry.at.to_string(),
            entry.trunk.to_string(),
            entry.kind.as_str().to_owned(),
            entry.from.clone().unwrap_or_default(),
            entry.to.clone(),
            entry.count.to_string(),
            entry.first_at.to_string(),
            entry.last_at.to_string(),
            detail,
        ];
        text.push_str(&cells.map(|cell| csv_cell(&cell)).join(","));
        text.push_str("\r\n");
    }
    text
}

/// A cell a spreadsheet will show rather than run: what would begin a formula gets an apostrophe in front. A provider's
/// reason phrase can end up here, and whoever opens the file is an operator.
fn csv_cell(text: &str) -> String {
    let formula = text.trim_start().starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
        || text.starts_with(['\t', '\r', '\n']);
    let safe = if formula { format!("'{text}") } else { text.to_owned() };
    if safe.contains([',', '"', '\r', '\n']) { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
}

/// A trunk as it was: a Trunk, as far as history remembers it, and the entries it was made of.
///
/// What history does not keep (URIs, penalty, calls, endpoints) is left out rather than made up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrunkAt {
    /// When.
    pub time: Timestamp,
    /// Whether the PBX link was up and the controller running then.
    pub observed: bool,
    /// `pbx/trunk`.
    pub id: TrunkId,
    /// Its PBX.
    pub pbx: PbxId,
    /// Its own name there.
    pub name: String,
    /// How it was; `null` before anything was known.
    pub health: Option<Health>,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What the gate said.
    pub gate: Option<TrunkGate>,
    /// Its registration.
    pub registration: RegistrationAt,
    /// Its contact.
    pub contact: TrunkContact,
    /// The current entries, by kind and subject.
    pub entries: Vec<Entry>,
}

/// A registration as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationAt {
    /// `registered`, `rejected`, `unregistered` or `none`.
    pub state: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// What it was called.
    pub name: Option<String>,
}

impl TrunkAt {
    fn of(id: &TrunkId, at: store::At) -> Self {
        let newest = |kind: EntryKind| {
            at.entries.iter().filter(|entry| entry.kind == kind && is_current(entry)).max_by_key(|entry| entry.seq)
        };
        let health = newest(EntryKind::Health);
        let registration = newest(EntryKind::Registration);
        let gate = newest(EntryKind::Gate).map(|entry| TrunkGate {
            allow: entry.to == "allow",
            reason: entry.detail.get("reason").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned(),
            since: entry.first_at,
        });
        Self {
            time: at.time,
            observed: at.observed,
            id: id.clone(),
            pbx: id.pbx(),
            name: id.name().to_owned(),
            health: health.and_then(|entry| Health::ALL.into_iter().find(|health| health.as_str() == entry.to)),
            since: health.map(|entry| entry.first_at),
            gate,
            registration: RegistrationAt {
                state: registration.map_or_else(|| "none".to_owned(), |entry| entry.to.clone()),
                since: registration.map(|entry| entry.first_at),
                name: registration.map(|entry| entry.subject.clone()),
            },
            contact: TrunkContact {
                status: newest(EntryKind::Contact).map_or_else(|| "none".to_owned(), |entry| entry.to.clone()),
                rtt_ms: None,
            },
            entries: at.entries.into_iter().filter(is_current).map(|entry| Entry::of(id, entry)).collect(),
        }
    }
}

/// Whether the entry says how something was then, rather than that it was over: an ended hold would be "current" until
/// the next.
fn is_current(entry: &store::Entry) -> bool {
    let over = match entry.kind {
        EntryKind::Hold => "released",
        EntryKind::Registration | EntryKind::Contact => "removed",
        EntryKind::Health | EntryKind::Diagnosis | EntryKind::Gate | EntryKind::CallWindow | EntryKind::Pbx => {
            return true;
        }
    };
    entry.to != over
}

/// `?time=`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtQuery {
    time: String,
}

/// `GET …/at`
pub(super) async fn at(
    State(state): State<ApiState>,
    TrunkPath(id): TrunkPath,
    ApiQuery(query): ApiQuery<AtQuery>,
) -> Result<Json<TrunkAt>, Problem> {
    let now = state.now();
    let time = instant("time", &query.time, now)?;
    if time > now {
        return Err(Problem::new(Code::InvalidQuery, "time is in the future, of which nothing is known"));
    }
    let found = state.store.at(&id, time).await?;
    if found.entries.iter().all(|entry| entry.kind == EntryKind::Pbx) {
        known_or_remembered(&state, &id).await?;
    }
    Ok(Json(TrunkAt::of(&id, found)))
}

/// Whether the trunk is known, or was: history outlives what Asterisk lists. A `pbx` entry proves nothing: it stands in
/// the history of whatever trunk of that PBX is asked for.
///
/// # Errors
/// [`Code::UnknownTrunk`] when nobody ever heard of it.
pub(super) async fn known_or_remembered(state: &ApiState, id: &TrunkId) -> Result<(), Problem> {
    if state.board().trunk(id).is_some() {
        return Ok(());
    }
    let kinds = EntryKind::ALL.into_iter().filter(|&kind| kind != EntryKind::Pbx).collect();
    let query = HistoryQuery {
        trunk: id.clone(),
        since: None,
        until: None,
        kinds,
        order: Order::NewestFirst,
        limit: 1,
        after: None,
    };
    if state.store.history(&query).await?.items.is_empty() { Err(trunks::unknown(id)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_was_and_only_for_its_order() {
        for seq in [0, 1, 4711, i64::MAX] {
            for order in [Order::NewestFirst, Order::OldestFirst] {
                assert_eq!(cursor_read(&cursor_write(seq, order), order).unwrap(), seq);
            }
            assert!(cursor_read(&cursor_write(seq, Order::NewestFirst), Order::OldestFirst).is_err());
        }
        for text in [
            "",
            "1",
            "zz",
            "01000000000000000000x",
            "0100ffffffffffffffff",
            "01-00000000000000001",
            "é123456789012345678",
        ] {
            assert_eq!(cursor_read(text, Order::NewestFirst).unwrap_err().code(), Code::InvalidCursor, "{text}");
        }
    }

    #[test]
    fn no_cell_begins_a_formula() {
        for (text, cell) in [
            ("plain", "plain"),
            ("=1+1", "'=1+1"),
            ("+4930", "'+4930"),
            ("-1", "'-1"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("  =1", "'  =1"),
            ("\t=1", "'\t=1"),
            ("＝1", "'＝1"),
            ("a,b", "\"a,b\""),
            ("say \"hi\"", "\"say \"\"hi\"\"\""),
            ("=HYPERLINK(\"http://x\",\"y\")", "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\""),
            ("two\nlines", "\"two\nlines\""),
            ("", ""),
        ] {
            assert_eq!(csv_cell(text), cell, "{text:?}");
        }
    }

    #[test]
    fn csv_is_given_only_to_those_who_like_it_best() {
        let wants = |accept: &str| wants_csv(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        assert!(wants("text/csv"));
        assert!(wants("text/csv, */*;q=0.1"));
        assert!(wants("application/json;q=0.5, text/csv"));
        assert!(!wants("*/*"));
        assert!(!wants("application/json"));
        assert!(!wants("text/csv;q=0.2, application/json"));
        assert!(!wants("text/csv;q=0"));
        assert!(!wants_csv(&HeaderMap::new()));
    }

    #[test]
    fn the_subject_is_part_of_the_detail() {
        use serde_json::json;
        assert_eq!(with_subject(json!({"a": 1}), "reg".to_owned()), json!({"a": 1, "subject": "reg"}));
        assert_eq!(with_subject(json!(null), "reg".to_owned()), json!({"subject": "reg"}));
        assert_eq!(with_subject(json!(7), "reg".to_owned()), json!({"subject": "reg", "value": 7}));
        assert_eq!(with_subject(json!(null), String::new()), json!(null));
    }
}
