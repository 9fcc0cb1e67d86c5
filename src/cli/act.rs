//! The commands that change something: `hold` and `release`.

use serde::Serialize;

use super::{
    Common, Failure, OK, Target,
    client::{Answer, Client},
    print,
    show::print_json,
    table::{Style, harmless},
};
use crate::{
    api::{Items, holds::Hold},
    ids::TrunkId,
};

#[derive(Serialize)]
struct One<'a> {
    reason: &'a str,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    lasting: Option<&'a str>,
}

#[derive(Serialize)]
struct Many<'a> {
    trunks: &'a [&'a str],
    #[serde(flatten)]
    one: One<'a>,
}

/// Asks the controller and gives its answer with the holds in it. One trunk is asked for by its own route; several are
/// one request, so that they are held together or not at all.
async fn ask(client: &Client, target: &Target, single: &str, bulk: &[&str]) -> anyhow::Result<(Answer, Vec<Hold>)> {
    let one = One { reason: &target.reason, lasting: target.lasting.as_deref() };
    let named: Vec<&str> = if target.all { vec!["*"] } else { target.trunk.iter().map(String::as_str).collect() };
    if let [name] = named.as_slice()
        && *name != "*"
        && !name.ends_with("/*")
    {
        let id = TrunkId::try_from(*name)?;
        let answer = client.post(&["trunks", id.pbx_str(), id.name(), single], &one).await?;
        let hold = answer.read()?;
        return Ok((answer, vec![hold]));
    }
    let answer = client.post(bulk, &Many { trunks: &named, one }).await?;
    let holds = answer.read::<Items<Hold>>()?.items;
    Ok((answer, holds))
}

/// `hold`
pub(super) async fn hold(client: &Client, common: &Common, style: &Style, target: Target) -> Result<u8, Failure> {
    let (answer, holds) = ask(client, &target, "hold", &["holds"]).await?;
    if common.json {
        return print_json(&answer);
    }
    let lines = holds.iter().map(|hold| {
        let until = hold
            .until
            .map_or_else(|| "until it is released".to_owned(), |until| format!("until {}", style.time(until)));
        format!("held {} {until}: {} ({})\n", harmless(hold.trunk.as_str()), harmless(&hold.reason), hold.id)
    });
    print(&lines.collect::<String>())?;
    Ok(OK)
}

/// `release`
pub(super) async fn release(client: &Client, common: &Common, style: &Style, target: Target) -> Result<u8, Failure> {
    let (answer, holds) = ask(client, &target, "release", &["holds", "release"]).await?;
    if common.json {
        return print_json(&answer);
    }
    let lines = holds.iter().map(|hold| {
        format!(
            "released {}, held by {} since {}: {} ({})\n",
            harmless(hold.trunk.as_str()),
            hold.by,
            style.time(hold.since),
            harmless(&style.reason_at(&hold.reason, hold.since)),
            hold.id
        )
    });
    print(&lines.collect::<String>())?;
    Ok(OK)
}
