//! The gateway in front of a simulated PBX.
