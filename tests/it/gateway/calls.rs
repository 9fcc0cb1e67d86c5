//! Calls: refused on a held trunk, let through on others.
