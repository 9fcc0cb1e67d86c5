//! One option of one object.
