//! dml
