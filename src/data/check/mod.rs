//! Statistics of a data set in one pass: what is broken, repeated, too long, or one-sided.
//!
//! [`collect`] reads records as a stream, a few thousand at a time, measures each on all threads, and keeps some 60 bytes
//! of it: hashes, lengths and its origin. [`Collected::figures`] are what there is to say of them.

mod bias;
mod collect;
mod figures;
mod hash;
mod lengths;
mod measure;
mod places;
mod repeats;
mod special;

pub use bias::Bias;
pub use collect::{Collected, collect};
pub use figures::{Cut, Figures, Judged, Labels, Refused, Specials, TokensOfData, TooLong, labels};
pub use lengths::{Bar, Percentiles};
pub use measure::{Limits, Measure, Size};
pub use repeats::{Leaks, Repeats, leaks};
