//! PJSIP objects as a `pjsip.conf` writes them.
