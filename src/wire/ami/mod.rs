//! The Asterisk Manager Interface: framing, messages, typed events, actions, and the client that holds the two connections.
