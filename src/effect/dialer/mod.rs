//! One file per kind of dialer.
