//! The HTTP edge: a file per resource, problem+json errors.
