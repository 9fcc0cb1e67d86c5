//! Who is asking, and may they.
//!
//! With tokens configured, everything but `/`, `/healthz` and `/readyz` needs one. Tokens are 256 random bits, so their
//! SHA-256 can be kept and compared: no salt and no slow hash are needed where nothing can be guessed.
//!
//! Without tokens everybody is the operator `cli`; the configuration guarantees that the listener is then on loopback.
//! That keeps other machines out, but not a web page in a browser on this machine, so two more things are asked:
//! - the `Host` is a loopback name or an address. A page that had its own name point here (DNS rebinding) sends its name;
//! - what changes something is not cross-site, and is JSON, which a page cannot send without asking first (CORS), and
//!   that is never allowed.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{ApiState, Code, Problem};

/// The paths that need no token: a load balancer and a lost person have none.
const PUBLIC: [&str; 3] = ["/", "/healthz", "/readyz"];
/// The name of whoever asks where no tokens are configured.
pub const LOCAL_CALLER: &str = "cli";

/// What a token is for. `Admin` includes `Operator` includes `Viewer`; `Gate` stands beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May ask everything.
    Viewer,
    /// May also hold and release, and tell of campaigns: a dialer that tells needs it.
    Operator,
    /// May do everything.
    Admin,
    /// May ask `GET /gate` and nothing else: for the dialer's own place in front of each call.
    Gate,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Viewer, Self::Operator, Self::Admin, Self::Gate];

    /// The word of the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Gate => "gate",
        }
    }

    /// Whether it may change something.
    #[must_use]
    pub const fn may_act(self) -> bool {
        self.may(Need::Act)
    }

    const fn may(self, need: Need) -> bool {
        match (self, need) {
            (Self::Admin | Self::Operator, Need::Look | Need::Gate | Need::Act) => true,
            (Self::Viewer, Need::Look | Need::Gate) | (Self::Gate, Need::Gate) => true,
            (Self::Viewer, Need::Act) | (Self::Gate, Need::Look | Need::Act) => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// To read.
    Look,
    /// To ask the gate.
    Gate,
    /// To change something. Whatever is not plainly reading is this.
    Act,
}

impl Need {
    fn of(method: &Method, path: &str) -> Self {
        if *method == Method::POST && path.starts_with("/api/v1/") && path.ends_with("/diagnose") {
            // It changes nothing; an attempt, which does, asks for more itself.
            Self::Look
        } else if method != Method::GET && method != Method::HEAD {
            Self::Act
        } else if path == "/api/v1/gate" {
            Self::Gate
        } else {
            Self::Look
        }
    }

    const fn role(self) -> &'static str {
        match self {
            Self::Look => "viewer, operator or admin",
            Self::Gate => "gate, viewer, operator or admin",
            Self::Act => "operator or admin",
        }
    }
}

/// A token as the configuration keeps it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Its name, which stands in holds as `operator:NAME`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// The SHA-256 of a token's text, as the configuration keeps it.
#[must_use]
pub fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Who may ask; can be replaced while it is in use, when the configuration is read again.
///
/// Once tokens were required they stay required: a configuration that loses its last token locks everybody out, rather
/// than letting everybody in on a listener that may not be on loopback.
#[derive(Debug, Clone, Default)]
pub struct Access(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    required: AtomicBool,
    tokens: RwLock<Arc<[Token]>>,
}

impl Access {
    /// Access by `tokens`; by none to everybody on this machine, which is for loopback listeners only.
    #[must_use]
    pub fn new(tokens: Vec<Token>) -> Self {
        let access = Self::default();
        access.replace(tokens);
        access
    }

    /// Replaces the tokens.
    pub fn replace(&self, tokens: Vec<Token>) {
        let required = !tokens.is_empty();
        *self.0.tokens.write().unwrap_or_else(PoisonError::into_inner) = tokens.into();
        if required {
            self.0.required.store(true, Ordering::SeqCst);
        }
    }

    /// Whether a token is needed.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.0.required.load(Ordering::SeqCst)
    }

    /// Whose token `presented` is. Every known token is compared, each in constant time, so that the time taken tells
    /// neither which one was nearly right nor where it stands.
    fn find(&self, presented: &str) -> Option<Caller> {
        let tokens = Arc::clone(&self.0.tokens.read().unwrap_or_else(PoisonError::into_inner));
        let presented = hash(presented);
        let mut found = None;
        for token in tokens.iter() {
            if bool::from(token.sha256.ct_eq(&presented)) {
                found = Some(Caller { name: token.name.clone(), role: token.role });
            }
        }
        found
    }
}

