//! The file, its connections, and its schema.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use sqlx::{
    Executor, SqliteConnection, SqlitePool,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use super::{SqliteStore, is_damage};
use crate::store::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// `TWDN`: tells our files from other programs' (`pragma application_id`).
const APPLICATION_ID: i64 = 0x5457_444e;

/// Readers at one time; more queries wait for one to end. Each has a thread and up to 2 MB of page cache.
const READERS: u32 = 2;

/// How long a lock of another process (a backup, somebody's `sqlite3`) is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// How long a connection of ours is waited for: longer than one batch of prune or one long commit, shorter than
/// anybody's patience.
const ACQUIRE: Duration = Duration::from_secs(10);

/// The write-ahead log is cut to this after a checkpoint, so that one burst does not keep the disk for good.
const LOG_LIMIT: &str = "67108864";

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File(PathBuf),
    /// Nowhere: it is gone when it is closed.
    Memory,
}

/// What opening did to the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The version it had; `None` for a new store.
    pub from: Option<i64>,
    /// The version it has.
    pub to: i64,
}

impl SqliteStore {
    /// Opens the store, made if it is not there, with its schema brought up to date.
    ///
    /// A new file is readable by its owner only: history names providers, accounts and campaigns. The mode of one that
    /// is there is the operator's business.
    ///
    /// # Errors
    /// [`StoreError`] names the file and what to do about it.
    pub async fn open(place: &Place) -> Result<Self, StoreError> {
        let (name, options, lock) = match place {
            // The pool must never let go of the one connection: the database is gone with it.
            Place::Memory => (":memory:".to_owned(), SqliteConnectOptions::new().in_memory(true), None),
            Place::File(path) => {
                // A relative name would be taken apart again by SQLite, which reads one that begins with `file:`
                // as a URL.
                let path = std::path::absolute(path)
                    .map_err(|source| StoreError::Unwritable { place: path.display().to_string(), source })?;
                let lock = make(&path)?;
                let options = SqliteConnectOptions::new().filename(&path).journal_mode(SqliteJournalMode::Wal);
                (path.display().to_string(), options, Some(lock))
            }
        };
        let options =
            options.synchronous(SqliteSynchronous::Full).foreign_keys(true).busy_timeout(BUSY).create_if_missing(false);
        let writer = SqlitePoolOptions::new()
            .min_connections(1)
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(ACQUIRE)
            .connect_with(options.clone().pragma("journal_size_limit", LOG_LIMIT))
            .await
            .map_err(|source| opening(&name, source))?;
        let migrated = match bring_up(&writer, &name).await {
            Ok(migrated) => migrated,
            Err(error) => {
                // Before the lock goes, and before somebody is told to move the file away.
                writer.close().await;
                return Err(error);
            }
        };
        let readers = match place {
            Place::Memory => writer.clone(),
            Place::File(_) => SqlitePoolOptions::new()
                .max_connections(READERS)
                .acquire_timeout(ACQUIRE)
                .connect_lazy_with(options.pragma("query_only", "on")),
        };
        if migrated.from != Some(migrated.to) {
            tracing::info!(store.place = %name, from = ?migrated.from, to = migrated.to, "store schema brought up to date");
        }
        Ok(Self {
            place: name,
            writer,
            readers,
            memory: tokio::sync::Mutex::default(),
            lock: Mutex::new(lock),
            migrated,
        })
    }

    /// Closes the readers first: the last connection to go writes the log back into the file.
    pub(crate) async fn shut(&self) {
        self.readers.close().await;
        self.writer.close().await;
        drop(self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take());
    }
}

/// Makes the file, if it is not there, and locks it against a second controller.
///
/// The lock is on a file of its own: SQLite locks the database by `fcntl`, and closing any other handle on the same
/// file would silently let go of those locks. Blocking calls are in order here: nothing else runs before the store.
fn make(path: &Path) -> Result<File, StoreError> {
    let place = path.display().to_string();
    let unwritable = |source| StoreError::Unwritable { place: place.clone(), source };
    let directory = path.parent().unwrap_or(path);
    if !directory.is_dir() {
        return Err(StoreError::NoDirectory { place: directory.display().to_string() });
    }
    if path.is_dir() {
        return Err(unwritable(ErrorKind::IsADirectory.into()));
    }
    let mut owned = OpenOptions::new();
    owned.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut owned, 0o600);

    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock = owned.clone().create(true).open(name).map_err(unwritable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { place }),
        Err(TryLockError::Error(source)) => return Err(unwritable(source)),
    }
    match owned.create_new(true).open(path) {
        Ok(_made) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // SQLite would open a file it may not write for reading, and fail at the first commit only. Nothing of
            // this process has it open yet, so no lock is lost by closing this handle.
            drop(owned.create_new(false).open(path).map_err(unwritable)?);
        }
        Err(error) => return Err(unwritable(error)),
    }
    Ok(lock)
}

fn opening(place: &str, source: sqlx::Error) -> StoreError {
    match super::sqlite_code(&source) {
        // NOTADB: the file does not begin as one of SQLite's does.
        Some(26) => StoreError::Foreign { place: place.to_owned() },
        _ if is_damage(&source) => StoreError::Damaged { place: place.to_owned(), source },
        _ => StoreError::Open { place: place.to_owned(), source },
    }
}

/// Refuses a file that is not ours, then runs the migrations that are missing.
async fn bring_up(writer: &SqlitePool, place: &str) -> Result<Migrated, StoreError> {
    let failed = |source| opening(place, source);
    let mut connection = writer.acquire().await.map_err(failed)?;
    let tables: i64 =
        sqlx::query_scalar("select count(*) from sqlite_schema").fetch_one(&mut *connection).await.map_err(failed)?;
    let id: i64 = sqlx::query_scalar("pragma application_id").fetch_one(&mut *connection).await.map_err(failed)?;
    match (tables, id) {
        (_, APPLICATION_ID) => {}
        (0, 0) => {
            let mark = format!("pragma application_id = {APPLICATION_ID}");
            connection.execute(sqlx::AssertSqlSafe(mark)).await.map_err(failed)?;
        }
        _ => return Err(StoreError::Foreign { place: place.to_owned() }),
    }
    let from = version(&mut connection).await.map_err(failed)?;
    drop(connection);
    let known = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
    if let Some(version) = from.filter(|version| *version > known) {
        return Err(StoreError::Newer { place: place.to_owned(), version, known });
    }
    MIGRATIONS.run(writer).await.map_err(|source| {
        if let MigrateError::Execute(source) = source {
            opening(place, source)
        } else {
            StoreError::Migrate { place: place.to_owned(), source }
        }
    })?;
    Ok(Migrated { from, to: known })
}

/// The newest migration the file has seen.
async fn version(connection: &mut SqliteConnection) -> Result<Option<i64>, sqlx::Error> {
    let seen: i64 = sqlx::query_scalar("select count(*) from sqlite_schema where name = '_sqlx_migrations'")
        .fetch_one(&mut *connection)
        .await?;
    if seen == 0 {
        return Ok(None);
    }
    sqlx::query_scalar("select max(version) from _sqlx_migrations").fetch_one(connection).await
}
