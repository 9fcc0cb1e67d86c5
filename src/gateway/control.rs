//! What the gateway itself asks Asterisk: which actions there are and what they need, which CLI aliases, how it greets.
//!
//! Asked at the start, after Asterisk was away (it may be another version now), and when a client wants an action that was
//! not listed (a module may have been loaded). Nothing is kept open in between.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{rights::Catalogue, server::Shared};
use crate::wire::ami::{
    Action, Classes, Message,
    client::{Delays, Line, SessionError, log_in},
    frames::Frames,
};

/// How long between two readings at least, whatever clients ask for.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// How long Asterisk may take for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Keeps the catalogue until `stop`.
pub(super) async fn run(shared: Arc<Shared>, stop: CancellationToken) {
    let _ = stop.run_until_cancelled(keep(&shared)).await;
}

async fn keep(shared: &Shared) {
    let mut delays = Delays::new(shared.settings().upstream.backoff);
    loop {
        match read(shared).await {
            Ok(()) => {
                shared.figures.asterisk_is(true);
                delays = Delays::new(shared.settings().upstream.backoff);
                sleep(READ_AGAIN).await;
                shared.ask_catalogue.notified().await;
            }
            Err(error) => {
                shared.figures.asterisk_is(false);
                let refused = matches!(error, SessionError::Refused(_));
                let retry_in = delays.next(refused);
                if refused {
                    warn!(%error, ?retry_in, "Asterisk refuses the gateway's login: no dialer can use it");
                } else {
                    debug!(%error, ?retry_in, "Asterisk's actions could not be listed");
                }
                sleep(retry_in).await;
            }
        }
    }
}

async fn read(shared: &Shared) -> Result<(), SessionError> {
    let settings = shared.settings();
    let _one_of_few = shared.logins.acquire().await;
    let mut line = log_in(shared.transport().as_ref(), &settings.upstream, "off").await?;
    shared.set_banner(line.banner.as_str());
    let mut catalogue = Catalogue::of(&ask(&mut line, &Action::list_commands()).await?);
    if settings.users.iter().any(|user| user.write.contains(Classes::COMMAND))
        && let Ok(action) = Action::command("cli show aliases")
    {
        catalogue = catalogue.with_aliases(ask(&mut line, &action).await?.output());
    }
    if !catalogue.is_empty() {
        shared.set_catalogue(catalogue);
    }
    Ok(())
}

/// Sends an action and gives its response; no event comes on this session.
async fn ask(line: &mut Line, action: &Action) -> Result<Message, SessionError> {
    let bytes = action.encode("trunkwarden-gateway").map_err(SessionError::Login)?;
    let exchange = async {
        line.io.write_all(&bytes).await?;
        line.io.flush().await?;
        let mut frames = Frames::new(std::mem::take(&mut line.read));
        let mut response = None;
        while response.is_none() {
            if line.io.read_buf(frames.buffer_mut()).await? == 0 {
                return Err(SessionError::Closed);
            }
            frames.each(|message| {
                if message.trim_ascii_start().starts_with(b"Response:") {
                    response = Some(Message::from_text(&String::from_utf8_lossy(message)));
                }
            })?;
        }
        response.ok_or(SessionError::Closed)
    };
    timeout(ANSWER, exchange).await.map_err(|_| SessionError::Timeout { step: "answer", after: ANSWER })?
}
