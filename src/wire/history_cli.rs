//! What `pjsip show history` prints, over AMI `Command`.
