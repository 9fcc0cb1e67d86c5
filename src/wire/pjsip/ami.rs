//! PJSIP objects as AMI lists and the CLI print them.
