//! A simulated PBX, provider and dialer that speak the real protocols on loopback: for the demo, for tests and for load.
