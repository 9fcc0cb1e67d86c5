//! Joins the store's outbox to the dispatcher's port: `effect` does not see `store`.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt as _};

use crate::{
    clock::Timestamp,
    effect::outbox::{Leased, Outbox, OutboxError},
    ids::MessageId,
    store::{Store, StoreError},
};

/// The store, as the dispatcher sees it.
#[derive(Debug)]
pub(super) struct StoredOutbox(pub(super) Arc<dyn Store>);

fn failed(step: &'static str) -> impl Fn(StoreError) -> OutboxError {
    move |error| OutboxError { step, source: Box::new(error) }
}

impl Outbox for StoredOutbox {
    fn lease_due(
        &self,
        now: Timestamp,
        limit: u32,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Leased>, OutboxError>> {
        async move {
            let leased = self.0.lease_due(now, limit, lease).await.map_err(failed("leasing"))?;
            Ok(leased.into_iter().map(|one| Leased { message: one.message, attempts: one.attempts }).collect())
        }
        .boxed()
    }

    fn postpone<'a>(
        &'a self,
        message: &'a MessageId,
        next_at: Timestamp,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), OutboxError>> {
        async move { self.0.postpone(message, next_at, error).await.map_err(failed("postponing")) }.boxed()
    }

    fn next_due(&self) -> BoxFuture<'_, Result<Option<Timestamp>, OutboxError>> {
        async move { self.0.next_due().await.map_err(failed("asking what is due")) }.boxed()
    }
}
