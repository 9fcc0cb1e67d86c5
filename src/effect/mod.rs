//! 5. The outbox dispatcher and the dialers it speaks to.

pub mod dialer;
