//! AMI as bytes, read by the simplest code that can: what the lab's own tests look through, and a second opinion on the crate's client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// One AMI message: header lines in order.
pub(crate) type Message = Vec<(String, String)>;

/// The first value of a header; empty where there is none.
pub(crate) fn header<'a>(message: &'a Message, name: &str) -> &'a str {
    message.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// An AMI session over any stream.
pub(crate) struct RawAmi<S: Read + Write> {
    stream: BufReader<S>,
    /// Events that came while something else was waited for.
    pending: Vec<Message>,
    /// What the server said first.
    pub(crate) greeting: String,
}

impl RawAmi<TcpStream> {
    /// Connects and logs in; what is not answered within 10 s is an error.
    pub(crate) fn login(address: SocketAddr, user: &str, secret: &str) -> Self {
        let stream = TcpStream::connect(address).expect("an AMI port");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let mut session = Self::over(stream);
        let answer = session.act(&format!("Action: Login\r\nUsername: {user}\r\nSecret: {secret}\r\n"));
        assert_eq!(header(&answer, "Response"), "Success", "{answer:?}");
        session
    }

    /// How long a read may take from here on.
    pub(crate) fn patience(&mut self, at_most: Duration) {
        self.stream.get_ref().set_read_timeout(Some(at_most)).expect("a timeout");
    }
}

impl<S: Read + Write> RawAmi<S> {
    /// A session over a connected stream; reads the greeting.
    pub(crate) fn over(stream: S) -> Self {
        let mut session = Self { stream: BufReader::new(stream), pending: Vec::new(), greeting: String::new() };
        session.greeting = session.line().expect("a greeting");
        session
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
    }

    fn message(&mut self) -> std::io::Result<Message> {
        let mut message = Message::new();
        loop {
            let line = self.line()?;
            if let Some((key, value)) = line.split_once(':') {
                message.push((key.to_owned(), value.trim_start().to_owned()));
            } else if line.is_empty() && !message.is_empty() {
                return Ok(message);
            }
        }
    }

    /// Sends an action and gives its response; events before it are kept.
    pub(crate) fn act(&mut self, action: &str) -> Message {
        self.try_act(action).expect("a response")
    }

    /// As [`RawAmi::act`], for servers that may not answer.
    pub(crate) fn try_act(&mut self, action: &str) -> std::io::Result<Message> {
        write!(self.stream.get_mut(), "{action}\r\n")?;
        self.stream.get_mut().flush()?;
        loop {
            let message = self.message()?;
            // An `OriginateResponse` has a header of that name too.
            if message.first().is_some_and(|(key, _)| key == "Response") {
                return Ok(message);
            }
            self.pending.push(message);
        }
    }

    /// Sends an action that answers with a list, and gives the list's `item` events.
    pub(crate) fn list(&mut self, action: &str, item: &str) -> Vec<Message> {
        let response = self.act(action);
        assert_eq!(header(&response, "EventList"), "start", "{response:?}");
        let mut items = Vec::new();
        loop {
            let message = self.message().expect("a list item");
            if header(&message, "EventList") == "Complete" {
                return items;
            } else if header(&message, "Event") == item {
                items.push(message);
            }
        }
    }

    /// The next event of this name that satisfies `wanted`; others are dropped.
    pub(crate) fn event(&mut self, name: &str, wanted: impl Fn(&Message) -> bool) -> std::io::Result<Message> {
        self.any_event(|message| header(message, "Event") == name && wanted(message))
    }

    /// The next event that satisfies `fits`, whatever its name; others are dropped.
    pub(crate) fn any_event(&mut self, fits: impl Fn(&Message) -> bool) -> std::io::Result<Message> {
        if let Some(place) = self.pending.iter().position(&fits) {
            let message = self.pending.remove(place);
            self.pending.drain(..place);
            return Ok(message);
        }
        self.pending.clear();
        loop {
            let message = self.message()?;
            if fits(&message) {
                return Ok(message);
            }
        }
    }

    /// The `Status` of the next `n` Registry events whose client URI has this user.
    pub(crate) fn registry(&mut self, account: &str, n: usize) -> Vec<String> {
        let user = format!("sip:{account}@");
        let next = |session: &mut Self| session.event("Registry", |seen| header(seen, "Username").starts_with(&user));
        (0..n).map(|_| header(&next(self).expect("a Registry event"), "Status").to_owned()).collect()
    }
}
