//! The SIP logger's text inside Asterisk's log files.
