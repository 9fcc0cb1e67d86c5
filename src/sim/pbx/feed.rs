//! The HEP feed of a simulated PBX: `res_hep_pjsip` as far as its registrations go.
//!
//! Fire and forget, as Asterisk's: nobody notices a packet that does not arrive. Qualifies and calls are not in it.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use super::settings::HepFeed;
use crate::{
    clock::Timestamp,
    sim::{
        dice::Dice,
        provider::{Behaviour, Pace, Request},
        registration::{Client, RegistrationSettings},
        sip::{Attempt, Conversation, PBX_ADDRESS, Spoken},
    },
    wire::{
        hep::{HepPacket, PAYLOAD_SIP},
        sip::{Direction, Transport},
    },
};

/// Makes messages of attempts, and packets of messages.
#[derive(Debug)]
pub(super) struct Feed {
    settings: HepFeed,
    dice: Dice,
    exchanges: u64,
}

/// A message that is about to be sent or received.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passing {
    /// In which exchange.
    pub(super) exchange: u64,
    spoken: Spoken,
    registrar: SocketAddr,
    call_id: String,
}

impl Passing {
    /// How long after its attempt began.
    pub(super) const fn after(&self) -> Duration {
        self.spoken.after
    }
}

impl Feed {
    pub(super) const fn new(settings: HepFeed, seed: u64) -> Self {
        Self { settings, dice: Dice::new(seed), exchanges: 0 }
    }

    /// All messages of an attempt that begins `now`.
    pub(super) fn attempt(
        &mut self,
        client: &mut Client,
        (settings, behaviour): (&RegistrationSettings, Behaviour),
        request: Request,
        pace: Pace,
        now: Timestamp,
    ) -> Vec<Passing> {
        self.exchanges += 1;
        let (dice, exchange) = (&mut self.dice, self.exchanges);
        let conversation = client.conversation(|| Conversation::new(settings, dice));
        let attempt = Attempt { settings, request, behaviour, pace };
        let said = conversation.speak(&attempt, exchange, now.as_second(), dice);
        let (registrar, call_id) = (conversation.registrar(), conversation.call_id());
        said.into_iter().map(|spoken| Passing { exchange, spoken, registrar, call_id: call_id.to_owned() }).collect()
    }

    /// The packet that tells of a message, which passes `now`. Of what is received Asterisk knows milliseconds only.
    pub(super) fn packet(&self, passing: Passing, now: Timestamp) -> HepPacket {
        let Passing { spoken, registrar, call_id, .. } = passing;
        let (from, to, at) = match spoken.direction {
            Direction::Out => (PBX_ADDRESS, registrar, now),
            Direction::In => (registrar, PBX_ADDRESS, Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)),
        };
        HepPacket {
            at,
            from,
            to,
            transport: Transport::Udp,
            capture_id: Some(self.settings.capture_id),
            password: self.settings.password.clone(),
            call_id: Some(call_id),
            payload_type: PAYLOAD_SIP,
            payload: spoken.text.into_bytes().into(),
            name: None,
        }
    }
}

/// Where packets leave.
#[derive(Debug)]
pub(super) struct Outlet {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Outlet {
    /// One to `to`.
    pub(super) fn open(to: SocketAddr) -> io::Result<Self> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to })
    }

    /// Sends them, if that can be done at once.
    pub(super) fn send(&self, packets: &[HepPacket]) {
        for packet in packets {
            if let Ok(bytes) = packet.encode() {
                // As `res_hep`: what cannot be sent is lost.
                let _ = self.socket.send_to(&bytes, self.to);
            }
        }
    }
}
