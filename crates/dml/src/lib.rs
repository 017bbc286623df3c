//! dml

pub mod atomic;
pub mod report;
