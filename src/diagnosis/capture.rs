//! Diagnoses of a capture or a log file: every registration in it, each judged for itself.
