//! Licences, duplicate versions and sources of the dependencies, held against `deny.toml`.
//!
//! cargo-deny does the same from the same file; it is a large program that few machines have, so this is the check that always runs.
//! Assumes: cargo is at hand and the dependencies are downloaded, which is so wherever this test could be compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

/// One resolved package, as `cargo tree` prints it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn deny() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    text.parse().expect("deny.toml is TOML")
}

/// The packages that a build for this machine really takes in. `cargo tree`, since `cargo metadata` also lists optional packages
/// that no feature switches on.
fn packages(edges: &str) -> BTreeSet<Package> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let asked = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--prefix", "none", "--format", "{p}\t{l}", "--edges", edges])
        .current_dir(root())
        .output()
        .expect("cargo tree");
    assert!(asked.status.success(), "cargo tree: {}", String::from_utf8_lossy(&asked.stderr));
    let text = String::from_utf8(asked.stdout).expect("UTF-8");
    let found: BTreeSet<Package> = text.lines().filter_map(package).collect();
    assert!(found.len() > 20, "cargo tree listed only {} packages", found.len());
    found
}

fn package(line: &str) -> Option<Package> {
    let (id, licence) = line.split_once('\t')?;
    let mut words = id.split_whitespace();
    let name = words.next()?.to_owned();
    let version = words.next()?.trim_start_matches('v').to_owned();
    Some(Package { name, version, licence: licence.trim_end_matches("(*)").trim().to_owned() })
}

/// Whether an SPDX expression can be satisfied with the allowed licences alone.
///
/// `/` is the old way of writing `OR`; a `WITH` exception only ever grants more, so the licence before it decides.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let value = any_of(&words, &mut at, allowed);
    value && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut value = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        value |= all_of(words, at, allowed);
    }
    value
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut value = licence(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        value &= licence(words, at, allowed);
    }
    value
}

fn licence(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let value = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return value && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        *at += 2;
    }
    allowed.contains(word)
}

/// An exception of `[bans] skip`: `crate = "name@~1.2"` and a reason.
struct Exception {
    name: String,
    prefix: String,
    reason: String,
}

impl Exception {
    fn covers(&self, name: &str, version: &str) -> bool {
        self.name == name && (version == self.prefix || version.starts_with(&format!("{}.", self.prefix)))
    }
}

fn exceptions() -> Vec<Exception> {
    let deny = deny();
    let listed = deny["bans"]["skip"].as_array().expect("bans.skip is a list");
    listed
        .iter()
        .map(|entry| {
            let spec = entry["crate"].as_str().expect("crate");
            let (name, prefix) = spec.split_once("@~").expect("an exception reads name@~version");
            let reason = entry.get("reason").and_then(toml::Value::as_str).unwrap_or_default();
            Exception { name: name.to_owned(), prefix: prefix.to_owned(), reason: reason.to_owned() }
        })
        .collect()
}

fn versions_of(packages: &BTreeSet<Package>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    versions
}

#[test]
fn every_licence_is_on_the_list() {
    let allowed: BTreeSet<String> = deny()["licenses"]["allow"]
        .as_array()
        .expect("licenses.allow is a list")
        .iter()
        .map(|name| name.as_str().expect("a licence is a string").to_owned())
        .collect();
    let refused: Vec<Package> =
        packages("normal,build,dev").into_iter().filter(|package| !satisfied(&package.licence, &allowed)).collect();
    assert!(refused.is_empty(), "licences outside deny.toml's list: {refused:#?}");
}

#[test]
fn no_crate_comes_in_two_versions_without_a_reason() {
    let exceptions = exceptions();
    let packages = packages("normal,build");
    let mut unexplained = Vec::new();
    for (name, versions) in versions_of(&packages) {
        let counted: Vec<&str> = versions
            .into_iter()
            .filter(|version| !exceptions.iter().any(|known| known.covers(name, version)))
            .collect();
        if counted.len() > 1 {
            unexplained.push(format!("{name}: {}", counted.join(", ")));
        }
    }
    assert!(unexplained.is_empty(), "second versions that deny.toml does not explain: {unexplained:#?}");
}

#[test]
fn every_exception_has_a_reason_and_is_still_needed() {
    let packages = packages("normal,build");
    let versions = versions_of(&packages);
    for known in exceptions() {
        assert!(!known.reason.is_empty(), "{} has no reason", known.name);
        let of_name = versions.get(known.name.as_str()).cloned().unwrap_or_default();
        let met = of_name.len() > 1 && of_name.iter().any(|version| known.covers(&known.name, version));
        assert!(met, "{}@~{} is no second version any more: remove the exception", known.name, known.prefix);
    }
}

#[test]
fn every_dependency_comes_from_one_registry() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = lock.parse().expect("Cargo.lock is TOML");
    let packages = lock["package"].as_array().expect("packages");
    let (ours, theirs): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package.get("source").is_none());
    assert_eq!(ours.iter().map(|package| package["name"].as_str()).collect::<Vec<_>>(), [Some("trunkwarden")]);
    let sources: BTreeSet<&str> = theirs.iter().filter_map(|package| package["source"].as_str()).collect();
    assert!(sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
}

#[test]
fn a_licence_expression_is_read_as_spdx_reads_it() {
    let allowed: BTreeSet<String> = ["MIT", "ISC", "Apache-2.0"].map(str::to_owned).into();
    for yes in ["MIT", "MIT OR GPL-3.0", "GPL-3.0/MIT", "(MIT OR GPL-3.0) AND ISC", "Apache-2.0 WITH LLVM-exception"] {
        assert!(satisfied(yes, &allowed), "{yes}");
    }
    for no in ["", "GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR MIT) AND BSD-3-Clause", "MIT ISC", "(MIT"] {
        assert!(!satisfied(no, &allowed), "{no}");
    }
}

#[test]
fn an_exception_covers_its_own_line_of_versions_only() {
    let known = Exception { name: "base64".into(), prefix: "0.2".into(), reason: "x".into() };
    assert!(known.covers("base64", "0.2.7"));
    assert!(!known.covers("base64", "0.21.7"));
    assert!(!known.covers("base32", "0.2.7"));
}
