//! Why a registration fails, what proves it, and what mends it.
//!
//! Pure: evidence and configuration come in, a [`Diagnosis`] comes out. Separate from health because it may be wrong:
//! nothing is held or released by it. It reads whatever sources there are and says which its word rests on; with fewer it
//! says less, and what to switch on to know more.

mod address;
mod attempt;
pub mod brief;
pub mod capture;
pub mod case;
pub mod judge;
pub mod layers;
mod neighbours;
mod tell;
pub mod verdict;
mod who;

pub use brief::Brief;
pub use case::{Case, RegistrationFacts, Watched};
pub use layers::{Examination, Finding, Layer, LayerName};
pub use verdict::{Alternative, Cause, Diagnosis, Evidence, Fault, Fix, Subject};
