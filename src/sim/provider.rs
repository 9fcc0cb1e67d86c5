//! The other end of a trunk, as the PBX comes to feel it: what a REGISTER and a call end in, and after how long.
//!
//! There is no SIP here. Asterisk's AMI tells nothing of it either, so for what the controller can see over AMI an answer
//! and its delay are the whole truth. The messages for those who watch the wire are made from the same [`Behaviour`], by
//! what [`Behaviour::shown`] says of it.

use std::time::Duration;

/// How a provider treats one account. It may be changed at any time; an attempt is judged by what holds when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Behaviour {
    /// Grants what is asked for, connects calls.
    #[default]
    Ok,
    /// Grants this long whatever is asked for. Zero refuses the binding with a 200: Asterisk then never tries again.
    /// Ten seconds or less make Asterisk refresh without a pause.
    Grant(Duration),
    /// Answers with this code, to calls too. Codes that judge an account (`401` to `404`, `407`) come after the
    /// credentials, so that `401` is a wrong password; the others at once.
    Reject {
        /// The SIP code.
        code: u16,
        /// Its `Retry-After`, which Asterisk honours on any refusal.
        retry_after: Option<Duration>,
    },
    /// Answers with this code, to calls too, and asks for no credentials before: a blocked address.
    Bar {
        /// The SIP code.
        code: u16,
    },
    /// Says nothing: a firewall, a dead host, a closed UDP port.
    Silent,
    /// Nothing can be sent: the name does not resolve, or TCP is refused. Asterisk makes a 503 of it at once.
    Unreachable,
    /// Grants and refreshes, but never answers an un-REGISTER.
    SilentToUnregister,
}

impl Behaviour {
    /// A refusal with `code` and no `Retry-After`.
    #[must_use]
    pub const fn reject(code: u16) -> Self {
        Self::Reject { code, retry_after: None }
    }

    /// Whether a call through this provider would be connected.
    #[must_use]
    pub const fn connects(self) -> bool {
        match self {
            Self::Ok | Self::Grant(_) | Self::SilentToUnregister => true,
            Self::Reject { .. } | Self::Bar { .. } | Self::Silent | Self::Unreachable => false,
        }
    }

    /// Whether an OPTIONS is answered, with whatever code: that is all a qualify asks.
    #[must_use]
    pub const fn answers_options(self) -> bool {
        match self {
            Self::Ok | Self::Grant(_) | Self::SilentToUnregister | Self::Reject { .. } | Self::Bar { .. } => true,
            Self::Silent | Self::Unreachable => false,
        }
    }

    /// What `request` ends in, and after how long.
    #[must_use]
    pub fn answer(self, request: Request, pace: Pace) -> (Answer, Duration) {
        let silence = (Answer::Refused { code: 408, retry_after: None }, pace.timer_b);
        match (self, request) {
            (Self::Silent, _) | (Self::SilentToUnregister, Request::Unregister) => silence,
            (Self::Unreachable, _) => (Answer::Refused { code: 503, retry_after: None }, Duration::ZERO),
            (Self::Reject { code, retry_after }, _) => (Answer::Refused { code, retry_after }, pace.round_trip),
            (Self::Bar { code }, _) => (Answer::Refused { code, retry_after: None }, pace.round_trip),
            (_, Request::Unregister) => (Answer::Granted(Duration::ZERO), pace.round_trip),
            (Self::Ok | Self::SilentToUnregister, Request::Register { expiration }) => {
                (Answer::Granted(expiration), pace.round_trip)
            }
            (Self::Grant(granted), Request::Register { .. }) => (Answer::Granted(granted), pace.round_trip),
        }
    }

    /// What of `request` is seen on the wire.
    #[must_use]
    pub const fn shown(self, request: Request) -> Shown {
        match (self, request) {
            (Self::Silent, _) | (Self::SilentToUnregister, Request::Unregister) => Shown::Silence,
            (Self::Unreachable, _) => Shown::Nothing,
            (Self::Reject { code, .. }, _) => Shown::Answer { challenged: matches!(code, 401..=404 | 407) },
            (Self::Bar { .. }, _) => Shown::Answer { challenged: false },
            (Self::Ok | Self::Grant(_) | Self::SilentToUnregister, _) => Shown::Answer { challenged: true },
        }
    }

    /// What a call ends in.
    ///
    /// Source: the hangup causes Asterisk makes of SIP codes, `res/res_pjsip.c` (`ast_sip_hangup_sip2cause`). A 408 is
    /// also what an INVITE without an answer becomes.
    #[must_use]
    pub fn call(self, pace: Pace) -> CallEnd {
        let failed = |cause, text, code, after| CallEnd::Failed { cause, text, code, after };
        match self {
            Self::Ok | Self::Grant(_) | Self::SilentToUnregister => CallEnd::Answered,
            Self::Silent => failed(18, "No user responding", 408, pace.timer_b),
            Self::Unreachable => failed(34, "Circuit/channel congestion", 503, Duration::ZERO),
            Self::Reject { code, .. } | Self::Bar { code } => {
                let (cause, text) = match code {
                    401 | 403 | 407 | 603 => (21, "Call Rejected"),
                    404 | 485 | 604 => (1, "Unallocated (unassigned) number"),
                    408 => (18, "No user responding"),
                    480 | 483 => (19, "User alerting, no answer"),
                    486 | 600 => (17, "User busy"),
                    500 => (38, "Network out of order"),
                    502 => (27, "Destination out of order"),
                    504 => (102, "Recover on timer expiry"),
                    503 | 505..=599 => (34, "Circuit/channel congestion"),
                    _ => (127, "Interworking, unspecified"),
                };
                failed(cause, text, code, pace.round_trip)
            }
        }
    }
}

/// What is asked of a registrar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A binding.
    Register {
        /// For how long.
        expiration: Duration,
    },
    /// Its removal: `Expires: 0`.
    Unregister,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// A 2xx, and the granted expiry.
    Granted(Duration),
    /// Anything else; silence and send failures carry the codes pjproject makes for them (408, 503).
    Refused {
        /// The SIP code.
        code: u16,
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// What of a request to a registrar is seen on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Not even the request: it could not be sent.
    Nothing,
    /// The request, again and again.
    Silence,
    /// An answer.
    Answer {
        /// A challenge comes before it, and a second request with credentials.
        challenged: bool,
    },
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallEnd {
    /// It was connected.
    Answered,
    /// It was not.
    Failed {
        /// Q.850.
        cause: u8,
        /// Its text.
        text: &'static str,
        /// The SIP code, `TechCause`.
        code: u16,
        /// How long it took.
        after: Duration,
    },
}

/// How long the network takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// A request with its challenge and its answer. An endless refresh loop runs at this rate; a real Asterisk on
    /// loopback made 112 rounds a second.
    pub round_trip: Duration,
    /// How long Asterisk waits for an answer: `timer_b`, 32 s by default.
    pub timer_b: Duration,
    /// How long it waits before it sends an unanswered request again, each time twice as long up to 4 s: `timer_t1`.
    pub timer_t1: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            round_trip: Duration::from_millis(9),
            timer_b: Duration::from_secs(32),
            timer_t1: Duration::from_millis(500),
        }
    }
}
