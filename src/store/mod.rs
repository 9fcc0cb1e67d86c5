//! What must survive a restart, behind ports; `sqlite/` implements them.
//!
//! One port a need: [`Store::commit`] is what the deciding loop needs, the outbox methods what the dispatcher needs,
//! the queries what people need. A back end implements all of them and passes one contract suite
//! (`tests/it/store_contract.rs`). What is the same for all of them is computed here: how outcomes become runs
//! (`runs.rs`), and what runs say about availability (`availability.rs`, and `blame.rs` for whose fault it was).

use std::sync::Arc;

mod availability;
mod blame;
pub mod history;
pub mod port;
mod runs;
pub mod sqlite;

pub use history::{At, Availability, Entry, HistoryQuery, Order, Page};
pub use port::{JournalRow, Leased, OutboxItem, OutboxState, Restored, Retention, Store, StoreError};

/// Opens the store at `url`, made if it is not there, with its schema brought up to date: `sqlite:FILE`, or
/// `sqlite::memory:` for one that is gone when it is closed.
///
/// # Errors
/// [`StoreError`] names the file and what to do about it.
pub async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    Ok(Arc::new(sqlite::SqliteStore::open(&place(url)?).await?))
}

/// Brings the schema of the store at `url` up to date, and says from which to which version; opening does it too, but
/// an operator may want it done before the switch to a new version.
///
/// # Errors
/// As [`open()`].
pub async fn migrate(url: &str) -> Result<sqlite::Migrated, StoreError> {
    let store = sqlite::SqliteStore::open(&place(url)?).await?;
    let migrated = store.migrated();
    store.shut().await;
    Ok(migrated)
}

/// Where `url` says the store is. A password can only be in a URL we know nothing else about, which is not repeated.
fn place(url: &str) -> Result<sqlite::Place, StoreError> {
    let (scheme, rest) = url.split_once(':').ok_or_else(|| StoreError::Url { url: url.to_owned() })?;
    match scheme {
        "sqlite" if rest == ":memory:" => Ok(sqlite::Place::Memory),
        "sqlite" => {
            let file = rest.strip_prefix("//").unwrap_or(rest);
            // Options after a `?` are other programs' way; taken for part of the name they would make an odd file.
            if file.is_empty() || file.contains(['?', '\0']) {
                return Err(StoreError::Url { url: url.to_owned() });
            }
            Ok(sqlite::Place::File(file.into()))
        }
        "postgres" | "postgresql" => Err(StoreError::NotYet { scheme: "PostgreSQL".to_owned() }),
        _ => Err(StoreError::Url { url: format!("{scheme}:…") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_file_or_says_what_to_use() {
        for (url, file) in [
            ("sqlite:trunkwarden.db", "trunkwarden.db"),
            ("sqlite:/var/lib/t.db", "/var/lib/t.db"),
            ("sqlite:///var/lib/t.db", "/var/lib/t.db"),
        ] {
            assert_eq!(place(url).unwrap(), sqlite::Place::File(file.into()));
        }
        assert_eq!(place("sqlite::memory:").unwrap(), sqlite::Place::Memory);
        for url in ["trunkwarden.db", "sqlite:", "sqlite:t.db?mode=ro"] {
            assert!(matches!(place(url), Err(StoreError::Url { .. })), "{url}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_not_repeated() {
        for url in ["postgres://user:hunter2@db/t", "mysql://user:hunter2@db/t"] {
            let said = place(url).unwrap_err().to_string();
            assert!(said.contains("sqlite:FILE") && !said.contains("hunter2"), "{said}");
        }
    }
}
