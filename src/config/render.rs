//! The effective configuration as TOML, with its secrets masked.
//!
//! It can be read again: what stands in a secret's place is valid there. So an operator can take it as a file, and a
//! test can hold it against what it was made from.

use std::fmt::Write;

use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{
    form::{Item, Table},
    schema::{self, Identity, Key, Mask, Shape},
};

/// In place of a secret.
const STARS: &str = "********";
/// In place of a signing secret: base64 of a length that is accepted.
const WHSEC: &str = "whsec_MaskedMaskedMaskedMaskedMaskedMaskedMaskedMasked";
/// How many digits of a token's hash are shown.
const HASH_SHOWN: usize = 8;

/// Renders `root`.
pub(super) fn render(root: &Table) -> String {
    let mut out = "# The effective configuration. Secrets are masked; of a token's hash, the first digits are shown.\n"
        .to_owned();
    tables(&mut out, "", schema::ROOT, root);
    out
}

fn tables(out: &mut String, path: &str, keys: &'static [Key], table: &Table) {
    for key in keys {
        if let Some(node) = table.0.get(key.name) {
            single(out, key, &node.item);
        }
    }
    for key in keys {
        let path = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
        match (key.shape, table.0.get(key.name).map(|node| &node.item)) {
            (Shape::Table(inner), Some(Item::Table(table))) if !table.0.is_empty() => {
                line(out, &format!("\n[{path}]"));
                tables(out, &path, inner, table);
            }
            (Shape::List(inner, Identity::Keys(_) | Identity::Place), Some(Item::List(entries))) => {
                for entry in entries {
                    if let Item::Table(table) = &entry.item {
                        line(out, &format!("\n[[{path}]]"));
                        tables(out, &path, inner, table);
                    }
                }
            }
            _ => {}
        }
    }
}

fn single(out: &mut String, key: &Key, item: &Item) {
    let value = match item {
        Item::Table(_) | Item::List(_) | Item::Wrong => return,
        Item::Text(text) | Item::Span(_, text) => quoted(text),
        Item::Secret(_, Some(file)) => {
            line(out, &format!("{}_file = {}", key.name, quoted(&file.to_string_lossy())));
            return;
        }
        Item::Secret(secret, None) => quoted(&masked(key, secret)),
        Item::Flag(flag) => flag.to_string(),
        Item::Count(count) => count.to_string(),
        Item::Number(number) => toml::Value::Float(*number).to_string(),
        Item::Texts(texts) => {
            format!("[{}]", texts.iter().map(|(text, _)| quoted(text)).collect::<Vec<_>>().join(", "))
        }
        Item::Map(map) => {
            let pair = |(name, text): (&String, &String)| format!("{} = {}", quoted(name), quoted(text));
            format!("{{ {} }}", map.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
    };
    line(out, &format!("{} = {value}", key.name));
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{text}");
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn masked(key: &Key, secret: &SecretString) -> String {
    let secret = secret.expose_secret();
    match key.shape {
        Shape::Secret(_, Mask::Whsec) => WHSEC.to_owned(),
        Shape::Secret(_, Mask::Hash) => {
            let shown: String = secret.chars().take(HASH_SHOWN).collect();
            format!("{shown:0<64}")
        }
        Shape::Secret(_, Mask::Url) => {
            // Two on one host are still two.
            origin(secret).map_or_else(|| STARS.to_owned(), |at| format!("{at}/{STARS}{}", digest(secret)))
        }
        Shape::Url => url(secret).unwrap_or_else(|| STARS.to_owned()),
        Shape::Secret(_, Mask::Stars)
        | Shape::Table(_)
        | Shape::List(..)
        | Shape::Text(_)
        | Shape::Word(_)
        | Shape::Flag
        | Shape::Count(_)
        | Shape::Positive
        | Shape::Share
        | Shape::Span(_)
        | Shape::Texts(_)
        | Shape::Map(_) => STARS.to_owned(),
    }
}

/// Scheme, host and port of a URL: what of it can be shown in any case.
pub(super) fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    Some(url.origin().ascii_serialization())
}

/// Tells URLs apart without saying them: eight digits of its SHA-256.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// A URL without its user, password and query, which are where secrets are by custom.
fn url(text: &str) -> Option<String> {
    let mut url = Url::parse(text).ok()?;
    if url.password().is_some() {
        url.set_password(Some(STARS)).ok()?;
    }
    if !url.username().is_empty() {
        url.set_username(STARS).ok()?;
    }
    if url.query().is_some() {
        url.set_query(Some(STARS));
    }
    Some(url.to_string())
}
