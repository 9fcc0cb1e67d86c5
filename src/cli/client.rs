//! Asking a running controller, and saying what to do when it does not answer.

use std::{env, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, LINK},
};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};

use crate::api::problem::{Code, MEDIA_TYPE, ProblemBody};

/// How long to wait for a connection: a controller that runs takes one at once.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait for an answer; longer than the API's own limit, so that its word is heard.
const ANSWER: Duration = Duration::from_secs(40);
/// The largest answer taken: a thousand entries stay far below.
const LARGEST: usize = 64 * 1024 * 1024;

/// A client of one controller.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<SecretString>,
}

/// What the controller answered.
#[derive(Debug)]
pub(super) struct Answer {
    /// The body.
    pub(super) text: String,
    /// The cursor of the next page, where a `Link` header names one.
    pub(super) next: Option<String>,
}

/// The controller's own no.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(super) struct Refusal {
    /// Why, for programs.
    pub(super) code: Code,
    /// Why, and what to do, for people.
    text: String,
}

impl Answer {
    /// The body as a value.
    pub(super) fn read<T: DeserializeOwned>(&self) -> anyhow::Result<T> {
        serde_json::from_str(&self.text)
            .context("the controller's answer is not understood; is it of the same version as this program?")
    }
}

impl Client {
    /// A client of the controller at `api`.
    pub(super) fn new(api: &str) -> anyhow::Result<Self> {
        let base: Url = api.parse().with_context(|| format!("--api {api:?} is no URL: write http://127.0.0.1:8480"))?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            bail!("--api {api:?} is no http or https URL: write http://127.0.0.1:8480");
        }
        if !base.username().is_empty() || base.password().is_some() {
            // It would be repeated in every error.
            bail!("--api must not have a user or a password in it: put a token into TRUNKWARDEN_TOKEN");
        }
        // Another part of the program may have chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("trunkwarden/", env!("CARGO_PKG_VERSION")));
        if base.scheme() == "http" {
            // No certificate will be looked at, and a slim machine may have none to load.
            builder = builder.tls_certs_only([]);
        }
        if is_loopback(&base) {
            // A proxy configured for the outside cannot reach this machine's own loopback.
            builder = builder.no_proxy();
        }
        let http = builder.build().context("the HTTP client could not be made")?;
        let token = env::var("TRUNKWARDEN_TOKEN").ok().filter(|token| !token.is_empty()).map(SecretString::from);
        Ok(Self { http, base, token })
    }

    /// The URL of a route; each part becomes one segment, whatever characters are in it.
    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Url> {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .map_err(|()| anyhow!("--api {} cannot have a path", self.base))?
            .pop_if_empty()
            .extend(["api", "v1"])
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// Asks with GET.
    pub(super) async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.ask(Method::GET, self.url(path, query)?, "application/json", None::<&()>, ANSWER).await
    }

    /// Asks with GET for CSV.
    pub(super) async fn get_csv(&self, path: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Answer> {
        self.ask(Method::GET, self.url(path, query)?, "text/csv", None::<&()>, ANSWER).await
    }

    /// Says something with POST.
    pub(super) async fn post(&self, path: &[&str], body: &impl Serialize) -> anyhow::Result<Answer> {
        self.post_patiently(path, body, ANSWER).await
    }

    /// Says something with POST that takes its time.
    pub(super) async fn post_patiently(
        &self,
        path: &[&str],
        body: &impl Serialize,
        patience: Duration,
    ) -> anyhow::Result<Answer> {
        self.ask(Method::POST, self.url(path, &[])?, "application/json", Some(body), patience).await
    }

    async fn ask(
        &self,
        method: Method,
        url: Url,
        accept: &str,
        body: Option<&impl Serialize>,
        patience: Duration,
    ) -> anyhow::Result<Answer> {
        let mut request = self.http.request(method, url).header(ACCEPT, accept).timeout(patience);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unanswered(error))?;
        let status = response.status();
        let kind = header(&response, CONTENT_TYPE);
        let next = header(&response, LINK).as_deref().and_then(next_cursor);
        let text = self.text(response).await?;
        if status.is_success() && kind.as_deref().is_some_and(|kind| kind.starts_with(accept)) {
            return Ok(Answer { text, next });
        }
        if kind.as_deref() == Some(MEDIA_TYPE)
            && let Ok(problem) = serde_json::from_str(&text)
        {
            return Err(self.refused(problem));
        }
        bail!("{} answered HTTP {status}, but not as a trunkwarden does; is --api right?", self.base)
    }

    async fn text(&self, mut response: Response) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.context("the controller's answer broke off")? {
            if bytes.len() + chunk.len() > LARGEST {
                bail!("the answer of {} is too large to be one of a trunkwarden's", self.base);
            }
            bytes.extend_from_slice(&chunk);
        }
        String::from_utf8(bytes).with_context(|| format!("the answer of {} is no text", self.base))
    }

    fn unanswered(&self, error: reqwest::Error) -> anyhow::Error {
        let advice = if error.is_connect() {
            format!(
                "no controller answers at {}: start one with `trunkwarden run`, or name another with --api or \
                 TRUNKWARDEN_API",
                self.base
            )
        } else if error.is_timeout() {
            format!("the controller at {} took too long to answer; its log says what it is at", self.base)
        } else {
            format!("the controller at {} could not be asked", self.base)
        };
        anyhow::Error::new(error.without_url()).context(advice)
    }

    fn refused(&self, problem: ProblemBody) -> anyhow::Error {
        let ProblemBody { title, detail, code, status, request_id, .. } = problem;
        let request = request_id.map(|id| format!(", {id}")).unwrap_or_default();
        let advice = if code == Code::Unauthorized && self.token.is_none() {
            "\nput a token into TRUNKWARDEN_TOKEN"
        } else if code == Code::Unauthorized {
            "\nthe token in TRUNKWARDEN_TOKEN is not one of this controller's"
        } else if status >= StatusCode::INTERNAL_SERVER_ERROR.as_u16() && code != Code::NotYet {
            "\nthe controller's log says more under that id"
        } else {
            ""
        };
        Refusal { code, text: format!("{title}: {detail} ({code}{request}){advice}") }.into()
    }
}

