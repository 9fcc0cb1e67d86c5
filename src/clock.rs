//! The only reader of a clock.