/// Who asks, once admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's name, or [`LOCAL_CALLER`].
    pub name: String,
    /// Its role.
    pub role: Role,
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Only a route that bypasses `admit` could be without it, and there must be none.
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::caused_by(Code::Internal, "nobody was admitted", "a route is outside of `admit`"))
    }
}

/// Lets the request through, or answers why not.
pub(super) async fn admit(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    let admitted = if state.access.is_required() {
        by_token(&state.access, &request)
    } else {
        local(&request).map(|()| Caller { name: LOCAL_CALLER.to_owned(), role: Role::Admin })
    };
    match admitted {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn by_token(access: &Access, request: &Request) -> Result<Caller, Problem> {
    let path = request.uri().path();
    let need = Need::of(request.method(), path);
    if need == Need::Look && PUBLIC.contains(&path) {
        return Ok(Caller { name: "anonymous".to_owned(), role: Role::Gate });
    }
    let Some(presented) = bearer(request.headers()) else {
        return Err(Problem::new(
            Code::Unauthorized,
            "send `Authorization: Bearer TOKEN`; `trunkwarden token new` makes one",
        ));
    };
    let Some(caller) = access.find(presented) else {
        return Err(Problem::new(Code::Unauthorized, "this token is not in the configuration"));
    };
    if caller.role.may(need) {
        return Ok(caller);
    }
    Err(Problem::new(
        Code::Forbidden,
        format!("token {:?} has the role {}; this needs {}", caller.name, caller.role, need.role()),
    ))
}

/// The token of an `Authorization: Bearer` header; the scheme's case does not matter (RFC 9110 section 11.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether a request without a token comes from this machine's own programs rather than from a web page.
fn local(request: &Request) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST);
    let named = match host.map(|host| host.to_str()) {
        Some(Ok(host)) => Some(host),
        Some(Err(_)) => Some(""),
        None => None,
    };
    let by_uri = request.uri().authority().map(axum::http::uri::Authority::as_str);
    for authority in named.into_iter().chain(by_uri) {
        if !is_local(authority) {
            return Err(Problem::new(
                Code::HostNotAllowed,
                "without tokens, use localhost or an address as the host; or configure [[api.token]]",
            ));
        }
    }
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return Ok(());
    }
    let origin = request.headers().get(header::ORIGIN);
    let same = origin.is_none_or(|origin| {
        let origin = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
        origin.as_ref().and_then(Uri::authority).map(axum::http::uri::Authority::as_str) == named
    });
    if !same {
        return Err(Problem::new(Code::HostNotAllowed, "another site's page may not change anything here"));
    }
    Ok(())
}

/// Whether `authority` (host and maybe port) is a loopback name or an address. An address is safe to name: a page can
/// have its own name point here, but not an address.
fn is_local(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, text: &str, role: Role) -> Token {
        Token { name: name.to_owned(), role, sha256: hash(text) }
    }

    #[test]
    fn a_token_is_found_by_its_hash_only() {
        let access = Access::new(vec![token("ops", "tw_one", Role::Operator), token("see", "tw_two", Role::Viewer)]);
        assert_eq!(access.find("tw_two"), Some(Caller { name: "see".to_owned(), role: Role::Viewer }));
        assert_eq!(access.find("tw_tw"), None);
        assert_eq!(access.find(""), None);
    }

    #[test]
    fn losing_the_last_token_locks_out() {
        let access = Access::new(Vec::new());
        assert!(!access.is_required());
        access.replace(vec![token("ops", "tw_one", Role::Operator)]);
        access.replace(Vec::new());
        assert!(access.is_required());
        assert_eq!(access.find("tw_one"), None);
    }

    #[test]
    fn only_loopback_names_and_addresses_are_local() {
        for host in
            ["localhost", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "a.localhost", "10.0.0.7", "localhost."]
        {
            assert!(is_local(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8480", "[evil]:1", "evil:127"]
        {
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_token_never_prints_its_hash() {
        let shown = format!("{:?}", token("ops", "tw_one", Role::Operator));
        assert_eq!(shown, "Token { name: \"ops\", role: Operator, .. }");
    }
}