fn header(response: &Response, name: reqwest::header::HeaderName) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// The cursor in a `Link: <?…cursor=…>; rel="next"`.
fn next_cursor(link: &str) -> Option<String> {
    let target = link.split_once('<')?.1.split_once(">; rel=\"next\"")?.0;
    target.trim_start_matches('?').split('&').find_map(|pair| pair.strip_prefix("cursor=")).map(str::to_owned)
}

fn is_loopback(url: &Url) -> bool {
    match url.host_str() {
        Some("localhost") => true,
        Some(host) => host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback()),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trunks_name_is_one_segment_whatever_is_in_it() {
        let client = Client::new("http://127.0.0.1:1/behind/").unwrap();
        let url = client.url(&["trunks", "pbx1", "a/b c?d#e%f"], &[("since", "2026-08-01T00:00:00+05:30")]).unwrap();
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/behind/api/v1/trunks/pbx1/a%2Fb%20c%3Fd%23e%25f?since=2026-08-01T00%3A00%3A00%2B05%3A30"
        );
    }

    #[test]
    fn the_next_cursor_is_read_from_the_link() {
        assert_eq!(next_cursor("<?limit=2&cursor=0100>; rel=\"next\"").as_deref(), Some("0100"));
        assert_eq!(next_cursor("<?cursor=0100>; rel=\"prev\""), None);
        assert_eq!(next_cursor("nonsense"), None);
    }

    #[test]
    fn what_is_no_http_url_is_refused_with_an_example() {
        for api in ["127.0.0.1:8480", "ftp://x", "mailto:x", ""] {
            let error = format!("{:#}", Client::new(api).unwrap_err());
            assert!(error.contains("http://127.0.0.1:8480"), "{error}");
        }
        let error = format!("{:#}", Client::new("http://ops:hunter2@127.0.0.1:8480").unwrap_err());
        assert!(!error.contains("hunter2") && error.contains("TRUNKWARDEN_TOKEN"), "{error}");
    }
}
